//! What is compared between runs, expression by expression.

use metrics::Activation;

/// A measurement of one expression.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    /// Name; that of the metric which is its mean, if there is one.
    pub key: &'static str,
    /// Heading in tables.
    pub heading: &'static str,
    /// The value in percent; `None` where it is not defined, or where the expression has no distractor to confuse.
    pub of: fn(&Activation) -> Option<f64>,
}

/// All measures, in the order of tables.
pub const MEASURES: [Measure; 5] = [
    Measure { key: "mIoU", heading: "mIoU", of: |of| Some(100.0 * of.overlap.iou()) },
    Measure {
        key: "nta_mass",
        heading: "NTA mass",
        of: |of| confusable(of)?.nta_mass().map(|mass| 100.0 * mass),
    },
    Measure {
        key: "nta_rate",
        heading: "NTA rate",
        of: |of| Some(percent(confusable(of)?.covers_a_distractor())),
    },
    Measure {
        key: "identity_error",
        heading: "identity",
        of: |of| Some(percent(confusable(of)?.is_identity_error())),
    },
    Measure { key: "empty", heading: "empty", of: |of| Some(percent(of.overlap.prediction == 0)) },
];

fn confusable(of: &Activation) -> Option<&Activation> {
    (!of.distractors.is_empty()).then_some(of)
}

fn percent(hit: bool) -> f64 {
    if hit { 100.0 } else { 0.0 }
}
