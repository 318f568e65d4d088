//! Parameter counts by group.

use anyhow::Result;
use cli_kit::outln;
use serde_json::json;
use talent::{Talent, forward_flops, train_flops};
use tch::{Device, Kind};
use torch_ext::{Entry, Role};

use crate::config::Config;
use crate::memory_limit::ensure_fits;

pub(crate) fn params(cfg: &Config, as_json: bool) -> Result<()> {
    ensure_fits(&cfg.model, 0)?;
    // Half precision: only the shapes matter, and a large model fits into little memory.
    let model = Talent::new(&cfg.model, Device::Cpu, Kind::Half)?;
    model.train_only(cfg.train.regime.into());
    let entries = model.store().entries();
    let parameters: Vec<&Entry> =
        entries.iter().map(|(_, entry)| entry).filter(|entry| entry.role == Role::Parameter).collect();
    let count = |wanted: &dyn Fn(&Entry) -> bool| -> usize {
        parameters.iter().filter(|entry| wanted(entry)).map(|entry| entry.tensor.numel()).sum()
    };
    let mut rows: Vec<(&str, usize)> = Vec::new();
    for entry in &parameters {
        // A parent group comes before its first subgroup.
        for name in entry.group.part_of.into_iter().chain([entry.group.name]) {
            if rows.iter().all(|(known, _)| *known != name) {
                rows.push((
                    name,
                    count(&|entry| entry.group.name == name || entry.group.part_of == Some(name)),
                ));
            }
        }
    }
    // Adapters and head first.
    rows.sort_by_key(|(name, _)| {
        let group = |entry: &&&Entry| entry.group.name == *name || entry.group.part_of == Some(name);
        parameters.iter().find(group).is_none_or(|entry| entry.group.part_of.is_none())
    });
    rows.push(("trainable", count(&|entry| entry.tensor.requires_grad())));
    rows.push(("frozen", count(&|entry| !entry.tensor.requires_grad())));
    rows.push(("total", count(&|_| true)));
    let parts = cfg.train.regime.into();
    let flops = [
        ("forward_flops", forward_flops(&cfg.model).total()),
        ("training_flops", train_flops(&cfg.model, parts).total()),
    ];
    if as_json {
        let mut report = json!({"config": cfg.name, "word_len": cfg.model.word_len});
        for (name, n) in flops {
            report[name] = json!(n);
        }
        for (name, n) in rows {
            report[name] = json!(n);
        }
        outln!("{report:#}");
        return Ok(());
    }
    outln!("{}, word_len {}", cfg.name, cfg.model.word_len);
    for (name, n) in rows {
        outln!("{:16}{:>14}", name.replace('_', " "), grouped(n));
    }
    for ((_, n), what) in flops.iter().zip(["one expression", "one training sample"]) {
        outln!("{:>30} GFLOP for {what}", format!("{:.1}", *n as f64 / 1e9));
    }
    Ok(())
}

/// A number with thousands separators.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let groups = tail.as_bytes().chunks(3).map(String::from_utf8_lossy);
    let parts: Vec<_> = (!head.is_empty()).then(|| head.into()).into_iter().chain(groups).collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn digits_are_grouped() {
        assert_eq!([0, 12, 1234, 123_456_789].map(super::grouped), ["0", "12", "1,234", "123,456,789"]);
    }
}
