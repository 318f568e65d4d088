use figures::SheetVerdict;
use metrics::Activation;

/// What a prediction does with the distractors, if there are any.
pub fn verdict(activation: &Activation) -> Option<SheetVerdict> {
    match activation {
        _ if activation.distractors.is_empty() => None,
        _ if activation.is_identity_error() => Some(SheetVerdict::TakesAnother),
        _ if activation.covers_a_distractor() => Some(SheetVerdict::CoversAnother),
        _ => Some(SheetVerdict::TargetAlone),
    }
}
