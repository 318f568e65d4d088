use tch::{Kind, Tensor};
use torch_ext::across::Processes;

use crate::{sum_and_number, wide};

/// Maps of the objects that a prediction could confuse, `[batch, M, H, W]`: the share of each cell that an object covers, 0 to 1.
///
/// The first is the target's. The others are those of distractors: other objects of the target's category in the image, without
/// the target's pixels. A map that is zero everywhere stands for no object.
#[derive(Debug, Clone, Copy)]
pub struct ObjectMaps<'a>(pub &'a Tensor);

/// Object maps on the grid of what they are compared with.
pub(crate) struct Objects {
    /// `[batch, M, h, w]`.
    pub(crate) maps: Tensor,
    /// Area of each map in cells, `[batch, M]`.
    pub(crate) areas: Tensor,
}

impl ObjectMaps<'_> {
    /// The maps on a grid, by the mean over blocks; at least float32.
    pub(crate) fn on(self, [height, width]: [i64; 2]) -> Objects {
        let mut maps = wide(self.0);
        if maps.size()[2..] != [height, width] {
            maps = maps.adaptive_avg_pool2d([height, width]);
        }
        Objects { areas: over_pixels(&maps), maps }
    }
}

impl Objects {
    /// Whether each map has an object, bool `[batch, M]`.
    pub(crate) fn present(&self) -> Tensor {
        self.areas.gt(0.0)
    }

    /// `[batch]`, 1 for a sample with a target and a distractor, otherwise 0.
    pub(crate) fn confusable(&self) -> Tensor {
        let (present, n) = (self.present(), self.areas.size()[1]);
        let has_distractor = present.narrow(1, 1, n - 1).any_dim(1, false);
        present.select(1, 0).logical_and(&has_distractor).to_kind(self.maps.kind())
    }

    /// The target's map, `[batch, h, w]`.
    pub(crate) fn target(&self) -> Tensor {
        self.maps.select(1, 0)
    }

    /// Share of each cell that distractors cover, `[batch, h, w]`.
    pub(crate) fn distractors(&self) -> Tensor {
        let n = self.areas.size()[1];
        self.maps.narrow(1, 1, n - 1).sum_dim_intlist([1].as_slice(), false, None::<Kind>).clamp_max(1.0)
    }
}

/// Sum over the last two axes.
pub(crate) fn over_pixels(xs: &Tensor) -> Tensor {
    xs.sum_dim_intlist([-2, -1].as_slice(), false, None::<Kind>)
}

/// Mean over the samples that count; 0 if none does. Parameters as in [`sum_and_number`].
pub(crate) fn mean_where(per_sample: &Tensor, counts: &Tensor, processes: Option<&dyn Processes>) -> Tensor {
    let (sum, n) = sum_and_number(per_sample, counts, processes);
    sum / n
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two samples on a grid of 1 x 4: the first has a target and two distractors that overlap, the second a target alone.
    pub(crate) fn maps() -> Tensor {
        let first = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.5, 0.0]];
        let second = [[1.0, 1.0, 0.0, 0.0], [0.0; 4], [0.0; 4]];
        let values: Vec<f64> = [first, second].into_iter().flatten().flatten().collect();
        Tensor::from_slice(&values).view([2, 3, 1, 4])
    }

    fn values(xs: &Tensor) -> Vec<f64> {
        Vec::try_from(xs.to_kind(Kind::Double).flatten(0, -1)).unwrap()
    }

    #[test]
    fn objects_by_hand() {
        let maps = maps();
        let objects = ObjectMaps(&maps).on([1, 4]);
        assert_eq!(values(&objects.areas), [1.0, 2.0, 0.5, 2.0, 0.0, 0.0]);
        assert_eq!(values(&objects.confusable()), [1.0, 0.0]);
        assert_eq!(values(&objects.distractors())[..4], [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(values(&ObjectMaps(&maps).on([1, 2]).maps)[..4], [0.5, 0.0, 0.5, 0.5]);
    }

    #[test]
    fn only_those_that_count_are_averaged() {
        let losses = Tensor::from_slice(&[3.0, 5.0, 7.0]);
        let mean = |counts: [f64; 3]| {
            f64::try_from(mean_where(&losses, &Tensor::from_slice(&counts), None)).unwrap()
        };
        assert_eq!(mean([1.0, 0.0, 1.0]), 5.0);
        assert_eq!(mean([0.0; 3]), 0.0);
    }
}
