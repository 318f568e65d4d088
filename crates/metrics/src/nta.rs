//! Non-target activation (NTA): how much of a prediction lies on objects of the target's category that were not
//! referred to. This is this project's definition; no published code measures it.
//!
//! A **distractor** is a non-crowd instance of the target's category in the same image that is not the target. Its
//! pixels are those of its mask that are not the target's, so a pixel counts for the target where instances overlap. A
//! distractor that the target covers entirely has no pixels and is none. All measures are taken at the image's original
//! resolution, over the expressions with at least one distractor:
//!
//! - `nta_mass`: probability mass on distractors / (mass on target + mass on distractors), the mean over expressions. A
//!   pixel of several distractors counts once. An expression with no mass on either is left out of the mean and counted
//!   (`n_undefined_mass`).
//! - `nta_rate`: share of expressions for which more than half of some distractor is predicted foreground.
//! - `identity_error`: share of expressions for which some distractor has a higher IoU with the prediction than the
//!   target has. An empty prediction is no identity error: all its IoUs are 0.

use serde::{Deserialize, Serialize};

use crate::metric::Metric;
use crate::overlap::Overlap;

pub(crate) const MASS: Metric = Metric {
    key: "nta_mass",
    heading: "NTA mass",
    more_is_better: false,
    in_summaries: true,
    while_training: true,
    of: |report| report.nta.nta_mass,
};

pub(crate) const RATE: Metric = Metric {
    key: "nta_rate",
    heading: "NTA rate",
    while_training: false,
    of: |report| report.nta.nta_rate,
    ..MASS
};

pub(crate) const IDENTITY_ERROR: Metric =
    Metric { key: "identity_error", heading: "identity", of: |report| report.nta.identity_error, ..RATE };

/// What one prediction covers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Activation {
    /// Prediction and target.
    #[serde(flatten)]
    pub overlap: Overlap,
    /// Sum of probabilities over the target's pixels.
    pub target_mass: f64,
    /// Sum of probabilities over the pixels of all distractors.
    pub distractor_mass: f64,
    /// Prediction and each distractor.
    pub distractors: Vec<Overlap>,
}

impl Activation {
    /// Measures a probability map against masks of the same size: foreground is what exceeds the threshold, an object
    /// is where its mask is not zero.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn of_probabilities(
        probabilities: &[f32],
        threshold: f32,
        target: &[u8],
        distractors: &[&[u8]],
    ) -> Self {
        let overlap = Overlap::of_probabilities(probabilities, threshold, target);
        let mass = |object: &[u8]| -> f64 {
            let inside = probabilities.iter().zip(object).filter(|(_, truth)| **truth != 0);
            inside.map(|(&value, _)| f64::from(value)).sum()
        };
        let mut union = vec![0; if distractors.is_empty() { 0 } else { target.len() }];
        let mut overlaps = Vec::with_capacity(distractors.len());
        for mask in distractors {
            assert_eq!(mask.len(), target.len(), "distractor and target differ in size");
            let region: Vec<u8> =
                mask.iter().zip(target).map(|(&pixel, &truth)| u8::from(pixel != 0 && truth == 0)).collect();
            let found = Overlap::of_probabilities(probabilities, threshold, &region);
            if found.target > 0 {
                overlaps.push(found);
                for (pixel, more) in union.iter_mut().zip(region) {
                    *pixel |= more;
                }
            }
        }
        Self { overlap, target_mass: mass(target), distractor_mass: mass(&union), distractors: overlaps }
    }

    /// Measures a mask: its probabilities are 1 inside and 0 outside.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn of_mask(prediction: &[u8], target: &[u8], distractors: &[&[u8]]) -> Self {
        let probabilities: Vec<f32> =
            prediction.iter().map(|&pixel| f32::from(u8::from(pixel != 0))).collect();
        Self::of_probabilities(&probabilities, 0.5, target, distractors)
    }

    /// The share of the mass on objects of the category that lies on distractors, 0 to 1; none if there is no mass.
    pub fn nta_mass(&self) -> Option<f64> {
        // Bicubic upsampling overshoots, so that a mass near 0 can be below it, and the ratio of two such masses anything.
        let [target, distractors] = [self.target_mass, self.distractor_mass].map(|mass| mass.max(0.0));
        (target + distractors > 0.0).then(|| distractors / (target + distractors))
    }

    /// Whether more than half of some distractor is predicted foreground.
    pub fn covers_a_distractor(&self) -> bool {
        self.distractors.iter().any(|distractor| 2 * distractor.intersection > distractor.target)
    }

    /// Whether some distractor has a higher IoU with the prediction than the target has.
    pub fn is_identity_error(&self) -> bool {
        // Compared as fractions: a tie is no error, however the quotients round.
        let product =
            |one: &Overlap, other: &Overlap| u128::from(one.intersection) * u128::from(other.union().max(1));
        let target = &self.overlap;
        self.distractors.iter().any(|distractor| product(distractor, target) > product(target, distractor))
    }
}

/// NTA mass of a response inside a network: the share of the response to the sentence that lies on distractors, 0 to 1; `None`
/// without any response on target and distractors.
///
/// - response: non-negative, by patch
/// - target, distractors: the share of each patch that they cover, 0 to 1
pub fn response_nta(response: &[f32], target: &[f32], distractors: &[f32]) -> Option<f64> {
    let mass = |shares: &[f32]| -> f64 {
        response.iter().zip(shares).map(|(&value, &share)| f64::from(value) * f64::from(share)).sum()
    };
    let (on_target, on_distractors) = (mass(target), mass(distractors));
    let all = on_target + on_distractors;
    (all > 0.0).then(|| on_distractors / all)
}

/// Non-target activation over a set of expressions, in percent; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NtaMetrics {
    /// Mean share of mass on distractors; none if it is defined for no expression.
    pub nta_mass: Option<f64>,
    /// Share of expressions that cover a distractor; none if no expression has one.
    pub nta_rate: Option<f64>,
    /// Share of expressions that fit a distractor better than the target; none if no expression has a distractor.
    pub identity_error: Option<f64>,
    /// Expressions with a distractor.
    pub n_with_distractors: usize,
    /// Those of them without any mass on target and distractors.
    pub n_undefined_mass: usize,
}

impl NtaMetrics {
    /// The metrics over those of these expressions that have a distractor.
    pub fn from_activations<'a>(activations: impl IntoIterator<Item = &'a Activation>) -> Self {
        let with: Vec<&Activation> =
            activations.into_iter().filter(|activation| !activation.distractors.is_empty()).collect();
        let masses: Vec<f64> = with.iter().filter_map(|activation| activation.nta_mass()).collect();
        let percent = |sum: f64, n: usize| (n > 0).then(|| 100.0 * sum / n as f64);
        let share = |hit: fn(&Activation) -> bool| {
            percent(with.iter().filter(|activation| hit(activation)).count() as f64, with.len())
        };
        Self {
            nta_mass: percent(masses.iter().sum(), masses.len()),
            nta_rate: share(Activation::covers_a_distractor),
            identity_error: share(Activation::is_identity_error),
            n_with_distractors: with.len(),
            n_undefined_mass: with.len() - masses.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Eight pixels: the target, two distractors, one of which overlaps the target and the other.
    const TARGET: [u8; 8] = [1, 1, 1, 0, 0, 0, 0, 0];
    const FIRST: [u8; 8] = [0, 0, 1, 1, 1, 0, 0, 0];
    const SECOND: [u8; 8] = [0, 0, 0, 0, 1, 1, 1, 0];

    #[test]
    fn masses_below_zero_count_as_none() {
        let activation = |target_mass, distractor_mass| Activation {
            target_mass,
            distractor_mass,
            ..Activation::of_mask(&[0; 4], &[1, 0, 0, 0], &[&[0, 1, 0, 0]])
        };
        assert_eq!(activation(0.31, -0.3).nta_mass(), Some(0.0));
        assert_eq!(activation(-0.3, 0.31).nta_mass(), Some(1.0));
        assert_eq!(activation(3.0, 1.0).nta_mass(), Some(0.25));
        assert_eq!(activation(-0.2, -0.1).nta_mass(), None);
    }

    #[test]
    fn a_response_counts_with_the_share_of_its_patch() {
        let (target, distractors) = ([1.0, 0.5, 0.0], [0.0, 0.5, 1.0]);
        assert_eq!(response_nta(&[2.0, 4.0, 0.0], &target, &distractors), Some(2.0 / 6.0));
        assert_eq!(response_nta(&[0.0; 3], &target, &distractors), None);
    }

    #[test]
    fn overlapping_instances_by_hand() {
        let probabilities = [0.9, 0.8, 0.7, 0.6, 0.5, 0.2, 0.1, 0.3];
        let found = Activation::of_probabilities(&probabilities, 0.35, &TARGET, &[&FIRST, &SECOND]);
        assert_eq!(found.overlap, Overlap { intersection: 3, prediction: 5, target: 3 });
        assert!((found.target_mass - 2.4).abs() < 1e-6);
        // Pixels 3 to 6, pixel 4 once, pixel 2 is the target's.
        assert!((found.distractor_mass - 1.4).abs() < 1e-6);
        assert!((found.nta_mass().unwrap() - 1.4 / 3.8).abs() < 1e-6);
        assert_eq!(found.distractors[0], Overlap { intersection: 2, prediction: 5, target: 2 });
        assert_eq!(found.distractors[1], Overlap { intersection: 1, prediction: 5, target: 3 });
        assert!(found.covers_a_distractor());
        // IoU 3/5 with the target, 2/5 and 1/7 with the distractors.
        assert!(!found.is_identity_error());
    }

    #[test]
    fn half_a_distractor_is_not_more_than_half() {
        let found = Activation::of_mask(&[0, 0, 0, 1, 0, 0, 0, 0], &TARGET, &[&FIRST]);
        assert!(!found.covers_a_distractor());
        assert!(found.is_identity_error());
        assert_eq!(found.nta_mass(), Some(1.0));
    }

    #[test]
    fn an_empty_prediction_has_no_mass_and_is_no_identity_error() {
        let found = Activation::of_mask(&[0; 8], &TARGET, &[&FIRST]);
        assert_eq!(found.nta_mass(), None);
        assert!(!found.covers_a_distractor() && !found.is_identity_error());
        let metrics = NtaMetrics::from_activations([&found]);
        assert_eq!((metrics.nta_mass, metrics.nta_rate), (None, Some(0.0)));
        assert_eq!((metrics.n_with_distractors, metrics.n_undefined_mass), (1, 1));
    }

    #[test]
    fn without_distractors_there_is_nothing_to_measure() {
        // A distractor that the target covers is not counted.
        let found = Activation::of_mask(&[1; 8], &TARGET, &[&[0, 1, 0, 0, 0, 0, 0, 0]]);
        assert!(found.distractors.is_empty());
        let metrics = NtaMetrics::from_activations([&found]);
        assert_eq!((metrics.nta_mass, metrics.nta_rate, metrics.identity_error), (None, None, None));
        assert_eq!(metrics.n_with_distractors, 0);
    }

    #[test]
    fn means_are_over_expressions_with_a_distractor() {
        let on_target = Activation::of_mask(&TARGET, &TARGET, &[&SECOND]);
        let switched = Activation::of_mask(&SECOND, &TARGET, &[&SECOND]);
        let alone = Activation::of_mask(&[1; 8], &TARGET, &[]);
        let metrics = NtaMetrics::from_activations([&on_target, &switched, &alone]);
        assert_eq!(metrics.nta_mass, Some(50.0));
        assert_eq!((metrics.nta_rate, metrics.identity_error), (Some(50.0), Some(50.0)));
        assert_eq!(metrics.n_with_distractors, 2);
    }
}
