use metrics::SegmentationMetrics;

/// A terminal table of metrics, one line per split, in percent.
pub(crate) fn metrics_table(rows: &[(String, SegmentationMetrics)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(5);
    let mut lines = vec![format!(
        "{:width$}  {:>6}  {:>6}  {:>6}  {:>6}  {:>6}  {:>6}  {:>6}  {:>11}",
        "split", "mIoU", "oIoU", "Pr@50", "Pr@60", "Pr@70", "Pr@80", "Pr@90", "expressions"
    )];
    for (name, metrics) in rows {
        let [p50, p60, p70, p80, p90] = metrics.precisions();
        lines.push(format!(
            "{name:width$}  {:>6.2}  {:>6.2}  {p50:>6.2}  {p60:>6.2}  {p70:>6.2}  {p80:>6.2}  {p90:>6.2}  {:>11}",
            metrics.miou, metrics.oiou, metrics.n_expressions
        ));
    }
    lines.push("mIoU: mean over expressions. oIoU: all intersections over all unions. In percent.".into());
    lines.join("\n")
}
