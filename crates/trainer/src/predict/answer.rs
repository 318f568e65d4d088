//! What a prediction says: mask, box, score, parts.

use metrics::MIN_TARGET_PIXELS;
use refcoco::{AnnotationFormat, Descriptor, Mask};
use serde_json::{Map, Value, json};

use crate::config::Config;

/// How probabilities are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// Probability above which a pixel is foreground.
    pub(crate) threshold: f32,
    /// Whether the model was trained on expressions without a target, so that an empty mask is an answer.
    pub(crate) may_find_nothing: bool,
}

impl Reading {
    pub(crate) fn of(cfg: &Config) -> Self {
        let is_generalized = |name: &String| {
            Descriptor::named(name).is_ok_and(|found| found.format == AnnotationFormat::Grefcoco)
        };
        Self { threshold: cfg.eval.threshold, may_find_nothing: cfg.data.datasets.iter().any(is_generalized) }
    }
    /// The threshold with the digits of the config.
    pub(crate) fn shown_threshold(self) -> f64 {
        self.threshold.to_string().parse().unwrap_or_else(|_| self.threshold.into())
    }
}

/// The fields of a prediction that come from its probabilities:
///
/// - `segmentation`: COCO's compressed RLE; `box`: `[x, y, width, height]` around it in pixels, or null; `area` in pixels;
/// - `score`: mean probability inside the mask; 0 for an empty mask;
/// - `highest_probability` anywhere in the image;
/// - `parts`: number of separate parts of the mask;
/// - `no_target`, for models trained on expressions without a target: whether the mask has fewer pixels than gRefCOCO's metrics
///   count as an answer. `highest_probability` is the score behind it.
///
/// - map: probabilities in the original image, row-major
pub(crate) fn describe(mask: &Mask, map: &[f32], reading: Reading) -> Map<String, Value> {
    let area = mask.area();
    let inside = map.iter().zip(&mask.data).filter(|(_, pixel)| **pixel != 0);
    let sum: f64 = inside.map(|(&probability, _)| f64::from(probability)).sum();
    // Bicubic weights are negative in part, so that values can lie slightly outside of 0..1.
    let score = if area == 0 { 0.0 } else { (sum / area as f64).clamp(0.0, 1.0) };
    let highest = map.iter().copied().fold(0.0_f32, f32::max).min(1.0);
    let fields = json!({
        "segmentation": {"size": [mask.height, mask.width], "counts": mask.to_rle_string()},
        "box": mask.bounding_box().map(|found| found.xywh()),
        "score": score,
        "area": area,
        "parts": mask.parts().len(),
        "highest_probability": highest,
    });
    let mut fields = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    if reading.may_find_nothing {
        fields.insert("no_target".into(), ((area as u64) < MIN_TARGET_PIXELS).into());
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let map = [0.9, 0.0, 0.5, 0.2, 0.0, 0.0];
        let reading = Reading { threshold: 0.35, may_find_nothing: true };
        let found = describe(&Mask::above(3, 2, &map, reading.threshold), &map, reading);
        assert_eq!(found["box"], json!([0, 0, 3, 1]));
        assert_eq!(
            (&found["area"], &found["parts"], &found["no_target"]),
            (&json!(2), &json!(2), &json!(true))
        );
        assert!((found["score"].as_f64().unwrap() - 0.7).abs() < 1e-6);
        let empty = describe(&Mask::zeros(3, 2), &map, Reading { may_find_nothing: false, ..reading });
        assert_eq!((&empty["box"], &empty["score"]), (&Value::Null, &json!(0.0)));
        assert!(empty["score"].as_f64().is_some_and(f64::is_sign_positive));
        assert!(!empty.contains_key("no_target"));
    }

    #[test]
    fn models_trained_with_absent_targets_may_find_nothing() {
        let mut cfg = Config::base();
        assert!(!Reading::of(&cfg).may_find_nothing);
        cfg.data.datasets.push("grefcoco".into());
        assert!(Reading::of(&cfg).may_find_nothing);
    }
}
