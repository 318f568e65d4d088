//! Process groups of threads in one process: each thread joins with its own `Group`.
// Without Gloo there are no process groups on the CPU.
#![cfg(feature = "gloo")]
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d::{Error, Group, Reduce, Rendezvous, reduce_scalar};
use tch::{Device, Kind, Tensor};
use torch_ext::Store;
use torch_ext::across::{self, Processes};
use torch_ext::layers::{BatchNorm, Mode};

fn meeting(rank: usize, size: usize, port: u16, seconds: u64) -> Rendezvous {
    let timeout = Duration::from_secs(seconds);
    Rendezvous { rank, size, local_rank: rank, host: "127.0.0.1".into(), port, timeout }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs `work` in `size` threads, each with its own `Group`. Returns the results by rank.
fn together<T: Send>(size: usize, work: impl Fn(Arc<Group>) -> T + Sync) -> Vec<T> {
    let port = free_port();
    std::thread::scope(|scope| {
        let start = |rank| {
            let work = &work;
            scope.spawn(move || {
                let meeting = meeting(rank, size, port, 30);
                work(Arc::new(Group::join(meeting, Device::Cpu, &BTreeMap::new()).unwrap()))
            })
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn values(xs: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(xs.contiguous().view([-1])).unwrap()
}

#[test]
fn operations_by_hand() {
    for size in [1, 2, 4] {
        together(size, |group| {
            let (rank, n) = (group.rank() as f64, size as f64);
            // A transposed tensor is not contiguous.
            let mut xs = Tensor::from_slice(&[rank, 1.0, 2.0, 3.0]).view([2, 2]).tr();
            group.all_reduce(&mut xs, Reduce::Sum).unwrap();
            assert_eq!(values(&xs.tr()), [n * (n - 1.0) / 2.0, n, 2.0 * n, 3.0 * n]);
            assert_eq!(reduce_scalar(&group, rank, Reduce::Max).unwrap(), n - 1.0);
            assert_eq!(reduce_scalar(&group, rank, Reduce::Min).unwrap(), 0.0);
            let mut xs = Tensor::from_slice(&[rank, -rank]);
            group.broadcast(&mut xs, size - 1).unwrap();
            assert_eq!(values(&xs), [n - 1.0, 1.0 - n]);
            let all = group.all_gather(&Tensor::from_slice(&[rank])).unwrap();
            assert_eq!(
                all.iter().flat_map(values).collect::<Vec<_>>(),
                (0..size).map(|r| r as f64).collect::<Vec<_>>()
            );
            let texts = group.gather_bytes("x".repeat(group.rank()).as_bytes()).unwrap();
            assert_eq!(texts, (0..size).map(|r| vec![b'x'; r]).collect::<Vec<_>>());
            assert!(group.gather_bytes(b"").unwrap().iter().all(Vec::is_empty));
            group.barrier().unwrap();
            assert!(!group.has_failed());
        });
    }
}

/// Runs a training step of batch normalisation. Returns the gradients of weight and bias with the running mean and variance,
/// the output, and the gradient of the input.
fn normalise(
    xs: &Tensor,
    grad_output: &Tensor,
    processes: Option<Arc<dyn Processes>>,
) -> (Vec<Tensor>, Tensor, Tensor) {
    let store = Store::new(Device::Cpu, Kind::Double);
    store.together().set(processes);
    let norm = BatchNorm::new(&store.root(), 3, 1e-5);
    let leaf = xs.copy().set_requires_grad(true);
    let output = norm.forward(&leaf, Mode::Train);
    (&output * grad_output).sum(Kind::Double).backward();
    let own = |name: &str| store.get(name).unwrap();
    let tensors = vec![own("weight").grad(), own("bias").grad(), own("running_mean"), own("running_var")];
    (tensors, output.detach(), leaf.grad())
}

#[test]
fn batch_norm_goes_over_all_processes() {
    let place = (Kind::Double, Device::Cpu);
    tch::manual_seed(3);
    // The mean is far from zero, where computing the variance from the mean of squares would lose digits.
    let (xs, by) = (Tensor::randn([8, 3, 4, 5], place) * 2.0 + 100.0, Tensor::randn([8, 3, 4, 5], place));
    let (whole, output, gradient) = normalise(&xs, &by, None);
    for size in [2, 4] {
        let (xs, by) = (values(&xs), values(&by));
        let share = 8 / size as i64;
        let results = together(size, |group| {
            let rank = group.rank() as i64;
            let own = |all: &[f64]| Tensor::from_slice(all).view([8, 3, 4, 5]).narrow(0, rank * share, share);
            let processes: Arc<dyn Processes> = group;
            let shared = Some(Arc::clone(&processes));
            let (mut tensors, output, gradient) = normalise(&own(&xs), &own(&by), shared);
            processes.add(&mut tensors[0]);
            processes.add(&mut tensors[1]);
            (tensors.iter().map(values).collect::<Vec<_>>(), values(&output), values(&gradient))
        });
        let close = |ours: &[f64], theirs: &Tensor| {
            let theirs = values(theirs);
            let far = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(ours.len() == theirs.len() && far < 1e-10, "{far}");
        };
        for (rank, (tensors, own_output, own_gradient)) in results.iter().enumerate() {
            let own = |all: &Tensor| all.narrow(0, rank as i64 * share, share);
            close(own_output, &own(&output));
            close(own_gradient, &own(&gradient));
            for (ours, theirs) in tensors.iter().zip(&whole) {
                close(ours, theirs);
            }
        }
    }
}

#[test]
fn operations_in_the_background_pass_others_by() {
    for size in [1, 3] {
        together(size, |group| {
            let started = group.start_all_reduce(Tensor::from(1.0), Reduce::Sum);
            assert_eq!(started.unwrap_err(), Error::NotConnected);
            // Keeps every process in the group until all have joined.
            let _ = group.barrier();
        });
        together(size, |group| {
            group.connect_beside().unwrap();
            let rank = group.rank() as f64;
            let start =
                |value: f64| group.start_all_reduce(Tensor::from_slice(&[value]), Reduce::Sum).unwrap();
            // Another operation is interleaved: rank 0 does it before the second background operation, the others after it.
            let mut between = Tensor::from(rank);
            let first = start(rank);
            if group.rank() == 0 {
                group.all_reduce(&mut between, Reduce::Max).unwrap();
            }
            let second = start(1.0);
            if group.rank() != 0 {
                group.all_reduce(&mut between, Reduce::Max).unwrap();
            }
            let n = size as f64;
            assert_eq!(values(&group.finish_all_reduce(first).unwrap()), [n * (n - 1.0) / 2.0]);
            assert_eq!(values(&group.finish_all_reduce(second).unwrap()), [n]);
            assert_eq!(values(&between), [n - 1.0]);
        });
    }
}

#[test]
fn a_sum_has_the_gradient_of_all_losses() {
    // The loss of rank r is (r + 1) (sum x)^2. The gradient of all losses for each x_r is 2 (sum x) (sum of r + 1).
    let gradients = together(3, |group| {
        let rank = group.rank() as f64;
        let x = Tensor::from(rank + 1.0).set_requires_grad(true);
        let processes: Arc<dyn Processes> = group;
        let sum = across::sum(&processes, &x);
        assert_eq!(f64::try_from(&sum).unwrap(), 6.0);
        (sum.square() * (rank + 1.0)).backward();
        f64::try_from(x.grad()).unwrap()
    });
    assert_eq!(gradients, [72.0; 3]);
}

#[test]
fn who_does_not_come_is_named() {
    // libtorch queries the name service for the address of every connection, which can take 5 seconds.
    let started = Instant::now();
    let error = Group::join(meeting(0, 2, free_port(), 12), Device::Cpu, &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, Error::Absent { rank: 1, size: 2, .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60));
    let error = Group::join(meeting(1, 2, free_port(), 2), Device::Cpu, &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().contains("rank 1 of 2 cannot meet the others"), "{error}");
}

#[test]
fn who_is_about_to_do_something_else_is_named() {
    let port = free_port();
    let join = |rank: usize| {
        let lr = if rank == 2 { "0.1" } else { "0.2" };
        let about = BTreeMap::from([("train.lr".to_owned(), lr.to_owned())]);
        Group::join(meeting(rank, 3, port, 30), Device::Cpu, &about).map(|_| ())
    };
    let expected = Error::Differs { rank: 2, what: "train.lr is 0.1 there, 0.2 at rank 0".to_owned() };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|rank| scope.spawn(move || join(rank))).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Err(expected.clone()));
        }
    });
}

#[test]
fn another_number_of_processes_is_named_at_once() {
    let sizes = |sizes: &[usize]| -> Vec<String> {
        let port = free_port();
        let join = |rank: usize| {
            Group::join(meeting(rank, sizes[rank], port, 60), Device::Cpu, &BTreeMap::new())
                .unwrap_err()
                .to_string()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..sizes.len()).map(|rank| scope.spawn(move || join(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let started = Instant::now();
    for (found, rank, there, at_first) in [(sizes(&[2, 3]), 1, 3, 2), (sizes(&[3, 2]), 1, 2, 3)] {
        let expected = format!(
            "rank {rank} differs from rank 0: WORLD_SIZE, the number of processes, is {there} there, {at_first} at rank 0"
        );
        assert_eq!(found, [expected.clone(), expected]);
    }
    assert!(started.elapsed() < Duration::from_secs(55), "within less than one time-out");
}

#[test]
fn any_time_out_can_be_asked_for() {
    let group =
        |seconds| Group::join(meeting(0, 1, free_port(), seconds), Device::Cpu, &BTreeMap::new()).unwrap();
    for seconds in [1 << 33, 1 << 63, u64::MAX] {
        group(seconds).barrier().unwrap();
    }
}

#[test]
fn who_leaves_or_stays_away_is_blamed() {
    let blamed = together(3, |group| match group.rank() {
        1 => None,
        _ => {
            group.all_reduce(&mut Tensor::from(1.0), Reduce::Sum).unwrap_err();
            assert!(group.has_failed());
            Some(group.blame().to_string())
        }
    });
    let expected = Some("rank 1 shows no sign of life".to_owned());
    assert_eq!(blamed, [expected.clone(), None, expected]);

    for culprit in [0, 1] {
        let blamed = together(3, |group| match group.rank() {
            rank if rank == culprit => {
                group.tell_failure("the disk is full");
                assert_eq!(group.barrier(), Err(Error::Left));
                None
            }
            _ => {
                group.all_reduce(&mut Tensor::from(1.0), Reduce::Sum).unwrap_err();
                Some(group.blame().to_string())
            }
        });
        let mut expected = vec![Some(format!("rank {culprit} failed: the disk is full")); 3];
        expected[culprit] = None;
        assert_eq!(blamed, expected);
    }
}

#[cfg(feature = "nccl")]
#[test]
fn nccl_adds_on_a_gpu() {
    if !tch::Cuda::is_available() {
        println!("SKIPPED: NCCL needs a GPU, and libtorch sees none");
        return;
    }
    let group = Group::join(meeting(0, 1, free_port(), 60), Device::Cuda(0), &BTreeMap::new()).unwrap();
    let mut xs = Tensor::from_slice(&[1.0, 2.0]).to_device(Device::Cuda(0));
    group.all_reduce(&mut xs, Reduce::Sum).unwrap();
    group.broadcast(&mut xs, 0).unwrap();
    assert_eq!(values(&xs.to_device(Device::Cpu)), [1.0, 2.0]);
    assert_eq!(group.gather_bytes(b"x").unwrap(), [b"x"]);
}
