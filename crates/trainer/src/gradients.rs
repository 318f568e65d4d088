//! `gradients`: how strongly each loss term pulls at each group of parameters.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use cli_kit::outln;
use command_kit::{DEFAULT_DATA_ROOT, Progress};
use serde_json::json;
use talent::weights::Strictness;
use tch::{Kind, Tensor};
use torch_ext::Role;

use crate::batch::TrainTensors;
use crate::checkpoint::checkpoint_argument;
use crate::config::{ConfigArgs, Precision};
use crate::distributed::Processes;
use crate::experiment::{Experiment, Machine};
use crate::first_batches::first_batches;
use crate::interrupt::Interrupt;
use crate::official_checkpoint::load_encoders;
use crate::step::Steps;
use crate::train::{config_of_init, init_from};

/// Arguments of `gradients`.
#[derive(Debug, Args)]
pub(crate) struct GradientsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    machine: Machine,
    /// Folder of the data sets
    #[arg(long, default_value = DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// Measure at the weights of this checkpoint instead of the initial ones. Without --preset or --config its own config is used
    #[arg(long, value_name = "CHECKPOINT", value_parser = checkpoint_argument())]
    init: Option<PathBuf>,
    /// Training batches to average over
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    batches: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// L2 norm of the gradient of one loss term, weighted as in the objective, by parameter group; mean over batches.
#[derive(Debug)]
struct Pull {
    term: &'static str,
    weight: f64,
    norms: Vec<f64>,
}

pub(crate) fn gradients(args: &GradientsArgs) -> Result<()> {
    let own = match (&args.init, args.config.names_a_config()) {
        (Some(path), false) => config_of_init(path)?,
        _ => None,
    };
    let cfg = args.config.load_over(own, &args.data_root)?;
    ensure!(
        cfg.train.precision != Precision::Fp16,
        "gradients are measured without loss scaling, and small ones vanish in fp16: use fp32 or bf16"
    );
    let device = args.machine.set_up()?;
    let mut experiment = Experiment::new(cfg, device, &args.data_root, &Processes::default())?;
    experiment.interrupt = Interrupt::listen()?;
    let strictness = Strictness::default();
    let encoders = load_encoders(&experiment.model, &experiment.cfg, &strictness)?;
    if let Some(path) = &args.init {
        init_from(path, &experiment.model, &encoders, &strictness)?;
    }
    let (groups, pulls) = measure(&experiment, args.batches)?;
    if args.json {
        let rows = pulls.iter().map(|pull| {
            let norms: serde_json::Map<_, _> = groups
                .iter()
                .zip(&pull.norms)
                .map(|(group, norm)| ((*group).to_owned(), json!(norm)))
                .collect();
            json!({"term": pull.term, "weight": pull.weight, "norms": norms})
        });
        outln!("{}", json!({"batches": args.batches, "terms": rows.collect::<Vec<_>>()}));
        return Ok(());
    }
    let mut line = format!("{:<18} {:>7}", "loss term", "weight");
    groups.iter().for_each(|group| line.push_str(&format!(" {group:>16}")));
    outln!("{line}");
    for Pull { term, weight, norms } in &pulls {
        let mut line = format!("{term:<18} {weight:>7.3}");
        norms.iter().for_each(|norm| line.push_str(&format!(" {norm:>16.3e}")));
        outln!("{line}");
    }
    outln!("L2 norms of the gradients, weighted as in the objective; means over {} batches", args.batches);
    Ok(())
}

/// The groups with trained parameters, and the pull of each term at them.
fn measure(experiment: &Experiment, n: u64) -> Result<(Vec<&'static str>, Vec<Pull>)> {
    let (model, cfg, device) = (&experiment.model, &experiment.cfg, experiment.device);
    let entries = model.store().entries().into_iter().map(|(_, entry)| entry);
    let trained: Vec<_> =
        entries.filter(|entry| entry.role == Role::Parameter && entry.tensor.requires_grad()).collect();
    ensure!(!trained.is_empty(), "nothing trains");
    let tensors: Vec<&Tensor> = trained.iter().map(|entry| &entry.tensor).collect();
    let mut groups: Vec<&'static str> = Vec::new();
    for entry in &trained {
        if !groups.contains(&entry.group.name) {
            groups.push(entry.group.name);
        }
    }
    let processes = Processes::default();
    let steps = Steps::plain(model, cfg, device, &processes);
    let mut pulls: Vec<Pull> = Vec::new();
    let mut progress = Progress::new("gradients", n, 0);
    for (step, batch) in first_batches(experiment, n)?.enumerate() {
        experiment.interrupt.check()?;
        processes.seed_step(cfg.seed, step as u64);
        let batch = TrainTensors::new(&batch?, device, model.store().kind())?;
        for (term, weight, value) in steps.weighted_terms(&batch)? {
            let number = f64::try_from(&value)?;
            ensure!(number.is_finite(), "loss.{term} is {number} in batch {}", step + 1);
            let found = Tensor::f_run_backward(&[&value * weight], &tensors, true, false)?;
            let squares = |group: &str| -> Result<f64> {
                let ours = trained.iter().zip(&found).filter(|(entry, _)| entry.group.name == group);
                let defined = ours.map(|(_, gradient)| gradient).filter(|gradient| gradient.defined());
                let squares = defined.map(|gradient| {
                    Ok(f64::try_from(gradient.to_kind(Kind::Double).square().sum(Kind::Double))?)
                });
                Ok(squares.sum::<Result<f64>>()?.abs())
            };
            let norms: Vec<f64> =
                groups.iter().map(|group| Ok(squares(group)?.sqrt() / n as f64)).collect::<Result<_>>()?;
            match pulls.iter_mut().find(|pull| pull.term == term) {
                Some(pull) => pull.norms.iter_mut().zip(norms).for_each(|(sum, norm)| *sum += norm),
                None => pulls.push(Pull { term, weight, norms }),
            }
        }
        progress.advance(1, "");
    }
    Ok((groups, pulls))
}
