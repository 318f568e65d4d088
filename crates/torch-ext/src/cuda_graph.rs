//! CUDA graphs: a stretch of a GPU's work, recorded once and then asked for by a single call.

use std::path::PathBuf;

use tch::Device;

use crate::shim::ShimError;
use crate::shim::graph::RawGraph;

/// The library that records graphs, if there is one: the file that `TALENT_GRAPHS_LIBRARY` names, or else
/// `libtalent_graphs.so` beside the program, or the one that the feature `cuda-graphs` has built.
pub fn graphs_library() -> Option<PathBuf> {
    library_for_gpus("TALENT_GRAPHS_LIBRARY", "libtalent_graphs.so", option_env!("TALENT_GRAPHS_BUILT"))
}

/// A library that is loaded for GPUs only.
///
/// - variable: of the environment, that may name it
/// - name: of the file beside the program
/// - built: by this build
pub fn library_for_gpus(variable: &str, name: &str, built: Option<&str>) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(variable).filter(|name| !name.is_empty()) {
        return Some(named.into());
    }
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(name)));
    [beside, built.map(PathBuf::from)].into_iter().flatten().find(|path| path.is_file())
}

/// Work of a GPU, recorded. It reads and writes the tensors that it was recorded with, so whoever repeats it overwrites its
/// inputs in place, and takes its results before the next repetition. Random numbers go on from one to the next.
#[derive(Debug)]
pub struct CudaGraph(RawGraph);

impl CudaGraph {
    /// Makes this thread's work on a GPU go to a stream that can be recorded. To be called before the work that warms up.
    ///
    /// # Errors
    /// When there is no library for graphs, see [`graphs_library`], or CUDA refuses.
    pub fn prepare(device: Device) -> Result<(), ShimError> {
        RawGraph::leave_default_stream(device)
    }

    /// Records `work`, which is not done: the first [`CudaGraph::replay`] does it. Everything in it must have been done once
    /// before, so that libraries have their workspaces, and nothing in it may wait for the device.
    ///
    /// # Errors
    /// When CUDA refuses, and those of `work`.
    pub fn record<T, E: From<ShimError>>(work: impl FnOnce() -> Result<T, E>) -> Result<(Self, T), E> {
        let graph = RawGraph::begin()?;
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // The recording has to end, whatever became of the work.
        let ended = graph.end();
        let result = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ended?;
        Ok((Self(graph), result))
    }

    /// Asks for the work once more.
    ///
    /// # Errors
    /// When CUDA refuses.
    pub fn replay(&self) -> Result<(), ShimError> {
        self.0.replay()
    }
}
