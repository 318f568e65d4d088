//! The code path of several processes, run by one process (world size 1).

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use c10d::{DEFAULT_TIMEOUT, Group, Reduce, Rendezvous};
use tch::{Kind, Tensor};

use super::part::{Outcome, Setting};
use super::speed::{Network, repeats};
use crate::bench::network::Way;
use crate::config::Precision;
use crate::distributed::Processes;

/// Joins a process group, checks its collectives, and trains with gradients all-reduced after and during the backward pass.
fn together(setting: &Setting) -> Result<Outcome> {
    let device = setting.device;
    let meeting = Rendezvous {
        rank: 0,
        size: 1,
        local_rank: 0,
        host: "127.0.0.1".into(),
        port: 0,
        timeout: DEFAULT_TIMEOUT,
    };
    let group = Arc::new(Group::join(meeting, device, &BTreeMap::new())?);
    let mut xs = Tensor::arange(1000, (Kind::Float, device));
    let expected = f64::try_from(xs.sum(Kind::Double))?;
    group.all_reduce(&mut xs, Reduce::Sum)?;
    let found = f64::try_from(xs.sum(Kind::Double))?;
    ensure!(found == expected, "the sum over one process is {found}, not {expected}");
    let all = group.all_gather(&xs)?;
    ensure!(all.len() == 1 && all[0].equal(&xs), "gathering changed a tensor");
    group.broadcast(&mut xs, 0)?;
    group.barrier()?;

    let mut outcome = Outcome::default();
    let n = if setting.small() { 4 } else { 32 };
    let network = Network::new(setting, Precision::Bf16, n)?;
    let alone = network.measure(&Processes::default(), Way::Plain, repeats(setting))?.median();
    let processes = Processes::of(group);
    let joined = network.measure(&processes, Way::Plain, repeats(setting))?.median();
    let overlapped = network.measure(&processes, Way::Overlap, repeats(setting))?.median();
    outcome.figure("step_ms_overlapped", 1e3 * overlapped);
    outcome.figure("step_ms_alone", 1e3 * alone);
    outcome.figure("step_ms", 1e3 * joined);
    Ok(outcome)
}

pub(super) fn nccl(setting: &Setting) -> Result<Outcome> {
    if !setting.device.is_cuda() {
        return Ok(Outcome::not_applicable("NCCL is for GPUs"));
    }
    together(setting)
}

pub(super) fn gloo(setting: &Setting) -> Result<Outcome> {
    if setting.device.is_cuda() {
        return Ok(Outcome::not_applicable("on GPUs NCCL takes its place"));
    }
    together(setting)
}
