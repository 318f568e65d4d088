//! Compares several ranks, which run as threads with one process group each, with a single process.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use metrics::Evaluated;
use refcoco::Batch;
use refcoco::refshapes::{Settings, generate};
use talent::ModelConfig;
use tch::Kind;

use super::*;
use crate::bench::network::random_batch;
use crate::config::Regime;
use crate::encoder_input::sample_shape;
use crate::evaluate::evaluate_split;
use crate::experiment::{Experiment, open_datasets};
use crate::gradient_buckets::GradientBuckets;
use crate::optim::adam;
use crate::precision::LossScaler;
use crate::start_values::StartValues;
use crate::step::Steps;

/// Runs `work` on `size` ranks; returns the results in rank order.
fn run_ranks<T: Send>(size: usize, work: impl Fn(Processes) -> T + Sync) -> Vec<T> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let join = |rank: usize| {
        let (host, timeout) = ("127.0.0.1".into(), Duration::from_secs(60));
        let meeting = Rendezvous { rank, size, local_rank: rank, host, port, timeout };
        let group = Arc::new(Group::join(meeting, Device::Cpu, &BTreeMap::new()).unwrap());
        work(Processes::of(group))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..size).map(|rank| scope.spawn(move || join(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// The chosen samples of a batch.
fn choose(batch: &Batch, places: &[usize]) -> Batch {
    fn pick<T: Clone>(all: &[T], n: usize, places: &[usize]) -> Vec<T> {
        let one = all.len() / n;
        places.iter().flat_map(|place| all[place * one..(place + 1) * one].to_vec()).collect()
    }
    let n = batch.n;
    Batch {
        n: places.len(),
        shape: batch.shape,
        images: pick(&batch.images, n, places).into(),
        image_of: (0..places.len() as i64).collect(),
        masks: pick(&batch.masks, n, places).into(),
        words: pick(&batch.words, n, places),
        positive_words: pick(&batch.positive_words, n, places),
        negative_words: pick(&batch.negative_words, n, places),
        valid: pick(&batch.valid, n, places),
        objects: pick(&batch.objects, n, places),
        refs: pick(&batch.refs, n, places),
        bad: Vec::new(),
    }
}

/// Loss terms, gradients, parameters and buffers after three steps. Two ranks use activation checkpointing, four all-reduce
/// gradients during the backward pass; neither may change any result.
fn three_steps(
    cfg: &Config,
    start: &StartValues,
    kind: Kind,
    processes: &Processes,
) -> BTreeMap<String, Vec<f64>> {
    let model = start.model(&cfg.model, kind);
    model.train_only(cfg.train.regime.into());
    let mut adam = adam(&model, &cfg.train);
    let mut scaler = LossScaler::new(cfg.train.precision);
    let shape = sample_shape(&cfg.model);
    let mut whole = random_batch(cfg.train.batch_size, shape, refcoco::VOCABULARY);
    // Negatives are spread unevenly over the ranks, so that the numbers of valid samples differ.
    whole.valid = (0..whole.n).map(|place| f32::from(u8::from(place != 1 && place < 5))).collect();
    for ids in [&mut whole.words, &mut whole.positive_words, &mut whole.negative_words] {
        // The recorded model has a smaller vocabulary.
        ids.iter_mut().filter(|id| **id > 0).for_each(|id| *id = 1 + *id % (cfg.model.text.vocabulary - 1));
    }
    let places: Vec<usize> = (0..whole.n).collect();
    let share = choose(&whole, &processes.share_of(&places, cfg.train.accumulate).unwrap());
    let recompute = processes.size() == 2;
    let buckets = if recompute { None } else { GradientBuckets::of_size(processes, &adam, 20_000).unwrap() };
    assert_eq!(buckets.is_some(), processes.size() > 2);
    let steps =
        Steps { recompute, buckets: buckets.as_ref(), ..Steps::plain(&model, cfg, Device::Cpu, processes) };
    let mut found = BTreeMap::new();
    for step in 0..3 {
        let report = steps.queue(&mut adam, &mut scaler, &share, 1.0, None).unwrap().report().unwrap();
        assert!(report.updated);
        found.extend(report.losses.iter().map(|(name, value)| (format!("{step} {name}"), vec![*value])));
    }
    let values = |tensor: &Tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap();
    for (name, entry) in model.store().entries() {
        if entry.tensor.grad().defined() {
            found.insert(format!("gradient {name}"), values(&entry.tensor.grad()));
        }
        found.insert(name, values(&entry.tensor));
    }
    found
}

/// The largest difference of any entry, with the entry's name.
fn largest_difference(
    ours: &BTreeMap<String, Vec<f64>>,
    theirs: &BTreeMap<String, Vec<f64>>,
) -> (f64, String) {
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    let of = |name: &String| {
        let pairs = ours[name].iter().zip(&theirs[name]);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let differences = ours.keys().map(|name| (of(name), name.clone()));
    differences.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

/// In float64 all values must agree to 1e-9. In float32, Adam turns gradients that are zero except for rounding into full-size
/// updates. So only loss terms are compared there, relative to the distance of one process from float64.
fn compare(model: ModelConfig, regime: Regime, accumulate: usize, sizes: &[usize]) {
    let mut cfg = Config::tiny();
    (cfg.model, cfg.train.regime) = (model, regime);
    cfg.model.decoder.dropout = 0.0;
    (cfg.train.batch_size, cfg.train.accumulate) = (8, accumulate);
    let start = StartValues::drawn(&cfg.model);
    let alone = |kind| three_steps(&cfg, &start, kind, &Processes::default());
    let losses = |mut found: BTreeMap<String, Vec<f64>>| {
        found.retain(|name, _| name.starts_with(|first: char| first.is_ascii_digit()));
        found
    };
    let exact = alone(Kind::Double);
    assert!(exact["0 tccl"][0] > 0.0 && exact.keys().any(|name| name.ends_with("running_var")));
    let rounded = losses(alone(Kind::Float));
    let (noise, _) = largest_difference(&rounded, &losses(exact.clone()));
    for &size in sizes {
        for found in run_ranks(size, |processes| three_steps(&cfg, &start, Kind::Double, &processes)) {
            let (difference, name) = largest_difference(&found, &exact);
            assert!(difference <= 1e-9, "{size} processes: {difference:e} in {name}");
        }
        for found in run_ranks(size, |processes| three_steps(&cfg, &start, Kind::Float, &processes)) {
            let (difference, name) = largest_difference(&losses(found), &rounded);
            assert!(
                difference <= 10.0 * noise,
                "{size} processes: {difference:e} in {name}, noise {noise:e}"
            );
        }
    }
}

#[test]
fn steps_of_the_tiny_model_equal_those_of_one_process() {
    compare(ModelConfig::tiny(), Regime::Full, 1, &[2, 4]);
}

#[test]
fn steps_of_the_recorded_model_equal_those_of_one_process() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../parity/tests/golden");
    let model = parity::recorded_model(&golden).unwrap();
    compare(model.clone(), Regime::Pet, 1, &[2, 4]);
    compare(model, Regime::Pet, 2, &[2, 4]);
}

#[test]
fn a_shared_evaluation_is_that_of_one_process() {
    let root = tempfile::tempdir().unwrap();
    let settings = Settings {
        train_images: 1,
        val_images: 5,
        test_a_images: 1,
        test_b_images: 1,
        ..Settings::default()
    };
    generate(&settings, root.path(), |_| {}).unwrap();
    let start = StartValues::drawn(&Config::tiny().model);
    let evaluate = |processes: Processes| -> (Vec<Evaluated>, Vec<usize>) {
        let mut cfg = Config::tiny();
        cfg.eval.batch_size = 3;
        let datasets = open_datasets(&cfg.data.datasets, root.path()).unwrap();
        let mut experiment = Experiment::with_datasets(cfg, Device::Cpu, datasets).unwrap();
        start.give(&experiment.model);
        experiment.processes = processes;
        let mut visited = Vec::new();
        let precision = experiment.cfg.train.precision;
        let found = evaluate_split(&experiment, 0, "val", precision, |place, _| visited.push(place)).unwrap();
        (found, visited)
    };
    let (alone, all) = evaluate(Processes::default());
    assert!(alone.len() > 8);
    for size in [2, 4] {
        let results = run_ranks(size, evaluate);
        let mut visited: Vec<usize> = results.iter().flat_map(|(_, visited)| visited.clone()).collect();
        visited.sort_unstable();
        assert_eq!(visited, all);
        for (found, _) in results {
            assert_eq!(found, alone);
        }
    }
}

#[test]
fn batches_are_cut_part_by_part() {
    let batch: Vec<usize> = (0..8).collect();
    let shares = run_ranks(2, |processes| processes.share_of(&batch, 2).unwrap());
    assert_eq!(shares, [[0, 1, 4, 5], [2, 3, 6, 7]]);
    let errors = run_ranks(2, |processes| processes.share_of(&batch[..6], 2).unwrap_err().to_string());
    assert!(errors[0].contains("a multiple of 4"), "{}", errors[0]);
}

#[test]
fn alone_everything_is_as_it_was() {
    let alone = Processes::default();
    assert_eq!((alone.rank(), alone.size(), alone.leads()), (0, 1, true));
    assert_eq!(alone.share_of(&[1, 2, 3], 2).unwrap(), [1, 2, 3]);
    assert_eq!(alone.gather("x".to_owned()).unwrap(), ["x"]);
    assert_eq!(alone.leader_value(Some(3)).unwrap(), 3);
    let xs = alone.all_reduce_mean(Tensor::from_slice(&[1.0, 3.0])).unwrap();
    assert_eq!(Vec::<f64>::try_from(xs).unwrap(), [1.0, 3.0]);
}
