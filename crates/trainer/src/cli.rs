//! The command line of the `talent` program.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use cli_kit::{errln, outln};
use command_kit::DEFAULT_DATA_ROOT;
use ranks::end_with_launcher;
use serde_json::json;

use crate::ablate::{AblateArgs, ablate};
use crate::bench::{Bench, bench};
use crate::check_device::{CheckDeviceArgs, check_device};
use crate::checkpoint::{EncoderRoot, checkpoint_argument};
use crate::config::ConfigArgs;
use crate::data_program::become_data_program;
use crate::distributed::refuse_several;
use crate::eval::{EvalArgs, eval};
use crate::experiment::Machine;
use crate::export::{ExportForm, export};
use crate::gradients::{GradientsArgs, gradients};
use crate::interrupt::{Interrupted, survive_file_size_limit};
use crate::lr_find::{LrFindArgs, lr_find};
use crate::params::params;
use crate::predict::{PredictArgs, predict};
use crate::pretrain::pretrain;
use crate::run_dir::data_root_of;
use crate::studio::{StudioCommand, studio};
use crate::train::{
    CheckpointEvery, Resume, RunOptions, SharedFlags, config_of_init, config_to_resume, train,
};

/// Referring image segmentation with TALENT.
#[derive(Debug, Parser)]
#[command(name = "talent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train, evaluate and draw a model
    Train(TrainArgs),
    /// Run an ablation: train every row of a plan with every seed
    Ablate(AblateArgs),
    /// Pretrain the frozen encoders of the testbed
    Pretrain(PretrainArgs),
    /// Find a learning rate: train a few steps with a rising one, and draw the loss over it
    LrFind(LrFindArgs),
    /// Measure the gradient of each loss term at each group of parameters
    Gradients(GradientsArgs),
    /// Evaluate a checkpoint
    Eval(EvalArgs),
    /// Segment what expressions refer to in images
    Predict(PredictArgs),
    /// Try models, browse data sets and compare predictions on a local web page
    Studio(StudioCommand),
    /// Write a checkpoint's network as an official state dictionary, a TorchScript module, or a folder to upload
    Export(ExportArgs),
    /// Compare with recordings of the official implementation
    Parity(ParityArgs),
    /// Count parameters by group
    Params(ParamsArgs),
    /// Inspect, check and convert data sets (needs no libtorch when run through `cargo xtask data`)
    Data {
        /// See `data --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Download data sets and pretrained encoders
    Fetch {
        /// See `fetch --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Benchmark data loading, training steps, inference or a loss
    #[command(subcommand)]
    Bench(Bench),
    /// Check that everything works on a device, and how fast it is
    CheckDevice(CheckDeviceArgs),
    /// Print the devices that libtorch sees, as JSON
    Devices,
}

#[derive(Debug, Args)]
struct PretrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    machine: Machine,
    /// Folder of the data sets
    #[arg(long, default_value = DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// Train the encoders again even if their files exist
    #[arg(long)]
    force: bool,
}

fn run_pretrain(args: &PretrainArgs) -> Result<()> {
    let mut config = args.config.clone();
    if config.preset.is_none() && config.config.is_none() {
        config.preset = Some("testbed".into());
    }
    if let Some(seed) = config.seed.take() {
        config.overrides.push(format!("pretrain.seed={seed}"));
    }
    pretrain(&config.load(&args.data_root)?, &args.machine, &args.data_root, args.force)
}

#[derive(Debug, Args)]
struct TrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    shared: SharedFlags,
    /// The run's folder [default: runs/NAME]
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// Run one step of everything, evaluations on one batch and pictures included, to see that it works. The folder is
    /// runs/fast-dev-run, made anew, unless --run-dir says otherwise
    #[arg(long, conflicts_with_all = ["resume", "overfit_batches"])]
    fast_dev_run: bool,
    /// Train on the first N batches over and over and evaluate on them alone: can the network fit them? (train.overfit_batches)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    overfit_batches: Option<u32>,
    /// Fine-tune: start from the weights of this checkpoint. Without --preset or --config its own config is used
    #[arg(long, value_name = "CHECKPOINT", value_parser = checkpoint_argument())]
    init: Option<PathBuf>,
    /// Experimental: capture a training step as a CUDA graph and replay it. For small batches, whose kernels a GPU finishes
    /// faster than a CPU can launch them (docs/gpu.md says what it needs)
    #[arg(long, conflicts_with = "recompute")]
    cuda_graphs: bool,
    /// Copy samples to the GPU on a separate CUDA stream, during the previous step
    #[arg(long)]
    upload_stream: bool,
    /// With several processes: all-reduce gradients in buckets during the backward pass
    #[arg(long, conflicts_with_all = ["recompute", "cuda_graphs"])]
    overlap_all_reduce: bool,
    /// Write checkpoints every N steps (500steps) or minutes (10m), in addition to the end of each epoch
    #[arg(long)]
    checkpoint_every: Option<CheckpointEvery>,
    /// Keep the last N training states
    #[arg(long, value_name = "N", default_value_t = 2)]
    keep_checkpoints: usize,
    /// Store frozen encoders in checkpoints, instead of the name and SHA-256 of their file
    #[arg(long)]
    embed_encoders: bool,
    /// Resume even if the config differs from that of the checkpoint
    #[arg(long, requires = "resume")]
    allow_config_change: bool,
    /// Resume a run: auto (the run folder's last checkpoint, if any), a run folder, a training state, or an official training
    /// checkpoint (.pth). Without --preset or --config the run's own config is used
    #[arg(long, value_name = "auto|DIR|FILE")]
    resume: Option<PathBuf>,
    /// Keep the initial values of encoder tensors that are missing from a weights file and whose official names start with
    /// PREFIX
    #[arg(long, value_name = "PREFIX")]
    allow_missing: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 if every case passed, 1 if one failed, 2 if none failed but one could not be \
                  run, for example because photos are missing."
)]
struct ParityArgs {
    /// Folder of recordings of the official implementation
    #[arg(long)]
    golden: PathBuf,
    /// Folder of photos and annotations that some data cases need
    #[arg(long)]
    data_root: Option<PathBuf>,
    /// Skip a part: full (the models at full size)
    #[arg(long, value_parser = ["full"])]
    skip: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Checkpoint of this program, or an official one
    #[arg(long, value_parser = checkpoint_argument())]
    checkpoint: PathBuf,
    #[command(flatten)]
    form: ExportForm,
    #[command(flatten)]
    encoders: EncoderRoot,
}

#[derive(Debug, Args)]
struct ParamsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Folder of the data sets
    #[arg(long, default_value = DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the program with the process's arguments.
///
/// # Errors
/// Returns the error of the command.
pub fn run() -> Result<ExitCode> {
    survive_file_size_limit()?;
    end_with_launcher()?;
    refcoco::check_memory_rule()?;
    let command = command_kit::parse::<Cli>(std::env::args_os()).command;
    if !matches!(command, Command::Train(_) | Command::Bench(Bench::Step(_)) | Command::Devices) {
        refuse_several()?;
    }
    if matches!(command, Command::Train(_) | Command::Ablate(_)) {
        // The tables that these commands print are also written to files.
        cli_kit::accept_lost_output();
    }
    let done = match command {
        Command::Parity(args) => return run_parity(&args),
        Command::CheckDevice(args) => return check_device(&args),
        Command::Train(args) => run_train(&args),
        Command::Ablate(args) => ablate(&args),
        Command::Pretrain(args) => run_pretrain(&args),
        Command::LrFind(args) => lr_find(&args),
        Command::Gradients(args) => gradients(&args),
        Command::Eval(args) => eval(&args),
        Command::Predict(args) => predict(&args),
        Command::Studio(args) => studio(args),
        Command::Export(args) => export(&args.checkpoint, &args.form, &args.encoders),
        Command::Params(args) => params(&args.config.load(&args.data_root)?, args.json),
        Command::Data { args } => become_data_program(&args),
        Command::Fetch { args } => become_data_program(&[&["fetch".into()], args.as_slice()].concat()),
        Command::Bench(what) => bench(&what),
        Command::Devices => {
            let devices = json!({
                "libtorch": torch_ext::version()?,
                "cuda_available": tch::Cuda::is_available(),
                "cuda_devices": tch::Cuda::device_count(),
                "cudnn": tch::Cuda::cudnn_is_available(),
                "nccl_library": c10d::nccl_library(),
                "graphs_library": torch_ext::graphs_library(),
            });
            outln!("{devices}");
            Ok(())
        }
    };
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => match error.downcast_ref::<Interrupted>() {
            Some(interrupted) => Ok(interrupted.exit_code()),
            None => Err(error),
        },
    }
}

/// Exit code 0 if every case passes, 1 if one fails, 2 if one could not be run because its data is missing.
fn run_parity(args: &ParityArgs) -> Result<ExitCode> {
    let options = parity::Options {
        device: args.machine.set_up()?,
        part: parity::Part::All,
        golden: args.golden.clone(),
        data_root: args.data_root.clone(),
        skip_full: args.skip.iter().any(|part| part == "full"),
    };
    if !args.json {
        outln!("{}", parity::Report::heading());
    }
    let report = parity::run(&options, |case| {
        if args.json { errln!("{}: {}", case.name, case.verdict) } else { outln!("{case}") }
    })?;
    if args.json {
        outln!("{}", report.to_json());
    } else {
        let count = |verdict| report.count(verdict);
        outln!(
            "{} passed, {} failed, {} skipped, {} not run",
            count(parity::Verdict::Pass),
            count(parity::Verdict::Fail),
            count(parity::Verdict::Skipped),
            count(parity::Verdict::NotRun),
        );
    }
    let compared = report.count(parity::Verdict::Pass) + report.count(parity::Verdict::Fail);
    ensure!(compared > 0, "{}: no recording in it was compared", args.golden.display());
    Ok(ExitCode::from(report.exit_code()))
}

/// Folder of runs with `--fast-dev-run`.
const FAST_DEV_RUN: &str = "runs/fast-dev-run";

fn run_train(args: &TrainArgs) -> Result<()> {
    torch_ext::upload_beside(args.upload_stream);
    args.shared.check()?;
    ensure!(args.keep_checkpoints > 0, "--keep-checkpoints must be positive");
    let resume = match &args.resume {
        None => Resume::No,
        Some(path) if path.as_os_str() == "auto" => Resume::Auto,
        // The `checkpoints` folder of a run is accepted in place of the run's folder.
        Some(path) if path.ends_with("checkpoints") && path.is_dir() => Resume::From(
            path.parent().filter(|run| !run.as_os_str().is_empty()).unwrap_or(Path::new(".")).into(),
        ),
        Some(path) => Resume::From(path.clone()),
    };
    let mut shared = args.shared.clone();
    let run = match &resume {
        Resume::No => None,
        Resume::Auto => args.run_dir.as_deref(),
        Resume::From(path) if path.is_dir() => Some(path.as_path()),
        Resume::From(path) => path.parent().and_then(Path::parent),
    };
    if run.is_some() {
        shared.data_root = Some(data_root_of(shared.data_root.as_ref(), run));
    }
    let own = match args.config.names_a_config() {
        true => None,
        false => match config_to_resume(&resume, args.run_dir.as_deref())? {
            None => args.init.as_deref().map(config_of_init).transpose()?.flatten(),
            resumed => resumed,
        },
    };
    let mut config = args.config.clone();
    config.overrides.extend(args.overfit_batches.map(|n| format!("train.overfit_batches={n}")));
    let cfg = config.load_over(own, shared.data_root())?;
    let resumed_folder = match &resume {
        Resume::From(path) if path.is_dir() => Some(path.clone()),
        _ => None,
    };
    let default_folder = || match args.fast_dev_run {
        true => PathBuf::from(FAST_DEV_RUN),
        false => resumed_folder.unwrap_or_else(|| PathBuf::from("runs").join(&cfg.name)),
    };
    let is_run = Path::new(FAST_DEV_RUN).join("run.lock").exists();
    if args.fast_dev_run && args.run_dir.is_none() && is_run {
        // Only such runs are written there.
        let _ = std::fs::remove_dir_all(FAST_DEV_RUN);
    }
    let options = RunOptions {
        machine: args.machine.clone(),
        shared,
        run_dir: args.run_dir.clone().unwrap_or_else(default_folder),
        fast_dev_run: args.fast_dev_run,
        init: args.init.clone(),
        cuda_graphs: args.cuda_graphs,
        overlap_all_reduce: args.overlap_all_reduce,
        allow_missing: args.allow_missing.clone(),
        checkpoint_every: args.checkpoint_every,
        keep_checkpoints: args.keep_checkpoints,
        embed_encoders: args.embed_encoders,
        allow_config_change: args.allow_config_change,
        resume,
    };
    train(cfg, &options)
}
