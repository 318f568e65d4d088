use std::cell::{Cell, RefCell};
use std::rc::Rc;

use indexmap::IndexMap;
use tch::{Device, Kind, Tensor};

use crate::across::Together;
use crate::init::Init;
use crate::layers::Mode;
use crate::low_rank::{LowRankRule, LowRankUpdate};

/// Role of an entry: trained by the optimiser or only stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A parameter.
    Parameter,
    /// A buffer, such as a running mean.
    Buffer,
}

/// In which runs a parameter trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trains {
    /// In every run: adapters and heads.
    Always,
    /// Only in runs that fine-tune the encoders.
    WithEncoders,
    /// Never: constants, and parameters of published checkpoints that are not used.
    Never,
}

/// Parameter groups of the optimiser in their order, each with its own learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptimizerGroup {
    /// Everything inside the encoders, adapters included.
    Encoders,
    /// Everything after the encoders.
    Head,
}

/// Parameters that are counted, frozen and optimised together. [`ParamPath::in_group`] sets the group at registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Name in lists, for example `visual_adapters`.
    pub name: &'static str,
    /// Larger group that its parameters are also counted in, for example `adapters`.
    pub part_of: Option<&'static str>,
    /// Group of the optimiser.
    pub optimizer: OptimizerGroup,
    /// In which runs it trains.
    pub trains: Trains,
}

impl Group {
    /// Default for parameters registered without a group.
    pub const NONE: Self =
        Self { name: "parameters", part_of: None, optimizer: OptimizerGroup::Head, trains: Trains::Always };
}

/// A named tensor of a [`Store`].
#[derive(Debug)]
pub struct Entry {
    /// The tensor; modules hold handles to the same storage.
    pub tensor: Tensor,
    /// Parameter or buffer.
    pub role: Role,
    /// Group that the entry was registered in.
    pub group: Group,
}

/// Error when assigning a value to an entry of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No entry has this name.
    #[error("tensor `{name}` is not part of this model")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The shapes differ.
    #[error("tensor `{name}` has shape {found:?}, but this model has {expected:?}")]
    Shape {
        /// The name.
        name: String,
        /// Shape of the given value.
        found: Vec<i64>,
        /// Shape of the entry.
        expected: Vec<i64>,
    },
}

/// An integer counter of a [`Store`]. It counts on the host and is added to its tensor when the tensor is read from the store.
/// Counting on a GPU would launch a kernel each time.
#[derive(Debug, Clone)]
pub struct Counter(Rc<Cell<i64>>);

impl Counter {
    /// Adds one.
    pub fn advance(&self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Named tensors in registration order.
///
/// ```
/// use tch::{Device, Kind};
/// use torch_ext::{Init, Role, Store};
///
/// let store = Store::new(Device::Cpu, Kind::Float);
/// let norm = store.root() / "norm";
/// norm.parameter("weight", &[4], Init::Const(1.0));
/// norm.buffer("running_mean", &[4], 0.0);
/// let names: Vec<_> = store.entries().into_iter().map(|(name, entry)| (name, entry.role)).collect();
/// assert_eq!(
///     names,
///     [("norm.weight".to_owned(), Role::Parameter), ("norm.running_mean".to_owned(), Role::Buffer)]
/// );
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    entries: Rc<RefCell<IndexMap<String, Entry>>>,
    counters: Rc<RefCell<Vec<(Tensor, Counter)>>>,
    low_rank: Rc<RefCell<Vec<LowRankUpdate>>>,
    mode: Rc<Cell<Mode>>,
    together: Together,
    device: Device,
    kind: Kind,
    seed: Option<u64>,
}

impl Store {
    /// An empty store. Floating-point entries get the dtype `kind`. Initial values are drawn in registration order from the
    /// current state of libtorch's CPU generator.
    pub fn new(device: Device, kind: Kind) -> Self {
        Self {
            entries: Rc::default(),
            counters: Rc::default(),
            low_rank: Rc::default(),
            mode: Rc::new(Cell::new(Mode::Eval)),
            together: Together::default(),
            device,
            kind,
            seed: None,
        }
    }

    /// An empty store whose initial values depend only on this seed and each parameter's name. Variants of a network thus get
    /// the same initial values for parameters of the same name. Registering a parameter reseeds libtorch's CPU generator.
    pub fn seeded(device: Device, kind: Kind, seed: u64) -> Self {
        Self { seed: Some(seed), ..Self::new(device, kind) }
    }

    /// Root path for registering modules.
    pub fn root(&self) -> ParamPath {
        ParamPath { store: self.clone(), prefix: String::new(), group: Group::NONE, low_rank: None }
    }

    /// The processes that share the batches of the modules registered here.
    pub fn together(&self) -> &Together {
        &self.together
    }

    /// Handles to the low-rank updates of linear layers, in registration order.
    pub fn low_rank_updates(&self) -> Vec<LowRankUpdate> {
        self.low_rank.borrow().iter().map(LowRankUpdate::handle).collect()
    }

    /// Tells layers that are not given a [`Mode`] whether they train: the dropout of low-rank updates.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.set(mode);
    }

    /// Device of the tensors.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The dtype of floating-point tensors.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Handles to all entries, in registration order.
    pub fn entries(&self) -> Vec<(String, Entry)> {
        self.flush_counters();
        let entries = self.entries.borrow();
        let copy = |(name, entry): (&String, &Entry)| {
            (
                name.clone(),
                Entry { tensor: entry.tensor.shallow_clone(), role: entry.role, group: entry.group },
            )
        };
        entries.iter().map(copy).collect()
    }

    /// A handle to one entry.
    pub fn get(&self, name: &str) -> Option<Tensor> {
        self.flush_counters();
        self.entries.borrow().get(name).map(|entry| entry.tensor.shallow_clone())
    }

    /// Sets `requires_grad` of every parameter: true if `trains` accepts its name and entry, otherwise false.
    pub fn set_trainable(&self, trains: impl Fn(&str, &Entry) -> bool) {
        for (name, entry) in self.entries.borrow().iter().filter(|(_, entry)| entry.role == Role::Parameter) {
            let _ = entry.tensor.set_requires_grad(trains(name, entry));
        }
    }

    /// Overwrites an entry, casting to its dtype.
    ///
    /// # Errors
    /// When there is no such entry or the shape differs.
    pub fn assign(&self, name: &str, value: &Tensor) -> Result<(), StoreError> {
        let mut target = self.get(name).ok_or_else(|| StoreError::Unknown { name: name.to_owned() })?;
        if target.size() != value.size() {
            return Err(StoreError::Shape {
                name: name.to_owned(),
                found: value.size(),
                expected: target.size(),
            });
        }
        tch::no_grad(|| target.copy_(value));
        Ok(())
    }

    /// Adds one to every counter. Needed after a training pass that was replayed as a CUDA graph: it does not run the host code
    /// that counts.
    pub fn count_pass(&self) {
        self.counters.borrow().iter().for_each(|(_, counter)| counter.advance());
    }

    /// Host counts of all counters that have not been added to their tensors yet.
    pub fn counts(&self) -> Vec<i64> {
        self.counters.borrow().iter().map(|(_, counter)| counter.0.get()).collect()
    }

    /// Restores the result of [`Store::counts`].
    pub fn set_counts(&self, counts: &[i64]) {
        for ((_, counter), count) in self.counters.borrow().iter().zip(counts) {
            counter.0.set(*count);
        }
    }

    /// Adds the host counts to the counters' tensors and sets them to zero.
    fn flush_counters(&self) {
        for (tensor, counter) in self.counters.borrow().iter() {
            match counter.0.take() {
                0 => {}
                n => tch::no_grad(|| drop(tensor.shallow_clone().g_add_scalar_(n))),
            }
        }
    }

    fn insert(&self, name: String, tensor: Tensor, role: Role, group: Group) -> Tensor {
        let handle = tensor.shallow_clone();
        let before = self.entries.borrow_mut().insert(name.clone(), Entry { tensor, role, group });
        assert!(before.is_none(), "two modules register `{name}`");
        handle
    }
}

/// A name prefix in a [`Store`]. `path / "attn"` appends a level.
#[derive(Debug, Clone)]
pub struct ParamPath {
    store: Store,
    prefix: String,
    group: Group,
    low_rank: Option<LowRankRule>,
}

impl ParamPath {
    /// The same path; parameters registered here and below belong to `group`.
    pub fn in_group(&self, group: Group) -> Self {
        Self { group, ..self.clone() }
    }

    /// The same path and group; parameters registered here and below never train.
    pub fn frozen(&self) -> Self {
        self.in_group(Group { trains: Trains::Never, ..self.group })
    }

    /// The same path; linear layers registered here and below have the low-rank updates that the rule asks for.
    pub fn with_low_rank(&self, rule: LowRankRule) -> Self {
        Self { low_rank: Some(rule), ..self.clone() }
    }

    pub(crate) fn low_rank(&self) -> Option<&LowRankRule> {
        self.low_rank.as_ref()
    }

    pub(crate) fn keep_low_rank(&self, updates: impl Iterator<Item = LowRankUpdate>) {
        self.store.low_rank.borrow_mut().extend(updates);
    }

    pub(crate) fn mode(&self) -> Rc<Cell<Mode>> {
        Rc::clone(&self.store.mode)
    }

    /// Name prefix of entries registered here, for example `dinov2.blocks.3`.
    pub fn name(&self) -> &str {
        &self.prefix
    }

    /// The processes that share the network's batches.
    pub fn together(&self) -> Together {
        self.store.together.clone()
    }

    /// Registers a parameter.
    pub fn parameter(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        let name = self.join(name);
        if let Some(seed) = self.store.seed {
            tch::manual_seed(seed_of(seed, &name) as i64);
        }
        let tensor = init.tensor(shape, self.store.kind, self.store.device).set_requires_grad(true);
        self.store.insert(name, tensor, Role::Parameter, self.group)
    }

    /// Registers a floating-point buffer.
    pub fn buffer(&self, name: &str, shape: &[i64], value: f64) -> Tensor {
        let tensor = Init::Const(value).tensor(shape, self.store.kind, self.store.device);
        self.store.insert(self.join(name), tensor, Role::Buffer, self.group)
    }

    /// Registers a 0-d int64 buffer that starts at 0.
    pub fn counter(&self, name: &str) -> Counter {
        let tensor = Tensor::zeros([], (Kind::Int64, self.store.device));
        let tensor = self.store.insert(self.join(name), tensor, Role::Buffer, self.group);
        let counter = Counter(Rc::default());
        self.store.counters.borrow_mut().push((tensor, counter.clone()));
        counter
    }

    fn join(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

/// Seed for one name, by the FNV-1a hash: the same on every machine and with every compiler version.
fn seed_of(seed: u64, name: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl<N: std::fmt::Display> std::ops::Div<N> for &ParamPath {
    type Output = ParamPath;

    fn div(self, name: N) -> ParamPath {
        ParamPath { prefix: self.join(&name.to_string()), ..self.clone() }
    }
}

impl<N: std::fmt::Display> std::ops::Div<N> for ParamPath {
    type Output = ParamPath;

    fn div(self, name: N) -> ParamPath {
        &self / name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_order_and_share_storage() {
        let store = Store::new(Device::Cpu, Kind::Float);
        let block = store.root() / "blocks" / 0;
        let weight = block.parameter("weight", &[2], Init::Const(1.0));
        let counter = block.counter("n");
        counter.advance();
        store.count_pass();
        assert_eq!(i64::try_from(store.get("blocks.0.n").unwrap()).unwrap(), 2);
        let names: Vec<String> = store.entries().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["blocks.0.weight", "blocks.0.n"]);
        store.assign("blocks.0.weight", &Tensor::from_slice(&[3.0, 4.0])).unwrap();
        assert_eq!(Vec::<f32>::try_from(weight).unwrap(), [3.0, 4.0]);
    }

    #[test]
    fn start_values_depend_on_seed_and_name() {
        let start = |seed: u64, before: bool| {
            let store = Store::seeded(Device::Cpu, Kind::Float, seed);
            if before {
                let _ = store.root().parameter("another", &[7], Init::Normal(1.0));
            }
            Vec::<f32>::try_from(store.root().parameter("w", &[3], Init::Normal(1.0))).unwrap()
        };
        assert_eq!(start(1, false), start(1, true));
        assert_ne!(start(1, false), start(2, false));
    }

    #[test]
    fn a_wrong_shape_names_the_tensor() {
        let store = Store::new(Device::Cpu, Kind::Float);
        let _ = store.root().parameter("w", &[17], Init::Const(0.0));
        let error = store.assign("w", &Tensor::zeros([22], (Kind::Float, Device::Cpu))).unwrap_err();
        assert_eq!(error.to_string(), "tensor `w` has shape [22], but this model has [17]");
        assert!(store.assign("v", &Tensor::from(1.0)).is_err());
    }
}
