//! Runs the commands of docs/tutorial.md, with smaller networks and fewer steps.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use refcoco::refshapes::{Settings, generate};

mod common;

use common::{MINIATURE, talent};

const TUTORIAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tutorial.md");
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets/example");

/// The commands of a section: what follows `cargo xtask` in its blocks.
fn commands(section: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(TUTORIAL).unwrap();
    let body = text.split("\n## ").find(|part| part.starts_with(section)).unwrap();
    let blocks = body.split("```text\n").skip(1).map(|part| part.split("```").next().unwrap());
    let lines = blocks.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| words(line.strip_prefix("cargo xtask ").unwrap_or_else(|| panic!("{line}")))).collect()
}

/// Words of a command line, of which some are in double quotes.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    let words = parts.flat_map(|(place, part)| match place % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

/// Runs a command in a folder.
fn run(folder: &Path, program: &str, args: &[String]) -> String {
    let path = Path::new(env!("CARGO_BIN_EXE_talent")).with_file_name(program);
    assert!(path.is_file(), "{}: `cargo xtask test` builds it", path.display());
    let output =
        Command::new(path).current_dir(folder).args(args).env_remove("RUST_BACKTRACE").output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

/// The command with further settings behind its own.
fn with_settings(mut command: Vec<String>, settings: &[&str]) -> Vec<String> {
    if !command.iter().any(|word| word == "--set") {
        command.push("--set".into());
    }
    command.extend(settings.iter().map(|setting| (*setting).to_owned()));
    command
}

fn generated(root: &Path) {
    let settings = Settings {
        train_images: 12,
        val_images: 3,
        test_a_images: 2,
        test_b_images: 2,
        ..Settings::default()
    };
    generate(&settings, root, |_| {}).unwrap();
}

#[test]
fn own_pictures_on_a_laptop() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    generated(&here.join("datasets"));
    std::fs::create_dir(here.join("datasets/example")).unwrap();
    for entry in std::fs::read_dir(EXAMPLE).unwrap().flatten() {
        std::fs::copy(entry.path(), here.join("datasets/example").join(entry.file_name())).unwrap();
    }
    let mut n_trained = 0;
    for command in commands("Your own pictures") {
        match command[0].as_str() {
            "train" => {
                n_trained += 1;
                let sizes = if n_trained == 1 { MINIATURE } else { &["train.epochs=2"] };
                let mut command = with_settings(command, sizes);
                command.extend(["train.epochs=2".into(), "train.warmup_steps=1".into()]);
                run(here, "talent", &command);
            }
            "data" => drop(run(here, "talent-data", &command[1..])),
            _ => drop(run(here, "talent", &command)),
        }
    }
    assert_eq!(n_trained, 2);
    for file in [
        "runs/tiny/report.html",
        "toys-shown.png",
        "runs/mine/overlays.png",
        "prediction/overlay.png",
        "predictions/predictions.jsonl",
    ] {
        assert!(here.join(file).is_file(), "{file}");
    }
}

/// A zip archive of files below a folder.
fn zip(to: &Path, folder: &Path, names: &[String]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(to).unwrap());
    for name in names {
        zip.start_file(name.as_str(), zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&std::fs::read(folder.join(name)).unwrap()).unwrap();
    }
    zip.finish().unwrap();
}

/// RefCOCO's archives with drawn scenes in them, and a table of sources for them.
fn archives(here: &Path) {
    let made = here.join("made");
    generated(&made);
    std::fs::rename(made.join("refshapes"), made.join("refcoco")).unwrap();
    std::fs::rename(made.join("refcoco/images/train2014"), made.join("train2014")).unwrap();
    std::fs::create_dir(here.join("archives")).unwrap();
    let annotations = ["refcoco/instances.json", "refcoco/refs(unc).p"].map(str::to_owned);
    zip(&here.join("archives/refcoco.zip"), &made, &annotations);
    let pictures = std::fs::read_dir(made.join("train2014")).unwrap().flatten();
    let pictures: Vec<String> =
        pictures.map(|entry| format!("train2014/{}", entry.file_name().to_str().unwrap())).collect();
    zip(&here.join("archives/train2014.zip"), &made, &pictures);
    let item = |name: &str, to: &str, more: &str| {
        format!(
            "[[item]]\nname = \"{name}\"\nabout = \"\"\nlicence = \"\"\nlicence_url = \"\"\ndatasets = [\"refcoco\"]\n\
             [[item.file]]\nto = \"{to}\"\nat_most = 9_000_000\nurls = [\"https://example.org/x\"]\n{more}\n"
        )
    };
    let table = [
        item("refcoco", "data/refcoco.zip", "unpack = [\"refcoco/instances.json\", \"refcoco/refs(unc).p\"]"),
        item("photos", "data/images/train2014.zip", ""),
        "[configs]\n\"refcoco/base\" = { datasets = [\"refcoco\"], weights = [] }\n".to_owned(),
    ];
    std::fs::write(here.join("small.toml"), table.concat()).unwrap();
}

#[test]
fn the_official_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    archives(here);
    let mut done = Vec::new();
    for command in commands("The official number") {
        let mut command: Vec<String> =
            command.iter().map(|word| word.replace("cuda:0", "cpu").replace("fp16", "fp32")).collect();
        done.push(command[0].clone());
        match command[0].as_str() {
            "fetch" => {
                command.extend(["--sources", "small.toml", "--from", "archives"].map(str::to_owned));
                run(here, "talent-data", &command);
            }
            // The number of refs is not RefCOCO's, of which `verify` warns.
            "data" => drop(run(here, "talent-data", &command[1..])),
            "results" => drop(run(here, "talent-results", &command[1..])),
            // It has tests of its own, and takes minutes.
            "check-device" => drop(run(here, "talent", &[command[0].clone(), "--help".into()])),
            "train" => {
                let official = ["weights.image=", "weights.text=", "train.epochs=1"];
                let command = with_settings(command, &[MINIATURE, &official].concat());
                run(here, "talent", &command);
            }
            _ => drop(run(here, "talent", &command)),
        }
    }
    assert_eq!(done, ["fetch", "fetch", "data", "check-device", "train", "eval", "results"]);
    assert!(here.join("report.html").is_file() && here.join("datasets/images/train2014.zip").is_file());
}

#[test]
fn a_config_without_its_data_says_how_to_fetch_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("datasets");
    let train = || {
        let args = ["train", "--config", "refcoco/base", "--device", "cpu", "--data-root"];
        let output = talent(&[&args[..], &[root.to_str().unwrap(), "--set"], MINIATURE].concat());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = train();
    assert!(said.contains("cargo xtask fetch --for refcoco/base") && said.contains("refs(unc).p"), "{said}");
    archives(folder.path());
    let args = ["fetch", "--for", "refcoco/base", "--sources", "small.toml", "--from", "archives"];
    run(folder.path(), "talent", &args.map(str::to_owned));
    let said = train();
    assert!(said.contains("dinov2_vitb14_reg4") && said.contains("fetch --for refcoco/base"), "{said}");
}
