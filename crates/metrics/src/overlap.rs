use serde::{Deserialize, Serialize};

/// Overlap of one prediction and its target, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// Number of pixels in both.
    pub intersection: u64,
    /// Number of pixels of the prediction.
    pub prediction: u64,
    /// Number of pixels of the target.
    pub target: u64,
}

impl Overlap {
    /// Whether no more pixels are in both than in either.
    pub fn is_possible(&self) -> bool {
        self.intersection <= self.prediction.min(self.target)
    }

    /// Counts the overlap of a probability map and a mask of the same size. A pixel is predicted if its probability exceeds the
    /// threshold, and is in the target if the mask is not zero.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn of_probabilities(probabilities: &[f32], threshold: f32, target: &[u8]) -> Self {
        assert_eq!(probabilities.len(), target.len(), "prediction and target differ in size");
        let pairs = probabilities.iter().zip(target).map(|(&value, &truth)| (value > threshold, truth != 0));
        Self::of(pairs)
    }

    /// Counts the overlap of two masks of the same size. Every pixel that is not zero is foreground.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn of_masks(prediction: &[u8], target: &[u8]) -> Self {
        assert_eq!(prediction.len(), target.len(), "prediction and target differ in size");
        Self::of(prediction.iter().zip(target).map(|(&value, &truth)| (value != 0, truth != 0)))
    }

    fn of(pairs: impl Iterator<Item = (bool, bool)>) -> Self {
        let mut overlap = Self { intersection: 0, prediction: 0, target: 0 };
        for (predicted, truth) in pairs {
            overlap.intersection += u64::from(predicted && truth);
            overlap.prediction += u64::from(predicted);
            overlap.target += u64::from(truth);
        }
        overlap
    }

    /// Number of pixels in the union.
    pub fn union(&self) -> u64 {
        self.prediction + self.target - self.intersection
    }

    /// `intersection / (union + 1e-6)`, as the official evaluation computes it: 0 for two empty masks, and never
    /// quite 1.
    pub fn iou(&self) -> f64 {
        self.intersection as f64 / (self.union() as f64 + 1e-6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let overlap = Overlap::of_probabilities(&[0.36, 0.9, 0.35, 0.0], 0.35, &[1, 255, 1, 0]);
        assert_eq!(overlap, Overlap { intersection: 2, prediction: 2, target: 3 });
        assert_eq!(overlap.union(), 3);
        assert_eq!(Overlap::of_masks(&[0, 0], &[0, 0]).iou(), 0.0);
    }
}
