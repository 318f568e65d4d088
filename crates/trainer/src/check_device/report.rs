//! The report of a check, as JSON and as a table.

use std::fmt;

use serde_json::{Map, Value, json};

use super::part::Status;

/// The result of one part.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) name: &'static str,
    pub(super) status: Status,
    pub(super) seconds: f64,
    pub(super) figures: Map<String, Value>,
    pub(super) message: String,
}

#[derive(Debug)]
pub(super) struct DeviceReport {
    device: String,
    /// Names of the parts that were to run.
    planned: Vec<&'static str>,
    pub(super) parts: Vec<Done>,
    has_ended: bool,
}

impl DeviceReport {
    pub(super) fn new(device: &str, planned: Vec<&'static str>) -> Self {
        Self { device: device.to_owned(), planned, parts: Vec::new(), has_ended: false }
    }

    /// Notes that no part is to follow, although some may be missing after an interruption.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Whether every planned part passed or is not applicable.
    pub(super) fn is_good(&self) -> bool {
        let is_good = |part: &Done| matches!(part.status, Status::Passed | Status::NotApplicable);
        self.parts.len() == self.planned.len() && self.parts.iter().all(is_good)
    }

    fn verdict(&self) -> &'static str {
        match (self.is_good(), self.has_ended) {
            (true, true) => "passed",
            (_, false) => "not ended",
            (false, true) if self.parts.len() < self.planned.len() => "interrupted",
            (false, true) => "failed",
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let part = |part: &Done| {
            json!({
                "name": part.name,
                "status": part.status.name(),
                "seconds": part.seconds,
                "figures": part.figures,
                "message": part.message,
            })
        };
        json!({
            "device": self.device,
            "talent": env!("CARGO_PKG_VERSION"),
            "verdict": self.verdict(),
            "planned": self.planned,
            "parts": self.parts.iter().map(part).collect::<Vec<_>>(),
        })
    }
}

/// A figure as short text for the table; `None` for lists and objects, which only the JSON report shows.
fn short(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Value::Number(number) => number.as_f64().map(|number| match number.abs() {
            0.0 => "0".to_owned(),
            size if (1e-2..1e5).contains(&size) => format!("{number:.3}"),
            _ => format!("{number:.2e}"),
        }),
        Value::String(text) => Some(text.clone()),
        Value::Bool(holds) => Some(holds.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl fmt::Display for DeviceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:24}{:16}{:>9}  {}", "part", "status", "seconds", self.device)?;
        for part in &self.parts {
            let figures: Vec<String> = part
                .figures
                .iter()
                .filter(|(name, _)| !name.ends_with("_bound"))
                .filter_map(|(name, value)| Some(format!("{name} {}", short(value)?)))
                .collect();
            writeln!(
                f,
                "{:24}{:16}{:>9.1}  {}",
                part.name,
                part.status.name(),
                part.seconds,
                figures.join(", ")
            )?;
            if !part.message.is_empty() {
                writeln!(f, "{:24}{}", "", part.message)?;
            }
        }
        let counts = Status::ALL.map(|status| {
            let n = self.parts.iter().filter(|part| part.status == status).count();
            format!("{n} {}", status.name())
        });
        let n_missing = self.planned.len() - self.parts.len();
        let missing = if n_missing > 0 { format!(", {n_missing} not begun") } else { String::new() };
        write!(f, "{}{missing}", counts.join(", "))
    }
}
