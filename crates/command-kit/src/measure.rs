//! Measures the prediction for one expression.

use metrics::{Activation, Evaluated, has_position_word};
use refcoco::evaluation::Query;
use refcoco::{Dataset, Mask, Result};
use run_files::key_of;

/// Measures a predicted mask, with probability 1 inside and 0 outside. It has the size of the image.
///
/// # Errors
/// When the target's mask cannot be read.
pub fn measure_mask(dataset: &Dataset, query: &Query, mut mask: Mask) -> Result<Evaluated> {
    let reference = &dataset.refs[query.ref_index];
    if let Some(ignored) = dataset.ignored(reference)? {
        mask.subtract(&ignored);
    }
    let (target, distractors) = (dataset.target(reference)?, dataset.distractor_masks(reference)?);
    let distractors: Vec<&[u8]> = distractors.iter().map(|mask| mask.data.as_slice()).collect();
    let activation = Activation::of_mask(&mask.data, &target.data, &distractors);
    Ok(evaluated(dataset, query, activation, box_iou(&mask, &target)))
}

/// Measures predicted probabilities. Also returns the mask of the pixels above the threshold.
///
/// - probabilities: one per pixel of the image, row-major
///
/// # Errors
/// When the target's mask cannot be read.
///
/// # Panics
/// When there are more or fewer probabilities than pixels.
pub fn measure_probabilities(
    dataset: &Dataset,
    query: &Query,
    mut probabilities: Vec<f32>,
    threshold: f32,
) -> Result<(Evaluated, Mask)> {
    let reference = &dataset.refs[query.ref_index];
    let (target, distractors) = (dataset.target(reference)?, dataset.distractor_masks(reference)?);
    let ignored = dataset.ignored(reference)?;
    let (activation, box_iou, mask) =
        covered(&mut probabilities, threshold, &target, &distractors, ignored.as_ref());
    Ok((evaluated(dataset, query, activation, box_iou), mask))
}

/// What probabilities cover: their activation, the IoU of boxes, and the mask of the pixels above the threshold. All masks have the size of
/// the image. Probabilities of ignored pixels become 0.
///
/// # Panics
/// When there are more or fewer probabilities than pixels.
pub fn covered(
    probabilities: &mut [f32],
    threshold: f32,
    target: &Mask,
    distractors: &[Mask],
    ignored: Option<&Mask>,
) -> (Activation, Option<f64>, Mask) {
    if let Some(ignored) = ignored {
        let left_out = probabilities.iter_mut().zip(&ignored.data).filter(|(_, ignored)| **ignored != 0);
        left_out.for_each(|(probability, _)| *probability = 0.0);
    }
    let distractors: Vec<&[u8]> = distractors.iter().map(|mask| mask.data.as_slice()).collect();
    let activation = Activation::of_probabilities(probabilities, threshold, &target.data, &distractors);
    let mask = Mask::above(target.width, target.height, probabilities, threshold);
    let box_iou = box_iou(&mask, target);
    (activation, box_iou, mask)
}

/// IoU of the boxes around a predicted mask and a target: 0 for an empty prediction, `None` for an empty target.
fn box_iou(prediction: &Mask, target: &Mask) -> Option<f64> {
    let target = target.bounding_box()?;
    Some(prediction.bounding_box().map_or(0.0, |prediction| prediction.iou(target)))
}

/// An evaluated expression, from its query and from what the prediction covers.
///
/// - box_iou: IoU of the boxes around prediction and target: 0 for an empty prediction, `None` for an empty target
pub fn evaluated(
    dataset: &Dataset,
    query: &Query,
    activation: Activation,
    box_iou: Option<f64>,
) -> Evaluated {
    let (ref_id, sent_id) = key_of(dataset, query);
    let expressions = &dataset.refs[query.ref_index].expressions;
    let flavour =
        expressions.iter().find(|one| one.sent_id == query.sent_id).and_then(|one| one.flavour.clone());
    let has_position_word = has_position_word(&query.text);
    Evaluated { ref_id, sent_id, has_position_word, flavour, box_iou, activation }
}
