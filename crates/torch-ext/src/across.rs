//! Work that goes over the samples of several processes, each of which holds a share of a batch.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tch::Tensor;

use crate::custom_gradient;

/// Processes that work together.
pub trait Processes: Send + Sync {
    /// How many.
    fn size(&self) -> usize;
    /// Which of them this is, from 0.
    fn rank(&self) -> usize;
    /// Adds up a tensor over all processes, in place; all call it in the same order.
    ///
    /// # Panics
    /// When a process is lost, like tch's own operations.
    fn add(&self, xs: &mut Tensor);
}

/// Who shares the batches of a network: nobody, until [`Together::set`] says so. What is registered in one
/// [`Store`](crate::Store) has this in common.
#[derive(Clone, Default)]
pub struct Together(Rc<RefCell<Option<Arc<dyn Processes>>>>);

impl std::fmt::Debug for Together {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = self.0.borrow().as_ref().map_or(1, |processes| processes.size());
        f.debug_struct("Together").field("size", &size).finish()
    }
}

impl Together {
    /// From now on, statistics over a batch go over the batches of all these processes.
    pub fn set(&self, processes: Option<Arc<dyn Processes>>) {
        *self.0.borrow_mut() = processes;
    }

    /// The processes whose batches are one, if they are more than this.
    pub(crate) fn others(&self) -> Option<Arc<dyn Processes>> {
        self.0.borrow().clone().filter(|processes| processes.size() > 1)
    }
}

/// A value added up over all processes, and how many they are; no gradient. One process has its own.
pub fn total(xs: &Tensor, processes: Option<&dyn Processes>) -> (Tensor, usize) {
    let Some(processes) = processes.filter(|processes| processes.size() > 1) else { return (xs.detach(), 1) };
    let mut sum = xs.detach().copy();
    processes.add(&mut sum);
    (sum, processes.size())
}

/// A tensor added up over all processes, differentiable: if each process has a loss and theirs together is the sum, the
/// gradient here is the sum of the gradients there.
pub fn sum(processes: &Arc<dyn Processes>, xs: &Tensor) -> Tensor {
    let mut value = xs.detach().copy();
    processes.add(&mut value);
    let processes = Arc::clone(processes);
    custom_gradient(&[xs], value, move |by_value| {
        let mut by_all = by_value.copy();
        processes.add(&mut by_all);
        vec![by_all]
    })
}
