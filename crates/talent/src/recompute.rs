//! Training passes that keep less: what the image encoder's blocks compute on the way is thrown away, and computed again
//! block by block in the backward pass.

use backbone::{TextOutput, unobserved};
use tch::{Kind, Tensor};
use torch_ext::layers::Mode;
use torch_ext::{Autocast, ShimError, generator};
use tracing::trace_span;

use crate::model::{Encoded, Talent, TalentOutput};
use crate::pass::{Pass, Sentences, Triplet};

/// What the forward pass keeps for the backward pass.
struct Kept {
    /// The tokens before the first block, with their graph.
    embedded: Tensor,
    /// The first block that is differentiated.
    first: usize,
    /// Blocks from there on.
    blocks: Vec<BlockInput>,
    /// Detached outputs of the tapped blocks and of the last one, with their block; they hold the head's gradients.
    seen: Vec<(usize, Tensor)>,
}

impl Kept {
    /// The last block's output.
    fn last(&self) -> &Tensor {
        &self.seen[self.seen.len() - 1].1
    }
}

/// What a block needs to be computed again.
struct BlockInput {
    block: usize,
    /// The tokens that enter it.
    tokens: Tensor,
    /// The same as the head saw them, if they are tapped; holds the head's gradient.
    tapped: Option<Tensor>,
    /// State of the random generator before it.
    random: Tensor,
}

impl Talent {
    /// A training pass together with its backward pass: adds the gradients of `loss` to the trained parameters'. These,
    /// buffers and random numbers are those of [`Talent::forward`] and a backward pass behind it, on the CPU to the
    /// last bit. Of the image encoder's blocks only the inputs are kept, and their forward passes are done twice.
    ///
    /// - images: `[batch, 3, S, S]`, normalised
    /// - products: dtype of the forward pass's matrix products, [`Kind::Float`] for full precision
    /// - loss: a scalar from what the network computes
    ///
    /// # Errors
    /// When libtorch cannot switch to the dtype or hand out the state of its random generator.
    pub fn train_recomputing(
        &self,
        images: &Tensor,
        ids: &Triplet<'_>,
        products: Kind,
        loss: impl FnOnce(&TalentOutput) -> Tensor,
    ) -> Result<(), ShimError> {
        let device = images.device();
        let guard = Autocast::enable(device, products)?;
        let sentences = Sentences::Triplet(*ids);
        let text = self.encode(sentences, &Pass::TRAIN);
        // The graph is cut behind the text encoder and around every block, and each piece differentiated by itself.
        let given = TextOutput { words: cut(&text.words), state: cut(&text.state) };
        let sentence = Encoded::new(sentences, &given);
        let words = sentence.words.shallow_clone();

        let span = trace_span!("vision blocks").entered();
        let kept = self.keep_block_inputs(images, &words)?;
        let levels = self.levels([&kept.seen[0].1, &kept.seen[1].1], kept.last());
        drop(span);
        let output = self.forward_head(levels, sentence, Mode::Train);
        let total = loss(&output);
        drop((output, guard));

        let _span = trace_span!("backward").entered();
        total.backward();
        drop(total);
        let after = generator::state(device)?;
        self.backward_by_blocks(kept, &words, products)?;
        generator::set_state(device, &after)?;
        let by_text =
            [weighted(&text.state, &given.state.grad()), weighted(&text.words, &given.words.grad())];
        differentiate(by_text);
        Ok(())
    }

    /// Forward pass of the image encoder without a graph.
    fn keep_block_inputs(&self, images: &Tensor, words: &Tensor) -> Result<Kept, ShimError> {
        let n_blocks = self.image().n_blocks();
        let embedded = self.image().embed(images, &unobserved);
        let first = if embedded.requires_grad() { 0 } else { self.first_trained_block().unwrap_or(n_blocks) };
        let adapters = self.visual_adapters();
        let mut tokens = embedded.detach();
        let (mut blocks, mut seen) = (Vec::new(), Vec::<(usize, Tensor)>::new());
        let tap_of = |seen: &[(usize, Tensor)], block: usize| {
            seen.last().filter(|(tapped, _)| *tapped == block).map(|(_, tokens)| tokens.shallow_clone())
        };
        let guest = adapters.guest(words, None, Mode::Train, &|_, _| {});
        for index in 0..n_blocks {
            if index >= first {
                let tapped = index.checked_sub(1).and_then(|before| tap_of(&seen, before));
                let random = generator::state(images.device())?;
                blocks.push(BlockInput { block: index, tokens: tokens.shallow_clone(), tapped, random });
            }
            tokens = tch::no_grad(|| self.image().block(index, &tokens, &guest));
            let is_last = index + 1 == n_blocks;
            if is_last || self.config().image.taps.contains(&(index as i64)) {
                seen.push((index, tokens.detach().set_requires_grad(index >= first)));
            }
        }
        Ok(Kept { embedded, first, blocks, seen })
    }

    /// Computes blocks again from the last to the first, and differentiates each by itself.
    fn backward_by_blocks(&self, kept: Kept, words: &Tensor, products: Kind) -> Result<(), ShimError> {
        let mut by_output = kept.last().grad();
        let Kept { embedded, first, blocks, .. } = kept;
        let device = embedded.device();
        let adapters = self.visual_adapters();
        let guest = adapters.guest(words, None, Mode::Recompute, &|_, _| {});
        for BlockInput { block, tokens, tapped, random } in blocks.into_iter().rev() {
            let tokens = tokens.set_requires_grad(block > first || embedded.requires_grad());
            generator::set_state(device, &random)?;
            let guard = Autocast::enable(device, products)?;
            let output = self.image().block(block, &tokens, &guest);
            drop(guard);
            // In one graph the tap's gradient, of later work, would come first; here, too.
            let by_tap = tapped.and_then(|tapped| weighted(&tokens, &tapped.grad()));
            differentiate([weighted(&output, &by_output), by_tap]);
            by_output = tokens.grad();
        }
        differentiate([weighted(&embedded, &by_output)]);
        Ok(())
    }
}

/// Detaches `xs`, keeping `requires_grad`.
fn cut(xs: &Tensor) -> Tensor {
    xs.detach().set_requires_grad(xs.requires_grad())
}

/// A scalar whose gradient by `xs` is `gradient`; none where nothing depends on `xs`.
fn weighted(xs: &Tensor, gradient: &Tensor) -> Option<Tensor> {
    (xs.requires_grad() && gradient.defined()).then(|| (xs * gradient).sum(None))
}

fn differentiate(scalars: impl IntoIterator<Item = Option<Tensor>>) {
    if let Some(sum) = scalars.into_iter().flatten().reduce(|sum, scalar| sum + scalar) {
        sum.backward();
    }
}
