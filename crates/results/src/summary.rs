use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use metrics::{METRICS, Metric};

use crate::Error;
use crate::groups::by_group;
use crate::measures::{MEASURES, Measure};
use crate::read::{Run, has_distinct_seeds};
use crate::table::{Cell, Table, TableFormat};
use command_kit::{Differences, Interval};
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

impl fmt::Display for MeanSd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.mean)?;
        self.sd.map_or(Ok(()), |sd| write!(f, " ± {sd:.2}"))
    }
}

/// A line's results on a set of expressions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupLine {
    /// Number of expressions.
    pub n: usize,
    /// Means of the [`MEASURES`] over expressions, then over seeds, by name.
    pub means: BTreeMap<&'static str, MeanSd>,
    /// Differences to the baseline, by name of the measure: over the expressions that both evaluated with the same seed, and for which
    /// both have a value. Empty for the baseline itself, and if there is none.
    pub differences: BTreeMap<&'static str, Interval>,
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
    /// Differences to the baseline by name of the [measure](MEASURES), see [`GroupLine::differences`].
    pub differences: BTreeMap<&'static str, Interval>,
    /// Results by group of expressions, see [`metrics::SplitReport::groups`]; empty unless asked for.
    pub groups: BTreeMap<String, GroupLine>,
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
    /// By name of the [measure](MEASURES): the line that is better than every other one, if the 95 % interval of each difference
    /// excludes 0.
    pub best: BTreeMap<&'static str, usize>,
    /// Groups with several runs of one seed. They have means, and no differences to other groups.
    pub mixed: Vec<String>,
}

/// Metrics that the table shows with their difference to the baseline.
pub(crate) const COMPARED: [&str; 3] = ["mIoU", "nta_mass", "identity_error"];

/// Metrics that decide which line is better; a report shows the others on demand.
const DECIDING: [&str; 4] = ["mIoU", "nta_mass", "nta_rate", "identity_error"];

/// The metrics that the table shows.
/// What is wrong with a baseline that is none of the groups.
fn no_baseline(name: &str, groups: &[String]) -> String {
    let quoted = |groups: &[&String]| groups.iter().map(|group| format!("`{group}`")).collect::<Vec<_>>();
    let alike: Vec<&String> = groups.iter().filter(|group| group.starts_with(&format!("{name} ("))).collect();
    match alike.as_slice() {
        [] => format!(
            "the baseline `{name}` is none of {}",
            quoted(&groups.iter().collect::<Vec<_>>()).join(", ")
        ),
        _ => format!(
            "several studies have a row `{name}`; the baseline can be {}",
            quoted(&alike).join(" or ")
        ),
    }
}

fn shown() -> impl Iterator<Item = &'static Metric> {
    METRICS.iter().filter(|metric| metric.in_summaries)
}

impl Summary {
    /// Summarises runs on one split, grouped by some keys (see [`Run::group`]).
    ///
    /// - with_groups: whether lines get results by group of expressions, each of which takes a bootstrap
    ///
    /// # Errors
    /// When no run has the split, when a run lacks one of the keys, or when the baseline is not one of the groups.
    pub fn new(
        runs: &[Run],
        plan: Option<&Ablation>,
        split: &str,
        group_by: &[String],
        baseline: Option<&str>,
        with_groups: bool,
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
            let known: BTreeSet<&String> = runs.iter().flat_map(|run| run.splits.keys()).collect();
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
            Some(name) => return Err(Error::Empty(no_baseline(name, &order))),
            None => plan.map(|plan| plan.baseline.clone()).filter(|name| groups.contains_key(name)),
        };
        let of_lines: Vec<BySeed<'_>> = order.iter().map(|group| by_seed(&groups[group], split)).collect();
        let place = baseline.as_ref().and_then(|name| order.iter().position(|group| group == name));
        let lines: Vec<Line> = order
            .iter()
            .zip(&of_lines)
            .map(|(group, ours)| {
                let base = place.filter(|place| order[*place] != *group).map(|place| &of_lines[place]);
                line(group, &groups[group], (ours, base), split, with_groups)
            })
            .collect();
        let best = best_lines(&lines, &of_lines);
        let mixed = order.iter().filter(|group| !has_distinct_seeds(&groups[*group])).cloned().collect();
        Ok(Self { split: split.to_owned(), baseline, lines, best, mixed })
    }

    /// The table as text. A line that is better than every other one is marked, see [`Summary::best`]; differences have 95 %
    /// intervals.
    pub fn format(&self, format: TableFormat) -> String {
        self.table().format(format)
    }

    /// The smallest differences to the baseline that these runs detect with a probability of 80 %, as a sentence: the largest of the
    /// lines'. `None` without a baseline, or with one seed, whose spread is unknown.
    pub fn power(&self) -> Option<String> {
        let largest = |key: &str| {
            let lines = self.lines.iter().filter(|line| line.n_seeds > 1);
            lines.filter_map(|line| Some(line.differences.get(key)?.detectable())).reduce(f64::max)
        };
        let (iou, mass) = (largest("mIoU")?, largest("nta_mass")?);
        Some(format!(
            "{}: differences of at least {iou:.2} in mIoU and {mass:.2} in NTA mass are found with 80 % power",
            self.split
        ))
    }

    /// All columns.
    pub(crate) fn table(&self) -> Table {
        let metrics: Vec<&Metric> = shown().collect();
        Table {
            headings: [self.first_headings(&metrics), COSTS.map(str::to_owned).to_vec()].concat(),
            rows: self.rows(|place, line| [self.first_cells(place, line, &metrics), costs(line)].concat()),
        }
    }

    /// The columns that decide: what is compared with the baseline.
    pub(crate) fn deciding_table(&self) -> Table {
        let metrics: Vec<&Metric> = shown().filter(|metric| DECIDING.contains(&metric.key)).collect();
        Table {
            headings: self.first_headings(&metrics),
            rows: self.rows(|place, line| self.first_cells(place, line, &metrics)),
        }
    }

    /// All other columns.
    pub(crate) fn other_table(&self) -> Table {
        let metrics: Vec<&Metric> = shown().filter(|metric| !DECIDING.contains(&metric.key)).collect();
        Table {
            headings: [self.first_headings(&metrics), COSTS.map(str::to_owned).to_vec()].concat(),
            rows: self.rows(|place, line| [self.first_cells(place, line, &metrics), costs(line)].concat()),
        }
    }

    fn rows(&self, row: impl Fn(usize, &Line) -> Vec<Cell>) -> Vec<Vec<Cell>> {
        self.lines.iter().enumerate().map(|(place, line)| row(place, line)).collect()
    }

    /// Name, number of seeds, metrics.
    fn first_cells(&self, place: usize, line: &Line, metrics: &[&Metric]) -> Vec<Cell> {
        let mut row = vec![Cell::new(&line.group), Cell::new(line.n_seeds.to_string())];
        for &&Metric { key, .. } in metrics {
            row.push(match line.metrics.get(key) {
                None => Cell::new("-"),
                Some(value) => Cell::marked(value.to_string(), self.best.get(key) == Some(&place)),
            });
            if self.baseline.is_some() && COMPARED.contains(&key) {
                row.push(Cell::new(interval(line.differences.get(key).copied())));
            }
        }
        row
    }

    fn first_headings(&self, metrics: &[&Metric]) -> Vec<String> {
        let mut headings = vec![format!("{} (%)", self.split), "seeds".to_owned()];
        for metric in metrics {
            headings.push(metric.heading.to_owned());
            if self.baseline.is_some() && COMPARED.contains(&metric.key) {
                headings.push("difference [95 %]".to_owned());
            }
        }
        headings
    }
}

/// Headings of [`costs`].
const COSTS: [&str; 3] = ["trained", "s/step", "peak MiB"];

/// What the runs of a line took.
fn costs(line: &Line) -> Vec<Cell> {
    let or_dash = |text: Option<String>| Cell::new(text.unwrap_or_else(|| "-".to_owned()));
    vec![
        Cell::new(line.trained_values.to_string()),
        or_dash(line.step_seconds.map(|seconds| format!("{seconds:.3}"))),
        or_dash(line.peak_rss_mib.map(|mib| format!("{mib:.0}"))),
    ]
}

/// See [`Summary::best`].
fn best_lines(lines: &[Line], of_lines: &[BySeed<'_>]) -> BTreeMap<&'static str, usize> {
    let mut best = BTreeMap::new();
    for measure in &MEASURES {
        let Some(metric) = METRICS.iter().find(|metric| metric.key == measure.key) else { continue };
        let sign = if metric.more_is_better { 1.0 } else { -1.0 };
        let means = lines.iter().enumerate();
        let means =
            means.filter_map(|(place, line)| Some((place, sign * line.metrics.get(measure.key)?.mean)));
        let Some((place, _)) = means.max_by(|one, other| one.1.total_cmp(&other.1)) else { continue };
        let others = (0..lines.len()).filter(|other| *other != place);
        let beats = |other: usize| {
            difference(measure, &of_lines[place], &of_lines[other])
                .is_some_and(|found| if sign > 0.0 { found.low > 0.0 } else { found.high < 0.0 })
        };
        if lines.len() > 1 && others.into_iter().all(beats) {
            best.insert(measure.key, place);
        }
    }
    best
}

pub(crate) fn interval(found: Option<Interval>) -> String {
    found.map_or_else(
        || "-".to_owned(),
        |Interval { mean, low, high, .. }| format!("{mean:+.2} [{low:+.2}, {high:+.2}]"),
    )
}

/// - ours, base: expressions of the line's runs, and of the baseline's unless this is its line
fn line(
    group: &str,
    runs: &[&Run],
    (ours, base): (&BySeed<'_>, Option<&BySeed<'_>>),
    split: &str,
    with_groups: bool,
) -> Line {
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
    let of_groups = if with_groups { by_group(ours) } else { BTreeMap::new() };
    let groups = of_groups.iter().map(|(name, ours)| (name.clone(), group_line(ours, base)));
    let seconds: Vec<f64> = runs.iter().filter_map(|run| run.step_seconds).collect();
    Line {
        group: group.to_owned(),
        n_seeds: runs.len(),
        metrics,
        differences: group_line(ours, base).differences,
        groups: groups.collect(),
        nta_by_distractors,
        trained_values: runs[0].trained_values,
        step_seconds: MeanSd::of(&seconds).map(|value| value.mean),
        peak_rss_mib: runs.iter().filter_map(|run| run.peak_rss_mib).reduce(f64::max),
    }
}

/// The expressions of runs on a split by seed, each by ref and sentence.
pub(crate) type BySeed<'a> = BTreeMap<u64, BTreeMap<(i64, i64), &'a ExpressionLine>>;

/// Empty for runs among which a seed occurs twice: which of the two to compare with a run of another group is not known.
fn by_seed<'a>(runs: &[&'a Run], split: &str) -> BySeed<'a> {
    if !has_distinct_seeds(runs) {
        return BySeed::new();
    }
    runs.iter().map(|run| (run.seed, expressions_of(run, split))).collect()
}

/// Results on a set of expressions.
///
/// - baseline: may have more expressions
fn group_line(runs: &BySeed<'_>, baseline: Option<&BySeed<'_>>) -> GroupLine {
    let n = runs.values().map(BTreeMap::len).max().unwrap_or(0);
    let mut found = GroupLine { n, ..GroupLine::default() };
    for measure in MEASURES {
        let Measure { key, of, .. } = measure;
        let value = |line: &ExpressionLine| of(&line.evaluated.activation);
        let of_seed = |all: &BTreeMap<_, &ExpressionLine>| {
            let values: Vec<f64> = all.values().filter_map(|line| value(line)).collect();
            MeanSd::of(&values).map(|value| value.mean)
        };
        let means: Vec<f64> = runs.values().filter_map(of_seed).collect();
        found.means.extend(MeanSd::of(&means).map(|mean| (key, mean)));
        let difference = baseline.and_then(|baseline| difference(&measure, runs, baseline));
        found.differences.extend(difference.map(|interval| (key, interval)));
    }
    found
}

/// The difference between two sets of runs, over the expressions that both evaluated with the same seed.
fn difference(measure: &Measure, runs: &BySeed<'_>, baseline: &BySeed<'_>) -> Option<Interval> {
    let value = |line: &ExpressionLine| (measure.of)(&line.evaluated.activation);
    let mut differences = Differences::default();
    for (seed, all) in runs {
        let Some(base) = baseline.get(seed) else { continue };
        for (id, ours) in all {
            let theirs = base.get(id).and_then(|theirs| value(theirs));
            if let (Some(ours), Some(theirs)) = (value(ours), theirs) {
                differences.add(*seed, id.0, ours - theirs);
            }
        }
    }
    differences.interval()
}

/// A run's expressions on a split, by ref and sentence.
pub(crate) fn expressions_of<'a>(run: &'a Run, split: &str) -> BTreeMap<(i64, i64), &'a ExpressionLine> {
    let chosen = run.expressions.iter().filter(|expression| expression.split == split);
    chosen.map(|one| ((one.evaluated.ref_id, one.evaluated.sent_id), one)).collect()
}
