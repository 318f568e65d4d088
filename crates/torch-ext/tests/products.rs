//! Compares products and attention by oneDNN or MKL with the same in float64, which libtorch's own kernels compute.
#![allow(missing_docs)]

use tch::{Device, Kind, Tensor};
use torch_ext::Autocast;
use torch_ext::layers::{attention, linear};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn leaf(xs: &Tensor, kind: Kind) -> Tensor {
    xs.to_kind(kind).copy().detach().set_requires_grad(true)
}

/// Largest absolute difference, relative to the largest expected value.
fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let largest = f64::try_from(expected.abs().max()).unwrap();
    f64::try_from((found.to_kind(Kind::Double) - expected).abs().max()).unwrap() / largest
}

/// Compares the value of `run` and its gradients for all inputs in both precisions.
fn compare(inputs: &[Tensor], kind: Kind, tolerance: f64, run: impl Fn(&[Tensor]) -> Tensor) {
    let mut drawn: Option<Tensor> = None;
    let results = [kind, Kind::Double].map(|kind| {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| leaf(input, kind)).collect();
        let value = run(&inputs);
        assert_eq!(value.kind(), kind);
        let pull = drawn.get_or_insert_with(|| Tensor::randn(value.size(), DOUBLE)).to_kind(kind);
        (&value * pull).sum(Kind::Double).backward();
        let mut all = vec![value.detach()];
        all.extend(inputs.iter().map(Tensor::grad));
        all
    });
    let [found, expected] = results;
    for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let distance = distance(found, expected);
        assert!(distance < tolerance, "result {place}: {distance}");
    }
}

#[test]
fn linear_layers_and_their_gradients() {
    tch::manual_seed(0);
    for (n_in, n_out) in [(96, 160), (160, 96)] {
        let inputs = [
            Tensor::randn([3, 200, n_in], DOUBLE),
            Tensor::randn([n_out, n_in], DOUBLE),
            Tensor::randn([n_out], DOUBLE),
        ];
        compare(&inputs, Kind::Float, 1e-5, |xs| linear(&xs[0], &xs[1], Some(&xs[2])));
        compare(&inputs[..2], Kind::Float, 1e-5, |xs| linear(&xs[0], &xs[1], None));
        // Neither operand is contiguous.
        compare(&inputs[..2], Kind::Float, 1e-5, |xs| {
            let (x, w) = (xs[0].transpose(0, 1), xs[1].transpose(0, 1).contiguous().transpose(0, 1));
            linear(&x, &w, None)
        });
    }
}

#[test]
fn frozen_operands_get_no_gradient() {
    let place = (Kind::Float, Device::Cpu);
    let (x, w) = (Tensor::randn([600, 96], place), Tensor::randn([128, 96], place));
    assert!(!linear(&x, &w, None).requires_grad());
    let trained = leaf(&w, Kind::Float);
    linear(&x, &trained, None).sum(Kind::Float).backward();
    assert!(trained.grad().defined() && !x.grad().defined());
    let x = leaf(&x, Kind::Float);
    linear(&x, &w, None).sum(Kind::Float).backward();
    assert!(x.grad().defined() && !w.grad().defined());
}

#[test]
fn attention_and_its_gradients() {
    tch::manual_seed(2);
    // One block of queries; then several blocks with another number of keys.
    // In bfloat16, widths of whole tiles have kernels of their own where the processor has instructions for them.
    for (n, m, width) in [(300, 300, 16), (1100, 130, 16), (301, 301, 64), (1100, 131, 32), (130, 1029, 64)] {
        let heads = |rows: i64| Tensor::randn([2, rows, 3, width], DOUBLE);
        let inputs = [heads(n), heads(m), heads(m)];
        let run = |xs: &[Tensor]| {
            let [q, k, v] = [0, 1, 2].map(|place| xs[place].transpose(1, 2));
            attention(&q, &k, &v, 0.0, false)
        };
        compare(&inputs, Kind::Float, 1e-5, run);
        compare(&inputs, Kind::BFloat16, 2e-2, run);
    }
}

#[test]
fn biases_that_are_views() {
    tch::manual_seed(7);
    let place = (Kind::Float, Device::Cpu);
    let (x, w) = (Tensor::randn([400, 128], place), Tensor::randn([160, 128], place));
    let strided = Tensor::randn([160, 4], place).select(1, 1);
    let expanded = Tensor::randn([1], place).expand([160], false);
    let wide = |xs: &Tensor| xs.to_kind(Kind::Double);
    for bias in [strided, expanded] {
        let expected = wide(&x).matmul(&wide(&w).transpose(0, 1)) + wide(&bias);
        assert!(distance(&linear(&x, &w, Some(&bias)), &expected) < 1e-5);
        let low = {
            let _guard = Autocast::enable(Device::Cpu, Kind::BFloat16).unwrap();
            linear(&x, &w, Some(&bias))
        };
        assert!(low.kind() == Kind::BFloat16 && distance(&low, &expected) < 1e-2);
    }
}

#[test]
fn attention_over_other_batches_and_widths_is_libtorchs() {
    let refused = |q: [i64; 4], k: [i64; 4], kind: Kind| {
        let [q, k] = [q, k].map(|shape| Tensor::ones(shape, (kind, Device::Cpu)));
        std::panic::catch_unwind(|| attention(&q, &k, &k, 0.0, false)).is_err()
    };
    for kind in [Kind::Float, Kind::BFloat16] {
        assert!(refused([2, 4, 300, 64], [4, 2, 300, 64], kind));
        assert!(refused([2, 3, 300, 64], [2, 3, 300, 32], kind));
        // One batch of keys for two of queries.
        assert!(!refused([2, 3, 300, 64], [1, 3, 300, 64], kind));
    }
}

#[test]
fn second_derivatives_and_impossible_probabilities_are_refused() {
    let place = (Kind::Float, Device::Cpu);
    let x = Tensor::randn([600, 96], place).set_requires_grad(true);
    let w = Tensor::randn([128, 96], place);
    let value = linear(&x, &w, None).square().sum(Kind::Float);
    let second = Tensor::f_run_backward(&[&value], &[&x], true, true);
    // libtorch's own products have one.
    match cfg!(feature = "cpu-kernels") {
        true => {
            let error = second.unwrap_err().to_string();
            assert!(error.contains("no second derivative"), "{error}");
        }
        false => assert!(second.is_ok()),
    }
    assert!(Tensor::f_run_backward(&[&value], &[&x], true, false).is_ok());
    for probability in [-0.5, 1.5, f64::NAN] {
        let dropped = || torch_ext::layers::dropout(&x, probability, torch_ext::layers::Mode::Train);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(dropped)).is_err());
    }
}

#[test]
fn dropped_attention_weights_and_their_gradients() {
    tch::manual_seed(3);
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
        dropped_attention_weights(kind, tolerance);
    }
}

fn dropped_attention_weights(kind: Kind, tolerance: f64) {
    let (n, p) = (256, 0.25);
    let [q, k] = [0, 1].map(|_| leaf(&Tensor::randn([1, 2, n, 16], DOUBLE), kind));
    // With the identity as values, the result is the attention weights.
    let v = Tensor::eye(n, (kind, Device::Cpu)).expand([1, 2, n, n], false);
    let (q_wide, k_wide) = (q.constant_pad_nd([0, n - 16]), k.constant_pad_nd([0, n - 16]));
    tch::manual_seed(4);
    let kept = attention(&q_wide, &k_wide, &v, p, false);
    let mask = kept.detach().ne(0.0).to_kind(Kind::Double) / (1.0 - p);
    let share = f64::try_from(mask.mean(Kind::Double)).unwrap();
    assert!((share - 1.0).abs() < 0.01, "{share}");

    let [q_double, k_double] = [&q, &k].map(|xs| leaf(xs, Kind::Double));
    let scores = q_double.matmul(&k_double.transpose(2, 3)) / (n as f64).sqrt();
    let expected = scores.softmax(-1, None) * mask;
    assert!(distance(&kept.detach(), &expected.detach()) < tolerance);
    let pull = Tensor::randn([1, 2, n, n], DOUBLE);
    (&kept * pull.to_kind(kind)).sum(Kind::Double).backward();
    (expected * pull).sum(Kind::Double).backward();
    assert!(distance(&q.grad(), &q_double.grad()) < tolerance);
    assert!(distance(&k.grad(), &k_double.grad()) < tolerance);
    tch::manual_seed(4);
    assert!(attention(&q_wide, &k_wide, &v, p, false).equal(&kept));
}

#[test]
fn copies_of_frozen_weights_follow_the_weights() {
    tch::manual_seed(5);
    let place = (Kind::Float, Device::Cpu);
    let (x, mut w) = (Tensor::randn([4, 8], place), Tensor::randn([8, 8], place));
    let product = |w: &Tensor| {
        let _guard = Autocast::enable(Device::Cpu, Kind::BFloat16).unwrap();
        tch::no_grad(|| linear(&x, w, None))
    };
    let expected = |w: &Tensor| x.to_kind(Kind::BFloat16).matmul(&w.to_kind(Kind::BFloat16).transpose(0, 1));
    for _ in 0..2 {
        assert_eq!(product(&w).kind(), Kind::BFloat16);
        assert!(product(&w).equal(&expected(&w)));
    }
    w *= 3.0;
    assert!(product(&w).equal(&expected(&w)));
    tch::no_grad(|| w.copy_(&Tensor::ones([8, 8], place)));
    assert!(product(&w).equal(&expected(&w)));
}

#[test]
fn frozen_layers_in_bf16_and_the_gradients_of_their_inputs() {
    tch::manual_seed(6);
    let mut w = Tensor::randn([96, 160], DOUBLE).to_kind(Kind::Float);
    let bias = Tensor::randn([96], DOUBLE).to_kind(Kind::Float);
    // Twice with the same weight, whose layouts are kept, then with another one in the same memory.
    for round in 0..3 {
        if round == 2 {
            w *= -2.0;
        }
        for rows in [3, 300] {
            let x = leaf(&Tensor::randn([2, rows, 160], DOUBLE), Kind::Float);
            let value = {
                let _guard = Autocast::enable(Device::Cpu, Kind::BFloat16).unwrap();
                linear(&x, &w, Some(&bias))
            };
            assert_eq!(value.kind(), Kind::BFloat16);
            let pull = Tensor::randn(value.size(), DOUBLE);
            (&value * pull.to_kind(Kind::BFloat16)).sum(Kind::Double).backward();
            let exact = x.to_kind(Kind::Double).detach().matmul(&w.to_kind(Kind::Double).transpose(0, 1));
            assert!(distance(&value.detach(), &(exact + bias.to_kind(Kind::Double))) < 1e-2);
            assert!(distance(&x.grad(), &pull.matmul(&w.to_kind(Kind::Double))) < 1e-2);
        }
    }
}
