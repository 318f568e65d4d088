//! CUDA graphs: capture a sequence of kernel launches once, then replay it with a single call.

use std::path::PathBuf;

use tch::{Device, Tensor};

use crate::remembered::served_during;
use crate::shim::ShimError;
use crate::shim::graph::RawGraph;

/// Path of the shared library for CUDA graphs: the file named by `TALENT_GRAPHS_LIBRARY`, otherwise `libtalent_graphs.so`
/// beside the program, otherwise the one built by the feature `cuda-graphs`. `None` if there is none.
pub fn graphs_library() -> Option<PathBuf> {
    library_for_gpus("TALENT_GRAPHS_LIBRARY", "libtalent_graphs.so", option_env!("TALENT_GRAPHS_BUILT"))
}

/// Finds a shared library that is loaded for GPUs only.
///
/// - variable: environment variable that may hold its path
/// - name: file name to look for beside the program
/// - built: path of the library compiled by this build, if any
pub fn library_for_gpus(variable: &str, name: &str, built: Option<&str>) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(variable).filter(|name| !name.is_empty()) {
        return Some(named.into());
    }
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(name)));
    [beside, built.map(PathBuf::from)].into_iter().flatten().find(|path| path.is_file())
}

/// A captured CUDA graph. It reads and writes the tensors that it was captured with: overwrite its inputs in place before a
/// replay, and read its results before the next one. Each replay draws new random numbers.
///
/// A graph knows addresses, not tensors: whoever captures must keep every tensor that was made before the capture and is read in
/// it. Those that a [`Remembered`](crate::Remembered) served are kept by the graph itself.
#[derive(Debug)]
pub struct CudaGraph {
    raw: RawGraph,
    _remembered: Vec<Tensor>,
}

impl CudaGraph {
    /// Switches this thread to a CUDA stream that can be captured. Call it before the warm-up run.
    ///
    /// # Errors
    /// When there is no library for CUDA graphs (see [`graphs_library`]), or CUDA fails.
    pub fn prepare(device: Device) -> Result<(), ShimError> {
        RawGraph::leave_default_stream(device)
    }

    /// Captures `work` without executing it on the GPU. The first [`CudaGraph::replay`] executes it. All of `work` must have
    /// run once before, so that libraries have allocated their workspaces, and nothing in it may synchronise with the device.
    ///
    /// # Errors
    /// When CUDA fails, or `work` returns an error.
    pub fn record<T, E: From<ShimError>>(work: impl FnOnce() -> Result<T, E>) -> Result<(Self, T), E> {
        let graph = RawGraph::begin()?;
        let work = std::panic::AssertUnwindSafe(work);
        let (done, remembered) = served_during(|| std::panic::catch_unwind(work));
        // The capture must end even if `work` failed or panicked.
        let ended = graph.end();
        let result = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ended?;
        Ok((Self { raw: graph, _remembered: remembered }, result))
    }

    /// Queues one execution of the graph.
    ///
    /// # Errors
    /// When CUDA fails.
    pub fn replay(&self) -> Result<(), ShimError> {
        self.raw.replay()
    }
}
