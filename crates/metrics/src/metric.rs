use crate::report::GroupReport;

/// One number of a report: everything that tables, records and plots need to know of it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in JSON, records and data frames.
    pub key: &'static str,
    /// Its heading in tables.
    pub heading: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
    /// Whether tables over several seeds show it.
    pub in_summaries: bool,
    /// Whether it is told while a model trains: a line an evaluation, TensorBoard, curves.
    pub while_training: bool,
    /// Its value in percent; none where it is defined for no expression.
    pub of: fn(&GroupReport) -> Option<f64>,
}
