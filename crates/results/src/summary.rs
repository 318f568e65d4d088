use std::collections::BTreeMap;

use metrics::{METRICS, Metric};

use crate::Error;
use crate::bootstrap::{Interval, paired_bootstrap};
use crate::read::Run;
use crate::table::{Cell, Table, TableFormat};
use run_files::{Ablation, ExpressionLine};

/// Mean and standard deviation over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanSd {
    /// Mean over seeds.
    pub mean: f64,
    /// Sample standard deviation (n - 1); `None` for one seed.
    pub sd: Option<f64>,
}

impl MeanSd {
    fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / n)?;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self { mean, sd: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()) })
    }
}

/// Difference between a group and the baseline, over the expressions that both evaluated with the same seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Difference in IoU, in percent.
    pub iou: Option<Interval>,
    /// Difference in NTA mass, in percent, over the expressions for which both have one.
    pub nta_mass: Option<Interval>,
}

/// One line of a summary: a group of runs on one split.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Name of the group.
    pub group: String,
    /// Number of seeds in the group.
    pub n_seeds: usize,
    /// Metrics in percent, by name.
    pub metrics: BTreeMap<&'static str, MeanSd>,
    /// Difference from the baseline; `None` for the baseline itself, and if there is none.
    pub difference: Option<Difference>,
    /// NTA mass by number of distractors: 1, 2, and 3 or more.
    pub nta_by_distractors: [Option<f64>; 3],
    /// Number of trained parameter values.
    pub trained_values: u64,
    /// Median time of a step in seconds, averaged over runs.
    pub step_seconds: Option<f64>,
    /// Peak resident memory of any of the group's runs, in MiB.
    pub peak_rss_mib: Option<f64>,
}

/// Table of one split, with means over seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Name of the split.
    pub split: String,
    /// The group that the others are compared with.
    pub baseline: Option<String>,
    /// Lines of the table, in the plan's order.
    pub lines: Vec<Line>,
}

/// The metrics that the table shows.
fn shown() -> impl Iterator<Item = &'static Metric> {
    METRICS.iter().filter(|metric| metric.in_summaries)
}

impl Summary {
    /// Summarises runs on one split, grouped by some keys (see [`Run::group`]).
    ///
    /// # Errors
    /// When no run has the split, when a run lacks one of the keys, or when the baseline is not one of the groups.
    pub fn new(
        runs: &[Run],
        plan: Option<&Ablation>,
        split: &str,
        group_by: &[String],
        baseline: Option<&str>,
    ) -> Result<Self, Error> {
        let mut order: Vec<String> = Vec::new();
        let mut groups: BTreeMap<String, Vec<&Run>> = BTreeMap::new();
        for run in runs.iter().filter(|run| run.splits.contains_key(split)) {
            let mut parts = Vec::new();
            for key in group_by {
                parts.push(run.group(key).ok_or_else(|| {
                    Error::Empty(format!("{}: its config has no key `{key}` to group by", run.path.display()))
                })?);
            }
            let group = parts.join(", ");
            if !groups.contains_key(&group) {
                order.push(group.clone());
            }
            groups.entry(group).or_default().push(run);
        }
        if order.is_empty() {
            let known: std::collections::BTreeSet<&String> =
                runs.iter().flat_map(|run| run.splits.keys()).collect();
            return Err(Error::Empty(format!(
                "no finished run has the split `{split}`; they have {known:?}"
            )));
        }
        if let Some(plan) = plan {
            let place =
                |group: &String| plan.rows.iter().position(|row| row.name == *group).unwrap_or(usize::MAX);
            order.sort_by_key(place);
        }
        let baseline = match baseline {
            Some(name) if groups.contains_key(name) => Some(name.to_owned()),
            Some(name) => return Err(Error::Empty(format!("the baseline `{name}` is none of {order:?}"))),
            None => plan.map(|plan| plan.baseline.clone()).filter(|name| groups.contains_key(name)),
        };
        let lines = order
            .iter()
            .map(|group| {
                let base =
                    baseline.as_ref().filter(|name| *name != group).map(|name| groups[name].as_slice());
                line(group, &groups[group], base, split)
            })
            .collect();
        Ok(Self { split: split.to_owned(), baseline, lines })
    }

    /// The table as text. The best of each metric is marked; differences have 95 % intervals.
    pub fn format(&self, format: TableFormat) -> String {
        self.table().format(format)
    }

    pub(crate) fn table(&self) -> Table {
        let best: BTreeMap<&str, f64> = shown()
            .filter_map(|metric| {
                let means = self.lines.iter().filter_map(|line| Some(line.metrics.get(metric.key)?.mean));
                let better = if metric.more_is_better { f64::max } else { f64::min };
                means.reduce(better).map(|best| (metric.key, best))
            })
            .filter(|_| self.lines.len() > 1)
            .collect();
        Table {
            headings: self.headings(),
            rows: self.lines.iter().map(|line| self.row(line, &best)).collect(),
        }
    }

    fn row(&self, line: &Line, best: &BTreeMap<&str, f64>) -> Vec<Cell> {
        let mut row = vec![Cell::new(&line.group), Cell::new(line.n_seeds.to_string())];
        let difference = line.difference.as_ref();
        for &Metric { key, .. } in shown() {
            row.push(match line.metrics.get(key) {
                None => Cell::new("-"),
                Some(MeanSd { mean, sd }) => {
                    let sd = sd.map_or(String::new(), |sd| format!(" ± {sd:.2}"));
                    Cell::marked(format!("{mean:.2}{sd}"), best.get(key) == Some(mean))
                }
            });
            match key {
                "mIoU" if self.baseline.is_some() => {
                    row.push(Cell::new(interval(difference.and_then(|d| d.iou))));
                }
                "nta_mass" if self.baseline.is_some() => {
                    row.push(Cell::new(interval(difference.and_then(|d| d.nta_mass))));
                }
                _ => {}
            }
        }
        let or_dash = |text: Option<String>| Cell::new(text.unwrap_or_else(|| "-".to_owned()));
        row.push(Cell::new(line.trained_values.to_string()));
        row.push(or_dash(line.step_seconds.map(|seconds| format!("{seconds:.3}"))));
        row.push(or_dash(line.peak_rss_mib.map(|mib| format!("{mib:.0}"))));
        row
    }

    fn headings(&self) -> Vec<String> {
        let mut headings = vec![format!("{} (%)", self.split), "seeds".to_owned()];
        for metric in shown() {
            headings.push(metric.heading.to_owned());
            if self.baseline.is_some() && matches!(metric.key, "mIoU" | "nta_mass") {
                headings.push("difference [95 %]".to_owned());
            }
        }
        headings.extend(["trained", "s/step", "peak MiB"].map(str::to_owned));
        headings
    }
}

fn interval(found: Option<Interval>) -> String {
    found.map_or_else(
        || "-".to_owned(),
        |Interval { mean, low, high }| format!("{mean:+.2} [{low:+.2}, {high:+.2}]"),
    )
}

fn line(group: &str, runs: &[&Run], baseline: Option<&[&Run]>, split: &str) -> Line {
    let reports: Vec<_> = runs.iter().filter_map(|run| run.splits.get(split)).collect();
    let mut metrics = BTreeMap::new();
    for metric in shown() {
        let values: Vec<f64> = reports.iter().filter_map(|report| (metric.of)(&report.all)).collect();
        metrics.extend(MeanSd::of(&values).map(|value| (metric.key, value)));
    }
    let nta_by_distractors = ["distractors 1", "distractors 2", "distractors 3+"].map(|name| {
        let values: Vec<f64> =
            reports.iter().filter_map(|report| report.groups.get(name)?.nta.nta_mass).collect();
        MeanSd::of(&values).map(|value| value.mean)
    });
    let seconds: Vec<f64> = runs.iter().filter_map(|run| run.step_seconds).collect();
    Line {
        group: group.to_owned(),
        n_seeds: runs.len(),
        metrics,
        difference: baseline.map(|baseline| difference(runs, baseline, split)),
        nta_by_distractors,
        trained_values: runs[0].trained_values,
        step_seconds: MeanSd::of(&seconds).map(|value| value.mean),
        peak_rss_mib: runs.iter().filter_map(|run| run.peak_rss_mib).reduce(f64::max),
    }
}

/// Pairs runs of the same seed, expression by expression. The difference of an expression is its mean over seeds.
fn difference(runs: &[&Run], baseline: &[&Run], split: &str) -> Difference {
    type Sums = BTreeMap<(i64, i64), (f64, usize)>;
    let (mut iou, mut nta_mass): (Sums, Sums) = Default::default();
    for run in runs {
        let Some(other) = baseline.iter().find(|other| other.seed == run.seed) else { continue };
        let base = expressions_of(other, split);
        for (key, ours) in expressions_of(run, split) {
            let Some(theirs) = base.get(&key) else { continue };
            let (ours, theirs) = (&ours.evaluated.activation, &theirs.evaluated.activation);
            let add = |sums: &mut Sums, value: f64| {
                let sum = sums.entry(key).or_default();
                *sum = (sum.0 + 100.0 * value, sum.1 + 1);
            };
            add(&mut iou, ours.overlap.iou() - theirs.overlap.iou());
            let counted = !ours.distractors.is_empty();
            if let (true, Some(ours), Some(theirs)) = (counted, ours.nta_mass(), theirs.nta_mass()) {
                add(&mut nta_mass, ours - theirs);
            }
        }
    }
    let interval = |sums: Sums| {
        let means: Vec<f64> = sums.into_values().map(|(sum, n)| sum / n as f64).collect();
        paired_bootstrap(&means)
    };
    Difference { iou: interval(iou), nta_mass: interval(nta_mass) }
}

/// A run's expressions on a split, by ref and sentence.
pub(crate) fn expressions_of<'a>(run: &'a Run, split: &str) -> BTreeMap<(i64, i64), &'a ExpressionLine> {
    let chosen = run.expressions.iter().filter(|expression| expression.split == split);
    chosen.map(|one| ((one.evaluated.ref_id, one.evaluated.sent_id), one)).collect()
}
