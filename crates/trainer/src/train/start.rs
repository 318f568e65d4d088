//! Start of a run: from a training state, or as a new run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use cli_kit::errln;
use run_files::{Metrics, records_file};
use talent::Talent;
use talent::weights::Strictness;
use torch_ext::Adam;

use super::average::Average;
use super::options::{Resume, RunOptions};
use crate::checkpoint::{self, Checkpoints, Encoders, Meta, Position, set_aside, step_of};
use crate::config::{Config, differences};
use crate::experiment::Experiment;
use crate::official_checkpoint::resume_official;
use crate::precision::LossScaler;
use crate::run_dir::{RunLock, TRAINING_REFS, counted_records, read_environment};

/// Whether a training state is a PyTorch file instead of one of this program.
fn is_official(path: &Path) -> bool {
    path.extension().is_none_or(|extension| extension != "safetensors")
}

/// Refuses a folder that already holds a run, for a run without `--resume`.
pub(super) fn refuse_used_folder(run: &Path) -> Result<()> {
    ensure!(
        !is_used(run)?,
        "{} already holds a run; go on with --resume auto, or choose another --run-dir",
        run.display()
    );
    Ok(())
}

/// Whether a folder holds training states, a model, or records.
fn is_used(run: &Path) -> Result<bool> {
    let checkpoints = Checkpoints::of(run);
    let has_records = std::fs::metadata(records_file(run)).is_ok_and(|found| found.len() > 0);
    Ok(has_records || has_model(&checkpoints) || !checkpoints.states()?.is_empty())
}

fn has_model(checkpoints: &Checkpoints) -> bool {
    checkpoints.best().exists() || checkpoints.last().exists()
}

/// A training state to resume from.
enum State {
    /// A PyTorch file, which has no checksum.
    Official(PathBuf),
    /// A state of this program, verified, with its metadata.
    Ours(PathBuf, Box<Meta>),
}

/// Verifies a whole training state of this program, and returns its metadata.
fn verified(path: &Path) -> Result<Meta> {
    let meta = checkpoint::verify(path)?;
    let (named, found) = (step_of(path), meta.position.step);
    ensure!(
        named.is_none_or(|step| step == found),
        "{}: its name says step {}, and it holds the state of step {found}",
        path.display(),
        named.unwrap_or_default()
    );
    Ok(meta)
}

/// Finds the training state to resume from; `None` for a new run.
fn find_state(options: &RunOptions) -> Result<Option<State>> {
    let ours =
        |path: &Path| -> Result<State> { Ok(State::Ours(path.to_path_buf(), Box::new(verified(path)?))) };
    let warn = |error: anyhow::Error| errln!("warning: {error:#}; trying the checkpoint before it");
    let newest = |run: &Path| Checkpoints::of(run).newest(ours, warn);
    match &options.resume {
        Resume::No => Ok(None),
        Resume::Auto => {
            let found = newest(&options.run_dir)?;
            // A run saves a state before its first evaluation. If there is a model but no state, that evaluation would
            // overwrite the model.
            ensure!(
                found.is_some() || !has_model(&Checkpoints::of(&options.run_dir)),
                "--resume auto: {} holds a model and no training state to go on from; choose another --run-dir",
                options.run_dir.display()
            );
            Ok(found)
        }
        Resume::From(path) if path.is_dir() => {
            let found = newest(path)?;
            ensure!(found.is_some(), "--resume: {} holds no training state", path.display());
            Ok(found)
        }
        Resume::From(path) if is_official(path) => Ok(Some(State::Official(path.clone()))),
        Resume::From(path) => ours(path).map(Some),
    }
}

/// The config of the run that `--resume` names, for a command line without a config.
pub(crate) fn config_to_resume(resume: &Resume, run_dir: Option<&Path>) -> Result<Option<Config>> {
    // The config decides how much memory the network takes, so the file is verified first.
    let config_of = |path: &Path| -> Result<Config> { Ok(verified(path)?.config) };
    // States that are skipped here are skipped again, with a warning, when the run starts.
    let of_run = |run: &Path| Checkpoints::of(run).newest(config_of, drop);
    match resume {
        Resume::No => Ok(None),
        Resume::Auto => run_dir.map_or(Ok(None), of_run),
        Resume::From(path) if path.is_dir() => of_run(path),
        Resume::From(path) if path.is_file() && !is_official(path) => config_of(path).map(Some),
        Resume::From(_) => Ok(None),
    }
}

/// The config of the checkpoint that `--init` names, if it holds one.
pub(crate) fn config_of_init(path: &Path) -> Result<Option<Config>> {
    ensure!(path.is_file(), "--init: there is no checkpoint {}", path.display());
    match is_official(path) {
        true => Ok(None),
        false => Ok(checkpoint::verified_meta(path)?.map(|meta| meta.config)),
    }
}

/// The step of the model that a run's `metrics.json` describes; it is the last file that a run writes.
pub(super) fn finished_step(run: &Path) -> Option<u64> {
    Metrics::read(run).ok().map(|metrics| metrics.step)
}

/// What a run is trained on, in numbers.
pub(super) struct DataOfRun {
    /// Number of steps in an epoch.
    pub(super) per_epoch: u64,
    /// Number of refs in the training data.
    pub(super) n_refs: usize,
}

/// The leader's part: locks the run's folder, and loads the state to resume from into model and optimiser.
pub(super) fn begin(
    experiment: &Experiment,
    data: &DataOfRun,
    adam: &mut Adam,
    encoders: &Encoders,
    average: Option<&Average>,
    options: &RunOptions,
) -> Result<(RunLock, Position)> {
    let cfg = &experiment.cfg;
    // From here on no other process works in this folder.
    let lock = RunLock::take(&options.run_dir)?;
    let mut at = Position::start(LossScaler::new(cfg.train.precision));
    let found = find_state(options)?;
    let own = Checkpoints::of(&options.run_dir);
    if let Some(State::Official(path) | State::Ours(path, _)) = &found
        && !own.hold(path)
        && is_used(&options.run_dir)?
    {
        bail!(
            "--resume: {} is not a state of {}, which already holds a run; choose another --run-dir",
            path.display(),
            options.run_dir.display()
        );
    }
    match found {
        Some(State::Official(path)) => {
            at.epoch = resume_official(&path, &experiment.model, adam)?;
            average.inspect(|average| average.restart());
            at.step = at.epoch * data.per_epoch;
            errln!("resuming from {} after epoch {}", path.display(), at.epoch);
        }
        Some(State::Ours(path, meta)) => {
            if own.hold(&path) {
                refuse_stray(&path, &meta, &options.run_dir, options.allow_config_change)?;
                refuse_other_data(&options.run_dir, data.n_refs, options)?;
                // Checked before any file is set aside.
                counted_records(&records_file(&options.run_dir), &meta.position)?;
            }
            refuse_change(&path, &meta, cfg, encoders, options.allow_config_change)?;
            checkpoint::load_state(&path, &meta, &experiment.model, adam)?;
            if let Some(average) = average {
                match meta.config.train.ema > 0.0 {
                    true => average.load(checkpoint::state_tensors(&path)?)?,
                    false => average.restart(),
                }
            }
            errln!("resuming from {} at step {}", path.display(), meta.position.step);
            at = meta.position;
            if meta.config.train.precision != cfg.train.precision {
                at.scaler = LossScaler::new(cfg.train.precision);
            }
            at.batch = at.batch.min(data.per_epoch);
            if own.hold(&path) {
                own.set_aside_after(at.step)?;
                set_aside_later_best(&own, &mut at)?;
            } else {
                // Records and best model of another run are not taken over.
                (at.n_records, at.best_miou) = (0, None);
                at.records_sha256.clear();
            }
        }
        None => {}
    }
    Ok((lock, at))
}

/// Loads the weights of a checkpoint into the network of a new run (`--init`).
///
/// - encoders: those that the network has loaded already
///
/// # Errors
/// When the checkpoint was trained on other encoders, or does not fit the network.
pub(crate) fn init_from(
    path: &Path,
    model: &Talent,
    encoders: &Encoders,
    strictness: &Strictness,
) -> Result<()> {
    ensure!(path.is_file(), "--init: there is no checkpoint {}", path.display());
    if is_official(path) {
        return checkpoint::load_own(model, path, strictness);
    }
    if let Some(meta) = checkpoint::verified_meta(path)? {
        for (key, before, now) in [
            ("weights.image", &meta.encoders.image, &encoders.image),
            ("weights.text", &meta.encoders.text, &encoders.text),
        ] {
            if let Some(before) = before {
                ensure!(
                    now.as_ref().is_some_and(|now| now.sha256 == before.sha256),
                    "--init {}: it was trained on the encoder {} (SHA-256 {}), and {key} is another one",
                    path.display(),
                    before.path,
                    before.sha256
                );
            }
        }
    }
    checkpoint::load_own(model, path, strictness).with_context(|| format!("--init {}", path.display()))
}

/// Refuses to go on with other training data than the run began with, by their number of refs.
fn refuse_other_data(run: &Path, n_refs: usize, options: &RunOptions) -> Result<()> {
    let environment = read_environment(run).unwrap_or_default();
    let before = environment[TRAINING_REFS].as_u64();
    ensure!(
        before.is_none_or(|before| before == n_refs as u64) || options.allow_config_change,
        "{}: it was trained on {} refs (data root {}), and {} has {n_refs}: name its data with --data-root, or go on with these and \
         --allow-config-change",
        run.display(),
        before.unwrap_or_default(),
        environment["data_root"].as_str().unwrap_or("unknown"),
        options.shared.data_root().display()
    );
    Ok(())
}

/// Refuses a state in a run's folder if its config is not the folder's: it belongs to another run.
fn refuse_stray(state: &Path, meta: &Meta, run: &Path, allowed: bool) -> Result<()> {
    let file = run.join("config.toml");
    let own = match std::fs::read_to_string(&file) {
        Ok(text) => toml::from_str::<Config>(&text).map_err(|error| error.message().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error.to_string()),
    };
    let own = match own {
        Ok(own) => own,
        Err(_) if allowed => return Ok(()),
        Err(what) => bail!(
            "{}: it cannot be read ({what}); mend it, or remove it, and the state's own config takes its place",
            file.display()
        ),
    };
    let mut changed = differences(&own, &meta.config)?;
    changed.retain(|line| !line.starts_with("weights."));
    ensure!(
        changed.is_empty() || allowed,
        "{}: its config is not that of {}: {}; if it is this run's all the same, go on with --allow-config-change",
        state.display(),
        run.join("config.toml").display(),
        changed.join("; ")
    );
    Ok(())
}

/// Sets the best model aside if it is of a later step than the one to resume from. If the best model is missing or damaged, the
/// model of the present step is evaluated again and takes its place.
fn set_aside_later_best(own: &Checkpoints, at: &mut Position) -> Result<()> {
    let best = own.best();
    if at.best_miou.is_none() && !best.exists() {
        return Ok(());
    }
    match checkpoint::read_meta(&best) {
        Ok(Some(meta)) if meta.position.step <= at.step => return Ok(()),
        Ok(Some(_)) => set_aside(&best)?,
        Ok(None) | Err(_) => {
            errln!(
                "warning: {}: the best model is not there or cannot be read; the model of step {} is evaluated in its place",
                best.display(),
                at.step
            );
            at.evaluation_due = true;
            if best.exists() {
                std::fs::rename(&best, best.with_extension("damaged"))?;
            }
        }
    }
    at.best_miou = None;
    Ok(())
}

/// Refuses a training state of another config unless that is allowed.
fn refuse_change(path: &Path, meta: &Meta, cfg: &Config, encoders: &Encoders, allowed: bool) -> Result<()> {
    let mut changed = differences(&meta.config, cfg)?;
    // The encoders' paths may differ; their contents (SHA-256) must not.
    changed.retain(|line| !line.starts_with("weights."));
    for (key, before, now) in [
        ("weights.image", &meta.encoders.image, &encoders.image),
        ("weights.text", &meta.encoders.text, &encoders.text),
    ] {
        if let (Some(before), Some(now)) = (before, now)
            && before.sha256 != now.sha256
        {
            changed.push(format!("{key}: SHA-256 {} -> {}", before.sha256, now.sha256));
        }
    }
    let shown = changed.join("; ");
    ensure!(
        changed.is_empty() || allowed,
        "{}: the config differs: {shown}; go on all the same with --allow-config-change",
        path.display()
    );
    if !changed.is_empty() {
        errln!("warning: the run goes on under another config: {shown}");
    }
    Ok(())
}

/// The checkpoint that a command should read: a run folder's best one, or the file named.
pub(crate) fn stored_checkpoint(run: Option<&PathBuf>, checkpoint: Option<&PathBuf>) -> Result<PathBuf> {
    let file = match (run, checkpoint) {
        (Some(run), None) => Checkpoints::of(run).best(),
        (None, Some(file)) => file.clone(),
        _ => bail!("name either --run DIR or --checkpoint FILE"),
    };
    ensure!(file.is_file(), "{}: there is no such checkpoint", file.display());
    Ok(file)
}
