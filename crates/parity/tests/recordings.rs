//! This implementation agrees with the recordings in `tests/golden`, and the comparison detects changed recordings.

use std::path::{Path, PathBuf};

use parity::{CaseReport, Options, Part, Report, Verdict};
use tch::{Device, Tensor};

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn run(golden: &Path, skip_full: bool) -> Report {
    let options = Options {
        golden: golden.to_path_buf(),
        data_root: None,
        skip_full,
        device: Device::Cpu,
        part: Part::All,
    };
    parity::run(&options, |_| {}).unwrap()
}

#[test]
fn everything_recorded_agrees() {
    let report = run(&golden(), false);
    for case in &report.cases {
        match case.name.as_str() {
            // The photos are not part of the project.
            "data/masks.json" => assert_eq!(case.verdict, Verdict::NotRun, "{case}"),
            _ => assert_eq!(case.verdict, Verdict::Pass, "{case}"),
        }
    }
    assert_eq!(report.exit_code(), 2, "a case that was not run shows in the exit code");
    let names = |prefix: &str| report.cases.iter().filter(|case| case.name.starts_with(prefix)).count();
    assert_eq!((names("module_"), names("loss_"), names("full/"), names("checkpoints/")), (15, 17, 4, 3));
    assert_eq!(names("encoders/"), 8);
}

/// A folder with one loss case and the `config.json` that every folder needs.
fn small_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "loss_seg_soft.json", "loss_seg_soft.safetensors"] {
        std::fs::copy(golden().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn only_case(folder: &Path) -> CaseReport {
    let report = run(folder, true);
    assert_eq!(report.cases.len(), 1);
    report.cases.into_iter().next().unwrap()
}

fn rewrite(folder: &Path, change: impl FnOnce(&mut Vec<(String, Tensor)>)) {
    let path = folder.join("loss_seg_soft.safetensors");
    let mut tensors = Tensor::read_safetensors(&path).unwrap();
    change(&mut tensors);
    Tensor::write_safetensors(&tensors, &path).unwrap();
}

#[test]
fn an_incomplete_copy_is_refused() {
    let listed = std::fs::read_to_string(golden().join("files.txt")).unwrap();
    let mut folders = vec![golden()];
    let mut n_files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let name = entry.strip_prefix(golden()).unwrap().to_str().unwrap().to_owned();
            assert!(
                name == "files.txt" || listed.lines().any(|line| line == name),
                "{name} is not in files.txt"
            );
            n_files += 1;
        }
    }
    assert_eq!(n_files, listed.lines().count() + 1);

    let folder = small_folder();
    std::fs::write(folder.path().join("files.txt"), "config.json\nloss_seg_hard.json\n").unwrap();
    let options = Options {
        golden: folder.path().into(),
        data_root: None,
        skip_full: true,
        device: Device::Cpu,
        part: Part::All,
    };
    let error = parity::run(&options, |_| {}).unwrap_err().to_string();
    assert!(error.contains("loss_seg_hard.json") && error.contains("copy"), "{error}");
    std::fs::write(folder.path().join("files.txt"), "config.json\n").unwrap();
    assert_eq!(only_case(folder.path()).verdict, Verdict::Pass);
}

#[test]
fn a_changed_value_fails() {
    let folder = small_folder();
    assert_eq!(only_case(folder.path()).verdict, Verdict::Pass);
    rewrite(folder.path(), |tensors| {
        for (_, tensor) in tensors.iter_mut().filter(|(name, _)| name == "grad_pred.f64") {
            *tensor = tensor.shallow_clone() * (1.0 + 1e-8);
        }
    });
    let case = only_case(folder.path());
    assert_eq!(case.verdict, Verdict::Fail);
    assert_eq!(case.worst().unwrap().name, "grad_pred.f64");
}

#[test]
fn what_nothing_compares_fails() {
    let folder = small_folder();
    rewrite(folder.path(), |tensors| tensors.push(("stray".into(), Tensor::from(1.0_f32))));
    let case = only_case(folder.path());
    assert_eq!(case.verdict, Verdict::Fail);
    assert!(case.notes[0].contains("recorded but not compared: stray"), "{case}");

    let folder = small_folder();
    std::fs::write(folder.path().join("module_unheard_of.json"), "{}").unwrap();
    std::fs::write(folder.path().join("notes.txt"), "").unwrap();
    let report = run(folder.path(), true);
    assert_eq!((report.count(Verdict::Fail), report.exit_code()), (2, 1));
}

#[test]
fn a_recording_of_other_sizes_fails_instead_of_panicking() {
    let folder = small_folder();
    rewrite(folder.path(), |tensors| tensors.retain(|(name, _)| name != "mask"));
    let case = only_case(folder.path());
    assert!(case.verdict == Verdict::Fail && case.notes[0].contains("lacks `mask`"), "{case}");
    assert!(
        parity::run(
            &Options {
                golden: "absent".into(),
                data_root: None,
                skip_full: true,
                device: Device::Cpu,
                part: Part::All
            },
            |_| {}
        )
        .is_err()
    );
}

#[test]
fn a_folder_of_encoders_alone_is_compared_whole() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("encoders/dinov3_vit_gated");
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(golden().join("encoders/dinov3_vit_gated")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    let passes = |folder: &Path| {
        let case = only_case(folder);
        assert_eq!(case.name, "encoders/dinov3_vit_gated");
        (case.verdict == Verdict::Pass, case.to_string())
    };
    assert!(passes(folder.path()).0);
    // One changed number, a file that nobody compares, and a setting that nobody knows.
    let path = to.join("forward64.safetensors");
    let tensors = Tensor::read_safetensors(&path).unwrap();
    let sound = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect::<Vec<_>>();
    let _ = tensors[0].1.view([-1]).get(3).fill_(9.0);
    Tensor::write_safetensors(&tensors, &path).unwrap();
    assert!(!passes(folder.path()).0);
    Tensor::write_safetensors(&sound, &path).unwrap();
    assert!(passes(folder.path()).0);
    std::fs::write(to.join("more.safetensors"), "").unwrap();
    let (passed, said) = passes(folder.path());
    assert!(!passed && said.contains("more.safetensors"), "{said}");
    std::fs::remove_file(to.join("more.safetensors")).unwrap();
    let config = std::fs::read_to_string(to.join("config.json")).unwrap();
    std::fs::write(to.join("config.json"), config.replacen('{', "{\"use_windows\": true,", 1)).unwrap();
    let (passed, said) = passes(folder.path());
    assert!(!passed && said.contains("use_windows"), "{said}");
}

#[test]
fn what_an_adapter_config_says_decides() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("encoders/lora_dinov2");
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(golden().join("encoders/lora_dinov2")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(to.join("adapter_config.json")).unwrap()).unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut config = config.clone();
        config[key] = value;
        std::fs::write(to.join("adapter_config.json"), config.to_string()).unwrap();
        let case = only_case(folder.path());
        (case.verdict == Verdict::Pass, case.to_string())
    };
    // The same layers in other words.
    for targets in [
        serde_json::json!(["attention.q_proj", "v_proj"]),
        serde_json::json!(".*attention\\.(q|v)_proj"),
        serde_json::json!("encoder\\.layer\\.[01]\\.attention\\.[qv]_proj"),
    ] {
        let (passed, said) = with("target_modules", targets);
        assert!(passed, "{said}");
    }
    for (key, value, expected) in [
        ("r", serde_json::json!(2), "has shape"),
        ("lora_alpha", serde_json::json!(11), ""),
        ("use_rslora", serde_json::json!(true), ""),
        ("use_dora", serde_json::json!(true), "use_dora"),
        ("rank_pattern", serde_json::json!({"q_proj": 2}), "rank_pattern"),
        ("target_modules", serde_json::json!("all-linear"), "missing"),
        ("target_modules", serde_json::json!(["q_proj"]), "unexpected"),
    ] {
        let (passed, said) = with(key, value);
        assert!(!passed && said.contains(expected), "{key}: {said}");
    }
    assert!(with("r", config["r"].clone()).0);
    // One changed number in the matrices.
    let path = to.join("adapter_model.safetensors");
    let tensors = Tensor::read_safetensors(&path).unwrap();
    let _ = tensors[0].1.view([-1]).get(1).fill_(9.0);
    Tensor::write_safetensors(&tensors, &path).unwrap();
    assert!(!with("r", config["r"].clone()).0);
}
