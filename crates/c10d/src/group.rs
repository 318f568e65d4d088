use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tch::{Device, Kind, Tensor};
use torch_ext::library_for_gpus;
use tracing::trace_span;

use crate::Error;
use crate::rendezvous::Rendezvous;
use crate::shim::{RawGroup, RawStore, RawWork};
use crate::watch::Watch;

/// What processes do with the values that each of them holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Add them.
    Sum,
    /// Keep the smallest.
    Min,
    /// Keep the largest.
    Max,
}

/// Processes that work together. All of them call the same operations in the same order, with tensors of the same shape,
/// dtype and device; an operation returns when all have come to it.
///
/// An operation that fails, or for which somebody does not come in time, fails on every process; [`Group::blame`] then says
/// who is at fault. After a failure nothing more can be done together.
#[derive(Debug)]
pub struct Group {
    meeting: Rendezvous,
    /// One operation follows the other, whichever thread they come from. None once this process has left.
    engines: Mutex<Option<Engines>>,
    watch: Watch,
    operations: Arc<AtomicU64>,
    failed: AtomicBool,
    on_device: bool,
    /// Lives as long as the groups that meet in it.
    store: RawStore,
}

/// A reduction under way.
#[derive(Debug)]
pub struct PendingReduce {
    xs: Tensor,
    work: RawWork,
}

#[derive(Debug)]
struct Engines {
    /// For tensors on the CPU.
    host: RawGroup,
    /// For tensors on a GPU.
    device: Option<RawGroup>,
    /// For operations that are not waited for, on either.
    beside: Option<RawGroup>,
}

impl Engines {
    fn of(&self, xs: &Tensor) -> &RawGroup {
        match &self.device {
            Some(group) if xs.device().is_cuda() => group,
            _ => &self.host,
        }
    }
}

impl Group {
    /// Meets the other processes. For tensors on a GPU NCCL is used, otherwise Gloo, whose interface `GLOO_SOCKET_IFNAME` may
    /// name.
    ///
    /// - about: what must be the same everywhere, by name
    ///
    /// # Errors
    /// When one does not come in time, or is about to do something else.
    pub fn join(
        mut meeting: Rendezvous,
        device: Device,
        about: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        let Rendezvous { rank, size, timeout, .. } = meeting;
        let place = format!("{}:{}", meeting.host, meeting.port);
        let store = RawStore::new(&meeting.host, meeting.port, rank == 0, timeout).map_err(|error| {
            Error::Rendezvous(format!("rank {rank} of {size} cannot meet the others at {place}: {error}"))
        })?;
        meeting.port = store.port();
        compare(&store, &meeting, &place, about)?;
        let operations = Arc::new(AtomicU64::new(0));
        let watch = Watch::start(meeting.clone(), Arc::clone(&operations))?;
        let engines = Engines {
            host: host_group((&store, "gloo"), &meeting)?,
            device: if device.is_cuda() { Some(device_group((&store, "nccl"), &meeting)?) } else { None },
            beside: None,
        };
        Ok(Self {
            engines: Mutex::new(Some(engines)),
            watch,
            operations,
            failed: AtomicBool::new(false),
            meeting,
            on_device: device.is_cuda(),
            store,
        })
    }

    /// Number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.meeting.rank
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        self.meeting.size
    }

    fn operation<T>(&self, body: impl FnOnce(&Engines) -> Result<T, Error>) -> Result<T, Error> {
        let engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(engines) = &*engines else { return Err(Error::Left) };
        let _span = trace_span!("communication").entered();
        self.operations.fetch_add(1, Ordering::Relaxed);
        let result = body(engines);
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    /// An operation on a tensor in place, which the engines want whole in memory.
    fn in_place(
        &self,
        xs: &mut Tensor,
        body: impl FnOnce(&RawGroup, &Tensor) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let whole = tch::no_grad(|| xs.contiguous());
        self.operation(|engines| body(engines.of(&whole), &whole))?;
        if !xs.is_contiguous() {
            tch::no_grad(|| xs.copy_(&whole));
        }
        Ok(())
    }

    /// Reduces a tensor over all processes, in place.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn all_reduce(&self, xs: &mut Tensor, how: Reduce) -> Result<(), Error> {
        self.in_place(xs, |group, whole| group.all_reduce(whole, how as std::ffi::c_int))
    }

    /// Prepares [`Group::start_all_reduce`]: operations that are not waited for take connections of their own, since between
    /// them and the others there is no order.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn connect_beside(&self) -> Result<(), Error> {
        let connected = match self.on_device {
            true => device_group((&self.store, "nccl-beside"), &self.meeting)?,
            false => host_group((&self.store, "gloo-beside"), &self.meeting)?,
        };
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.as_mut().ok_or(Error::Left)?.beside = Some(connected);
        Ok(())
    }

    /// Begins to reduce a tensor over all processes in the background. These operations must begin in the same order
    /// everywhere, whatever other operations come between them. [`Group::connect_beside`] comes first.
    ///
    /// - xs: contiguous, on the group's device
    ///
    /// # Errors
    /// When a process is lost.
    pub fn start_all_reduce(&self, xs: Tensor, how: Reduce) -> Result<PendingReduce, Error> {
        let work = self.operation(|engines| {
            let beside = engines.beside.as_ref().ok_or(Error::NotConnected)?;
            beside.start_all_reduce(&xs, how as std::ffi::c_int)
        })?;
        Ok(PendingReduce { xs, work })
    }

    /// Waits for an operation; on a GPU only work that is queued from now on does.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn finish_all_reduce(&self, pending: PendingReduce) -> Result<Tensor, Error> {
        let PendingReduce { xs, work } = pending;
        let _span = trace_span!("communication").entered();
        let result = work.wait();
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result.map(|()| xs)
    }

    /// Overwrites a tensor with that of the process `root`, in place.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn broadcast(&self, xs: &mut Tensor, root: usize) -> Result<(), Error> {
        self.in_place(xs, |group, whole| group.broadcast(whole, root))
    }

    /// The tensors of all processes, in their order.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn all_gather(&self, xs: &Tensor) -> Result<Vec<Tensor>, Error> {
        let xs = xs.detach().contiguous();
        let all: Vec<Tensor> = (0..self.size()).map(|_| xs.empty_like()).collect();
        self.operation(|engines| engines.of(&xs).all_gather(&xs, &all))?;
        Ok(all)
    }

    /// The bytes of all processes, in their order; each may have another number of them.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let lengths = self.all_gather(&Tensor::from_slice(&[bytes.len() as i64]))?;
        let lengths: Vec<i64> = lengths.into_iter().map(i64::try_from).collect::<Result<_, _>>()?;
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        if longest == 0 {
            return Ok(vec![Vec::new(); self.size()]);
        }
        let mut padded = bytes.to_vec();
        padded.resize(longest, 0);
        let all = self.all_gather(&Tensor::from_slice(&padded))?;
        let cut = |(tensor, length): (Tensor, i64)| {
            let mut bytes = Vec::<u8>::try_from(tensor)?;
            bytes.truncate(length as usize);
            Ok(bytes)
        };
        all.into_iter().zip(lengths).map(cut).collect()
    }

    /// Returns when all processes have come here.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn barrier(&self) -> Result<(), Error> {
        self.operation(|engines| engines.host.barrier())
    }

    /// Whether an operation has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Closes the connections, which ends the operations that others wait in.
    fn leave(&self) {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// After a failure: which process is at fault. Takes a few seconds, in which signs of life are waited for. Leaves the
    /// others, as they cannot go on either.
    pub fn blame(&self) -> Error {
        self.leave();
        Error::Lost(self.watch.blame())
    }

    /// Tells the others why this process leaves them, and leaves. They see it at their next operation.
    pub fn tell_failure(&self, message: &str) {
        self.watch.tell(message);
        self.leave();
        self.watch.wait_for_readers();
    }
}

impl torch_ext::across::Processes for Group {
    fn size(&self) -> usize {
        self.meeting.size
    }

    fn rank(&self) -> usize {
        self.meeting.rank
    }

    fn add(&self, xs: &mut Tensor) {
        self.all_reduce(xs, Reduce::Sum).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Everybody tells what it is about to do, and compares the others with rank 0.
fn compare(
    store: &RawStore,
    meeting: &Rendezvous,
    place: &str,
    about: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let Rendezvous { rank, size, timeout, .. } = *meeting;
    let text = |map: &BTreeMap<String, String>| serde_json::to_string(map).unwrap_or_default();
    store.set(&format!("about/{rank}"), text(about).as_bytes())?;
    store.set(&format!("size/{rank}"), size.to_string().as_bytes())?;
    let mut all: Vec<BTreeMap<String, String>> = Vec::new();
    for other in 0..size {
        let absent =
            |_| Error::Absent { rank: other, size, meeting: place.to_owned(), seconds: timeout.as_secs() };
        // First, because with another number of them a process waits for some that do not exist.
        let theirs = store.get(&format!("size/{other}"), timeout).map_err(absent)?;
        compare_sizes(store, meeting, other, &String::from_utf8_lossy(&theirs))?;
        let found = store.get(&format!("about/{other}"), timeout).map_err(absent)?;
        all.push(serde_json::from_slice(&found).map_err(|error| Error::Rendezvous(error.to_string()))?);
    }
    // Nobody may leave, and rank 0 takes the store along, before all have read.
    store.set(&format!("compared/{rank}"), b"")?;
    for other in 0..size {
        let _ = store.get(&format!("compared/{other}"), timeout);
    }
    for (other, theirs) in all.iter().enumerate().skip(1) {
        let names = all[0].keys().chain(theirs.keys()).collect::<std::collections::BTreeSet<_>>();
        let show = |map: &BTreeMap<String, String>, name: &str| {
            map.get(name).cloned().unwrap_or_else(|| "nothing".into())
        };
        let differing: Vec<String> = names
            .into_iter()
            .filter(|name| all[0].get(*name) != theirs.get(*name))
            .map(|name| format!("{name} is {} there, {} at rank 0", show(theirs, name), show(&all[0], name)))
            .collect();
        if !differing.is_empty() {
            return Err(Error::Differs { rank: other, what: differing.join("; ") });
        }
    }
    Ok(())
}

/// Refuses another number of processes than this one's, at once.
fn compare_sizes(store: &RawStore, meeting: &Rendezvous, other: usize, theirs: &str) -> Result<(), Error> {
    let Rendezvous { rank, size, .. } = *meeting;
    if theirs == size.to_string() {
        return Ok(());
    }
    let (differs, there, at_first) = match other {
        0 => (rank, size.to_string(), theirs.to_owned()),
        other => (other, theirs.to_owned(), size.to_string()),
    };
    store.set(&format!("compared/{rank}"), b"")?;
    if rank == 0 {
        // The store ends with this process; those that have come should read it first.
        for other in 1..size.max(theirs.parse().unwrap_or(0)).min(MAX_FAREWELLS) {
            if store.get(&format!("size/{other}"), Duration::from_millis(1)).is_ok() {
                let _ = store.get(&format!("compared/{other}"), FAREWELL);
            }
        }
    }
    Err(Error::Differs {
        rank: differs,
        what: format!("WORLD_SIZE, the number of processes, is {there} there, {at_first} at rank 0"),
    })
}

/// How long rank 0 stays for another process to read that it differs, and for how many at most.
const FAREWELL: Duration = Duration::from_secs(5);
const MAX_FAREWELLS: usize = 4096;

#[cfg(feature = "gloo")]
fn host_group(named: (&RawStore, &str), meeting: &Rendezvous) -> Result<RawGroup, Error> {
    let interface = std::env::var("GLOO_SOCKET_IFNAME").unwrap_or_default();
    // What all on one machine meet at is where they can be reached.
    let local = matches!(meeting.host.as_str(), "127.0.0.1" | "localhost" | "::1");
    let address = if local { meeting.host.as_str() } else { "" };
    RawGroup::gloo(named, (meeting.rank, meeting.size), meeting.timeout, &interface, address)
}

#[cfg(not(feature = "gloo"))]
fn host_group(_: (&RawStore, &str), _: &Rendezvous) -> Result<RawGroup, Error> {
    Err(Error::NotBuilt("gloo"))
}

fn device_group(named: (&RawStore, &str), meeting: &Rendezvous) -> Result<RawGroup, Error> {
    let library = nccl_library().ok_or(Error::NotBuilt("nccl"))?;
    RawGroup::nccl(&library, named, (meeting.rank, meeting.size), meeting.timeout)
}

/// The library that joins processes on GPUs, if there is one: the file that `TALENT_NCCL_LIBRARY` names, or else
/// `libtalent_nccl.so` beside the program, or the one that the feature `nccl` has built.
pub fn nccl_library() -> Option<PathBuf> {
    library_for_gpus("TALENT_NCCL_LIBRARY", "libtalent_nccl.so", option_env!("TALENT_NCCL_BUILT"))
}

/// One number of every process, reduced.
///
/// # Errors
/// When a process is lost.
pub fn reduce_scalar(group: &Group, value: f64, how: Reduce) -> Result<f64, Error> {
    let mut xs = Tensor::from(value).to_kind(Kind::Double);
    group.all_reduce(&mut xs, how)?;
    Ok(f64::try_from(xs)?)
}
