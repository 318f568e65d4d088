//! Tables of metrics for a terminal.

use metrics::{GroupReport, SplitReport};

/// One line per split or group, in percent.
pub fn metrics_table(rows: &[(String, SplitReport)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(5);
    let mut lines = vec![format!(
        "{:width$}  {:>6}  {:>6}  {:>6}  {:>6}  {:>6}  {:>6}  {:>6}  {:>8}  {:>8}  {:>8}  {:>11}",
        "split",
        "mIoU",
        "oIoU",
        "Pr@50",
        "Pr@60",
        "Pr@70",
        "Pr@80",
        "Pr@90",
        "NTA mass",
        "NTA rate",
        "identity",
        "expressions"
    )];
    lines.extend(rows.iter().map(|(name, report)| line(name, width, &report.all)));
    lines.push("mIoU: mean over expressions. oIoU: all intersections over all unions. In percent.".into());
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

fn line(name: &str, width: usize, report: &GroupReport) -> String {
    let GroupReport { segmentation, nta } = report;
    let [p50, p60, p70, p80, p90] = segmentation.precisions();
    format!(
        "{name:width$}  {:>6.2}  {:>6.2}  {p50:>6.2}  {p60:>6.2}  {p70:>6.2}  {p80:>6.2}  {p90:>6.2}  {:>8}  {:>8}  {:>8}  {:>11}",
        segmentation.miou,
        segmentation.oiou,
        metric_or_dash(nta.nta_mass),
        metric_or_dash(nta.nta_rate),
        metric_or_dash(nta.identity_error),
        segmentation.n_expressions
    )
}

/// A metric to two digits, or a dash where it is defined for no expression.
pub fn metric_or_dash(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}
