use crate::report::GroupReport;

/// One metric of a report, with everything that tables, records and plots need to know.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Name in JSON, records and data frames.
    pub key: &'static str,
    /// Heading in tables.
    pub heading: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
    /// Whether tables over several seeds show it.
    pub in_summaries: bool,
    /// Whether it is shown during training: in the line per evaluation, TensorBoard and curves.
    pub while_training: bool,
    /// Value in percent; `None` where it is defined for no expression.
    pub of: fn(&GroupReport) -> Option<f64>,
}
