//! Floating-point operations of layers, counted from their sizes.
//!
//! Matrix products, convolutions and attention count, two operations for each multiplication and addition; normalisations,
//! activations and the like (well below one percent) do not. A backward pass costs as much again for each operand that has a
//! gradient. What an implementation recomputes, or saves, is not in the count: it is the same for every implementation.

/// Forward pass, and what the backward pass adds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Of the forward pass.
    pub forward: i64,
    /// Of the backward pass.
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

/// What of an operation's operands has a gradient.
#[derive(Debug, Clone, Copy)]
pub struct Grad {
    /// Its input.
    pub input: bool,
    /// Its weight.
    pub weight: bool,
}

/// Of what trains, behind something that does.
pub const BOTH: Grad = Grad { input: true, weight: true };

/// A product of `[rows, from]` with a weight `[from, to]`.
pub fn linear(rows: i64, from: i64, to: i64, grad: Grad) -> Cost {
    let forward = 2 * rows * from * to;
    Cost { forward, backward: forward * (i64::from(grad.input) + i64::from(grad.weight)) }
}

/// Scores of n queries with m keys of a joint width, and the mix of m values; their gradients by all three if any.
pub fn attention(n: i64, m: i64, width: i64, differentiable: bool) -> Cost {
    let forward = 4 * n * m * width;
    Cost { forward, backward: if differentiable { 2 * forward } else { 0 } }
}

/// A same-size convolution over `places` positions whose kernel has `taps` entries.
pub fn conv(places: i64, from: i64, to: i64, taps: i64, grad: Grad) -> Cost {
    linear(places, from * taps, to, grad)
}

/// Attention of n queries to m keys with its four projections.
pub fn cross_attention(n: i64, m: i64, width: i64) -> Cost {
    linear(n, width, width, BOTH) * 2 + linear(m, width, width, BOTH) * 2 + attention(n, m, width, true)
}
