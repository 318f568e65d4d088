//! Plots of means and differences as dots with intervals.

use std::path::Path;

use figures::{Dot, DotPanel, DotRow};

use crate::Error;
use crate::summary::Summary;

/// Titles and keys of the plotted metrics.
const PLOTTED: [(&str, &str); 3] =
    [("mIoU", "mIoU"), ("NTA mass", "nta_mass"), ("identity errors", "identity_error")];

/// Draws the differences to the baseline with their intervals, a colour for each split, as PNG and SVG; without a baseline, the means of
/// the first split.
///
/// # Errors
/// When a file cannot be written.
pub fn plot(path: &Path, summaries: &[Summary]) -> Result<(), Error> {
    let Some(first) = summaries.first() else { return Ok(()) };
    let panels = if first.baseline.is_some() { differences(summaries) } else { means(first) };
    Ok(figures::dots(path, &panels)?)
}

/// Mean and standard deviation over seeds of each line.
pub(crate) fn means(summary: &Summary) -> Vec<DotPanel> {
    let panel = |(title, key): (&str, &str)| DotPanel {
        title: format!("{title}, {} (%)", summary.split),
        x_label: "mean and standard deviation over seeds".to_owned(),
        mark: None,
        series: vec![summary.split.clone()],
        rows: summary
            .lines
            .iter()
            .map(|line| {
                let found = line.metrics.get(key);
                let sd = found.and_then(|found| found.sd).unwrap_or(0.0);
                let value = found.map_or(f64::NAN, |found| found.mean);
                let dot = Dot { value, interval: Some([value - sd, value + sd]) };
                DotRow { name: line.group.clone(), dots: vec![dot] }
            })
            .collect(),
    };
    PLOTTED.map(panel).to_vec()
}

/// Differences to the baseline with their intervals, on all splits.
pub(crate) fn differences(summaries: &[Summary]) -> Vec<DotPanel> {
    let Some(first) = summaries.first() else { return Vec::new() };
    let baseline = first.baseline.as_deref().unwrap_or_default();
    let dot = |summary: &Summary, group: &str, key: &str| {
        let line = summary.lines.iter().find(|line| line.group == group);
        let found = line.and_then(|line| line.differences.get(key));
        Dot {
            value: found.map_or(f64::NAN, |found| found.mean),
            interval: found.map(|found| [found.low, found.high]),
        }
    };
    let panel = |(title, key): (&str, &str)| DotPanel {
        title: format!("{title}: difference to {baseline}"),
        x_label: "percentage points, 95 % interval".to_owned(),
        mark: Some(0.0),
        series: summaries.iter().map(|summary| summary.split.clone()).collect(),
        rows: first
            .lines
            .iter()
            .filter(|line| line.group != baseline)
            .map(|line| DotRow {
                name: line.group.clone(),
                dots: summaries.iter().map(|summary| dot(summary, &line.group, key)).collect(),
            })
            .collect(),
    };
    PLOTTED.map(panel).to_vec()
}
