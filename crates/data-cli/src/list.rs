use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use cli_kit::outln;
use refcoco::{Dataset, Descriptor};
use serde_json::json;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Folder of the data sets
    #[arg(long, default_value = command_kit::DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// One data set below the data root, or missing there.
struct Entry {
    name: String,
    about: String,
    /// State: complete, partial, present (nothing published to compare with), broken or missing.
    state: &'static str,
    detail: String,
}

pub(crate) fn list(args: &ListArgs) -> Result<()> {
    let described = Descriptor::described_below(&args.data_root)?;
    let is_described = |name: &str| described.iter().any(|(known, _)| known == name);
    let mut descriptors = Descriptor::all()?;
    let own = Descriptor::own_below(&args.data_root)?;
    let built_in: Vec<String> = descriptors.iter().map(|descriptor| descriptor.name.clone()).collect();
    descriptors.extend(own.into_iter().filter(|own| !built_in.contains(&own.name)));
    descriptors.retain(|descriptor| !is_described(&descriptor.name));
    let mut entries: Vec<Entry> =
        descriptors.into_iter().map(|descriptor| entry(descriptor, &args.data_root)).collect();
    for (name, descriptor) in described {
        entries.push(match descriptor {
            Ok(descriptor) => entry(Descriptor { name, ..descriptor }, &args.data_root),
            Err(error) => Entry { name, about: String::new(), state: "broken", detail: error.to_string() },
        });
    }
    if args.json {
        let rows = entries
            .iter()
            .map(|Entry { name, state, detail, .. }| json!({"name": name, "state": state, "detail": detail}));
        outln!("{}", json!({"data_root": args.data_root, "datasets": rows.collect::<Vec<_>>()}));
    } else {
        for Entry { name, about, state, detail } in &entries {
            let detail = if detail.is_empty() { about } else { detail };
            outln!("{name:17} {state:9} {detail}");
        }
    }
    Ok(())
}

fn entry(descriptor: Descriptor, data_root: &std::path::Path) -> Entry {
    if !descriptor.is_present(data_root) {
        let Descriptor { name, about, .. } = descriptor;
        return Entry { name, about, state: "missing", detail: String::new() };
    }
    let (state, detail) = match Dataset::open_described(descriptor.clone(), data_root) {
        Ok(dataset) => completeness(&dataset),
        Err(error) => ("broken", error.to_string()),
    };
    Entry { name: descriptor.name, about: descriptor.about, state, detail }
}

/// State and details of a data set: whether it has the refs its descriptor expects, and the images its refs are in.
fn completeness(dataset: &Dataset) -> (&'static str, String) {
    let counts = dataset.ref_counts();
    let count = |split: &str| counts.get(split).copied().unwrap_or(0);
    let shown: Vec<String> =
        dataset.splits().iter().map(|split| format!("{split} {}", count(split))).collect();
    let mut detail = format!("refs: {}", shown.join(", "));
    let missing = dataset.missing_images().len();
    if missing > 0 {
        detail.push_str(&format!("; {missing} images are missing"));
    }
    let val = &dataset.descriptor.val;
    if count(val) == 0 {
        detail.push_str(&format!("; there is no split `{val}`"));
    }
    let expected = &dataset.descriptor.expected_refs;
    let all_refs = expected.iter().all(|(split, &n)| count(split) == n);
    let state = match (missing == 0 && all_refs, expected.is_empty()) {
        (false, _) => "partial",
        (true, true) => "present",
        (true, false) => "complete",
    };
    (state, detail)
}
