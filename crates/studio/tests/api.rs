//! What the server answers.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{arguments, form, get, json_of, picture, prediction_files, raw, start};
use refcoco::{Dataset, Mask};
use serde_json::{Value, json};

#[test]
fn a_prediction_and_what_belongs_to_it() {
    let server = start(&arguments());
    let port = server.port();
    let file = std::fs::read(picture()).unwrap();
    let answer = raw(port, &form(port, &[("image", &file), ("expression", b"the right one")]));
    assert_eq!(answer.0, 200, "{}", answer.1);
    let first = json_of(&answer);
    let (width, height) =
        (first["width"].as_u64().unwrap() as usize, first["height"].as_u64().unwrap() as usize);
    assert_eq!(
        (&first["expression"], &first["image"], &first["checkpoint"]),
        (&json!("the right one"), &json!("a.jpg"), &json!("halves"))
    );
    let mask = Mask::from_segmentation(width, height, &first["segmentation"]).unwrap();
    assert!(mask.data[0] == 0 && mask.data[width - 1] == 1);

    // The picture that is kept, another checkpoint, and downloads at another threshold.
    let id = first["picture"].as_str().unwrap();
    let asked = [("picture", id.as_bytes()), ("expression", b"the right one"), ("checkpoint", b"other")];
    let second = json_of(&raw(port, &form(port, &asked)));
    assert_eq!((&second["checkpoint"], &second["image"]), (&json!("other"), &json!("a.jpg")));
    let number = second["id"].as_u64().unwrap();
    let rle = json_of(&get(port, &format!("/api/answer/rle?id={number}&threshold=0.05")));
    assert_eq!(rle["area"], json!(width * height));
    let png = get(port, &format!("/api/answer/mask?id={number}"));
    assert!(png.2.starts_with(b"\x89PNG") && png.1.contains("attachment"), "{}", png.1);
    assert!(get(port, &format!("/api/answer/overlay?id={number}")).2.starts_with(b"\x89PNG"));
    assert!(get(port, &format!("/api/answer/image?id={number}")).2.starts_with(b"\xff\xd8"));
    let map = refcoco::decode_image(&get(port, &format!("/api/answer/map?id={number}")).2).unwrap();
    assert_eq!((map.width, map.data[0]), (width, 80));
    let why = json_of(&get(port, &format!("/api/why?id={number}")));
    assert_eq!(why["stages"].as_array().unwrap().len(), 4);
    assert_eq!((&why["stages"][1]["word"], &why["stages"][0]["nta"]), (&json!("the"), &Value::Null));
    assert_eq!(json_of(&get(port, "/api/answers")).as_array().unwrap().len(), 2);
}

#[test]
fn with_a_known_target_the_stages_have_an_nta_mass() {
    let server = start(&arguments());
    let port = server.port();
    let rows = json_of(&get(port, "/api/rows?split=val&distractors_min=1&size=1"));
    let ref_id = rows["rows"][0]["ref_id"].to_string();
    let asked = [("dataset", &b"refshapes"[..]), ("ref_id", ref_id.as_bytes()), ("expression", b"x")];
    let answer = json_of(&raw(port, &form(port, &asked)));
    assert_eq!(answer["ref_id"].to_string(), ref_id);
    let why = json_of(&get(port, &format!("/api/why?id={}", answer["id"])));
    assert!(why["stages"][0]["nta"].as_f64().is_some_and(|nta| (0.0..=1.0).contains(&nta)), "{why}");
}

#[test]
fn rows_are_filtered_and_sorted() {
    let folder = tempfile::tempdir().unwrap();
    let mut args = arguments();
    args.predictions = prediction_files(folder.path());
    let server = start(&args);
    let port = server.port();
    let started = Instant::now();
    // Measured in the background.
    loop {
        let rows = json_of(&get(port, "/api/rows?size=1"));
        let is_done = |source: &Value| source["done"] == source["total"];
        if rows["sources"].as_array().unwrap().iter().all(is_done) && !rows["rows"][0]["area"].is_null() {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(50));
    }
    let total = |filter: &str| json_of(&get(port, &format!("/api/rows?{filter}")))["total"].as_u64().unwrap();
    let dataset = Dataset::open("refshapes", common::data_root()).unwrap();
    let refs = dataset.split("val").unwrap();
    let all = refs.iter().flat_map(|&index| &dataset.refs[index].expressions);
    let of_text = |text: &str| all.clone().filter(|one| one.sent.contains(text)).count() as u64;
    assert_eq!(total("split=val"), all.clone().count() as u64);
    assert_eq!(total("split=val&text=LEFT"), of_text("left"));
    assert_eq!(total("split=val&place=yes") + total("split=val&place=no"), total("split=val"));
    assert_eq!(
        total("split=val&distractors_max=0") + total("split=val&distractors_min=1"),
        total("split=val")
    );
    let wrong = total("identity=yes&source=wrong.jsonl");
    assert!(wrong > 0 && total("identity=yes&source=right.jsonl") == 0 && total("identity=yes") == wrong);
    assert_eq!(total("iou_min=99.9&source=right.jsonl"), total("split=val"));
    let values = |filter: &str, key: &str| -> Vec<f64> {
        let rows = json_of(&get(port, &format!("/api/rows?split=val&size=500&{filter}")));
        let rows = rows["rows"].as_array().unwrap();
        rows.iter().map(|row| row.pointer(key).unwrap().as_f64().unwrap()).collect()
    };
    assert_eq!((total("predicted=masks"), total("predicted=yes")), (total("split=val"), total("split=val")));
    let rising = values("sort=iou&source=wrong.jsonl", "/measures/1/iou");
    assert!(rising.is_sorted() && rising[0] < rising[rising.len() - 1]);
    let falling = values("sort=area&desc=true", "/area");
    assert!(falling.iter().rev().is_sorted());
    let means = json_of(&get(port, "/api/rows?split=val&size=1"))["means"].clone();
    assert_eq!((&means[0]["miou"], &means[0]["identity_errors"]), (&json!(1.0), &json!(0.0)));
    assert_eq!(means[0]["n"], json!(total("split=val")));
    assert!(means[1]["miou"].as_f64().is_some_and(|miou| miou > 0.3 && miou < 1.0), "{means}");
    let gaps = json_of(&get(port, "/api/rows?sort=gap&desc=true&size=2"));
    let iou = |source: usize| gaps["rows"][0]["measures"][source]["iou"].as_f64().unwrap();
    assert!(iou(0) > 0.99 && iou(1) < 0.5);

    let row = &gaps["rows"][0];
    let one = get(port, &format!("/api/expression?ref_id={}&sent_id={}", row["ref_id"], row["sent_id"]));
    let one = json_of(&one);
    assert_eq!((&one["text"], &one["target"]), (&row["text"], &one["sources"][0]["segmentation"]));
    assert_ne!(one["target"], one["sources"][1]["segmentation"]);
    let picture = get(port, &format!("/api/image?image_id={}&side=100", row["image_id"]));
    assert!(picture.2.starts_with(b"\xff\xd8"), "{}", picture.1);
}

#[test]
fn what_is_wrong_is_told_in_one_line() {
    let server = start(&arguments());
    let port = server.port();
    let file = std::fs::read(picture()).unwrap();
    let long = vec![b'a'; 5000];
    type Fields<'a> = &'a [(&'a str, &'a [u8])];
    let forms: [(Fields<'_>, &str); 9] = [
        (&[("expression", b"x")], "`image` is missing"),
        (&[("image", &file)], "`expression` is missing"),
        (&[("image", &file), ("expression", b"  ")], "blank"),
        (&[("image", b"no picture"), ("expression", b"x")], "cannot be read"),
        (&[("image", b""), ("expression", b"x")], "empty"),
        (&[("image", &file), ("expression", &long)], "longer than"),
        (&[("image", &file), ("expression", b"\xff")], "UTF-8"),
        (&[("image", &file), ("expression", b"x"), ("checkpoint", b"../x")], "no checkpoint named"),
        (&[("image", &file), ("expression", b"fail")], "this expression fails"),
    ];
    for (fields, expected) in forms {
        let answer = raw(port, &form(port, fields));
        let text = json_of(&answer)["error"].as_str().unwrap().to_owned();
        assert!((400..500).contains(&answer.0) && text.contains(expected) && !text.contains('\n'), "{text}");
    }
    for path in [
        "/nothing",
        "/assets/..%2f..%2fCargo.toml",
        "/assets/%2e%2e/main.js",
        "/api/rows?sort=size",
        "/api/rows?split=nonsense",
        "/api/rows?predicted=no",
        "/api/rows?page=x",
        "/api/rows?unknown=1",
        "/api/rows?dataset=../../etc",
        "/api/rows?source=nobody&iou_min=1",
        "/api/image?image_id=-7",
        "/api/image?image_id=../../etc/passwd",
        "/api/expression?ref_id=1",
        "/api/answer?id=99999",
        "/api/answer/mask?id=1&threshold=nan",
        "/api/run?name=../../etc",
        "/api/run/picture?name=x&picture=../../../etc/passwd",
    ] {
        let answer = get(port, path);
        assert!((400..500).contains(&answer.0), "{path}: {}", answer.1);
        assert!(json_of(&answer)["error"].is_string(), "{path}");
    }
    assert_eq!(get(port, "/health").0, 200);
}
