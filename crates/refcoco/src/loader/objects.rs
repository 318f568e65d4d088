//! Maps of the objects that a model could confuse: the target of a sample and the others of its category.

use crate::annotation::Ref;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::letterbox::{Letterbox, patch_shares};
use crate::mask::Mask;

/// Size of the object maps of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectMapShape {
    /// Side of a map in cells; it must divide the input size.
    pub side: usize,
    /// Number of maps per sample, M. With more objects, the smallest distractors are left out.
    pub at_most: usize,
}

impl ObjectMapShape {
    /// Values per sample.
    pub(super) fn len(&self) -> usize {
        self.at_most * self.side * self.side
    }
}

/// Writes the maps of a ref's objects: the share of each cell that an object covers, 0 to 1. The first map is the target's, the
/// next ones are those of its [distractors](Dataset::distractors) without the target's pixels, largest first. Distractors that
/// leave no pixels are left out; the remaining maps are zero.
///
/// - target: the target's mask in the original image
/// - out: `[M, side, side]`
pub(super) fn write_object_maps(
    dataset: &Dataset,
    reference: &Ref,
    target: &Mask,
    letterbox: &Letterbox,
    (size, shape): (usize, ObjectMapShape),
    out: &mut [f32],
) -> Result<()> {
    let target = letterbox.mask(target);
    let mut maps = vec![patch_shares(&target, size, shape.side)];
    for mask in dataset.distractor_masks(reference)? {
        let mut region = letterbox.mask(&mask);
        for (value, &covered) in region.iter_mut().zip(&target) {
            *value = (*value).min(255 - covered);
        }
        maps.push(patch_shares(&region, size, shape.side));
    }
    let area = |map: &Vec<f32>| map.iter().sum::<f32>();
    maps[1..].sort_by(|one, other| area(other).total_cmp(&area(one)));
    out.fill(0.0);
    for (map, out) in maps.iter().zip(out.chunks_exact_mut(shape.side * shape.side)) {
        out.copy_from_slice(map);
    }
    Ok(())
}
