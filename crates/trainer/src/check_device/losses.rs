//! The losses on the device against the CPU in float64: values, partners and gradients on random features.

use anyhow::Result;
use tch::{Device, Kind, Tensor};
use tlm_losses::{Cpcl, CpclConfig, Segmentation, Tccl};

use super::part::{Outcome, Setting};

/// Allowed relative error in float64, where only the order of sums differs.
const DOUBLE: f64 = 1e-10;
/// Allowed error in float32 relative to the largest entry, for sums of up to 1e5 terms.
const SINGLE: f64 = 2e-5;
/// Share of positions that may have a different partner in float32 because their response is near the threshold.
const UNDECIDED: f64 = 0.005;

/// A loss with its inputs in float64 on the CPU: leaf tensors, which get a gradient, and the rest.
struct Case {
    name: String,
    leaves: Vec<Tensor>,
    rest: Vec<Tensor>,
    loss: Box<Loss>,
}

/// Computes a loss, and CPCL's partners, from the inputs with and without a gradient.
type Loss = dyn Fn(&[Tensor], &[Tensor]) -> (Tensor, Option<Tensor>);

/// Value of the loss, gradients of the leaf tensors, and partners.
type Found = (Tensor, Vec<Tensor>, Option<Tensor>);

impl Case {
    fn on(&self, device: Device, kind: Kind) -> Found {
        let there = |xs: &Tensor| xs.to_device(device).to_kind(kind);
        let leaves: Vec<Tensor> =
            self.leaves.iter().map(|xs| there(xs).copy().set_requires_grad(true)).collect();
        let rest: Vec<Tensor> = self.rest.iter().map(there).collect();
        let (loss, partners) = (self.loss)(&leaves, &rest);
        loss.backward();
        let host = |xs: Tensor| xs.to_device(Device::Cpu);
        let gradients = leaves.iter().map(|leaf| host(leaf.grad().to_kind(Kind::Double))).collect();
        (host(loss.detach().to_kind(Kind::Double)), gradients, partners.map(host))
    }
}

fn cases(small: bool) -> Vec<Case> {
    let place = (Kind::Double, Device::Cpu);
    let (b, c, side) = if small { (2, 32, 16) } else { (4, 128, 32) };
    let mut cases = Vec::new();
    let ways = [
        ("cpcl", CpclConfig::default()),
        ("cpcl, temperature 0.2", CpclConfig { temperature: 0.2, ..Default::default() }),
        ("cpcl, 3 partners", CpclConfig { top_k: Some(3), temperature: 0.2, ..Default::default() }),
    ];
    for (name, how) in ways {
        cases.push(Case {
            name: name.into(),
            leaves: vec![Tensor::randn([b, c, side, side], place).relu()],
            // Scaled so that some positions have partners, but not all.
            rest: vec![Tensor::randn([b, c], place) * (64.0 / f64::from(c as i32)).sqrt()],
            loss: Box::new(move |leaves, rest| {
                let out = Cpcl::new(how).loss(&leaves[0], &rest[0]);
                (out.loss, Some(out.partners))
            }),
        });
    }
    cases.push(Case {
        name: "tccl".into(),
        leaves: vec![
            Tensor::randn([b, c, side, side], place).relu(),
            Tensor::randn([b, c], place),
            Tensor::randn([b, c], place),
        ],
        rest: vec![Tensor::from_slice(&[1.0, 0.0, 1.0, 1.0]).narrow(0, 0, b)],
        loss: Box::new(|leaves, rest| {
            (Tccl::default().loss(&leaves[0], &leaves[1], &leaves[2], &rest[0], None).loss, None)
        }),
    });
    cases.push(Case {
        name: "segmentation".into(),
        leaves: vec![Tensor::randn([b, 1, 4 * side, 4 * side], place) * 4.0],
        rest: vec![Tensor::rand([b, 1, 14 * side, 14 * side], place)],
        loss: Box::new(|leaves, rest| (Segmentation::default().loss(&leaves[0], &rest[0]).total(), None)),
    });
    cases
}

/// The largest difference, divided by the largest expected entry.
fn relative(found: &Tensor, expected: &Tensor) -> Result<f64> {
    let largest = |xs: &Tensor| f64::try_from(xs.abs().max());
    Ok(largest(&(found - expected))? / largest(expected)?.max(f64::MIN_POSITIVE))
}

pub(super) fn losses(setting: &Setting) -> Result<Outcome> {
    tch::manual_seed(18);
    let mut outcome = Outcome::default();
    for case in cases(setting.small()) {
        let expected = case.on(Device::Cpu, Kind::Double);
        for (kind, label, bound) in [(Kind::Double, "float64", DOUBLE), (Kind::Float, "float32", SINGLE)] {
            let found = case.on(setting.device, kind);
            let mut decided = true;
            if let (Some(found), Some(expected)) = (&found.2, &expected.2) {
                let others = f64::try_from(found.ne_tensor(expected).to_kind(Kind::Double).mean(None))?;
                let bound = if kind == Kind::Double { 0.0 } else { UNDECIDED };
                outcome.at_most(&format!("{}, {label}: other partners", case.name), others, bound);
                decided = others == 0.0;
                let some = f64::try_from(expected.select(2, 0).ge(0).to_kind(Kind::Double).mean(None))?;
                outcome.figure(&format!("{}: positions with partner", case.name), some);
                outcome.require(some > 0.01, || format!("{}: too few partners to tell", case.name));
            }
            // With different partners the loss is a different function, so its value and gradients cannot be compared.
            if decided {
                let value = relative(&found.0, &expected.0)?;
                outcome.at_most(&format!("{}, {label}: value", case.name), value, bound);
                for (index, (found, expected)) in found.1.iter().zip(&expected.1).enumerate() {
                    let error = relative(found, expected)?;
                    outcome.at_most(&format!("{}, {label}: gradient {index}", case.name), error, bound);
                }
            }
        }
    }
    Ok(outcome)
}
