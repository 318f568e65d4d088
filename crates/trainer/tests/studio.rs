//! `studio` with a trained model: the contract for other programs.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

mod common;
mod data;

use common::{MINIATURE, talent};
use data::data_root;

fn get(port: u16, path: &str) -> Option<(u16, Vec<u8>)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
    ask(port, request.as_bytes())
}

/// What the server answers; `None` while its port is closed.
fn ask(port: u16, request: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let status = String::from_utf8_lossy(&answer[..end]).split(' ').nth(1).unwrap().parse().unwrap();
    Some((status, answer[end + 4..].to_vec()))
}

fn predict(port: u16, image: &Path, expression: &str) -> Value {
    serde_json::from_slice(&ask(port, &form(port, image, expression)).unwrap().1).unwrap()
}

fn form(port: u16, image: &Path, expression: &str) -> Vec<u8> {
    let mut body =
        b"--X\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.jpg\"\r\n\r\n".to_vec();
    body.extend(std::fs::read(image).unwrap());
    body.extend(
        format!(
            "\r\n--X\r\nContent-Disposition: form-data; name=\"expression\"\r\n\r\n{expression}\r\n--X--\r\n"
        )
        .bytes(),
    );
    let mut request = format!(
        "POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: multipart/form-data; boundary=X\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}

/// A started program, which is ended if a test fails.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it, and waits for its port.
fn start(args: &[&str]) -> (Started, u16) {
    let began = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_talent"));
    command.args(["studio", "--port", "0", "--no-open"]).args(args);
    let mut started = Started(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(started.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.split([':', '/']).find_map(|part| part.parse().ok()).unwrap();
    assert_eq!(get(port, "/health").unwrap().0, 200);
    assert!(began.elapsed() < Duration::from_secs(20));
    (started, port)
}

/// Trains a miniature into a run folder.
fn train(run: &Path, steps: &str) {
    let root = data_root().to_str().unwrap();
    let mut args = vec!["train", "--device", "cpu", "--threads", "1", "--data-root", root];
    args.extend(["--run-dir", run.to_str().unwrap(), "--max-steps", steps, "--set"]);
    args.extend(MINIATURE);
    assert!(talent(&args).status.success());
}

#[test]
fn it_predicts_what_predict_does_and_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let root = data_root().to_str().unwrap();
    train(&run, "2");

    let (mut started, port) = start(&["--run", run.to_str().unwrap(), "--data-root", root, "--threads", "1"]);
    let images = data_root().join("refshapes/images/train2014");
    let image = std::fs::read_dir(images).unwrap().next().unwrap().unwrap().path();
    let found = predict(port, &image, "the red circle");
    let out = folder.path().join("out");
    let checkpoint = run.join("checkpoints/best.safetensors");
    let paths = [&checkpoint, &image, &out].map(|path| path.to_str().unwrap());
    let args = [
        "predict",
        "--checkpoint",
        paths[0],
        "--image",
        paths[1],
        "--text",
        "the red circle",
        "--out",
        paths[2],
    ];
    assert!(talent(&[&args[..], &["--device", "cpu", "--threads", "1"]].concat()).status.success());
    let expected: Value =
        serde_json::from_slice(&std::fs::read(out.join("prediction.json")).unwrap()).unwrap();
    for (key, value) in expected.as_object().unwrap().iter().filter(|(key, _)| *key != "image") {
        assert_eq!(&found[key], value, "{key}");
    }

    // Each stage in the network, and the words where the adapters see them.
    let (status, why) = get(port, &format!("/api/why?id={}", found["id"])).unwrap();
    let why: Value = serde_json::from_slice(&why).unwrap();
    let stages = why["stages"].as_array().unwrap();
    assert_eq!(status, 200);
    let names: Vec<&str> = stages.iter().filter_map(|stage| stage["name"].as_str()).collect();
    assert!(
        names.contains(&"neck level 5") && names.iter().any(|name| name.starts_with("adapter")),
        "{names:?}"
    );
    let words: Vec<&str> = stages.iter().filter_map(|stage| stage["word"].as_str()).collect();
    assert!(words.starts_with(&["the"]) && words.contains(&"circle"), "{words:?}");

    // The run itself.
    let (_, session) = get(port, "/api/session").unwrap();
    let session: Value = serde_json::from_slice(&session).unwrap();
    assert_eq!((&session["runs"][0], &session["models"][0]["name"]), (&"run".into(), &"run".into()));
    let (_, state) = get(port, "/api/run?name=run").unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert!(
        state["finished"] == true
            && state["eval"]["mIoU"].is_number()
            && state["pictures"][0] == "overlays.png",
        "{state}"
    );
    assert!(get(port, "/api/run/curves?name=run").unwrap().1.starts_with(b"<svg"));

    // It stops at once, also while the network works.
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(&form(port, &image, "the red circle")).unwrap();
        waiting.push(stream);
    }
    std::thread::sleep(Duration::from_millis(30));
    let pid = started.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let asked = Instant::now();
    assert!(started.0.wait().unwrap().success());
    assert!(asked.elapsed() < Duration::from_secs(2));
}

#[test]
fn runs_can_be_compared_without_their_models() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let root = data_root().to_str().unwrap();
    train(&run, "1");
    let checkpoint = run.join("checkpoints/best.safetensors");
    std::fs::write(&checkpoint, "no checkpoint").unwrap();
    let (_started, port) = start(&["--run", run.to_str().unwrap(), "--data-root", root, "--threads", "1"]);
    let session: Value = serde_json::from_slice(&get(port, "/api/session").unwrap().1).unwrap();
    assert_eq!((&session["models"], &session["runs"][0]), (&Value::Array(Vec::new()), &"run".into()));
    let refused =
        talent(&["studio", "--checkpoint", checkpoint.to_str().unwrap(), "--port", "0", "--no-open"]);
    assert!(!refused.status.success());
}
