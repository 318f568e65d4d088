//! Floating-point operations (FLOPs) of layers, counted from their sizes.
//!
//! Matrix products, convolutions and attention are counted, with two operations per multiply-add. Normalisations, activations
//! and other elementwise operations are not counted (well below one percent). The backward pass costs as much again for each
//! operand that has a gradient. Recomputation (activation checkpointing) and shortcuts of an implementation do not change the
//! count, so it is the same for every implementation.

/// Floating-point operations of the forward pass and of the backward pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Floating-point operations of the forward pass.
    pub forward: i64,
    /// Floating-point operations of the backward pass.
    pub backward: i64,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { forward: self.forward + other.forward, backward: self.backward + other.backward }
    }
}

impl std::ops::Mul<i64> for Cost {
    type Output = Self;

    fn mul(self, times: i64) -> Self {
        Self { forward: self.forward * times, backward: self.backward * times }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |sum, cost| sum + cost)
    }
}

/// Which operands of an operation need a gradient.
#[derive(Debug, Clone, Copy)]
pub struct Grad {
    /// Whether the input needs a gradient.
    pub input: bool,
    /// Whether the weight needs a gradient.
    pub weight: bool,
}

/// Input and weight both need a gradient: a trained layer after another trained layer.
pub const BOTH: Grad = Grad { input: true, weight: true };

/// Cost of the product of `[rows, from]` with a weight `[from, to]`.
pub fn linear(rows: i64, from: i64, to: i64, grad: Grad) -> Cost {
    let forward = 2 * rows * from * to;
    Cost { forward, backward: forward * (i64::from(grad.input) + i64::from(grad.weight)) }
}

/// Cost of attention without projections: scores of n queries with m keys, and the weighted sum of m values, all heads
/// together `width` wide. If `differentiable`, the backward pass computes the gradients of queries, keys and values.
pub fn attention(n: i64, m: i64, width: i64, differentiable: bool) -> Cost {
    let forward = 4 * n * m * width;
    Cost { forward, backward: if differentiable { 2 * forward } else { 0 } }
}

/// Cost of a convolution with "same" padding over `places` positions. The kernel has `taps` entries.
pub fn conv(places: i64, from: i64, to: i64, taps: i64, grad: Grad) -> Cost {
    linear(places, from * taps, to, grad)
}

/// Cost of cross-attention of n queries to m keys, with its four projections.
pub fn cross_attention(n: i64, m: i64, width: i64) -> Cost {
    linear(n, width, width, BOTH) * 2 + linear(m, width, width, BOTH) * 2 + attention(n, m, width, true)
}
