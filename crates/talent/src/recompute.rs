//! Activation checkpointing for training: activations inside the image encoder's blocks are not saved, but recomputed block by
//! block in the backward pass.

use backbone::{Grid, TextOutput, unobserved};
use tch::{Kind, Tensor};
use torch_ext::layers::Mode;
use torch_ext::{Autocast, ShimError, generator};
use tracing::trace_span;

use crate::model::{Encoded, Talent, TalentOutput, sharing};
use crate::pass::{Pass, Sentences, Triplet};

/// Tensors that the forward pass saves for the backward pass.
struct Saved {
    /// The tokens that enter block 0, with their autograd graph.
    embedded: Tensor,
    /// Index of the first block with a backward pass.
    first: usize,
    /// Inputs of the blocks from `first` on.
    blocks: Vec<BlockInput>,
    /// Block index and output of the tapped blocks and of the last block. The outputs are detached leaf tensors that accumulate
    /// the head's gradients.
    outputs: Vec<(usize, Tensor)>,
}

impl Saved {
    /// The last block's output.
    fn last(&self) -> &Tensor {
        &self.outputs[self.outputs.len() - 1].1
    }
}

/// Inputs of a block, from which it is recomputed.
struct BlockInput {
    block: usize,
    /// The tokens that enter the block.
    tokens: Tensor,
    /// The same tokens as a leaf tensor, if the head reads them (they are tapped). Accumulates the head's gradient.
    tapped: Option<Tensor>,
    /// RNG state before the block.
    rng_state: Tensor,
}

impl Talent {
    /// Forward and backward pass with activation checkpointing. Accumulates the gradients of `loss` into the trained
    /// parameters. Gradients, buffers and RNG state equal those of [`Talent::forward`] followed by a backward pass; on the CPU
    /// they are bit-identical. Of the image encoder's blocks only the inputs are saved, and their forward pass runs twice.
    ///
    /// - images: `[batch, 3, S, S]`, normalised; with `image_of`, `[m, 3, S, S]`
    /// - image_of: as [`Pass::image_of`]
    /// - products: autocast dtype of the forward pass, [`Kind::Float`] for full precision
    /// - loss: computes a scalar from the network's outputs
    ///
    /// # Errors
    /// When libtorch cannot autocast to the dtype, or cannot read or set the RNG state.
    pub fn train_recomputing(
        &self,
        images: &Tensor,
        image_of: Option<&Tensor>,
        ids: &Triplet<'_>,
        products: Kind,
        loss: impl FnOnce(&TalentOutput) -> Tensor,
    ) -> Result<(), ShimError> {
        let device = images.device();
        let guard = Autocast::enable(device, products)?;
        let sentences = Sentences::Triplet(*ids);
        let text = self.encode(sentences, &Pass::TRAIN);
        // The autograd graph is split after the text encoder and around every image block. Each piece has its own backward
        // pass.
        let given = TextOutput { words: detach_leaf(&text.words), state: detach_leaf(&text.state) };
        let sentence = Encoded::new(sentences, &given);
        let words = sentence.words.shallow_clone();

        let span = trace_span!("vision blocks").entered();
        let (images, image_of) = sharing(images, image_of, &words);
        let saved = self.save_block_inputs(&images, image_of, &words)?;
        let levels = self.levels([&saved.outputs[0].1, &saved.outputs[1].1], saved.last(), image_of, &words);
        drop(span);
        let output = self.forward_head(levels, sentence, Mode::Train);
        let total = loss(&output);
        drop((output, guard));

        let _span = trace_span!("backward").entered();
        total.backward();
        drop(total);
        let after = generator::state(device)?;
        self.backward_by_blocks(saved, image_of, &words, products)?;
        generator::set_state(device, &after)?;
        let text_terms =
            [grad_scalar(&text.state, &given.state.grad()), grad_scalar(&text.words, &given.words.grad())];
        backward_of_sum(text_terms);
        Ok(())
    }

    /// Forward pass of the image encoder that saves the blocks' inputs. The blocks run without autograd.
    fn save_block_inputs(
        &self,
        images: &Tensor,
        image_of: Option<&Tensor>,
        words: &Tensor,
    ) -> Result<Saved, ShimError> {
        let n_blocks = self.image().n_blocks();
        let embedded = self.image().embed(images, &unobserved);
        let first = if embedded.requires_grad() { 0 } else { self.first_trained_block().unwrap_or(n_blocks) };
        let adapters = self.visual_adapters();
        let mut tokens = embedded.detach();
        let (mut blocks, mut outputs) = (Vec::new(), Vec::<(usize, Tensor)>::new());
        let tap_of = |outputs: &[(usize, Tensor)], block: usize| {
            outputs.last().filter(|(tapped, _)| *tapped == block).map(|(_, tokens)| tokens.shallow_clone())
        };
        let guest = adapters.guest(words, image_of, Mode::Train, &|_, _| {});
        let grid = Grid::square(self.config().grid());
        for index in 0..n_blocks {
            if index >= first {
                let tapped = index.checked_sub(1).and_then(|before| tap_of(&outputs, before));
                let rng_state = generator::state(images.device())?;
                blocks.push(BlockInput { block: index, tokens: tokens.shallow_clone(), tapped, rng_state });
            }
            tokens = tch::no_grad(|| self.image().block(index, &tokens, grid, &guest));
            let is_last = index + 1 == n_blocks;
            if is_last || self.config().image.taps.contains(&(index as i64)) {
                outputs.push((index, tokens.detach().set_requires_grad(index >= first)));
            }
        }
        Ok(Saved { embedded, first, blocks, outputs })
    }

    /// Recomputes the blocks from the last to the first, with a backward pass for each.
    fn backward_by_blocks(
        &self,
        saved: Saved,
        image_of: Option<&Tensor>,
        words: &Tensor,
        products: Kind,
    ) -> Result<(), ShimError> {
        let mut grad_output = saved.last().grad();
        let Saved { embedded, first, blocks, .. } = saved;
        let device = embedded.device();
        let adapters = self.visual_adapters();
        let guest = adapters.guest(words, image_of, Mode::Recompute, &|_, _| {});
        let grid = Grid::square(self.config().grid());
        for BlockInput { block, tokens, tapped, rng_state } in blocks.into_iter().rev() {
            let tokens = tokens.set_requires_grad(block > first || embedded.requires_grad());
            generator::set_state(device, &rng_state)?;
            let guard = Autocast::enable(device, products)?;
            let output = self.image().block(block, &tokens, grid, &guest);
            drop(guard);
            // In a single graph, autograd would add the tap's gradient first, because the head runs after this block. Its term
            // is created last here, so that the order of the sum is the same.
            let tap_term = tapped.and_then(|tapped| grad_scalar(&tokens, &tapped.grad()));
            backward_of_sum([grad_scalar(&output, &grad_output), tap_term]);
            grad_output = tokens.grad();
        }
        backward_of_sum([grad_scalar(&embedded, &grad_output)]);
        Ok(())
    }
}

/// Detaches `xs`, keeping `requires_grad`.
fn detach_leaf(xs: &Tensor) -> Tensor {
    xs.detach().set_requires_grad(xs.requires_grad())
}

/// A scalar whose gradient with respect to `xs` is `gradient`; none if `xs` needs no gradient or `gradient` is undefined.
fn grad_scalar(xs: &Tensor, gradient: &Tensor) -> Option<Tensor> {
    (xs.requires_grad() && gradient.defined()).then(|| (xs * gradient).sum(None))
}

fn backward_of_sum(scalars: impl IntoIterator<Item = Option<Tensor>>) {
    if let Some(sum) = scalars.into_iter().flatten().reduce(|sum, scalar| sum + scalar) {
        sum.backward();
    }
}
