//! The evaluation pass as a TorchScript module.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use cli_kit::errln;
use serde_json::json;
use talent::{Pass, Talent, probabilities};
use tch::{CModule, IValue, Kind, Tensor};
use torch_ext::Trace;

use super::staging_beside;
use crate::bench::network::random_batch;
use crate::config::Config;
use crate::encoder_input::sample_shape;

/// Batch sizes of the two recordings. Sizes that differ between them grow with the batch.
const RECORDED: [usize; 2] = [2, 3];

/// Batch size of the check.
const CHECKED: usize = 5;

/// Largest difference from the network's own probabilities that the check accepts. libtorch's operators and the kernels of this
/// program round otherwise.
const TOLERANCE: f64 = 2e-5;

/// Name of the file in the archive that says what the module takes.
const NOTE: &str = "talent.json";

fn inputs(cfg: &Config, n: usize) -> (Tensor, Tensor) {
    let shape = sample_shape(&cfg.model);
    let batch = random_batch(n, shape, cfg.model.text.vocabulary);
    let (n, side, words) = (n as i64, shape.input_size as i64, shape.word_len as i64);
    let pixels = Tensor::from_slice(&batch.images).view([n, 3, side, side]);
    (pixels, Tensor::from_slice(&batch.words).view([n, words]))
}

fn evaluate(cfg: &Config, model: &Talent, pixels: &Tensor, ids: &Tensor) -> Tensor {
    probabilities(&model.forward(pixels, ids, &Pass::EVAL).logits, sample_shape(&cfg.model).input_size as i64)
}

/// Writes the module: `forward(pixels float32 [b, 3, S, S], ids int64 [b, K]) -> float32 [b, S, S]`, and compares it with the network.
///
/// - models: two copies of the network that have not run yet, see [`Trace::record`]
pub(super) fn write(to: &Path, cfg: &Config, models: [&Talent; 2]) -> Result<()> {
    let record = |model: &Talent, n: usize| {
        let (pixels, ids) = inputs(cfg, n);
        Trace::record(model.store(), &pixels, &ids, |pixels, ids| evaluate(cfg, model, pixels, ids))
    };
    let traces = [record(models[0], RECORDED[0])?, record(models[1], RECORDED[1])?];
    // A folder, since the archive repeats the file's name inside.
    let partial = staging_beside(to)?;
    let file = partial.path().join(to.file_name().unwrap_or_default());
    let shape = sample_shape(&cfg.model);
    let note = json!({
        "input_size": shape.input_size,
        "word_len": shape.word_len,
        "vocabulary": cfg.model.text.vocabulary,
        "threshold": cfg.eval.threshold,
        "mean": shape.pixels.mean,
        "std": shape.pixels.std,
        "border": shape.pixels.border,
    });
    traces[0].save(&traces[1], &file, (NOTE, &note.to_string()))?;
    let difference = difference(&file, cfg, models[0])?;
    ensure!(
        difference <= TOLERANCE,
        "{}: the module's probabilities differ from the network's by {difference:e}; nothing was written",
        to.display()
    );
    std::fs::File::open(&file).and_then(|file| file.sync_all()).with_context(|| to.display().to_string())?;
    std::fs::rename(&file, to).with_context(|| to.display().to_string())?;
    errln!(
        "{}: forward(pixels [b, 3, {side}, {side}], ids [b, {words}]); differs from the network by at most {difference:.1e}",
        to.display(),
        side = shape.input_size,
        words = shape.word_len,
    );
    Ok(())
}

/// The largest difference between the module's probabilities and the network's, for a batch size that was not recorded.
fn difference(module: &Path, cfg: &Config, model: &Talent) -> Result<f64> {
    let (pixels, ids) = inputs(cfg, CHECKED);
    let module = CModule::load(module)?;
    let found = tch::no_grad(|| {
        module.forward_is(&[IValue::Tensor(pixels.shallow_clone()), IValue::Tensor(ids.shallow_clone())])
    })?;
    let IValue::Tensor(found) = found else { anyhow::bail!("the module returns no tensor") };
    let own = tch::no_grad(|| evaluate(cfg, model, &pixels, &ids));
    ensure!(found.size() == own.size(), "the module returns {:?}, not {:?}", found.size(), own.size());
    Ok(f64::try_from((found - own).abs().max().to_kind(Kind::Double))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start_values::StartValues;

    fn modules_are_the_network(cfg: &Config) {
        let start = StartValues::drawn(&cfg.model);
        let models = [(); 2].map(|()| start.model(&cfg.model, Kind::Float));
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("new/network.pt");
        write(&to, cfg, [&models[0], &models[1]]).unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
        let mut archive = zip::ZipArchive::new(std::fs::File::open(&to).unwrap()).unwrap();
        let names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
        let note = names.iter().find(|name| name.ends_with("extra/talent.json")).unwrap();
        let note: serde_json::Value = serde_json::from_reader(archive.by_name(note).unwrap()).unwrap();
        assert_eq!(note["input_size"], cfg.model.input_size);
        // No device stands in the code.
        for name in names.iter().filter(|name| name.ends_with(".py")) {
            let mut code = String::new();
            std::io::Read::read_to_string(&mut archive.by_name(name).unwrap(), &mut code).unwrap();
            assert!(!code.contains("torch.device("), "{name}");
        }
    }

    #[test]
    fn modules_are_the_networks() {
        modules_are_the_network(&Config::tiny());
        modules_are_the_network(&Config::testbed());
        modules_are_the_network(&Config::base());
    }
}
