//! A server with a small RefShapes, and a network that segments by rule.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Result;
use refcoco::refshapes::{Settings, generate};
use refcoco::{Dataset, Mask};
use serde_json::{Value, json};
use studio::{Answer, LoadNetworks, Model, Picture, Predictor, Server, Stage, StudioArgs};

/// Finds the left half of a picture, or the right one if the expression says so.
struct Halves;

impl Predictor for Halves {
    fn models(&self) -> Vec<Model> {
        ["halves", "other"].map(|name| Model { name: name.into(), threshold: 0.35 }).to_vec()
    }

    fn predict(&mut self, model: usize, picture: &Arc<Picture>, expression: &str) -> Result<Answer> {
        anyhow::ensure!(!expression.contains("fail"), "this expression fails");
        let (width, height) = (picture.pixels.width, picture.pixels.height);
        let right = expression.contains("right") != (model == 1);
        let value = |at: usize| match (at % width * 2 >= width) == right {
            true => 0.8,
            false => 0.1,
        };
        let probabilities: Vec<f32> = (0..width * height).map(value).collect();
        let mask = Mask::above(width, height, &probabilities, 0.35);
        let fields = json!({
            "segmentation": {"size": [height, width], "counts": mask.to_rle_string()},
            "box": mask.bounding_box().map(|found| found.xywh()),
            "score": 0.8,
            "area": mask.area(),
            "parts": 1,
            "highest_probability": 0.8,
            "threshold": 0.35,
        });
        let Value::Object(fields) = fields else { unreachable!() };
        Ok(Answer { fields, probabilities })
    }

    fn stages(&mut self, _: usize, _: &Arc<Picture>, expression: &str) -> Result<Vec<Stage>> {
        let stage = |word: Option<&str>| Stage {
            name: "adapter in block 1".into(),
            word: word.map(str::to_owned),
            input_size: 64,
            side: 4,
            response: (0..16).map(|at| at as f32).collect(),
        };
        Ok(std::iter::once(None).chain(expression.split_whitespace().map(Some)).map(stage).collect())
    }
}

pub(crate) fn halves() -> Option<LoadNetworks> {
    Some(Box::new(|| Ok(Box::new(Halves) as Box<dyn Predictor>)))
}

/// The folder of a small RefShapes, made once.
pub(crate) fn data_root() -> &'static Path {
    static ROOT: OnceLock<tempfile::TempDir> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = tempfile::tempdir().unwrap();
        let few = Settings {
            train_images: 12,
            val_images: 30,
            test_a_images: 2,
            test_b_images: 2,
            ..Default::default()
        };
        generate(&few, root.path(), |_| {}).unwrap();
        root
    })
    .path()
}

pub(crate) fn arguments() -> StudioArgs {
    StudioArgs {
        dataset: vec!["refshapes".into()],
        data_root: data_root().to_path_buf(),
        runs: Vec::new(),
        predictions: Vec::new(),
        port: 0,
        host: Vec::new(),
        no_open: true,
    }
}

pub(crate) fn start(args: &StudioArgs) -> Server {
    Server::start(args, halves()).unwrap()
}

/// Two files of predictions about the validation split: all targets, and for every second expression another object's mask.
pub(crate) fn prediction_files(folder: &Path) -> Vec<PathBuf> {
    let dataset = Dataset::open("refshapes", data_root()).unwrap();
    let (mut right, mut wrong) = (String::new(), String::new());
    for (place, index) in dataset.split("val").unwrap().into_iter().enumerate() {
        let reference = &dataset.refs[index];
        let target = dataset.target(reference).unwrap();
        let others = dataset.distractor_masks(reference).unwrap();
        let other = others.first().filter(|_| place % 2 == 0).unwrap_or(&target);
        for expression in &reference.expressions {
            let line = |mask: &Mask| {
                json!({
                    "ref_id": reference.ref_id,
                    "sent_id": expression.sent_id,
                    "segmentation": {"size": [mask.height, mask.width], "counts": mask.to_rle_string()},
                })
            };
            right += &format!("{}\n", line(&target));
            wrong += &format!("{}\n", line(other));
        }
    }
    let paths = ["right.jsonl", "wrong.jsonl"].map(|name| folder.join(name));
    std::fs::write(&paths[0], right).unwrap();
    std::fs::write(&paths[1], wrong).unwrap();
    paths.to_vec()
}

/// Any picture of the data set.
pub(crate) fn picture() -> PathBuf {
    let folder = data_root().join("refshapes/images/train2014");
    std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}

/// What the server answers to a request, which is sent as it is: status, head and body.
pub(crate) fn raw(port: u16, request: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // A server that refuses an upload closes before all of it is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head, answer.get(end + 4..).unwrap_or_default().to_vec())
}

pub(crate) fn get(port: u16, path: &str) -> (u16, String, Vec<u8>) {
    raw(
        port,
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n").as_bytes(),
    )
}

pub(crate) fn json_of(answer: &(u16, String, Vec<u8>)) -> Value {
    serde_json::from_slice(&answer.2)
        .unwrap_or_else(|error| panic!("{error}: {} {}", answer.1, String::from_utf8_lossy(&answer.2)))
}

/// A form with a field for each pair; `image` is a file.
pub(crate) fn form(port: u16, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let file = if *name == "image" { "; filename=\"a.jpg\"" } else { "" };
        body.extend(
            format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").into_bytes(),
        );
        body.extend(*value);
        body.extend(b"\r\n");
    }
    body.extend(b"--X--\r\n");
    let mut request = format!(
        "POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Type: multipart/form-data; \
         boundary=X\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}
