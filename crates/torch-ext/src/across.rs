//! Data-parallel computation: several processes, each with a part of the batch.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tch::Tensor;

use crate::custom_gradient;

/// Group of processes with an all-reduce.
pub trait Processes: Send + Sync {
    /// Number of processes (world size).
    fn size(&self) -> usize;
    /// Number of this process, from 0 (rank).
    fn rank(&self) -> usize;
    /// All-reduce (sum) of a tensor, in place. All processes must call it in the same order.
    ///
    /// # Panics
    /// When a process is lost. tch's own operations panic on errors, too.
    fn add(&self, xs: &mut Tensor);
}

/// The processes that share the batches of a network. None until [`Together::set`] is called. All modules registered in one
/// [`Store`](crate::Store) share this value.
#[derive(Clone, Default)]
pub struct Together(Rc<RefCell<Option<Arc<dyn Processes>>>>);

impl std::fmt::Debug for Together {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = self.0.borrow().as_ref().map_or(1, |processes| processes.size());
        f.debug_struct("Together").field("size", &size).finish()
    }
}

impl Together {
    /// From now on, batch statistics are computed over these processes. `None`: over this process alone.
    pub fn set(&self, processes: Option<Arc<dyn Processes>>) {
        *self.0.borrow_mut() = processes;
    }

    /// The processes that share the batch. `None` if there is only this one.
    pub(crate) fn others(&self) -> Option<Arc<dyn Processes>> {
        self.0.borrow().clone().filter(|processes| processes.size() > 1)
    }
}

/// All-reduce (sum) of a value without gradient. Returns the sum and the world size. A single process gets its own value.
pub fn total(xs: &Tensor, processes: Option<&dyn Processes>) -> (Tensor, usize) {
    let Some(processes) = processes.filter(|processes| processes.size() > 1) else { return (xs.detach(), 1) };
    let mut sum = xs.detach().copy();
    processes.add(&mut sum);
    (sum, processes.size())
}

/// Differentiable all-reduce (sum). The backward pass all-reduces the incoming gradient, so the result is the gradient of the
/// sum of all processes' losses.
pub fn sum(processes: &Arc<dyn Processes>, xs: &Tensor) -> Tensor {
    let mut value = xs.detach().copy();
    processes.add(&mut value);
    let processes = Arc::clone(processes);
    custom_gradient(&[xs], value, move |grad| {
        let mut summed = grad.copy();
        processes.add(&mut summed);
        vec![summed]
    })
}
