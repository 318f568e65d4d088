use tch::Tensor;

use super::Mode;
use crate::init::Init;
use crate::layers::linear;
use crate::low_rank::LowRank;
use crate::lowered::lowered;
use crate::shim;
use crate::store::ParamPath;

/// Scaled dot-product attention per head: `softmax(q k^T / sqrt(head_width)) v`.
///
/// - queries: `[batch, heads, n, head_width]`; keys, values: `[batch, heads, m, head_width]`
/// - dropout: probability with which attention weights are dropped; 0 outside training
/// - causal: whether a query sees only keys at its own position and before
///
/// On the CPU, large non-causal attention is computed in blocks of queries, with the products of [`linear`].
/// There, scores and weights are float32 for every dtype of the operands.
///
/// # Panics
/// Like tch's own operations: when the shapes do not fit together.
pub fn attention(queries: &Tensor, keys: &Tensor, values: &Tensor, dropout: f64, causal: bool) -> Tensor {
    if !causal {
        return shim::attention(queries, keys, values, dropout).unwrap_or_else(|error| panic!("{error}"));
    }
    Tensor::scaled_dot_product_attention(queries, keys, values, None::<&Tensor>, dropout, causal, None, false)
}

/// Which keys a query may see.
#[derive(Debug, Clone, Copy)]
enum Visible<'a> {
    /// All keys.
    All,
    /// Keys at the query's own position and before (causal).
    Past,
    /// Keys that are true in a mask: bool `[batch, m]`.
    Marked(&'a Tensor),
}

/// Multi-head attention with packed projections (`in_proj_weight`, `in_proj_bias`, `out_proj`), batch first.
#[derive(Debug)]
pub struct MultiheadAttention {
    in_proj_weight: Tensor,
    in_proj_bias: Tensor,
    /// Of the packed projection, by its thirds.
    low_rank: LowRank,
    out_proj: super::Linear,
    n_heads: i64,
    dropout: f64,
}

impl MultiheadAttention {
    /// PyTorch's initialisation: Xavier-uniform packed matrix, `out_proj` uniform within `1 / sqrt(width)`, zero biases.
    pub fn new(path: &ParamPath, width: i64, n_heads: i64, dropout: f64) -> Self {
        let (packed, out) = ((6.0 / (4 * width) as f64).sqrt(), 1.0 / (width as f64).sqrt());
        let in_proj_weight = path.parameter("in_proj_weight", &[3 * width, width], Init::Uniform(packed));
        let in_proj_bias = path.parameter("in_proj_bias", &[3 * width], Init::Const(0.0));
        Self {
            low_rank: LowRank::register(&(path / "in_proj"), &in_proj_weight),
            in_proj_weight,
            in_proj_bias,
            out_proj: super::Linear::new(
                &(path / "out_proj"),
                width,
                width,
                Init::Uniform(out),
                Init::Const(0.0),
            ),
            n_heads,
            dropout,
        }
    }

    /// - queries: `[batch, n, width]`; keys, values: `[batch, m, width]`; result `[batch, n, width]`
    pub fn forward(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, mode: Mode) -> Tensor {
        self.forward_masked(queries, keys, values, None, mode)
    }

    /// As [`MultiheadAttention::forward`] with a key mask.
    ///
    /// - visible: bool `[batch, m]`, true for keys to attend to, at least one per row. `None`: all keys
    pub fn forward_masked(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        visible: Option<&Tensor>,
        mode: Mode,
    ) -> Tensor {
        let visible = visible.map_or(Visible::All, Visible::Marked);
        let weights = lowered(&self.in_proj_weight).chunk(3, 0);
        let biases = lowered(&self.in_proj_bias).chunk(3, 0);
        let project = |xs: &Tensor, third: usize| {
            self.low_rank.add_to_third(linear(xs, &weights[third], Some(&biases[third])), xs, third)
        };
        self.mix(&project(queries, 0), &project(keys, 1), &project(values, 2), mode, visible)
    }

    /// Self-attention with one packed product for queries, keys and values.
    ///
    /// - xs: `[batch, n, width]`
    pub fn forward_self(&self, xs: &Tensor, mode: Mode, causal: bool) -> Tensor {
        let packed = linear(xs, &self.in_proj_weight, Some(&self.in_proj_bias));
        let packed = self.low_rank.add_to(packed, xs).chunk(3, -1);
        let visible = if causal { Visible::Past } else { Visible::All };
        self.mix(&packed[0], &packed[1], &packed[2], mode, visible)
    }

    fn mix(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        mode: Mode,
        visible: Visible<'_>,
    ) -> Tensor {
        let (b, n, width) = (queries.size()[0], queries.size()[1], queries.size()[2]);
        let split = |xs: &Tensor| xs.view([b, -1, self.n_heads, width / self.n_heads]).transpose(1, 2); // b h n d
        let dropout = if mode.is_train() { self.dropout } else { 0.0 };
        let (queries, keys, values) = (split(queries), split(keys), split(values));
        let mixed = match visible {
            Visible::All => attention(&queries, &keys, &values, dropout, false),
            Visible::Past => attention(&queries, &keys, &values, dropout, true),
            Visible::Marked(marked) => {
                let mask = Some(marked.unsqueeze(1).unsqueeze(1)); // b 1 1 m
                Tensor::scaled_dot_product_attention(
                    &queries, &keys, &values, mask, dropout, false, None, false,
                )
            }
        };
        self.out_proj.forward(&mixed.transpose(1, 2).reshape([b, n, width]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use tch::{Device, Kind};

    #[test]
    fn attention_by_hand() {
        // Scores 0 and ln 3 (before the scale 1/sqrt(1)), so weights 1/4 and 3/4.
        let one = |values: &[f64]| Tensor::from_slice(values).view([1, 1, -1, 1]);
        let out = attention(&one(&[1.0]), &one(&[0.0, 3.0_f64.ln()]), &one(&[4.0, 8.0]), 0.0, false);
        assert!((f64::try_from(out.view([])).unwrap() - 7.0).abs() < 1e-12);
    }

    #[test]
    fn unmarked_keys_do_not_count() {
        tch::manual_seed(0);
        let store = Store::new(Device::Cpu, Kind::Double);
        let mha = MultiheadAttention::new(&store.root(), 8, 2, 0.0);
        let random = |n: i64| Tensor::randn([1, n, 8], (Kind::Double, Device::Cpu));
        let (queries, keys) = (random(3), random(4));
        let visible = Tensor::from_slice(&[true, true, false, false]).view([1, 4]);
        let masked = mha.forward_masked(&queries, &keys, &keys, Some(&visible), Mode::Eval);
        let short = keys.narrow(1, 0, 2);
        let difference = masked - mha.forward(&queries, &short, &short, Mode::Eval);
        assert!(f64::try_from(difference.abs().max()).unwrap() < 1e-12);
    }

    #[test]
    fn packed_and_separate_projections_agree() {
        tch::manual_seed(0);
        let store = Store::new(Device::Cpu, Kind::Double);
        let mha = MultiheadAttention::new(&store.root(), 8, 2, 0.0);
        let xs = Tensor::randn([2, 5, 8], (Kind::Double, Device::Cpu));
        let difference = mha.forward(&xs, &xs, &xs, Mode::Eval) - mha.forward_self(&xs, Mode::Eval, false);
        assert!(f64::try_from(difference.abs().max()).unwrap() < 1e-12);
    }
}
