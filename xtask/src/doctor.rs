//! `doctor`: reports toolchain, libtorch, CPU features, CUDA devices and data sets.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use cli_kit::{Processors, outln};
use lexopt::prelude::*;
use serde_json::{Value, json};

use crate::forward::build_quietly;
use crate::project::{cargo, output_of, program, root};
use crate::setup;

pub(crate) fn doctor(args: &[OsString]) -> Result<()> {
    let mut as_json = false;
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("json") => as_json = true,
            _ => return Err(arg.unexpected().into()),
        }
    }
    let mut report = json!({
        "toolchain": {
            "cargo": output_of(Path::new("cargo"), &["--version"]),
            "rustc": output_of(Path::new("rustc"), &["--version"]),
            "c++": output_of(Path::new("c++"), &["--version"]).and_then(|text| text.lines().next().map(str::to_owned)),
            "python": output_of(Path::new("python3"), &["--version"]),
        },
        "libtorch": libtorch(),
        "cpu": cpu(),
        "cuda": cuda(),
    });
    // Before the data sets, which a program has to be built for.
    if !as_json {
        print_machine(&report);
    }
    report["datasets"] = datasets();
    match as_json {
        true => outln!("{report:#}"),
        false => print_datasets(&report["datasets"]),
    }
    Ok(())
}

fn libtorch() -> Value {
    match setup::present() {
        None => json!({"found": false, "advice": "run `cargo xtask setup`"}),
        Some(Err(error)) => {
            json!({"found": false, "problem": format!("{error:#}"), "advice": "run `cargo xtask setup`"})
        }
        Some(Ok(found)) => json!({
            "found": true, "version": found.version, "path": found.path, "cuda_build": found.has_cuda,
        }),
    }
}

/// CPU features by which libtorch dispatches its kernels.
const FEATURES: [&str; 6] = ["avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"];

fn cpu() -> Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let flags = field("flags").or_else(|| field("Features")).unwrap_or_default();
    let has = |feature: &&&str| flags.split_whitespace().any(|flag| flag == **feature);
    let processors = Processors::here();
    json!({
        "model": field("model name"),
        "cores": processors.usable,
        "cores_of_machine": processors.of_machine,
        "busy": processors.busy,
        "notes": processors.notes(processors.usable),
        "features": FEATURES.iter().filter(has).collect::<Vec<_>>(),
    })
}

/// Whether CUDA can be used, and if not, why. Asks the program `talent` if it is built, otherwise looks for the driver and for
/// libtorch's CUDA libraries.
fn cuda() -> Value {
    let talent = program("talent");
    let asked = output_of(&talent, &["devices"]).and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let devices = asked.as_ref().and_then(|report| report["cuda_devices"].as_i64());
    let available = devices.is_some_and(|n| n > 0);
    let driver = ["/dev/nvidiactl", "/dev/nvidia0"].iter().any(|path| Path::new(path).exists());
    let build = match setup::present() {
        Some(Ok(found)) => Some(found.has_cuda),
        _ => None,
    };
    let why_not = match (available, build, driver, devices) {
        (true, ..) => None,
        (_, None, ..) => Some("there is no libtorch yet; run `cargo xtask setup`"),
        (_, Some(false), ..) => Some("this libtorch is a CPU-only build"),
        (_, _, false, _) => Some("no NVIDIA driver: /dev/nvidiactl is missing"),
        (.., None) => Some("not asked yet: the program is not built; run `cargo xtask params` once"),
        (.., Some(_)) => Some(
            "libtorch sees no device although there is a driver; is it old, or CUDA_VISIBLE_DEVICES empty?",
        ),
    };
    json!({"available": available, "devices": devices, "why_not": why_not})
}

fn datasets() -> Value {
    let listed = build_quietly(&mut cargo(), "data-cli", "talent-data").ok().and_then(|()| {
        let data_root = root().join("datasets");
        let args = ["list", "--json", "--data-root", data_root.to_str()?];
        output_of(&program("talent-data"), &args)
    });
    let listed = listed.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    listed.unwrap_or_else(|| json!({"problem": "the data program could not be built or run"}))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "not found".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn print_machine(report: &Value) {
    for (name, version) in report["toolchain"].as_object().into_iter().flatten() {
        outln!("{name:10} {}", text(version));
    }
    let libtorch = &report["libtorch"];
    if libtorch["found"] == true {
        outln!("{:10} torch {} at {}", "libtorch", text(&libtorch["version"]), text(&libtorch["path"]));
    } else {
        let problem = libtorch["problem"].as_str().unwrap_or("none");
        outln!("{:10} {problem}; {}", "libtorch", text(&libtorch["advice"]));
    }
    let cpu = &report["cpu"];
    let features: Vec<&str> =
        cpu["features"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    outln!("{:10} {}, {} cores, {}", "cpu", text(&cpu["model"]), cpu["cores"], features.join(" "));
    for note in cpu["notes"].as_array().into_iter().flatten() {
        outln!("{:10} note: {}", "", text(note));
    }
    let cuda = &report["cuda"];
    match cuda["why_not"].as_str() {
        None => outln!("{:10} yes, {} device(s)", "cuda", cuda["devices"]),
        Some(reason) => outln!("{:10} no: {reason}", "cuda"),
    }
}

fn print_datasets(report: &Value) {
    if let Some(problem) = report["problem"].as_str() {
        outln!("{:10} {problem}", "data");
    }
    for dataset in report["datasets"].as_array().into_iter().flatten() {
        outln!(
            "{:10} {:17} {:9} {}",
            "data",
            text(&dataset["name"]),
            text(&dataset["state"]),
            text(&dataset["detail"])
        );
    }
}
