//! Responses of the visual adapters to the sentence: the dot product of each patch and the end token in the common width of an
//! adapter's cross-modal unit.

use std::cell::RefCell;

use talent::{Stage, Talent};
use tch::Tensor;

/// Collects the patches that enter the adapters' cross-modal units in a forward pass.
#[derive(Debug, Default)]
pub(crate) struct AdapterPatches(RefCell<Vec<(usize, Tensor)>>);

impl AdapterPatches {
    /// For [`talent::Pass::observe`].
    pub(crate) fn observe(&self, stage: Stage, value: &Tensor) {
        if let Stage::AdapterPatches(block) = stage {
            self.0.borrow_mut().push((block, value.shallow_clone()));
        }
    }

    /// Block index and response `[batch, patches]` of each adapter that sees the words.
    ///
    /// - words: the pass's word features, `[batch, K, T]`; ids: its tokens, int64 `[batch, K]`
    pub(crate) fn responses(&self, model: &Talent, words: &Tensor, ids: &Tensor) -> Vec<(usize, Tensor)> {
        self.responses_to(model, &model.text().at_sentence(words, ids))
    }

    /// As [`AdapterPatches::responses`], to one word.
    ///
    /// - word: features of a word, `[batch, T]`
    pub(crate) fn responses_to(&self, model: &Talent, word: &Tensor) -> Vec<(usize, Tensor)> {
        let patches = self.0.borrow();
        let responses = patches.iter().filter_map(|(block, patches)| {
            let response = model.visual_adapters().get(*block)?.unit().compare(patches, word)?;
            Some((*block, response))
        });
        responses.collect()
    }
}
