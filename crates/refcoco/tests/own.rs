//! Own data: a JSONL file with its images and masks.
#![allow(missing_docs)]

use std::path::Path;

use refcoco::{Dataset, read_own};

/// A folder with one 8 x 6 image, its mask, and a JSONL file of these lines.
fn folder(lines: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let mine = root.path().join("mine");
    std::fs::create_dir(&mine).unwrap();
    image::RgbImage::from_pixel(8, 6, image::Rgb([9, 9, 9])).save(mine.join("a.png")).unwrap();
    let mut mask = image::RgbaImage::new(8, 6);
    mask.put_pixel(2, 1, image::Rgba([0, 1, 0, 0]));
    mask.save(mine.join("m.png")).unwrap();
    image::GrayImage::new(5, 6).save(mine.join("narrow.png")).unwrap();
    std::fs::write(mine.join("refs.jsonl"), lines).unwrap();
    root
}

#[test]
fn every_kind_of_mask() {
    let root = folder(concat!(
        "{\"image\": \"a.png\", \"mask\": \"m.png\", \"expressions\": [\"one\"]}\n\n",
        "{\"image\": \"a.png\", \"mask\": [0, 0, 4, 0, 4, 4, 0, 4], \"expressions\": [\"two\"], \"split\": \"val\"}\n",
        "{\"image\": \"a.png\", \"mask\": [[0, 0, 4, 0, 4, 4, 0, 4], [4, 4, 8, 4, 8, 6, 4, 6]], \"expressions\": [\"three\"]}\n",
        "{\"image\": \"a.png\", \"mask\": {\"size\": [6, 8], \"counts\": [6, 6, 36]}, \"expressions\": [\"four\"]}\n",
        "{\"image\": \"a.png\", \"mask\": null, \"expressions\": [\"nothing\"], \"ref_id\": 70, \"sent_ids\": [700]}\n",
        "{\"image\": \"a.png\", \"mask\": \"m.png\", \"expressions\": [], \"category\": \"spot\"}\n",
    ));
    let dataset = Dataset::open("mine", root.path()).unwrap();
    let areas: Vec<usize> =
        dataset.refs.iter().map(|reference| dataset.target(reference).unwrap().area()).collect();
    assert_eq!(areas, [1, 16, 24, 6, 0]);
    assert_eq!(dataset.refs[4].ref_id, 70);
    assert_eq!(dataset.refs[4].expressions[0].sent_id, 700);
    assert_eq!(dataset.refs[1].split, "val");
    // Objects without a category are never distractors.
    assert!(dataset.refs.iter().all(|reference| dataset.distractors(reference).is_empty()));
    assert_eq!(dataset.instances.annotations.len(), 5);
    // The data set also opens by the path of its file.
    let by_path =
        Dataset::open(&root.path().join("mine/refs.jsonl").to_string_lossy(), Path::new(".")).unwrap();
    assert_eq!(by_path.refs, dataset.refs);
}

#[test]
fn lines_with_one_mask_are_one_object() {
    let line = |text: &str, category: &str| {
        format!(
            "{{\"image\": \"a.png\", \"mask\": \"m.png\", \"expressions\": [\"{text}\"], \"category\": \"{category}\"}}\n"
        )
    };
    let root = folder(&[line("one", "spot"), line("two", "spot"), line("three", "dot")].concat());
    let dataset = Dataset::open("mine", root.path()).unwrap();
    let objects: Vec<&[i64]> = dataset.refs.iter().map(|reference| reference.ann_ids.as_slice()).collect();
    assert_eq!(objects, [[1], [1], [3]]);
    assert!(dataset.refs.iter().all(|reference| dataset.distractors(reference).is_empty()));
    assert_eq!(dataset.instances.annotations.len(), 2);
}

#[test]
fn text_in_the_place_of_a_mask() {
    let line =
        |mask: &str| format!("{{\"image\": \"a.png\", \"mask\": {mask:?}, \"expressions\": [\"x\"]}}\n");
    let masks = [
        ("[[0, 0, 4, 0, 4, 4, 0, 4]]", Ok(16)),
        ("{\"size\": [6, 8], \"counts\": [6, 6, 36]}", Ok(6)),
        ("[[0, 0, 4, 0, 4", Err("begins like JSON")),
        ("", Err("write null")),
        ("data:image/png;base64,iVBORw0KGgo=", Err("data URL")),
        ("https://host/m.png", Err("web address")),
        ("POLYGON ((0 0, 4 0, 4 4))", Err("WKT")),
        ("1 3 10 5", Err("run lengths")),
    ];
    let root = folder(&masks.map(|(mask, _)| line(mask)).concat());
    let dataset = Dataset::open("mine", root.path()).unwrap();
    for (reference, (mask, expected)) in dataset.refs.iter().zip(masks) {
        match (dataset.target(reference), expected) {
            (Ok(found), Ok(area)) => assert_eq!(found.area(), area, "{mask}"),
            (Err(error), Err(what)) => assert!(error.to_string().contains(what), "{mask}: {error}"),
            (found, _) => panic!("{mask}: {found:?}"),
        }
    }
}

#[test]
fn mistakes_name_file_and_line() {
    let good = "{\"image\": \"a.png\", \"mask\": null, \"expressions\": [\"x\"]}\n";
    for (line, message) in [
        ("{\"image\": \"a.png\", \"mask\": null}", "missing field `expressions`"),
        ("{\"image\": \"a.png\", \"mask\": null, \"expressions\": [\"x\"], \"catgory\": \"y\"}", "`catgory`"),
        ("{\"image\": \"a.png\", \"expressions\": [\"x\"]}", "missing field `mask`"),
        ("{\"image\": \"../a.png\", \"mask\": null, \"expressions\": [\"x\"]}", "does not stay inside"),
        ("{\"image\": \"/../a.png\", \"mask\": null, \"expressions\": [\"x\"]}", "does not stay inside"),
        (
            "{\"image\": \"a.png\", \"mask\": null, \"expressions\": [\"x\"], \"ref_id\": 1}",
            "ref_id 1 occurs twice",
        ),
        (
            "{\"image\": \"a.png\", \"mask\": null, \"expressions\": [\"x\"], \"sent_ids\": []}",
            "0 `sent_ids`",
        ),
        ("{\"image\": \"a.png\", \"mask\"", "column 25"),
    ] {
        let root = folder(&format!("{good}{line}\n"));
        let error = read_own(&root.path().join("mine/refs.jsonl")).unwrap_err().to_string();
        assert!(error.contains("refs.jsonl: line 2: ") && error.contains(message), "{message}: {error}");
    }
    let root = folder("{\"image\": \"b.png\", \"mask\": null, \"expressions\": [\"x\"]}");
    let error = Dataset::open("mine", root.path()).unwrap_err().to_string();
    assert!(error.contains("line 1: image `b.png`"), "{error}");

    for (mask, message) in [
        ("\"../../m.png\"", "does not stay inside"),
        ("\"none.png\"", "none.png"),
        ("\"narrow.png\"", "the mask is 6x5 but the image is 6x8"),
        ("[1, 2, 3]", "malformed polygon"),
        ("7", "found 7"),
    ] {
        let root = folder(&format!("{{\"image\": \"a.png\", \"mask\": {mask}, \"expressions\": [\"x\"]}}"));
        let dataset = Dataset::open("mine", root.path()).unwrap();
        let error = dataset.target(&dataset.refs[0]).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}
