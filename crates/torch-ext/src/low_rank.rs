//! Low-rank updates of linear layers (LoRA): `y = x W^T + b + scale * dropout(x) A^T B^T`.
//!
//! A [`LowRankRule`] says which layers have one. It travels with the parameter path ([`ParamPath::with_low_rank`]), so that a
//! network's code does not change: each linear layer asks the rule by its own name and registers the two matrices of an update.

use std::cell::Cell;
use std::rc::Rc;

use tch::Tensor;

use crate::init::Init;
use crate::layers::{Mode, dropout};
use crate::store::{Group, ParamPath};

/// One of several equal blocks of a packed layer's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The block, from 0.
    pub index: usize,
    /// Number of blocks.
    pub of: usize,
}

impl Rows {
    /// First row and number of rows, of `n` in all.
    fn range(self, n: i64) -> (i64, i64) {
        let each = n / self.of as i64;
        (self.index as i64 * each, each)
    }
}

/// A low-rank update that a rule asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LowRankPart {
    /// Level of the matrices' names below the layer, for layers that hold several projections; empty for none.
    pub name: &'static str,
    /// The rows of the layer that are updated: all, or one of several equal blocks.
    pub rows: Option<Rows>,
    /// Rank r of the update.
    pub rank: i64,
    /// Factor of the update: `alpha / r`, or `alpha / sqrt(r)` (rank-stabilised).
    pub scale: f64,
    /// Probability with which training zeroes an entry of the input.
    pub dropout: f64,
}

/// Which linear layers have which low-rank updates.
#[derive(Debug, Clone)]
pub struct LowRankRule {
    group: Group,
    layers: Rc<[(String, LowRankPart)]>,
}

impl LowRankRule {
    /// - group: parameter group of the matrices; layers: names of layers in the store, for example `dinov2.blocks.0.attn.qkv`, each with
    ///   an update
    pub fn new(group: Group, layers: impl IntoIterator<Item = (String, LowRankPart)>) -> Self {
        Self { group, layers: layers.into_iter().collect() }
    }

    /// The updates of a layer; empty for none.
    fn parts(&self, layer: &str) -> Vec<LowRankPart> {
        let own = self.layers.iter().filter(|(name, _)| name == layer);
        own.map(|(_, part)| *part).collect()
    }
}

/// One registered update. The tensors are handles to the store's.
#[derive(Debug)]
pub struct LowRankUpdate {
    /// Name of the layer, for example `dinov2.blocks.0.attn.qkv`.
    pub layer: String,
    /// What the rule asked for.
    pub part: LowRankPart,
    /// Names of A and B in the store.
    pub names: [String; 2],
    /// The layer's weight, `[out, in]`.
    pub weight: Tensor,
    /// A, `[r, in]`.
    pub down: Tensor,
    /// B, `[rows, r]`.
    pub up: Tensor,
}

impl LowRankUpdate {
    /// A second handle.
    pub(crate) fn handle(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            part: self.part,
            names: self.names.clone(),
            weight: self.weight.shallow_clone(),
            down: self.down.shallow_clone(),
            up: self.up.shallow_clone(),
        }
    }

    /// Adds the update to the layer's weight and sets B to zero, so that the layer computes the same without it.
    pub fn merge(&self) {
        tch::no_grad(|| {
            let update = self.up.matmul(&self.down) * self.part.scale;
            let mut rows = match self.part.rows {
                Some(rows) => {
                    let (start, n) = rows.range(self.weight.size()[0]);
                    self.weight.narrow(0, start, n)
                }
                None => self.weight.shallow_clone(),
            };
            let _ = rows.g_add_(&update);
            let _ = self.up.shallow_clone().zero_();
        });
    }
}

/// The updates of one layer.
#[derive(Debug)]
pub(crate) struct LowRank {
    updates: Vec<LowRankUpdate>,
    mode: Rc<Cell<Mode>>,
}

impl LowRank {
    /// Registers what the path's rule asks for. A is uniform within `1 / sqrt(in)` and B zero, so that a new update changes nothing.
    ///
    /// - path: of the layer; weight: `[out, in]`
    pub(crate) fn register(path: &ParamPath, weight: &Tensor) -> Self {
        let (n_out, n_in) = (weight.size()[0], weight.size()[1]);
        let (parts, group) = match path.low_rank() {
            Some(rule) => (rule.parts(path.name()), rule.group),
            None => (Vec::new(), Group::NONE),
        };
        let update = |part: LowRankPart| {
            let path = if part.name.is_empty() { path.clone() } else { path / part.name };
            let path = path.in_group(group);
            let rows = part.rows.map_or(n_out, |rows| rows.range(n_out).1);
            let matrices = [path.clone() / "lora_A", path / "lora_B"];
            let spread = Init::Uniform(1.0 / (n_in as f64).sqrt());
            LowRankUpdate {
                layer: String::new(),
                part,
                names: [0, 1].map(|index: usize| format!("{}.weight", matrices[index].name())),
                weight: weight.shallow_clone(),
                down: matrices[0].parameter("weight", &[part.rank, n_in], spread),
                up: matrices[1].parameter("weight", &[rows, part.rank], Init::Const(0.0)),
            }
        };
        let updates = parts.into_iter().map(update);
        let updates: Vec<_> =
            updates.map(|update| LowRankUpdate { layer: path.name().to_owned(), ..update }).collect();
        path.keep_low_rank(updates.iter().map(LowRankUpdate::handle));
        Self { updates, mode: path.mode() }
    }

    /// Adds the updates to a layer's output. The updates of one layer share their products and their dropout.
    ///
    /// - ys: output, `[..., out]`; xs: input, `[..., in]`
    pub(crate) fn add_to(&self, ys: Tensor, xs: &Tensor) -> Tensor {
        let Some(first) = self.updates.first() else { return ys };
        let xs = dropout(xs, first.part.dropout, self.mode.get());
        let down: Vec<&Tensor> = self.updates.iter().map(|update| &update.down).collect();
        let narrow = xs.matmul(&Tensor::cat(&down, 0).transpose(0, 1)); // ... R
        ys + narrow.matmul(&self.up_matrix().transpose(0, 1))
    }

    /// As [`LowRank::add_to`], for one of three equal blocks of the output.
    ///
    /// - ys: `[..., out / 3]`
    pub(crate) fn add_to_third(&self, ys: Tensor, xs: &Tensor, third: usize) -> Tensor {
        let own = self.updates.iter().filter(|update| update.part.rows == Some(Rows { index: third, of: 3 }));
        own.fold(ys, |ys, update| {
            let xs = dropout(xs, update.part.dropout, self.mode.get());
            let narrow = xs.matmul(&update.down.transpose(0, 1)); // ... r
            ys + narrow.matmul(&(&update.up * update.part.scale).transpose(0, 1))
        })
    }

    /// The matrices B in one, times their scales: `[out, R]`, with zeros where an update does not write.
    fn up_matrix(&self) -> Tensor {
        let scaled = |update: &LowRankUpdate| &update.up * update.part.scale;
        if let [LowRankUpdate { part: LowRankPart { rows: None, .. }, .. }] = &self.updates[..] {
            return scaled(&self.updates[0]);
        }
        let columns = self.updates.iter().map(|update| {
            let own = scaled(update);
            match update.part.rows {
                Some(rows) => {
                    let n = update.weight.size()[0];
                    let (start, each) = rows.range(n);
                    own.constant_pad_nd([0, 0, start, n - start - each])
                }
                None => own,
            }
        });
        Tensor::cat(&columns.collect::<Vec<_>>(), 1)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::layers::{Linear, MultiheadAttention};
    use crate::store::Store;

    fn part(name: &'static str, third: Option<usize>, dropout: f64) -> LowRankPart {
        let rows = third.map(|index| Rows { index, of: 3 });
        LowRankPart { name, rows, rank: 2, scale: 0.5, dropout }
    }

    fn with_rule(store: &Store, layers: &[(&str, LowRankPart)]) -> ParamPath {
        let layers = layers.iter().map(|(name, part)| ((*name).to_owned(), *part));
        store.root().with_low_rank(LowRankRule::new(Group::NONE, layers))
    }

    /// Fills the matrices B, which start at zero.
    fn fill(store: &Store) {
        for update in store.low_rank_updates() {
            let _ = tch::no_grad(|| update.up.shallow_clone().normal_(0.0, 1.0));
        }
    }

    fn error(one: &Tensor, other: &Tensor) -> f64 {
        f64::try_from((one - other).abs().max()).unwrap()
    }

    #[test]
    fn updates_of_a_packed_layer_and_their_merging() {
        tch::manual_seed(3);
        let store = Store::new(Device::Cpu, Kind::Double);
        let layers = [
            ("qkv", part("value", Some(2), 0.0)),
            ("qkv", part("query", Some(0), 0.0)),
            ("proj", part("", None, 0.0)),
        ];
        let path = with_rule(&store, &layers);
        let [qkv, proj] =
            [("qkv", 12), ("proj", 4)].map(|(name, n)| Linear::torch_default(&(&path / name), 4, n));
        let other = Linear::torch_default(&(&path / "other"), 4, 4);
        let xs = Tensor::randn([3, 5, 4], (Kind::Double, Device::Cpu));
        let plain = [qkv.forward(&xs), proj.forward(&xs), other.forward(&xs)];
        fill(&store);
        let get = |name: &str| store.get(name).unwrap();
        let term = |name: &str| {
            let [a, b] = ["A", "B"].map(|matrix| get(&format!("{name}.lora_{matrix}.weight")));
            xs.matmul(&a.tr()).matmul(&b.tr()) * 0.5
        };
        let zeros = Tensor::zeros([3, 5, 4], (Kind::Double, Device::Cpu));
        let expected = [
            &plain[0] + Tensor::cat(&[&term("qkv.query"), &zeros, &term("qkv.value")], -1),
            &plain[1] + term("proj"),
            plain[2].shallow_clone(),
        ];
        let all = || [qkv.forward(&xs), proj.forward(&xs), other.forward(&xs)];
        let unmerged = all();
        store.low_rank_updates().iter().for_each(LowRankUpdate::merge);
        let merged = all();
        for index in 0..3 {
            assert!(error(&unmerged[index], &expected[index]) < 1e-14);
            assert!(error(&merged[index], &expected[index]) < 1e-14);
        }
        assert!(error(&unmerged[0], &plain[0]) > 0.1);
    }

    #[test]
    fn packed_attention_has_updates_too() {
        tch::manual_seed(4);
        let store = Store::new(Device::Cpu, Kind::Double);
        let layers = [("in_proj", part("key", Some(1), 0.0)), ("out_proj", part("", None, 0.0))];
        let path = with_rule(&store, &layers);
        let attention = MultiheadAttention::new(&path, 8, 2, 0.0);
        let xs = Tensor::randn([2, 3, 8], (Kind::Double, Device::Cpu));
        let plain = attention.forward_self(&xs, Mode::Eval, false);
        fill(&store);
        let updated = attention.forward_self(&xs, Mode::Eval, false);
        assert!(error(&attention.forward(&xs, &xs, &xs, Mode::Eval), &updated) < 1e-12);
        assert!(error(&updated, &plain) > 0.01);
        store.low_rank_updates().iter().for_each(LowRankUpdate::merge);
        assert!(error(&attention.forward_self(&xs, Mode::Eval, false), &updated) < 1e-12);
    }

    #[test]
    fn dropout_acts_in_training_alone() {
        tch::manual_seed(5);
        let store = Store::new(Device::Cpu, Kind::Double);
        let path = with_rule(&store, &[("layer", part("", None, 0.5))]) / "layer";
        let layer = Linear::torch_default(&path, 64, 8);
        fill(&store);
        let xs = Tensor::ones([1, 64], (Kind::Double, Device::Cpu));
        let first = layer.forward(&xs);
        assert!(layer.forward(&xs).equal(&first));
        store.set_mode(Mode::Train);
        assert!(!layer.forward(&xs).equal(&first));
        store.set_mode(Mode::Eval);
        assert!(layer.forward(&xs).equal(&first));
    }
}
