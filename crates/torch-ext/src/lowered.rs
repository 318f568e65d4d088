//! Casts all trained weights to the dtype of mixed precision in one operation.

use tch::{Kind, Tensor};

use crate::shim::{ShimError, measure};

/// Guard for mixed precision: while it lives, the layers of this thread read the trained weights from one joint cast.
/// Plain autocast casts each weight, and each gradient back, by itself: several hundred kernel launches a step.
///
/// The list of weights is recorded in the previous forward pass. The first pass has no list, so autocast casts one by one. The
/// results are those of autocast, with one difference: a weight that receives no gradient gets a gradient of zeros.
#[derive(Debug)]
pub struct Lowered(());

impl Lowered {
    /// Casts the weights that the previous pass used.
    ///
    /// - kind: dtype of matrix products under autocast; with [`Kind::Float`] nothing is cast
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn weights(kind: Kind) -> Result<Self, ShimError> {
        measure::lower_weights(kind)?;
        Ok(Self(()))
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        measure::forget_lowered();
    }
}

/// Returns the weight to use in a matrix product: its part of the joint cast while a [`Lowered`] lives, otherwise the weight
/// itself.
pub fn lowered(weight: &Tensor) -> Tensor {
    measure::lowered(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Autocast;
    use crate::layers::linear;
    use tch::Device;

    #[test]
    fn values_and_gradients_are_those_of_autocast() {
        tch::manual_seed(5);
        let place = (Kind::Float, Device::Cpu);
        let leaf = |shape: &[i64]| Tensor::randn(shape, place).set_requires_grad(true);
        let (weight, bias, other) = (leaf(&[6, 4]), leaf(&[6]), leaf(&[3, 6]));
        let xs = Tensor::randn([5, 4], place);
        let pass = || {
            let guard = Autocast::enable(Device::Cpu, Kind::BFloat16).unwrap();
            let hidden = linear(&xs, &weight, Some(&bias));
            let out = linear(&hidden, &other, None);
            drop(guard);
            out.to_kind(Kind::Float).square().sum(None).backward();
            let gradients = [&weight, &bias, &other].map(|leaf| leaf.grad().copy());
            crate::shim::measure::clear_gradients(&[&weight, &bias, &other].map(Tensor::shallow_clone))
                .unwrap();
            (out, gradients)
        };
        let (expected, by_autocast) = pass();
        for _ in 0..3 {
            let _lowered = Lowered::weights(Kind::BFloat16).unwrap();
            let (out, gradients) = pass();
            assert!(out.equal(&expected));
            assert!(gradients.iter().zip(&by_autocast).all(|(a, b)| a.equal(b)));
        }
    }
}
