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
    descriptor: Descriptor,
    /// complete, partial, present (nothing published to compare with), broken or missing.
    state: &'static str,
    detail: String,
}

pub(crate) fn list(args: &ListArgs) -> Result<()> {
    let mut descriptors = Descriptor::all()?;
    let own = Descriptor::own_below(&args.data_root)?;
    descriptors.extend(own.into_iter().filter(|own| own.format == refcoco::AnnotationFormat::Own));
    let entries: Vec<Entry> =
        descriptors.into_iter().map(|descriptor| entry(descriptor, &args.data_root)).collect();
    if args.json {
        let rows = entries.iter().map(|Entry { descriptor, state, detail }| {
            json!({"name": descriptor.name, "state": state, "detail": detail})
        });
        outln!("{}", json!({"data_root": args.data_root, "datasets": rows.collect::<Vec<_>>()}));
    } else {
        for Entry { descriptor, state, detail } in &entries {
            let detail = if detail.is_empty() { &descriptor.about } else { detail };
            outln!("{:17} {state:9} {detail}", descriptor.name);
        }
    }
    Ok(())
}

fn entry(descriptor: Descriptor, data_root: &std::path::Path) -> Entry {
    let present = data_root.join(&descriptor.folder).join(&descriptor.refs).is_file();
    if !present {
        return Entry { descriptor, state: "missing", detail: String::new() };
    }
    let (state, detail) = match Dataset::open_described(descriptor.clone(), data_root) {
        Ok(dataset) => judge(&dataset),
        Err(error) => ("broken", error.to_string()),
    };
    Entry { descriptor, state, detail }
}

/// Whether a data set has the refs its descriptor expects and the images its refs are in.
fn judge(dataset: &Dataset) -> (&'static str, String) {
    let counts = dataset.ref_counts();
    let count = |split: &str| counts.get(split).copied().unwrap_or(0);
    let shown: Vec<String> =
        dataset.splits().iter().map(|split| format!("{split} {}", count(split))).collect();
    let mut detail = format!("refs: {}", shown.join(", "));
    let missing = dataset.missing_images().len();
    if missing > 0 {
        detail.push_str(&format!("; {missing} images are missing"));
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
