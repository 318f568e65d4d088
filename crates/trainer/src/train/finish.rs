//! Evaluation on the way and at the end.

use std::time::{Duration, Instant};

use anyhow::Result;
use cli_kit::{errln, outln};
use data_cli::{metric_or_dash, metrics_table};
use metrics::{Evaluated, GroupReport, SplitReport};
use serde_json::{Value, json};
use talent::weights::Strictness;

use super::{Output, Run, tensors};
use crate::checkpoint::load_own;
use crate::evaluate::{evaluate_exchanged, evaluate_for_selection, evaluate_split};
use crate::pictures::{SheetCollector, draw_curves};
use crate::prediction_file::PredictionFile;
use crate::process;
use crate::run_dir::RunDir;

impl Run<'_> {
    /// Evaluates all validation splits and keeps the model if their mean mIoU is the best so far.
    pub(super) fn validate(&mut self) -> Result<()> {
        let precision = self.experiment.cfg.train.precision;
        let mut mious = Vec::new();
        for position in 0..self.experiment.datasets.len() {
            let split = self.experiment.datasets[position].descriptor.val.clone();
            let started = Instant::now();
            let report = evaluate_for_selection(&self.experiment, position, &split, precision)?;
            let GroupReport { segmentation, nta } = &report.all;
            let name = self.experiment.split_name(position, &split);
            mious.push(segmentation.miou);
            let Some(output) = &mut self.output else { continue };
            errln!(
                "step {}  {name}: mIoU {:.2}  oIoU {:.2}  Pr@50 {:.2}  NTA mass {}",
                self.at.step,
                segmentation.miou,
                segmentation.oiou,
                segmentation.pr50,
                metric_or_dash(nta.nta_mass)
            );
            let mut scalars = vec![
                (format!("{name}/mIoU"), segmentation.miou),
                (format!("{name}/oIoU"), segmentation.oiou),
            ];
            scalars.extend(nta.nta_mass.map(|mass| (format!("{name}/nta_mass"), mass)));
            output.events.scalars(self.at.step, &scalars)?;
            self.record_metrics("eval", &name, &report, started.elapsed())?;
        }
        let miou = mious.iter().sum::<f64>() / mious.len().max(1) as f64;
        if self.at.best_miou.is_none_or(|best| miou >= best) {
            self.at.best_miou = Some(miou);
            if let Some(Output { dir, .. }) = &self.output {
                self.at.n_records = dir.n_records();
                self.writer().save_model(&dir.checkpoints().best(), &self.at)?;
            }
        }
        Ok(())
    }

    fn record_metrics(
        &mut self,
        kind: &str,
        split: &str,
        report: &SplitReport,
        time: Duration,
    ) -> Result<()> {
        let Some(Output { dir, .. }) = &mut self.output else { return Ok(()) };
        let mut record = serde_json::to_value(report)?;
        record["kind"] = json!(kind);
        record["split"] = json!(split);
        record["step"] = json!(self.at.step);
        // Epochs finished.
        record["epoch"] = json!(self.at.epoch + u64::from(self.at.batch == self.per_epoch));
        record["runtime"] = json!({"seconds": time.as_secs_f64()});
        dir.record(&record)
    }

    /// What the steps of the whole run took, and whether the process has grown on the way.
    fn run_time(&self, dir: &RunDir) -> Result<Value> {
        let records = dir.records()?;
        let steps: Vec<&Value> = records.iter().filter(|record| record["kind"] == "step").collect();
        let of_steps = |key: &str| -> Vec<(f64, f64)> {
            let value = |record: &&Value| Some((record["step"].as_f64()?, record["runtime"][key].as_f64()?));
            steps.iter().filter_map(value).collect()
        };
        let mut seconds: Vec<f64> = of_steps("seconds").into_iter().map(|(_, seconds)| seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let growth = |key: &str| process::slope(&of_steps(key)).map(|slope| slope * 1000.0);
        Ok(json!({
            "median_step_seconds": seconds.get(seconds.len() / 2),
            "peak_rss_mib": process::peak_rss_mib(),
            "rss_mib_per_1000_steps": growth("rss_mib"),
            "open_files_per_1000_steps": growth("open_files"),
        }))
    }

    pub(super) fn draw_curves(&self) -> Result<()> {
        let Some(Output { dir, .. }) = &self.output else { return Ok(()) };
        draw_curves(&dir.path().join("curves.png"), &dir.records()?)
    }

    /// Evaluates the best model on every split, draws, and prints the final table.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.progress.clear();
        let trained = self.started.elapsed();
        if let Some(Output { dir, .. }) = &self.output {
            let checkpoints = dir.checkpoints();
            self.writer().save_model(&checkpoints.last(), &self.at)?;
            load_own(&self.experiment.model, &checkpoints.best(), &Strictness::default())?;
        }
        self.experiment.processes.share(tensors(&self.experiment.model).collect())?;
        let precision = self.experiment.cfg.train.precision;
        let threshold = self.experiment.cfg.eval.threshold;
        let mut rows = Vec::new();
        let mut report = serde_json::Map::new();
        let mut expressions: Vec<(String, Vec<Evaluated>)> = Vec::new();
        for position in 0..self.experiment.datasets.len() {
            let dataset = &self.experiment.datasets[position];
            let mut splits = vec![dataset.descriptor.val.clone()];
            let present: Vec<String> = dataset.splits().iter().map(|&split| split.to_owned()).collect();
            splits.extend(dataset.descriptor.test.iter().filter(|split| present.contains(split)).cloned());
            let queries = refcoco::evaluation::queries(dataset, &splits[0])?;
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
                expressions.push((name.clone(), evaluated));
                let metrics = SplitReport::new(&expressions[expressions.len() - 1].1);
                self.record_metrics("final", &name, &metrics, started.elapsed())?;
                report.insert(name.clone(), serde_json::to_value(&metrics)?);
                rows.push((name, metrics));
            }
            if position == 0 {
                let processes = &self.experiment.processes;
                let (sheet, predictions) = (sheet.gather(processes)?, predictions.gather(processes)?);
                if let Some(Output { dir, .. }) = &self.output {
                    let dataset = &self.experiment.datasets[position];
                    sheet.save(&dir.path().join("overlays.png"), dataset, &queries)?;
                    predictions.save(&dir.path().join("predictions.jsonl"))?;
                }
            }
            let [own, exchanged] = evaluate_exchanged(&self.experiment, position, &splits[0], precision)?;
            let name = self.experiment.split_name(position, &splits[0]);
            for (label, metrics) in [("with same-category rival", own), ("expression exchanged", exchanged)] {
                let name = format!("{name}, {label}");
                self.record_metrics("final", &name, &metrics, Duration::ZERO)?;
                report.insert(name.clone(), serde_json::to_value(&metrics)?);
                rows.push((name, metrics));
            }
        }
        self.draw_curves()?;
        let Some(Output { dir, .. }) = &self.output else { return Ok(()) };
        dir.write_expressions(&expressions)?;
        let metrics = json!({
            "version": env!("CARGO_PKG_VERSION"), "step": self.at.step, "best_val_mIoU": self.at.best_miou,
            "trained_values": self.adam.n_values(), "splits": report,
            "bad_samples": self.at.bad_samples, "runtime": self.run_time(dir)?,
        });
        whole_file::write(&dir.path().join("metrics.json"), format!("{metrics:#}\n").as_bytes())?;
        outln!("{}", metrics_table(&rows));
        let (path, minutes) = (dir.path().display(), trained.as_secs_f64() / 60.0);
        outln!(
            "{} steps in {minutes:.1} min; curves, overlays, records and checkpoints are in {path}",
            self.at.step
        );
        Ok(())
    }
}
