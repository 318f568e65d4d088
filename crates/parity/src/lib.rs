//! Compares this implementation with recordings of the official one.
//!
//! [`run`] takes a folder of recordings, builds the model from its `config.json`, runs every case it finds and reports the
//! largest errors. A case fails if no comparison used one of its recorded tensors, and a file of unknown kind counts as a
//! failed case. Otherwise, unused recordings would look like agreement.

mod case;
mod data;
mod data_text;
mod encoder_folders;
mod encoders;
mod formula;
mod full;
mod full_train;
mod full_values;
mod json;
mod losses;
mod mask_sum;
mod modules;
mod network;
mod photos;
mod pictures;
mod recorded;
mod report;
mod training;

use std::path::{Path, PathBuf};

use anyhow::Result;
use tch::Device;

pub use report::{CaseReport, Comparison, Report, Tolerance, Verdict};

use crate::case::Case;
use crate::recorded::Recorded;

/// What to compare.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of recordings.
    pub golden: PathBuf,
    /// Photos and annotations that some of the data cases need.
    pub data_root: Option<PathBuf>,
    /// Whether to leave out the models at full size.
    pub skip_full: bool,
    /// Device of the network. Files and data are always compared on the CPU.
    pub device: Device,
    /// Which cases to run.
    pub part: Part,
}

/// A selection of the cases in a folder of recordings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All cases.
    All,
    /// Forward passes of the miniature and of its modules, with the modules' input gradients.
    Forward,
    /// Loss functions with their input gradients.
    Losses,
    /// The gradient of every parameter.
    Gradients,
    /// Parameters and buffers after steps of Adam.
    Updates,
    /// The models at full size.
    FullSize,
}

impl Part {
    fn has_case(self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Forward => ["eval_forward", "train_forward"].contains(&name) || name.starts_with("module_"),
            Self::Losses => name.starts_with("loss_"),
            Self::Gradients => name == "train_grads",
            Self::Updates => name.starts_with("train_params_step"),
            Self::FullSize => false,
        }
    }

    fn has_folder(self, name: &str) -> bool {
        self == Self::All || (self == Self::FullSize && name == "full")
    }
}

/// Folder with recordings of encoders by themselves.
const ENCODERS: &str = "encoders";

/// Runs every case of a folder.
///
/// # Errors
/// When the folder or its `config.json` cannot be read, or a file is missing that its `files.txt` lists. Anything wrong with a case is part of the report.
pub fn run(options: &Options, mut announce: impl FnMut(&CaseReport)) -> Result<Report> {
    let mut report = Report::default();
    let mut add = |case: CaseReport| {
        announce(&case);
        report.cases.push(case);
    };
    recorded::ensure_whole(&options.golden)?;
    let encoders = options.golden.join(ENCODERS);
    if options.part == Part::All && encoders.is_dir() {
        encoder_folders::cases(&encoders).into_iter().for_each(&mut add);
        // A folder with nothing else has no network.
        let others = recorded::list(&options.golden)?;
        if others.iter().all(|name| name == ENCODERS || name == "README.md") {
            return Ok(report);
        }
    }
    let recorded = Recorded::open(&options.golden, options.device)?;
    let training = training::Trainings::default();
    for name in recorded.case_names()?.into_iter().filter(|name| options.part.has_case(name)) {
        add(run_case(&recorded, &training, &name));
    }
    for entry in recorded.other_entries()?.into_iter().filter(|name| options.part.has_folder(name)) {
        let path = options.golden.join(&entry);
        match entry.as_str() {
            "checkpoints" => network::checkpoint_files(&recorded, &path).into_iter().for_each(&mut add),
            ENCODERS => {}
            "hf" => encoders::cases(&recorded, &path).into_iter().for_each(&mut add),
            "data" => data::cases(&path, options.data_root.as_deref()).into_iter().for_each(&mut add),
            "full" if options.skip_full => add(CaseReport::skipped("full", "asked for by --skip full")),
            "full" => full::cases(&path, options.device).into_iter().for_each(&mut add),
            _ => add(CaseReport::failed(&entry, "nothing here knows this file or folder")),
        }
    }
    Ok(report)
}

fn run_case(recorded: &Recorded, training: &training::Trainings, name: &str) -> CaseReport {
    Case::run(name, recorded.path(), recorded.device, |case| match name {
        "model_init" => network::model_init(recorded, case),
        "eval_forward" => network::eval_forward(recorded, case),
        "train_forward" => training::forward(recorded, training, case),
        "train_grads" => training::gradients(recorded, training, case),
        "checkpoint" => network::checkpoint(recorded, case),
        name if name.starts_with("train_params_step") => training::parameters(recorded, training, case),
        name if name.starts_with("loss_") => losses::case(case),
        name if name.starts_with("module_") => modules::case(recorded, case),
        _ => anyhow::bail!("nothing here knows this case"),
    })
}

/// The network that a folder of recordings was made with.
///
/// # Errors
/// When its `config.json` cannot be read or describes a network that this project cannot build.
pub fn recorded_model(golden: &Path) -> Result<talent::ModelConfig> {
    Ok(Recorded::open(golden, Device::Cpu)?.model)
}

/// A file's path for reports, relative to the folder of recordings.
fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
