//! Finds the memory layout in which the official float64 run summed its float32 mask.
//!
//! The segmentation loss sums the target in the target's own precision (specification, section 8). In the official float64 run
//! that is float32, so the sum depends on the order of its terms, and libtorch sums in memory order. The recording does not
//! store the mask's strides: it may have been contiguous, a slice of a larger mask, or column-major. Nor does it tell whether
//! the mask was converted to float64 first. One unit in the last place of the sum changes the loss by about 1e-9 of its value.

use anyhow::Result;
use tch::{Kind, Tensor};
use tlm_losses::Segmentation;

/// The mask in each memory layout and dtype in which a float64 run may have summed it. Values and shape, `[batch, 1, height,
/// width]`, are the same in all of them.
fn candidates(mask: &Tensor) -> Vec<Tensor> {
    let stored_as = |order: [i64; 4]| {
        let mut back = [0_i64; 4];
        for (place, dim) in (0..).zip(order) {
            back[dim as usize] = place;
        }
        mask.permute(order).contiguous().permute(back)
    };
    let cut = |xs: &Tensor, dim: i64| {
        let n = xs.size()[dim as usize];
        Tensor::cat(&[xs, &xs.narrow(dim, 0, 1)], dim).narrow(dim, 0, n)
    };
    vec![
        mask.contiguous(),
        mask.to_kind(Kind::Double),
        cut(mask, 3),
        stored_as([0, 1, 3, 2]),
        stored_as([2, 3, 0, 1]),
        stored_as([3, 2, 0, 1]),
    ]
}

/// The candidate whose segmentation loss is nearest to the recorded loss.
///
/// - logits: those of the first float64 step, `[batch, 1, h, w]`
/// - mask: as read from the recording, `[batch, 1, height, width]`
pub(crate) fn as_summed(logits: &Tensor, mask: &Tensor, recorded: f64) -> Result<Tensor> {
    let logits = logits.detach();
    let mut nearest = (f64::INFINITY, mask.shallow_clone());
    for candidate in candidates(mask) {
        let loss = f64::try_from(Segmentation::default().loss(&logits, &candidate).total())?;
        let error = (loss - recorded).abs();
        if error < nearest.0 {
            nearest = (error, candidate);
        }
    }
    Ok(nearest.1)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// Soft discs, whose sums need more digits than float32 has.
    fn discs(size: i64) -> Tensor {
        let axis = Tensor::arange(size, (Kind::Float, Device::Cpu));
        let radii = Tensor::from_slice(&[0.21_f32, 0.27, 0.33]).view([3, 1, 1, 1]) * size as f64;
        let place = |share: f64| (&axis - share * size as f64).square();
        let distance = (place(0.43).view([1, 1, -1, 1]) + place(0.57).view([1, 1, 1, -1])).sqrt();
        ((radii - distance) / 5.3).clamp(0.0, 1.0)
    }

    #[test]
    fn a_mask_summed_in_any_of_these_orders_is_found() {
        let mut told_apart = 0;
        for size in [42, 70, 84, 112] {
            let mask = discs(size);
            let logits = (&mask - 0.4).to_kind(Kind::Double);
            let loss = |mask: &Tensor| {
                f64::try_from(Segmentation::default().loss(&logits, mask).total()).expect("a number")
            };
            let all = candidates(&mask);
            for candidate in &all {
                assert_eq!(candidate.size(), mask.size());
                assert!(candidate.to_kind(Kind::Float).equal(&mask));
                let recorded = loss(candidate);
                let found = as_summed(&logits, &mask, recorded).expect("a mask");
                assert_eq!(loss(&found), recorded);
                told_apart += usize::from((recorded - loss(&mask)).abs() > 1e-10);
            }
        }
        assert!(told_apart > 4, "only {told_apart} sums differ from that of a whole mask");
    }
}
