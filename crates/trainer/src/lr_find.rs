//! `lr-find`: trains a few steps with a rising learning rate, and draws the loss over it (Smith, Cyclical learning rates for training
//! neural networks, WACV 2017).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use cli_kit::outln;
use command_kit::{DEFAULT_DATA_ROOT, Progress};
use figures::{Panel, Series};
use serde_json::json;
use talent::weights::Strictness;

use crate::config::{Config, ConfigArgs};
use crate::distributed::Processes;
use crate::experiment::{Experiment, Machine};
use crate::first_batches::first_batches;
use crate::interrupt::Interrupt;
use crate::official_checkpoint::load_encoders;
use crate::optim::adam;
use crate::precision::LossScaler;
use crate::step::Steps;

/// Arguments of `lr-find`.
#[derive(Debug, Args)]
pub(crate) struct LrFindArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    machine: Machine,
    /// Folder of the data sets
    #[arg(long, default_value = DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// Steps, each with a higher learning rate
    #[arg(long, default_value_t = 100)]
    steps: u64,
    /// First learning rate of the head; that of the encoders keeps its ratio to it
    #[arg(long, default_value_t = 1e-6)]
    from: f64,
    /// Last learning rate
    #[arg(long, default_value_t = 1.0)]
    to: f64,
    /// PNG file for the plot
    #[arg(long, default_value = "lr-find.png")]
    out: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A learning rate and the smoothed loss of its step.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    rate: f64,
    loss: f64,
}

/// Weight of the losses before in the smoothed loss.
const SMOOTHING: f64 = 0.9;
/// The loss has diverged at this multiple of its least value.
const DIVERGED: f64 = 4.0;
/// First steps without a suggestion: there the smoothed loss still follows single batches.
const UNSURE: usize = 10;
/// Fewest steps with a curve to read a rate from.
const FEWEST: u64 = 30;

pub(crate) fn lr_find(args: &LrFindArgs) -> Result<()> {
    let LrFindArgs { steps, from, to, .. } = *args;
    ensure!(steps >= FEWEST, "--steps must be at least {FEWEST}: the loss is smoothed over {UNSURE}");
    ensure!(
        from > 0.0 && to > from && to.is_finite(),
        "--from ({from}) must be positive and below --to ({to}), a finite number"
    );
    ensure!(from >= 1e-12, "--from ({from}): smaller rates vanish beside the weights");
    ensure!(steps <= 100_000, "--steps ({steps}): at most 100000");
    prepare_output(&args.out)?;
    let cfg = args.config.load(&args.data_root)?;
    ensure!(cfg.train.lr > 0.0, "train.lr must be positive: the encoders' rate keeps its ratio to it");
    let points = measure(args, cfg)?;
    let suggested = suggestion(&points);
    let panel = Panel {
        title: "loss by learning rate".into(),
        x_label: "log10 of train.lr".into(),
        series: vec![Series {
            name: "loss, smoothed".into(),
            points: points.iter().map(|point| (point.rate.log10(), point.loss)).collect(),
        }],
    };
    figures::curves(&args.out, &[panel])?;
    if args.json {
        let listed: Vec<_> =
            points.iter().map(|point| json!({"lr": point.rate, "loss": point.loss})).collect();
        outln!("{}", json!({"suggested_lr": suggested, "points": listed}));
        return Ok(());
    }
    match suggested {
        Some(rate) => outln!(
            "the loss falls fastest at train.lr = {rate:.1e}; the plot is {}. Rates up to where the curve turns are candidates: compare \
             them with `ablate --axis train.lr=...`",
            args.out.display()
        ),
        None => outln!(
            "behind the first {UNSURE} steps the loss does not fall at any of these rates: start lower (--from) or take more --steps; the \
             plot is {}",
            args.out.display()
        ),
    }
    Ok(())
}

/// Checks that the plot can be written, before any work is done.
fn prepare_output(out: &Path) -> Result<()> {
    let shown = out.display();
    let is_png = out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
    ensure!(is_png && !out.is_dir(), "--out {shown}: the plot is a PNG file; name it so");
    if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

/// Trains with rising rates until the loss diverges.
fn measure(args: &LrFindArgs, cfg: Config) -> Result<Vec<Point>> {
    let device = args.machine.set_up()?;
    let processes = Processes::default();
    let mut experiment = Experiment::new(cfg, device, &args.data_root, &processes)?;
    experiment.interrupt = Interrupt::listen()?;
    let cfg = &experiment.cfg;
    load_encoders(&experiment.model, cfg, &Strictness::default())?;
    let loader = first_batches(&experiment, args.steps)?;
    let (mut adam, mut scaler) = (adam(&experiment.model, &cfg.train), LossScaler::new(cfg.train.precision));
    let steps = Steps::plain(&experiment.model, cfg, device, &processes);
    let mut progress = Progress::new("lr-find", args.steps, 0);
    let (mut points, mut smoothed, mut least) = (Vec::new(), 0.0, f64::INFINITY);
    for (step, batch) in loader.enumerate() {
        experiment.interrupt.check()?;
        let rate = args.from * (args.to / args.from).powf(step as f64 / (args.steps - 1) as f64);
        processes.seed_step(cfg.seed, step as u64);
        let queued = steps.queue(&mut adam, &mut scaler, &batch?, rate / cfg.train.lr, None)?;
        let report = queued.report()?;
        let total = report.losses.iter().find(|(name, _)| *name == "total").map(|(_, value)| *value);
        let Some(loss) = total.filter(|loss| loss.is_finite() && (report.finite || scaler.may_skip())) else {
            break;
        };
        smoothed = SMOOTHING * smoothed + (1.0 - SMOOTHING) * loss;
        let loss = smoothed / (1.0 - SMOOTHING.powi(step as i32 + 1));
        points.push(Point { rate, loss });
        progress.advance(1, &format!("lr {rate:.1e}  loss {loss:.3}"));
        least = least.min(loss);
        if loss > DIVERGED * least {
            break;
        }
    }
    Ok(points)
}

/// The rate at which the loss falls fastest per factor of the rate, if it falls at all.
fn suggestion(points: &[Point]) -> Option<f64> {
    let slopes = points.windows(3).enumerate().skip(UNSURE).map(|(_, window)| {
        let run = window[2].rate.ln() - window[0].rate.ln();
        (window[1].rate, (window[2].loss - window[0].loss) / run)
    });
    let steepest = slopes.min_by(|(_, one), (_, other)| one.total_cmp(other));
    steepest.filter(|(_, slope)| *slope < 0.0).map(|(rate, _)| rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steepest_descent_is_suggested() {
        let curve = |fall: f64| -> Vec<Point> {
            let point = |step: i32| {
                let log = f64::from(step) / 10.0 - 6.0;
                // A fall around 1e-3, and a rise beyond 1e-1.
                let loss = 2.0 - fall / (1.0 + (-6.0 * (log + 3.0)).exp()) + (log + 1.0).max(0.0);
                Point { rate: 10_f64.powf(log), loss }
            };
            (0..60).map(point).collect()
        };
        let found = suggestion(&curve(1.0)).unwrap();
        assert!((found.log10() + 3.0).abs() < 0.11, "{found}");
        assert_eq!(suggestion(&curve(-1.0)), None);
        assert_eq!(suggestion(&[]), None);
    }
}
