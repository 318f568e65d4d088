//! Evaluation during training and at its end.

use std::time::{Duration, Instant};

use anyhow::Result;
use cli_kit::{errln, outln};
use command_kit::{left_out_of_evaluation, metric_or_dash, metrics_table, tell_left_out};
use figures::Canvas;
use metrics::{Evaluated, METRICS, Metric, SplitReport};
use run_files::{
    EvalRecord, EvalTime, Metrics, Predictions, Record, RunTime, StepTime, VERSION, read_records,
    write_expressions,
};
use talent::weights::Strictness;

use super::{Output, Run, tensors};
use crate::checkpoint::load_own;
use crate::evaluate::{EXCHANGED, evaluate_exchanged, evaluate_queries, evaluate_split, selecting_queries};
use crate::experiment::EvalScope;
use crate::pictures::{SheetCollector, draw_curves};
use crate::prediction_file::PredictionFile;
use crate::proc_status;
use crate::run_dir::RunDir;
use crate::run_report::{RunReport, best_and_worst};

impl Run<'_> {
    /// Evaluates all validation splits, and saves the model as the best one if their mean mIoU is at least the best so far. Without
    /// any validation split, the latest model is the best.
    pub(super) fn validate(&mut self) -> Result<()> {
        let mut mious = Vec::new();
        for position in 0..self.experiment.datasets.len() {
            let Some(split) = self.experiment.validation_split(position) else { continue };
            let started = Instant::now();
            let report = self.validate_split(position, &split)?;
            let name = self.experiment.split_name(position, &split);
            mious.push(report.all.segmentation.miou);
            let Some(output) = &mut self.output else { continue };
            let told = METRICS.iter().filter(|metric| metric.while_training);
            let told: Vec<(&Metric, Option<f64>)> =
                told.map(|metric| (metric, (metric.of)(&report.all))).collect();
            let line: Vec<String> = told
                .iter()
                .map(|(metric, value)| format!("{} {}", metric.heading, metric_or_dash(*value)))
                .collect();
            errln!("step {}  {name}: {}", self.at.step, line.join("  "));
            let scalars: Vec<(String, f64)> = told
                .iter()
                .filter_map(|(metric, value)| Some((format!("{name}/{}", metric.key), (*value)?)))
                .collect();
            output.events.scalars(self.at.step, &scalars)?;
            self.record_metrics(Record::Eval, &name, &report, started.elapsed())?;
        }
        let miou = (!mious.is_empty()).then(|| mious.iter().sum::<f64>() / mious.len() as f64);
        if miou.is_some() {
            self.at.stale = if miou > self.at.best_miou { 0 } else { self.at.stale + 1 };
        }
        if miou >= self.at.best_miou {
            self.at.best_miou = miou;
            if let Some(Output { dir, .. }) = &self.output {
                dir.count_records(&mut self.at);
                self.writer().save_model(&dir.checkpoints().best(), &self.at)?;
            }
        }
        Ok(())
    }

    /// Evaluates the validation split of a data set. Samples of the first data set's are drawn, so that a run that is going on can be
    /// looked at.
    fn validate_split(&self, position: usize, split: &str) -> Result<SplitReport> {
        let experiment = &self.experiment;
        let (precision, threshold) = (experiment.cfg.train.precision, experiment.cfg.eval.threshold);
        let queries = selecting_queries(experiment, position, split)?;
        let mut sheet = SheetCollector::new(queries.len(), threshold);
        let label = format!("eval {}", experiment.split_name(position, split));
        let evaluated =
            evaluate_queries(experiment, position, &queries, precision, &label, |place, prediction| {
                if position == 0 {
                    sheet.visit(place, &prediction);
                }
            })?;
        if position == 0 {
            let sheet = sheet.gather(&experiment.processes)?;
            if let Some(Output { dir, .. }) = &self.output {
                sheet.save(&dir.path().join("overlays.png"), &experiment.datasets[position], &queries)?;
            }
        }
        Ok(SplitReport::new(&evaluated))
    }

    fn record_metrics(
        &mut self,
        kind: fn(EvalRecord) -> Record,
        split: &str,
        report: &SplitReport,
        time: Duration,
    ) -> Result<()> {
        let Some(Output { dir, .. }) = &mut self.output else { return Ok(()) };
        dir.record(&kind(EvalRecord {
            step: self.at.step,
            epoch: self.at.epoch + u64::from(self.at.batch == self.per_epoch),
            split: split.to_owned(),
            report: report.clone(),
            runtime: EvalTime { seconds: Some(time.as_secs_f64()) },
        }))
    }

    /// Median time of all steps of the run, peak memory, and growth of memory and open files.
    fn run_time(&self, dir: &RunDir) -> Result<RunTime> {
        let records = read_records(dir.path())?;
        let of_steps = |value: &dyn Fn(&StepTime) -> Option<f64>| -> Vec<(f64, f64)> {
            let point = |record: &Record| match record {
                Record::Step(step) => Some((step.step as f64, value(&step.runtime)?)),
                Record::Eval(_) | Record::Final(_) => None,
            };
            records.iter().filter_map(point).collect()
        };
        let mut seconds: Vec<f64> =
            of_steps(&|time| time.seconds).into_iter().map(|(_, seconds)| seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let growth = |points: Vec<(f64, f64)>| proc_status::slope(&points).map(|slope| slope * 1000.0);
        Ok(RunTime {
            median_step_seconds: seconds.get(seconds.len() / 2).copied(),
            peak_rss_mib: proc_status::peak_rss_mib(),
            rss_mib_per_1000_steps: growth(of_steps(&|time| time.rss_mib)),
            open_files_per_1000_steps: growth(of_steps(&|time| time.open_files.map(|n| n as f64))),
        })
    }

    pub(super) fn draw_curves(&self) -> Result<()> {
        let Some(Output { dir, .. }) = &self.output else { return Ok(()) };
        draw_curves(&dir.path().join("curves.png"), &read_records(dir.path())?)
    }

    /// Evaluates the best model on every split, draws the pictures, and prints the final table.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.progress.clear();
        let trained = self.started.elapsed();
        self.averaged(|run| match &run.output {
            Some(Output { dir, .. }) => run.writer().save_model(&dir.checkpoints().last(), &run.at),
            None => Ok(()),
        })?;
        if let Some(Output { dir, .. }) = &self.output {
            let checkpoints = dir.checkpoints();
            load_own(&self.experiment.model, &checkpoints.best(), &Strictness::default())?;
        }
        self.experiment.processes.broadcast(tensors(&self.experiment.model).collect())?;
        let mut found = FinalResults::default();
        for position in 0..self.experiment.datasets.len() {
            self.evaluate_splits(position, &mut found)?;
        }
        self.draw_curves()?;
        tell_left_out(&self.experiment.datasets);
        let Some(Output { dir, .. }) = &self.output else { return Ok(()) };
        write_expressions(dir.path(), found.expressions)?;
        let metrics = Metrics {
            version: Some(VERSION.to_owned()),
            step: self.at.step,
            best_val_miou: self.at.best_miou,
            trained_values: self.adam.n_values() as u64,
            splits: found.rows.iter().cloned().collect(),
            bad_samples: self.at.bad_samples.clone(),
            left_out_refs: left_out_of_evaluation(&self.experiment.datasets),
            runtime: self.run_time(dir)?,
        };
        let name = dir.path().file_name().unwrap_or_default().to_string_lossy();
        let records = read_records(dir.path())?;
        let report = RunReport { name: &name, records: &records, rows: &found.rows, cases: found.cases };
        report.write(&dir.path().join("report.html"))?;
        // The last file: with it the run is finished.
        metrics.write(dir.path())?;
        outln!("{}", metrics_table(&found.rows));
        let (path, minutes) = (dir.path().display(), trained.as_secs_f64() / 60.0);
        outln!(
            "{} steps in {minutes:.1} min; report.html, curves, overlays, records and checkpoints are in {path}",
            self.at.step
        );
        Ok(())
    }

    /// Evaluates the validation and test splits of a data set. Pictures and predictions are saved for the first split of the
    /// first data set.
    fn evaluate_splits(&mut self, position: usize, found: &mut FinalResults) -> Result<()> {
        let precision = self.experiment.cfg.train.precision;
        let threshold = self.experiment.cfg.eval.threshold;
        let splits = self.experiment.evaluated_splits(position);
        let Some(first) = splits.first() else { return Ok(()) };
        let queries = self.experiment.queries(position, first)?;
        let mut sheet = SheetCollector::new(queries.len(), threshold);
        let mut predictions = PredictionFile::new(threshold);
        for (index, split) in splits.iter().enumerate() {
            let started = Instant::now();
            let evaluated =
                evaluate_split(&self.experiment, position, split, precision, |place, prediction| {
                    if position == 0 && index == 0 {
                        sheet.visit(place, &prediction);
                        predictions.visit(place, &self.experiment.datasets[position], &prediction);
                    }
                })?;
            let name = self.experiment.split_name(position, split);
            let metrics = SplitReport::new(&evaluated);
            found.expressions.push((name.clone(), evaluated));
            self.record_metrics(Record::Final, &name, &metrics, started.elapsed())?;
            found.rows.push((name, metrics));
        }
        if position == 0 {
            let processes = &self.experiment.processes;
            let (sheet, predictions) = (sheet.gather(processes)?, predictions.gather(processes)?);
            if let Some(Output { dir, .. }) = &self.output {
                let dataset = &self.experiment.datasets[position];
                sheet.save(&dir.path().join("overlays.png"), dataset, &queries)?;
                let path = dir.path().join("predictions.jsonl");
                predictions.save(&path)?;
                let evaluated = found.expressions.first().map_or(&[][..], |(_, evaluated)| evaluated);
                let predictions = Predictions::read(&path, dataset)?;
                found.cases = Some(best_and_worst(dataset, &queries, evaluated, &predictions)?);
            }
        }
        // Batches that are overfitted have no rivals' expressions to exchange.
        if matches!(self.experiment.scope, EvalScope::Refs(_)) {
            return Ok(());
        }
        let exchanged = evaluate_exchanged(&self.experiment, position, first, precision)?;
        let name = self.experiment.split_name(position, first);
        for (label, metrics) in EXCHANGED.into_iter().zip(exchanged) {
            let name = format!("{name}, {label}");
            self.record_metrics(Record::Final, &name, &metrics, Duration::ZERO)?;
            found.rows.push((name, metrics));
        }
        Ok(())
    }
}

/// Results of the final evaluations.
#[derive(Default)]
struct FinalResults {
    /// Reports by split, in the order of the table.
    rows: Vec<(String, SplitReport)>,
    expressions: Vec<(String, Vec<Evaluated>)>,
    /// Pictures of the best and the worst predictions of the first split of the first data set.
    cases: Option<[Canvas; 2]>,
}
