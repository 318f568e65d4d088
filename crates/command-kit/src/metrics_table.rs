//! Tables of metrics for a terminal.

use metrics::{METRICS, Metric, SplitReport};

/// One line per split or group, in percent.
pub fn metrics_table(rows: &[(String, SplitReport)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(5);
    let columns = METRICS.map(|metric| (metric, metric.heading.chars().count().max(6)));
    let line = |name: &str, cell: &dyn Fn(&Metric) -> String, n: &str| {
        let cells = columns.iter().map(|(metric, width)| format!("  {:>width$}", cell(metric)));
        format!("{name:width$}{}  {n:>11}", cells.collect::<String>())
    };
    let mut lines = vec![line("split", &|metric| metric.heading.to_owned(), "expressions")];
    lines.extend(rows.iter().map(|(name, report)| {
        let n = report.all.segmentation.n_expressions.to_string();
        line(name, &|metric| metric_or_dash((metric.of)(&report.all)), &n)
    }));
    lines.push("mIoU: mean over expressions. oIoU: all intersections over all unions. In percent.".into());
    lines.push(
        "REC Acc@50 (masks): boxes around predicted and true masks with an IoU of at least 0.5.".into(),
    );
    lines.push(
        "NTA mass, rate and identity errors: over expressions whose target has a same-category distractor."
            .into(),
    );
    let generalized: Vec<_> =
        rows.iter().filter_map(|(name, report)| Some((name, report.generalized?))).collect();
    if !generalized.is_empty() {
        lines.push(format!(
            "\n{:width$}  {:>6}  {:>6}  {:>6}  {:>6}  {:>14}",
            "split", "gIoU", "cIoU", "N-acc", "T-acc", "without target"
        ));
    }
    for (name, metrics) in generalized {
        lines.push(format!(
            "{name:width$}  {:>6.2}  {:>6.2}  {:>6}  {:>6}  {:>14}",
            metrics.giou,
            metrics.ciou,
            metric_or_dash(metrics.n_acc),
            metric_or_dash(metrics.t_acc),
            metrics.n_without_target
        ));
    }
    lines.join("\n")
}

/// A metric to two digits, or a dash where it is defined for no expression.
pub fn metric_or_dash(value: Option<f64>) -> String {
    // Adding 0.0 turns -0.0 into 0.0.
    let rounded = |value: f64| (value * 100.0).round() / 100.0 + 0.0;
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.2}", rounded(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_over_no_expressions_has_dashes() {
        let table = metrics_table(&[("val, with same-category rival".to_owned(), SplitReport::new(&[]))]);
        let row = table.lines().nth(1).unwrap();
        assert!(!row.contains("0.00"), "{table}");
        assert_eq!(row.split_whitespace().filter(|cell| *cell == "-").count(), METRICS.len(), "{table}");
        assert_eq!(metric_or_dash(Some(-0.0001)), "0.00");
    }
}
