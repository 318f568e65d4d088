//! Training speed and peak memory at growing batch sizes.

use anyhow::Result;
use serde_json::{Value, json};

use super::part::{Outcome, Setting};
use super::speed::Network;
use crate::bench::Repeats;
use crate::bench::memory::peak_mib;
use crate::bench::network::Way;
use crate::config::Precision;
use crate::distributed::Processes;
use crate::panics::as_errors;

pub(super) fn batches(setting: &Setting) -> Result<Outcome> {
    let sizes: &[usize] = if setting.small() { &[1, 2, 8] } else { &[1, 2, 4, 8, 16, 32, 64, 96, 128] };
    let mut outcome = Outcome::default();
    let mut rows: Vec<Value> = Vec::new();
    for &n in sizes {
        torch_ext::reset_peak_device_bytes(setting.device)?;
        let measured = as_errors(|| {
            let network = Network::new(setting, Precision::Bf16, n)?;
            network.measure(&Processes::default(), Way::Plain, Repeats { repeats: 5, warm_up: 2 })
        });
        match measured {
            Ok(measured) => {
                let rate = n as f64 / measured.median();
                outcome.figure(&format!("samples_per_s_{n}"), rate);
                rows.push(json!({"batch": n, "samples_per_s": rate, "peak_mib": peak_mib(setting.device)?}));
            }
            // The largest batches may exceed the device's memory.
            Err(error) if n > 32 && format!("{error:#}").contains("out of memory") => {
                outcome.remark(format!("a batch of {n} does not fit into this device's memory"));
                break;
            }
            Err(error) => return Err(error.context(format!("a batch of {n}"))),
        }
    }
    outcome.figure("batches", rows);
    Ok(outcome)
}
