use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use talent::weights::read_tensor;
use tch::{Device, Kind, Tensor};
use weight_files::WeightFile;

use crate::json::read_json;
use crate::report::{CaseReport, Comparison, Tolerance};

/// A recording that is being compared: its tensors, its JSON, and the results so far.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) json: Value,
    /// Device of the recorded inputs.
    pub(crate) device: Device,
    tensors: BTreeMap<String, Tensor>,
    used: BTreeSet<String>,
    comparisons: Vec<Comparison>,
    notes: Vec<String>,
}

/// First line of a panic's message.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without message");
    // libtorch appends its stack frames, escaped because tch unwraps its errors.
    text.split(['\n']).next().and_then(|line| line.split("\\n").next()).unwrap_or(text)
}

impl Case {
    /// Loads `<name>.json` and `<name>.safetensors`, runs `work`, and checks that it used every tensor.
    pub(crate) fn run(
        name: &str,
        folder: &Path,
        device: Device,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> CaseReport {
        match Self::load(name, folder, device) {
            Ok(case) => case.execute(work),
            Err(error) => CaseReport::failed(name, &format!("{error:#}")),
        }
    }

    /// A case without files of its own.
    pub(crate) fn bare(name: &str, work: impl FnOnce(&mut Self) -> Result<()>) -> CaseReport {
        Self::new(name, Value::Null, Device::Cpu, BTreeMap::new()).execute(work)
    }

    fn new(name: &str, json: Value, device: Device, tensors: BTreeMap<String, Tensor>) -> Self {
        Self {
            name: name.to_owned(),
            json,
            device,
            tensors,
            used: BTreeSet::new(),
            comparisons: vec![],
            notes: vec![],
        }
    }

    fn load(name: &str, folder: &Path, device: Device) -> Result<Self> {
        let json = read_json(&folder.join(format!("{name}.json")))?;
        let path = folder.join(format!("{name}.safetensors"));
        let tensors = if path.is_file() { read_tensors(&path, device)? } else { BTreeMap::new() };
        Ok(Self::new(name, json, device, tensors))
    }

    fn execute(mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> CaseReport {
        // tch panics where libtorch refuses an operation, for example because a recorded tensor has another shape.
        // One inside of `no_grad` would leave autograd off for the cases that follow; the guard puts it back.
        let guard = tch::no_grad_guard();
        let done = catch_unwind(AssertUnwindSafe(|| tch::with_grad(|| work(&mut self))));
        drop(guard);
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.notes.push(format!("{error:#}")),
            Err(panic) => self.notes.push(format!("cannot be computed: {}", panic_message(&*panic))),
        }
        let unused: Vec<&str> =
            self.tensors.keys().filter(|name| !self.used.contains(*name)).map(String::as_str).collect();
        if !unused.is_empty() {
            self.notes.push(format!("recorded but not compared: {}", unused.join(", ")));
        }
        CaseReport::finished(&self.name, self.comparisons, self.notes)
    }

    /// Names of all recorded tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A recorded tensor, for use as an input or as the expected value of a comparison made elsewhere. Counts as used.
    pub(crate) fn input(&mut self, name: &str) -> Result<Tensor> {
        let tensor = self.tensors.get(name).with_context(|| format!("the recording lacks `{name}`"))?;
        self.used.insert(name.to_owned());
        Ok(tensor.shallow_clone())
    }

    /// Compares with the recorded tensor of this name.
    pub(crate) fn compare(&mut self, name: &str, found: &Tensor, tolerance: Tolerance) -> Result<()> {
        let expected = self.input(name)?;
        self.compare_with(name, found, &expected, tolerance);
        Ok(())
    }

    /// Compares all entries. The shapes must be equal except for axes of length 1.
    pub(crate) fn compare_with(
        &mut self,
        label: &str,
        found: &Tensor,
        expected: &Tensor,
        tolerance: Tolerance,
    ) {
        let essential = |tensor: &Tensor| tensor.size().into_iter().filter(|&n| n != 1).collect::<Vec<_>>();
        if essential(found) != essential(expected) {
            self.notes.push(format!("{label}: shape {:?}, recorded {:?}", found.size(), expected.size()));
            return;
        }
        let wide = |tensor: &Tensor| on_host(&tensor.detach()).to_kind(Kind::Double).contiguous().view([-1]);
        let (found, expected) = (wide(found), wide(expected));
        let largest = |tensor: &Tensor| {
            if tensor.numel() == 0 { Ok(0.0) } else { f64::try_from(tensor.abs().max()) }
        };
        match (largest(&(&found - &expected)), largest(&expected)) {
            (Ok(error), Ok(scale)) => self.comparisons.push(Comparison::new(label, error, scale, tolerance)),
            (Err(error), _) | (_, Err(error)) => self.notes.push(format!("{label}: {error}")),
        }
    }

    /// Compares single numbers.
    pub(crate) fn compare_number(&mut self, label: &str, found: f64, expected: f64, tolerance: Tolerance) {
        self.comparisons.push(Comparison::new(label, (found - expected).abs(), expected.abs(), tolerance));
    }

    /// Compares the number of positions that have a partner with a number in the case's JSON.
    pub(crate) fn compare_rows(&mut self, label: &str, partners: &Tensor, pointer: &str) -> Result<()> {
        let passing = f64::try_from(partners.ge(0).to_kind(Kind::Double).sum(None))?;
        let expected = self.number(pointer)?;
        self.compare_number(label, passing, expected, Tolerance::Exact);
        Ok(())
    }

    /// Records a comparison whose error was computed elsewhere.
    pub(crate) fn record(&mut self, comparison: Comparison) {
        self.comparisons.push(comparison);
    }

    /// Records a condition; the case fails if it does not hold.
    pub(crate) fn check(&mut self, label: &str, holds: bool) {
        let error = if holds { 0.0 } else { f64::INFINITY };
        self.comparisons.push(Comparison::new(label, error, 1.0, Tolerance::Exact));
    }

    /// A number in the case's JSON, by JSON pointer.
    pub(crate) fn number(&self, pointer: &str) -> Result<f64> {
        let value = self.json.pointer(pointer).and_then(Value::as_f64);
        value.ok_or_else(|| anyhow!("the case's JSON has no number at {pointer}"))
    }

    /// A string in the case's JSON, by JSON pointer.
    pub(crate) fn text(&self, pointer: &str) -> Result<String> {
        let value = self.json.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        value.ok_or_else(|| anyhow!("the case's JSON has no text at {pointer}"))
    }
}

/// Fails if tensors are left over, where each comparison removes the tensors that it uses.
pub(crate) fn nothing_left(tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
    ensure!(names.is_empty(), "recorded but not compared: {}", names.join(", "));
    Ok(())
}

/// Copies a tensor to the CPU, where comparisons are made.
pub(crate) fn on_host(tensor: &Tensor) -> Tensor {
    tensor.to_device(Device::Cpu)
}

/// All tensors of a weight file, on a device.
pub(crate) fn read_tensors(path: &Path, device: Device) -> Result<BTreeMap<String, Tensor>> {
    let mut file = WeightFile::open(path)?;
    let names: Vec<String> = file.tensors().map(|(name, _)| name.to_owned()).collect();
    names
        .into_iter()
        .map(|name| Ok((name.clone(), read_tensor(&mut file, &name)?.to_device(device))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;

    #[test]
    fn a_case_that_libtorch_refuses_fails_alone() {
        let report = Case::bare("shapes", |_| {
            let _ = Tensor::zeros([2, 3], (tch::Kind::Float, Device::Cpu))
                .matmul(&Tensor::zeros([2, 3], (tch::Kind::Float, Device::Cpu)));
            Ok(())
        });
        assert_eq!(report.verdict, Verdict::Fail);
        let line = report.to_string();
        assert!(line.contains("cannot be computed") && line.lines().count() <= 2, "{line}");
    }
}
