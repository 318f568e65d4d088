use tch::Tensor;
use torch_ext::layers::{Linear, Mode};
use torch_ext::{Init, Path};

use super::dense::{DenseBranches, Domain};

/// Text adapter (specification, section 3): bottleneck, dense branches over the words, back.
///
/// Position 0 is set aside as if it were a class token and ends up doubled (quirk Q4); padding takes part in the
/// convolutions and in the batch statistics (Q5).
#[derive(Debug)]
pub struct TextAdapter {
    dense: DenseBranches,
    down: Linear,
    up: Linear,
}

impl TextAdapter {
    /// Registers the dense branches, `D_fc1` and `D_fc2`.
    pub fn new(path: &Path, width: i64, bottleneck: i64) -> Self {
        let dense = DenseBranches::new(path, Domain::Sentence, bottleneck);
        let linear = |name: &str, n_in: i64, n_out: i64| {
            let init = Init::UniformHalf(1.0 / (n_in as f64).sqrt());
            Linear::new(&(path / name), n_in, n_out, init, init)
        };
        Self { dense, down: linear("D_fc1", width, bottleneck), up: linear("D_fc2", bottleneck, width) }
    }

    /// - words: `[batch, K, T]`, un-normalised; result alike, without an outer skip
    pub fn forward(&self, words: &Tensor, mode: Mode) -> Tensor {
        let narrow = self.down.forward(words).relu(); // b k r
        let parts = narrow.split_with_sizes([1, narrow.size()[1] - 1], 1);
        let rest = self.dense.forward(&parts[1].transpose(1, 2), mode).transpose(1, 2);
        self.up.forward(&(Tensor::cat(&[&parts[0], &rest], 1) + narrow))
    }
}
