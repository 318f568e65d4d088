//! `eval`: metrics of a checkpoint, or of predicted masks in a file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use cli_kit::outln;
use command_kit::{
    ScoreArgs, leave_out_unreadable, left_out_of_evaluation, metric_or_dash, metrics_table, reports_json,
    score, tell_left_out,
};
use metrics::SplitReport;
use refcoco::{Dataset, OnError};
use run_files::may_hold_predictions;
use serde_json::json;

use crate::checkpoint::checkpoint_argument;
use crate::config::Precision;
use crate::data_notes::tell_findings;
use crate::evaluate::{EXCHANGED, evaluate_exchanged, evaluate_split};
use crate::experiment::{Experiment, Machine, StoredModel, open_datasets};
use crate::feature_nta::{StageNta, feature_nta};
use crate::prediction_file::PredictionFile;
use crate::run_dir::data_root_of;
use crate::train::stored_checkpoint;

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Score these masks instead of a model's, see `data score --help`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "checkpoint", "exchange", "features", "precision", "config", "allow_missing", "encoder_root"])]
    predictions: Option<PathBuf>,
    /// Score --predictions on every data set of a suite that is below the data root: robustness, or names of data sets separated by
    /// commas
    #[arg(long, value_name = "NAME", requires = "predictions", conflicts_with_all = ["dataset", "split"])]
    suite: Option<String>,
    /// Also write the suite's report to this file as HTML
    #[arg(long, value_name = "FILE", requires = "suite")]
    html: Option<PathBuf>,
    /// Run folder; its best checkpoint is evaluated
    #[arg(long, conflicts_with = "checkpoint")]
    run: Option<PathBuf>,
    /// Checkpoint file, or exported folder, or run folder
    #[arg(long, value_parser = checkpoint_argument())]
    checkpoint: Option<PathBuf>,
    /// Splits, separated by commas [default: the data set's validation split]
    #[arg(long, value_delimiter = ',')]
    split: Vec<String>,
    /// Data set to evaluate on [default: those the model was trained on]
    #[arg(long)]
    dataset: Option<String>,
    /// Folder of the data sets [default: that of the run, otherwise datasets]
    #[arg(long)]
    data_root: Option<PathBuf>,
    /// Precision of matrix products [default: as trained]
    #[arg(long)]
    precision: Option<Precision>,
    /// Also evaluate with expressions exchanged between same-category refs of an image
    #[arg(long)]
    exchange: bool,
    /// Also measure non-target activation inside the network, in each adapter and on each level of the neck
    #[arg(long)]
    features: bool,
    /// Also write the predicted masks to a file that --predictions reads
    #[arg(long, value_name = "FILE", conflicts_with = "predictions")]
    save_predictions: Option<PathBuf>,
    /// Leave out expressions whose image or target cannot be read, for example images of another size than their record, and
    /// count them [default: as trained, eval.on_error]
    #[arg(long)]
    skip_unreadable: bool,
    /// Leave out expressions without a line in --predictions, and count them
    #[arg(long, requires = "predictions", conflicts_with = "suite")]
    skip_unanswered: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stored: StoredModel,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn eval(args: &EvalArgs) -> Result<()> {
    if let Some(predictions) = &args.predictions {
        ensure!(
            args.dataset.is_some() || args.suite.is_some(),
            "--predictions needs --dataset NAME or --suite NAME"
        );
        return score(&ScoreArgs {
            predictions: predictions.clone(),
            dataset: args.dataset.clone(),
            suite: args.suite.clone(),
            html: args.html.clone(),
            data_root: data_root_of(args.data_root.as_ref(), None),
            split: args.split.clone(),
            skip_unreadable: args.skip_unreadable,
            skip_unanswered: args.skip_unanswered,
            json: args.json,
        });
    }
    let file = stored_checkpoint(args.run.as_ref(), args.checkpoint.as_ref())?;
    if let Some(to) = &args.save_predictions {
        ensure!(
            may_hold_predictions(to),
            "--save-predictions {}: there is something else than predictions; choose another file",
            to.display()
        );
    }
    let experiment = open(args, &file)?;
    let precision = args.precision.unwrap_or(experiment.cfg.train.precision);
    let mut found = EvalResults::default();
    tell_findings(&experiment, |dataset, split| splits_of(args, dataset).contains(split));
    let mut predictions = PredictionFile::new(experiment.cfg.eval.threshold);
    for position in 0..experiment.datasets.len() {
        for split in splits_of(args, &experiment.datasets[position]) {
            let evaluated = evaluate_split(&experiment, position, split, precision, |place, prediction| {
                if args.save_predictions.is_some() {
                    predictions.visit(place, &experiment.datasets[position], &prediction);
                }
            })?;
            found.rows.push((experiment.split_name(position, split), SplitReport::new(&evaluated)));
            found.add_more(args, &experiment, (position, split), precision)?;
        }
    }
    tell_left_out(&experiment.datasets);
    if let Some(path) = &args.save_predictions {
        predictions.save(path)?;
    }
    found.print(args, &file, &left_out_of_evaluation(&experiment.datasets))
}

/// The splits of a data set that are evaluated.
fn splits_of<'a>(args: &'a EvalArgs, dataset: &'a Dataset) -> &'a [String] {
    if args.split.is_empty() { std::slice::from_ref(&dataset.descriptor.val) } else { &args.split }
}

/// The network of a checkpoint with the data to evaluate it on.
fn open(args: &EvalArgs, file: &Path) -> Result<Experiment> {
    let device = args.machine.set_up()?;
    let (mut cfg, meta) = args.stored.open(file)?;
    if let Some(name) = &args.dataset {
        cfg.data.datasets = vec![name.clone()];
    }
    ensure!(
        args.save_predictions.is_none() || cfg.data.datasets.len() == 1,
        "--save-predictions writes masks of one data set; choose it with --dataset"
    );
    // Another data set may lie anywhere.
    let run = file.parent().and_then(Path::parent).filter(|_| args.dataset.is_none());
    let mut datasets = open_datasets(&cfg.data.datasets, &data_root_of(args.data_root.as_ref(), run))?;
    if args.skip_unreadable || cfg.eval.on_error == OnError::Skip {
        for dataset in &mut datasets {
            let splits = splits_of(args, dataset).to_vec();
            leave_out_unreadable(dataset, &splits)?;
        }
    }
    let experiment = Experiment::with_datasets(cfg, device, datasets)?;
    args.stored.fill(&experiment.model, file, meta.as_ref())?;
    Ok(experiment)
}

/// Results to report.
#[derive(Default)]
struct EvalResults {
    rows: Vec<(String, SplitReport)>,
    features: serde_json::Map<String, serde_json::Value>,
}

impl EvalResults {
    /// Adds what --features and --exchange ask for.
    fn add_more(
        &mut self,
        args: &EvalArgs,
        experiment: &Experiment,
        (position, split): (usize, &str),
        precision: Precision,
    ) -> Result<()> {
        let name = experiment.split_name(position, split);
        if args.features {
            let stages = feature_nta(experiment, position, split, precision)?;
            if !args.json {
                print_stages(&name, &stages);
            }
            self.features.insert(name.clone(), json!(stages));
        }
        if args.exchange {
            let exchanged = evaluate_exchanged(experiment, position, split, precision)?;
            let rows = EXCHANGED.into_iter().zip(exchanged);
            self.rows.extend(rows.map(|(label, report)| (format!("{name}, {label}"), report)));
        }
        Ok(())
    }

    fn print(self, args: &EvalArgs, file: &Path, left_out: &BTreeSet<String>) -> Result<()> {
        if args.json {
            let mut head = json!({"checkpoint": file.to_string_lossy()});
            if args.features {
                head["feature_nta"] = self.features.into();
            }
            if !left_out.is_empty() {
                head["left_out_refs"] = json!(left_out);
            }
            outln!("{}", reports_json(&head, self.rows)?);
        } else {
            outln!("{}", metrics_table(&self.rows));
        }
        Ok(())
    }
}

fn print_stages(split: &str, stages: &[StageNta]) {
    outln!("{split}: what answers to the sentence, share on distractors in percent");
    for StageNta { stage, feature_nta, n_with_distractors, n_undefined } in stages {
        let share = metric_or_dash(*feature_nta);
        outln!(
            "  {stage:20} {share:>6}   ({n_with_distractors} expressions, {n_undefined} without any answer)"
        );
    }
}
