//! Networks as TorchScript modules.

use std::path::Path;

use tch::Tensor;

use crate::shim::ShimError;
use crate::shim::script::RawTrace;
use crate::store::{Role, Store};

/// A recorded forward pass, `(pixels, ids) -> output`, for one batch size.
#[derive(Debug)]
pub struct Trace(RawTrace);

impl Trace {
    /// Records `forward` without gradients. This crate's CPU kernels are not used meanwhile: only libtorch's operators are recorded.
    ///
    /// What the network remembers from an earlier pass would be recorded as a constant: the network should be new.
    ///
    /// - store: the network's parameters and buffers, which become those of the module
    /// - pixels, ids: inputs with the batch as their first dimension
    ///
    /// # Errors
    /// When libtorch cannot record the pass.
    pub fn record(
        store: &Store,
        pixels: &Tensor,
        ids: &Tensor,
        forward: impl FnOnce(&Tensor, &Tensor) -> Tensor,
    ) -> Result<Self, ShimError> {
        let entries: Vec<(String, Tensor, bool)> = store
            .entries()
            .into_iter()
            .map(|(name, entry)| (name, entry.tensor, entry.role == Role::Buffer))
            .collect();
        let mut trace = RawTrace::begin(&entries, pixels, ids)?;
        let output = tch::no_grad(|| forward(pixels, ids));
        trace.end(&output)?;
        Ok(Self(trace))
    }

    /// Saves the module. Its method is `forward(pixels, ids)`, its parameters have the names of the store. Sizes that grow with the batch are
    /// computed from the input, and devices are the input's.
    ///
    /// - other: the same pass of an equal network with another batch size, which shows the sizes that grow with it
    /// - note: name and text of a file to put into the archive
    ///
    /// # Errors
    /// When the two passes differ in more than sizes, or the file cannot be written.
    pub fn save(&self, other: &Self, path: &Path, note: (&str, &str)) -> Result<(), ShimError> {
        self.0.save(&other.0, path, note)
    }
}
