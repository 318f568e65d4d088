//! Limits of memory and time for one file: paths that are not regular files, and small files that claim to be large.
#![allow(missing_docs)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::json;

/// A PNG of one colour, with a compressed colour profile.
fn png(width: u32, height: u32, profile: usize) -> Vec<u8> {
    let deflated = |bytes: &[u8]| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        file.extend((data.len() as u32).to_be_bytes());
        file.extend(kind);
        file.extend(data);
        file.extend(crc32fast::hash(&[kind, data].concat()).to_be_bytes());
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    chunk(b"IHDR", &header);
    if profile > 0 {
        chunk(b"iCCP", &[b"p\0\0", deflated(&vec![0; profile]).as_slice()].concat());
    }
    let rows = vec![0; (width as usize * 3 + 1) * height as usize];
    chunk(b"IDAT", &deflated(&rows));
    chunk(b"IEND", b"");
    file
}

/// A data set folder with one picture, whose file the caller writes, and one mask.
fn data(root: &Path, mask: serde_json::Value) -> (PathBuf, PathBuf) {
    let line =
        json!({"image": "a.png", "mask": mask, "expressions": ["it"], "category": "c", "split": "val"});
    let refs = root.join("refs.jsonl");
    std::fs::write(&refs, format!("{line}\n")).unwrap();
    (refs, root.join("a.png"))
}

/// Runs a command with at most `mib` MiB of address space; it must end in time.
fn within(mib: u64, args: &[&str]) -> Output {
    let started = Instant::now();
    let limit = format!("ulimit -v {}; exec \"$0\" \"$@\"", mib << 10);
    let output = Command::new("timeout")
        .args(["20", "sh", "-c", &limit, env!("CARGO_BIN_EXE_talent-data")])
        .args(args)
        .output()
        .unwrap();
    assert!(started.elapsed() < Duration::from_secs(19), "{args:?} hangs");
    output
}

#[track_caller]
fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{:?}: {text}", output.status);
    text
}

#[test]
fn a_picture_that_is_no_regular_file_is_named() {
    let root = tempfile::tempdir().unwrap();
    let (refs, picture) = data(root.path(), json!([[1, 1, 6, 1, 6, 5]]));
    assert!(Command::new("mkfifo").arg(&picture).status().unwrap().success());
    for command in ["verify", "stats"] {
        let text = said(&within(8000, &[command, "--dataset", refs.to_str().unwrap()]));
        assert!(text.contains("a.png") && text.contains("not a regular file"), "{command}: {text}");
    }
    std::fs::remove_file(&picture).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &picture).unwrap();
    let text = said(&within(8000, &["verify", "--dataset", refs.to_str().unwrap()]));
    assert!(text.contains("not a regular file"), "{text}");
    // A symlink to a regular file is accepted.
    std::fs::remove_file(&picture).unwrap();
    std::fs::write(root.path().join("b.png"), png(8, 6, 0)).unwrap();
    std::os::unix::fs::symlink("b.png", &picture).unwrap();
    let output = within(8000, &["verify", "--dataset", refs.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn small_files_do_not_take_gigabytes() {
    // Limit of address space in MiB. The program maps about 300 MiB before it reads anything.
    const RULE: u64 = 1024 + 600;
    let root = tempfile::tempdir().unwrap();
    let (refs, picture) = data(root.path(), json!([[1, 1, 3, 1, 3, 3]]));
    let refs = refs.to_str().unwrap();
    std::fs::write(&picture, png(4, 4, 1 << 30)).unwrap();
    let output = within(RULE, &["verify", "--dataset", refs]);
    assert!(output.status.success(), "a colour profile is not needed: {}", said(&output));

    std::fs::write(&picture, png(19_000, 19_000, 0)).unwrap();
    let text = said(&within(RULE, &["verify", "--dataset", refs]));
    assert!(text.contains("19000 x 19000 pixels would take"), "{text}");
    assert!(text.contains("TALENT_MAX_IMAGE_MIB can allow more"), "{text}");

    let zeros = vec![0; 52_500_000];
    data(root.path(), json!({"size": [4, 4], "counts": zeros}));
    std::fs::write(&picture, png(4, 4, 0)).unwrap();
    let text = said(&within(RULE, &["verify", "--dataset", refs]));
    assert!(text.contains("annotation 1: its text has 105"), "{text}");

    let triangle = [1, 1, 3, 1, 3, 3];
    data(root.path(), json!(vec![triangle; 100_000]));
    std::fs::write(&picture, png(1000, 1000, 0)).unwrap();
    let output = within(RULE, &["verify", "--dataset", refs]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn masks_of_absurd_sizes_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("coco");
    std::fs::create_dir_all(folder.join("refcoco")).unwrap();
    let mask = refcoco::Mask::from_json(1 << 40, 1 << 40, "[[0,0,1,0,1,1]]").unwrap_err().to_string();
    assert!(mask.contains("pixels would take"), "{mask}");
    let counts = format!("{{\"size\": [100000, 100000], \"counts\": [{}]}}", 10_000_000_000_u64);
    let mask = refcoco::Mask::from_json(100_000, 100_000, &counts).unwrap_err().to_string();
    assert!(mask.contains("100000 x 100000 pixels would take"), "{mask}");
}

#[test]
fn a_pickle_of_tiny_values_is_bounded() {
    let size = 120_000_000;
    for opcode in [b'N', b'('] {
        let mut bytes = vec![b']', b'('];
        bytes.resize(size, opcode);
        let error = safe_pickle::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains("far more memory") || error.contains("end of data"), "{error}");
    }
    let mut bytes = vec![b'N'];
    bytes.resize(size, 0x94);
    let error = safe_pickle::parse(&bytes).unwrap_err().to_string();
    assert!(error.contains("far more memory"), "{error}");
}

#[test]
fn predictions_without_an_end_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let (refs, picture) = data(root.path(), json!([[1, 1, 6, 1, 6, 5]]));
    std::fs::write(&picture, png(8, 6, 0)).unwrap();
    let masks = root.path().join("masks.jsonl");
    let score = |file: &str| {
        let output = within(8000, &["score", "--predictions", file, "--dataset", refs.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        said(&output)
    };
    assert!(score("/dev/zero").contains("not a regular file"));
    assert!(Command::new("mkfifo").arg(&masks).status().unwrap().success());
    assert!(score(masks.to_str().unwrap()).contains("not a regular file"));
    std::fs::remove_file(&masks).unwrap();
    // A sparse file: it takes no space on the disk, and is one line.
    std::fs::write(&masks, "x").unwrap();
    std::fs::OpenOptions::new().write(true).open(&masks).unwrap().set_len(40 << 30).unwrap();
    let text = score(masks.to_str().unwrap());
    assert!(text.contains("line 1") && text.contains("TALENT_MAX_IMAGE_MIB"), "{text}");
}
