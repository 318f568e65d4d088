//! The report on a set of evaluated expressions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::boxes::BoxMetrics;
use crate::generalized::GeneralizedMetrics;
use crate::nta::{Activation, NtaMetrics};
use crate::segmentation::SegmentationMetrics;

/// One evaluated expression; serialised as one flat object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Id of the ref.
    pub ref_id: i64,
    /// Id of the expression.
    pub sent_id: i64,
    /// Whether the expression holds a [position word](has_position_word).
    pub has_position_word: bool,
    /// Style of the expression, where the data set says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavour: Option<String>,
    /// IoU of the boxes around predicted mask and target, 0 for an empty prediction; `None` without a target, or in files of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub box_iou: Option<f64>,
    /// Overlap of the prediction with the target and the distractors.
    #[serde(flatten)]
    pub activation: Activation,
}

/// Metrics of one set of expressions; serialised as one flat object.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// mIoU, oIoU, Pr@X.
    #[serde(flatten)]
    pub segmentation: SegmentationMetrics,
    /// Boxes around masks.
    #[serde(flatten)]
    pub boxes: BoxMetrics,
    /// Non-target activation.
    #[serde(flatten)]
    pub nta: NtaMetrics,
}

impl GroupReport {
    fn of(expressions: &[&Evaluated]) -> Self {
        let overlaps: Vec<_> = expressions.iter().map(|one| one.activation.overlap).collect();
        Self {
            segmentation: SegmentationMetrics::from_overlaps(&overlaps),
            boxes: BoxMetrics::from_ious(expressions.iter().filter_map(|one| one.box_iou)),
            nta: NtaMetrics::from_activations(expressions.iter().map(|one| &one.activation)),
        }
    }
}

/// Metrics of a split, over all expressions and by group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitReport {
    /// Metrics over all expressions.
    #[serde(flatten)]
    pub all: GroupReport,
    /// gRefCOCO's metrics; `None` if every expression has a target.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub generalized: Option<GeneralizedMetrics>,
    /// Metrics by group. Groups without expressions are left out:
    ///
    /// - `with distractors`
    /// - `distractors 0`, `distractors 1`, `distractors 2`, `distractors 3+`
    /// - `area small`, `area medium`, `area large`: area of the target in pixels, below 32 x 32, below 96 x 96, and the rest,
    ///   the size classes of COCO
    /// - `position words`, `no position words`
    /// - `flavour NAME`, where the data set says it
    pub groups: BTreeMap<String, GroupReport>,
}

/// A prediction with fewer pixels than this means "no target" in gRefCOCO's metrics.
pub const MIN_TARGET_PIXELS: u64 = 50;

impl SplitReport {
    /// Computes the report on these expressions.
    pub fn new(expressions: &[Evaluated]) -> Self {
        let everything: Vec<&Evaluated> = expressions.iter().collect();
        let overlaps: Vec<_> = expressions.iter().map(|one| one.activation.overlap).collect();
        let mut groups: BTreeMap<String, Vec<&Evaluated>> = BTreeMap::new();
        for one in expressions {
            for name in one.groups() {
                groups.entry(name).or_default().push(one);
            }
        }
        let some_without_target = overlaps.iter().any(|overlap| overlap.target == 0);
        Self {
            all: GroupReport::of(&everything),
            generalized: some_without_target
                .then(|| GeneralizedMetrics::from_overlaps(&overlaps, MIN_TARGET_PIXELS)),
            groups: groups.into_iter().map(|(name, some)| (name, GroupReport::of(&some))).collect(),
        }
    }
}

impl Evaluated {
    /// Names of the groups that it belongs to, see [`SplitReport::groups`].
    pub fn groups(&self) -> Vec<String> {
        let n_distractors = self.activation.distractors.len();
        let distractors = match n_distractors {
            0 => "distractors 0",
            1 => "distractors 1",
            2 => "distractors 2",
            _ => "distractors 3+",
        };
        let area = match self.activation.overlap.target {
            0..1024 => "area small",
            1024..9216 => "area medium",
            _ => "area large",
        };
        let position = if self.has_position_word { "position words" } else { "no position words" };
        let with = (n_distractors > 0).then_some("with distractors");
        let named = with.into_iter().chain([distractors, area, position]).map(str::to_owned);
        named.chain(self.flavour.as_ref().map(|flavour| format!("flavour {flavour}"))).collect()
    }
}

/// Words that locate an object in the image or relative to another one.
const POSITION_WORDS: [&str; 43] = [
    "left",
    "right",
    "leftmost",
    "rightmost",
    "lefty",
    "righty",
    "top",
    "bottom",
    "upper",
    "lower",
    "topmost",
    "bottommost",
    "middle",
    "center",
    "centre",
    "front",
    "back",
    "behind",
    "above",
    "below",
    "under",
    "over",
    "beside",
    "next",
    "between",
    "near",
    "nearest",
    "close",
    "closest",
    "closer",
    "far",
    "farthest",
    "furthest",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "last",
    "corner",
    "edge",
    "side",
    "foreground",
];

/// Whether an expression holds a word such as "left", "second" or "behind".
pub fn has_position_word(expression: &str) -> bool {
    let lower = expression.to_lowercase();
    lower.split(|letter: char| !letter.is_alphanumeric()).any(|word| POSITION_WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_by_hand() {
        let one = |target: &[u8], distractors: &[&[u8]], position| Evaluated {
            ref_id: 0,
            sent_id: 0,
            has_position_word: position,
            flavour: position.then(|| "location".to_owned()),
            box_iou: Some(if position { 0.7 } else { 0.0 }),
            activation: Activation::of_mask(&[1, 1, 0, 0], target, distractors),
        };
        let expressions = [
            one(&[1, 1, 0, 0], &[&[0, 0, 1, 1]], true),
            one(&[0, 0, 1, 1], &[&[1, 1, 0, 0], &[1, 0, 0, 0]], false),
            one(&[1, 1, 0, 0], &[], false),
        ];
        let report = SplitReport::new(&expressions);
        let near = |found: f64, expected: f64| (found - expected).abs() < 1e-3;
        assert!(near(report.all.segmentation.miou, 200.0 / 3.0));
        assert_eq!(report.all.nta.n_with_distractors, 2);
        assert_eq!(report.groups["position words"].boxes.rec_acc50_from_masks, Some(100.0));
        assert_eq!(report.generalized, None);
        assert!(near(report.groups["with distractors"].segmentation.miou, 50.0));
        assert_eq!(report.groups["distractors 2"].nta.identity_error, Some(100.0));
        assert_eq!(report.groups["position words"].nta.nta_mass, Some(0.0));
        assert_eq!(report.groups["flavour location"].segmentation.n_expressions, 1);
        assert_eq!(report.groups["area small"].segmentation.n_expressions, 3);
        assert!(!report.groups.contains_key("area large"));
    }

    #[test]
    fn the_json_holds_all_names_beside_each_other() {
        let without_target = Evaluated {
            ref_id: 1,
            sent_id: 2,
            has_position_word: false,
            flavour: None,
            box_iou: None,
            activation: Activation::of_mask(&[0, 0], &[0, 0], &[]),
        };
        let json = serde_json::to_value(SplitReport::new(&[without_target])).unwrap();
        for name in
            ["mIoU", "oIoU", "Pr@50", "Pr@90", "nta_mass", "nta_rate", "identity_error", "gIoU", "N-acc"]
        {
            assert!(json.get(name).is_some(), "{name}: {json}");
        }
        assert_eq!((&json["n_expressions"], &json["n_with_distractors"]), (&1.into(), &0.into()));
    }

    #[test]
    fn position_words_are_whole_words() {
        assert!(has_position_word("Second zebra, far-LEFT"));
        assert!(!has_position_word("lefthanded bright backpack"));
    }
}
