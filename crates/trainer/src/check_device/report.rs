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
    pub(super) parts: Vec<Done>,
}

impl DeviceReport {
    pub(super) fn new(device: &str) -> Self {
        Self { device: device.to_owned(), parts: Vec::new() }
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
        json!({"device": self.device, "parts": self.parts.iter().map(part).collect::<Vec<_>>()})
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
        write!(f, "{}", counts.join(", "))
    }
}
