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

/// Operation of an all-reduce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Sum of the values.
    Sum,
    /// Minimum of the values.
    Min,
    /// Maximum of the values.
    Max,
}

/// A process group. All processes must call the same collective operations in the same order, with tensors of the same shape,
/// dtype and device. An operation returns when all processes have called it.
///
/// If an operation fails or a process does not call it in time, it fails on every process. [`Group::blame`] then names the
/// process at fault. After a failure the group cannot be used any more.
#[derive(Debug)]
pub struct Group {
    meeting: Rendezvous,
    /// The lock serialises operations of different threads. `None` once this process has left the group.
    backends: Mutex<Option<Backends>>,
    watch: Watch,
    operations: Arc<AtomicU64>,
    failed: AtomicBool,
    on_device: bool,
    /// Must live as long as the backends, which communicate through it.
    store: RawStore,
}

/// An all-reduce in the background that has not been waited for, see [`Group::start_all_reduce`].
#[derive(Debug)]
pub struct PendingReduce {
    xs: Tensor,
    work: RawWork,
}

#[derive(Debug)]
struct Backends {
    /// Gloo, for tensors on the CPU.
    host: RawGroup,
    /// NCCL, for tensors on a GPU.
    device: Option<RawGroup>,
    /// For background operations, on the CPU or a GPU.
    background: Option<RawGroup>,
}

impl Backends {
    fn for_tensor(&self, xs: &Tensor) -> &RawGroup {
        match &self.device {
            Some(group) if xs.device().is_cuda() => group,
            _ => &self.host,
        }
    }
}

impl Group {
    /// Joins the other processes. NCCL is used for tensors on a GPU, Gloo for tensors on the CPU. The environment variable
    /// `GLOO_SOCKET_IFNAME` can set Gloo's network interface.
    ///
    /// - about: settings by name that must be equal on all processes
    ///
    /// # Errors
    /// When a process does not join in time, or joins with other settings.
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
        compare_settings(&store, &meeting, &place, about)?;
        let operations = Arc::new(AtomicU64::new(0));
        let watch = Watch::start(meeting.clone(), Arc::clone(&operations))?;
        let backends = Backends {
            host: host_group((&store, "gloo"), &meeting)?,
            device: if device.is_cuda() { Some(device_group((&store, "nccl"), &meeting)?) } else { None },
            background: None,
        };
        Ok(Self {
            backends: Mutex::new(Some(backends)),
            watch,
            operations,
            failed: AtomicBool::new(false),
            meeting,
            on_device: device.is_cuda(),
            store,
        })
    }

    /// Rank: number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.meeting.rank
    }

    /// World size: number of processes.
    pub fn size(&self) -> usize {
        self.meeting.size
    }

    fn operation<T>(&self, body: impl FnOnce(&Backends) -> Result<T, Error>) -> Result<T, Error> {
        let backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(backends) = &*backends else { return Err(Error::Left) };
        let _span = trace_span!("communication").entered();
        self.operations.fetch_add(1, Ordering::Relaxed);
        let result = body(backends);
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Runs an in-place operation on a tensor. The backends need contiguous memory, so other tensors are copied.
    fn in_place(
        &self,
        xs: &mut Tensor,
        body: impl FnOnce(&RawGroup, &Tensor) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let contiguous = tch::no_grad(|| xs.contiguous());
        self.operation(|backends| body(backends.for_tensor(&contiguous), &contiguous))?;
        if !xs.is_contiguous() {
            tch::no_grad(|| xs.copy_(&contiguous));
        }
        Ok(())
    }

    /// All-reduce of a tensor over all processes, in place.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn all_reduce(&self, xs: &mut Tensor, how: Reduce) -> Result<(), Error> {
        self.in_place(xs, |group, contiguous| group.all_reduce(contiguous, how as std::ffi::c_int))
    }

    /// Opens the connections for [`Group::start_all_reduce`]. Background operations need separate connections, because their
    /// order relative to other operations can differ between processes.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn connect_beside(&self) -> Result<(), Error> {
        let connected = match self.on_device {
            true => device_group((&self.store, "nccl-beside"), &self.meeting)?,
            false => host_group((&self.store, "gloo-beside"), &self.meeting)?,
        };
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends.as_mut().ok_or(Error::Left)?.background = Some(connected);
        Ok(())
    }

    /// Starts an all-reduce in the background. All processes must start their background operations in the same order; other
    /// operations may be interleaved in any way. Call [`Group::connect_beside`] once before.
    ///
    /// - xs: contiguous, on the group's device
    ///
    /// # Errors
    /// When a process is lost.
    pub fn start_all_reduce(&self, xs: Tensor, how: Reduce) -> Result<PendingReduce, Error> {
        let work = self.operation(|backends| {
            let background = backends.background.as_ref().ok_or(Error::NotConnected)?;
            background.start_all_reduce(&xs, how as std::ffi::c_int)
        })?;
        Ok(PendingReduce { xs, work })
    }

    /// Waits for a background operation and returns its result. On a GPU the host does not wait: only work queued from now on
    /// does.
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

    /// Broadcast: overwrites a tensor in place with the tensor of rank `root`.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn broadcast(&self, xs: &mut Tensor, root: usize) -> Result<(), Error> {
        self.in_place(xs, |group, contiguous| group.broadcast(contiguous, root))
    }

    /// All-gather: returns the tensors of all processes, in the order of their ranks.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn all_gather(&self, xs: &Tensor) -> Result<Vec<Tensor>, Error> {
        let xs = xs.detach().contiguous();
        let all: Vec<Tensor> = (0..self.size()).map(|_| xs.empty_like()).collect();
        self.operation(|backends| backends.for_tensor(&xs).all_gather(&xs, &all))?;
        Ok(all)
    }

    /// All-gather of byte strings, in the order of the ranks. Lengths may differ between processes.
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

    /// Barrier: returns when all processes have called it.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn barrier(&self) -> Result<(), Error> {
        self.operation(|backends| backends.host.barrier())
    }

    /// Whether an operation has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Closes the connections. Operations that other processes are waiting in then fail.
    fn leave(&self) {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// After a failure, leaves the group and finds out which process is at fault. It takes a few seconds, because it waits for
    /// the heartbeats of the other processes.
    pub fn blame(&self) -> Error {
        self.leave();
        Error::Lost(self.watch.blame())
    }

    /// Leaves the group and tells the other processes why. Their next operation fails, and [`Group::blame`] gives them the
    /// message.
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

/// Publishes this process's settings in the store, and compares those of all processes with rank 0.
fn compare_settings(
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
        // Sizes are compared first: a process with a larger world size would wait for ranks that do not exist.
        let theirs = store.get(&format!("size/{other}"), timeout).map_err(absent)?;
        compare_sizes(store, meeting, other, &String::from_utf8_lossy(&theirs))?;
        let found = store.get(&format!("about/{other}"), timeout).map_err(absent)?;
        all.push(serde_json::from_slice(&found).map_err(|error| Error::Rendezvous(error.to_string()))?);
    }
    // No process may leave before all have read the settings, because the store ends with rank 0.
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

/// Fails at once if another process has a different world size.
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
        // The store ends with this process, so the processes that have joined get time to read it.
        for other in 1..size.max(theirs.parse().unwrap_or(0)).min(MAX_MISMATCH_READERS) {
            if store.get(&format!("size/{other}"), Duration::from_millis(1)).is_ok() {
                let _ = store.get(&format!("compared/{other}"), MISMATCH_TIMEOUT);
            }
        }
    }
    Err(Error::Differs {
        rank: differs,
        what: format!("WORLD_SIZE, the number of processes, is {there} there, {at_first} at rank 0"),
    })
}

/// How long rank 0 waits for another process to read that their world sizes differ.
const MISMATCH_TIMEOUT: Duration = Duration::from_secs(5);
/// For how many processes rank 0 waits at most.
const MAX_MISMATCH_READERS: usize = 4096;

#[cfg(feature = "gloo")]
fn host_group(named: (&RawStore, &str), meeting: &Rendezvous) -> Result<RawGroup, Error> {
    let interface = std::env::var("GLOO_SOCKET_IFNAME").unwrap_or_default();
    // If all processes are on one machine, the address of rank 0 is also the address to listen on.
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

/// Path of the shared library for NCCL: the file named by `TALENT_NCCL_LIBRARY`, otherwise `libtalent_nccl.so` beside the
/// program, otherwise the one built by the feature `nccl`. `None` if there is none.
pub fn nccl_library() -> Option<PathBuf> {
    library_for_gpus("TALENT_NCCL_LIBRARY", "libtalent_nccl.so", option_env!("TALENT_NCCL_BUILT"))
}

/// All-reduce of one number per process.
///
/// # Errors
/// When a process is lost.
pub fn reduce_scalar(group: &Group, value: f64, how: Reduce) -> Result<f64, Error> {
    let mut xs = Tensor::from(value).to_kind(Kind::Double);
    group.all_reduce(&mut xs, how)?;
    Ok(f64::try_from(xs)?)
}
