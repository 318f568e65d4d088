//! `studio`: the networks behind the local web page.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use cli_kit::errln;
use command_kit::one_line;
use refcoco::letterbox::Letterbox;
use refcoco::{Mask, Tokenizer};
use studio::{Answer, Model, Picture, Predictor, Stage, StudioArgs, unique_names};
use tch::Kind;

use crate::batch::EvalTensors;
use crate::checkpoint::checkpoint_argument;
use crate::encoder_input::about_one_image;
use crate::evaluate::{probabilities, values};
use crate::experiment::{Experiment, Machine, StoredModel};
use crate::feature_nta::{Response, responses};
use crate::predict::{Reading, describe};

/// Arguments of `studio`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StudioCommand {
    /// Checkpoints of trained models to try [default: the best ones of the runs]
    #[arg(long, num_args = 1.., value_name = "FILE", value_parser = checkpoint_argument())]
    checkpoint: Vec<PathBuf>,
    #[command(flatten)]
    page: StudioArgs,
    #[command(flatten)]
    stored: StoredModel,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn studio(command: StudioCommand) -> Result<()> {
    let StudioCommand { mut checkpoint, page, stored, machine } = command;
    let is_named = !checkpoint.is_empty();
    if !is_named {
        let best = page.runs.iter().map(|run| run.join("checkpoints").join("best.safetensors"));
        checkpoint = best.filter(|path| path.is_file()).collect();
    }
    if checkpoint.is_empty() {
        return studio::serve(&page, None);
    }
    let twice = checkpoint.iter().enumerate().find(|(place, path)| checkpoint[..*place].contains(path));
    if let Some((_, path)) = twice {
        bail!("--checkpoint: {} is named twice", path.display());
    }
    let failed = Arc::new(Mutex::new(None));
    let told = Arc::clone(&failed);
    let load = move || match Networks::load(&checkpoint, &stored, &machine) {
        Ok(networks) => Ok(Box::new(networks) as Box<dyn Predictor>),
        Err(error) => {
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(one_line(&error));
            Err(error)
        }
    };
    let served = studio::serve(&page, Some(Box::new(load)));
    let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    match failed {
        // Runs can be looked at and compared without their models, whose encoders may be elsewhere.
        Some(what) if !is_named => {
            errln!("note: no model is loaded to try: {what}");
            studio::serve(&page, None)
        }
        _ => served,
    }
}

struct Network {
    name: String,
    experiment: Experiment,
    reading: Reading,
}

struct Networks(Vec<Network>);

impl Networks {
    fn load(checkpoints: &[PathBuf], stored: &StoredModel, machine: &Machine) -> Result<Self> {
        let device = machine.set_up()?;
        let load = |(path, name): (&PathBuf, String)| -> Result<Network> {
            let (cfg, meta) = stored.open(path)?;
            let experiment = Experiment::with_datasets(cfg, device, Vec::new())?;
            stored.fill(&experiment.model, path, meta.as_ref())?;
            let reading = Reading::of(&experiment.cfg);
            let network = Network { name, experiment, reading };
            network.warm_up().with_context(|| path.display().to_string())?;
            Ok(network)
        };
        let names = names(checkpoints);
        Ok(Self(checkpoints.iter().zip(names).map(load).collect::<Result<_>>()?))
    }
}

/// Names of checkpoints: those of their runs, where they lie in one.
fn names(checkpoints: &[PathBuf]) -> Vec<String> {
    let run = |path: &Path| -> Option<PathBuf> {
        let is_best = path.file_name()? == "best.safetensors";
        let folder = path.parent().filter(|folder| folder.ends_with("checkpoints"))?;
        folder.parent().filter(|run| is_best && run.file_name().is_some()).map(Path::to_path_buf)
    };
    let shown: Vec<PathBuf> =
        checkpoints.iter().map(|path| run(path).unwrap_or_else(|| path.clone())).collect();
    unique_names(&shown)
}

impl Network {
    /// Makes a prediction, so that the first one of a user does not wait for what libtorch sets up.
    fn warm_up(&self) -> Result<()> {
        let side = self.experiment.shape().input_size;
        let pixels = refcoco::RgbImage { width: side, height: side, data: vec![0; 3 * side * side] };
        self.ask(&pixels, "a").map(drop)
    }

    fn tensors(&self, pixels: &refcoco::RgbImage, expression: &str) -> Result<(Letterbox, EvalTensors)> {
        let Experiment { tokenizer, device, .. } = &self.experiment;
        about_one_image(pixels, &[expression], &**tokenizer, self.experiment.shape(), *device)
    }

    fn ask(&self, pixels: &refcoco::RgbImage, expression: &str) -> Result<Answer> {
        let (letterbox, batch) = self.tensors(pixels, expression)?;
        let square = values(probabilities(&self.experiment, &batch, self.experiment.cfg.train.precision)?)?;
        let map = letterbox.map_to_image(&square);
        let mask = Mask::above(pixels.width, pixels.height, &map, self.reading.threshold);
        let mut fields = describe(&mask, &map, self.reading);
        fields.insert("threshold".into(), self.reading.shown_threshold().into());
        let word_len = self.experiment.shape().word_len;
        if self.experiment.tokenizer.encode(expression)?.len() > word_len {
            let note = format!("the expression is longer than the model's {word_len} tokens and was cut");
            fields.insert("note".into(), note.into());
        }
        Ok(Answer { fields, probabilities: map })
    }

    fn stages(&self, pixels: &refcoco::RgbImage, expression: &str) -> Result<Vec<Stage>> {
        let experiment = &self.experiment;
        let (_, batch) = self.tensors(pixels, expression)?;
        let words = words(&*experiment.tokenizer, expression, experiment.shape().word_len);
        let places: Vec<_> = words.iter().map(|(_, tokens)| tokens.clone()).collect();
        let found = tch::no_grad(|| -> Result<Vec<Response>> {
            let _guard = experiment.cfg.train.precision.autocast(experiment.device)?;
            Ok(responses(experiment, &batch, &places))
        })?;
        let (side, input_size) = (experiment.cfg.model.grid() as usize, experiment.shape().input_size);
        let stage = |Response { stage, word, map }: Response| {
            let response = Vec::<f32>::try_from(map.to_kind(Kind::Float).contiguous().view([-1]))?;
            let word = word.and_then(|index| Some(words.get(index)?.0.clone()));
            Ok(Stage { name: stage, word, input_size, side, response })
        };
        found.into_iter().map(stage).collect()
    }
}

/// The words of an expression with the places of their tokens, as far as the network reads. Empty for tokenizers whose tokens depend
/// on the words that follow.
fn words(
    tokenizer: &dyn Tokenizer,
    expression: &str,
    word_len: usize,
) -> Vec<(String, std::ops::Range<usize>)> {
    // Without the end token.
    let tokens = |text: &str| {
        let mut ids = tokenizer.encode(text).ok()?;
        ids.pop();
        Some(ids)
    };
    let Some(all) = tokens(expression) else { return Vec::new() };
    let mut start = tokens("").map_or(0, |ids| ids.len());
    let mut found = Vec::new();
    let (mut text, mut behind) = (String::new(), expression.trim_start());
    while !behind.is_empty() {
        let word = behind.split_whitespace().next().unwrap_or_default();
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
        behind = behind[word.len()..].trim_start();
        let Some(ids) = tokens(&text).filter(|ids| all.starts_with(ids)) else { return Vec::new() };
        // The last place is the end token's.
        if ids.len() > word_len - 1 {
            break;
        }
        if ids.len() > start {
            found.push((word.to_owned(), start..ids.len()));
        }
        start = ids.len();
    }
    found
}

impl Predictor for Networks {
    fn models(&self) -> Vec<Model> {
        let model =
            |network: &Network| Model { name: network.name.clone(), threshold: network.reading.threshold };
        self.0.iter().map(model).collect()
    }

    fn predict(&mut self, model: usize, picture: &Arc<Picture>, expression: &str) -> Result<Answer> {
        self.0.get(model).context("no such model")?.ask(&picture.pixels, expression)
    }

    fn stages(&mut self, model: usize, picture: &Arc<Picture>, expression: &str) -> Result<Vec<Stage>> {
        self.0.get(model).context("no such model")?.stages(&picture.pixels, expression)
    }
}

#[cfg(test)]
mod tests {
    use refcoco::ClipTokenizer;

    use super::*;

    #[test]
    fn words_know_their_tokens() {
        let tokenizer = ClipTokenizer::new().unwrap();
        let found = words(&tokenizer, "  second Zebra  unbelievablyodd", 17);
        let ids = tokenizer.encode("second zebra unbelievablyodd").unwrap();
        assert_eq!(found[0], ("second".to_owned(), 1..2));
        assert_eq!(found[1], ("Zebra".to_owned(), 2..3));
        assert!(found[2].1.start == 3 && found[2].1.end == ids.len() - 1 && found[2].1.len() > 1);
        assert_eq!(words(&tokenizer, "one two three four", 4).len(), 2);
        assert!(words(&tokenizer, "", 17).is_empty());
    }

    #[test]
    fn checkpoints_are_named_after_their_runs() {
        let paths =
            ["runs/a/checkpoints/best.safetensors", "runs/b/checkpoints/best.safetensors", "best_model.pth"];
        assert_eq!(names(&paths.map(PathBuf::from)), ["a", "b", "best_model.pth"]);
    }
}
