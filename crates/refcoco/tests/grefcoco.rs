//! gRefCOCO: expressions with none, one or several targets.
#![allow(missing_docs)]

use std::path::Path;

use refcoco::letterbox::Normalisation;
use refcoco::sampler::{Negatives, draw_expressions};
use refcoco::{Buffers, ClipTokenizer, Dataset, RefAt, SampleOptions, SampleShape, load_batch, read_grefs};
use serde_json::{Value, json};

fn reference(ref_id: i64, ann_id: Value, no_target: bool, sentence: &str) -> Value {
    json!({
        "ref_id": ref_id, "image_id": 7, "ann_id": ann_id, "category_id": [90], "split": "train",
        "file_name": "x.jpg", "no_target": no_target, "sent_ids": [ref_id],
        "sentences": [{"sent_id": ref_id, "sent": sentence, "raw": sentence, "tokens": []}],
    })
}

fn write(root: &Path, refs: &Value) {
    let folder = root.join("grefcoco");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(root.join("train2014")).unwrap();
    image::RgbImage::new(8, 6).save(root.join("train2014/a.png")).unwrap();
    std::fs::write(folder.join("grefs(unc).json"), refs.to_string()).unwrap();
    let square = |x: i32, y: i32| json!([[x, y, x + 2, y, x + 2, y + 2, x, y + 2]]);
    let instances = json!({
        "images": [{"id": 7, "file_name": "a.png", "width": 8, "height": 6}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "iscrowd": 0, "segmentation": square(0, 0)},
            {"id": 2, "image_id": 7, "category_id": 90, "iscrowd": 0, "segmentation": square(4, 0)},
            {"id": 3, "image_id": 7, "category_id": 90, "iscrowd": 0, "segmentation": square(4, 4)},
            {"id": 4, "image_id": 7, "category_id": 90, "iscrowd": 1, "segmentation": square(0, 4)},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}],
    });
    std::fs::write(folder.join("instances.json"), instances.to_string()).unwrap();
}

#[test]
fn none_one_and_several_targets() {
    let root = tempfile::tempdir().unwrap();
    let refs = json!([
        reference(0, json!([-1]), true, "the fork"),
        reference(1, json!([2]), false, "right one"),
        reference(2, json!([1, 2]), false, "both on top"),
        reference(3, json!(3), false, "lower one"),
    ]);
    write(root.path(), &refs);
    let dataset = Dataset::open("grefcoco", root.path()).unwrap();
    let areas: Vec<usize> =
        dataset.refs.iter().map(|reference| dataset.target(reference).unwrap().area()).collect();
    assert_eq!(areas, [0, 4, 8, 4]);
    // Neither the crowd nor a ref's own targets are distractors.
    let distractors: Vec<Vec<i64>> =
        dataset.refs.iter().map(|reference| dataset.distractors(reference)).collect();
    assert_eq!(distractors, [vec![], vec![1, 3], vec![3], vec![1, 2]]);
    // A negative describes none of the anchor's targets.
    for epoch in 0..30 {
        let negative = draw_expressions(&dataset, &dataset.refs[2], Negatives::AnyObject, (0, epoch))
            .unwrap()
            .negative
            .unwrap();
        assert!(["the fork", "lower one"].contains(&negative.as_str()), "{negative}");
    }
    let refs = [0, 2].map(|index| RefAt { dataset: 0, index });
    let shape = SampleShape { input_size: 16, word_len: 9, pixels: Normalisation::CLIP };
    let tokenizer = ClipTokenizer::new().unwrap();
    let batch = load_batch(
        std::slice::from_ref(&dataset),
        &tokenizer,
        &refs,
        (0, 0),
        shape,
        &SampleOptions::default(),
        &Buffers::default(),
    )
    .unwrap();
    assert_eq!(batch.masks[..256].iter().sum::<f32>(), 0.0);
    assert!(batch.masks[256..].iter().sum::<f32>() > 20.0);
    let stats = dataset.stats().unwrap().total;
    assert_eq!((stats.refs_without_target, stats.refs_with_several_targets), (1, 1));
    let found = refcoco::verify(dataset.descriptor.clone(), root.path(), |_, _| {}).unwrap();
    assert_eq!((found.errors, found.targets), (vec![], 3));
}

#[test]
fn mistakes_name_the_ref() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("grefcoco/grefs(unc).json");
    for (refs, message) in [
        (json!([reference(5, json!([1, 1]), false, "x")]), "ref_id 5: `ann_id` names an annotation twice"),
        (json!([reference(5, json!([1]), true, "x")]), "ref_id 5: `no_target` is true"),
        (json!([reference(5, json!([1]), false, "x"), reference(5, json!([2]), false, "y")]), "occurs twice"),
        (json!([{"ref_id": 1}]), "ref_id 1: missing field `image_id`"),
        (json!([{"image_id": 1}]), "ref number 0: missing field `ref_id`"),
        (json!([reference(5, json!("one"), false, "x")]), "ref_id 5: \"one\" is no whole number"),
        (json!({"refs": []}), "found an object, expected a list"),
    ] {
        write(root.path(), &refs);
        let error = read_grefs(&file).unwrap_err().to_string();
        assert!(error.contains("grefs(unc).json") && error.contains(message), "{message}: {error}");
    }
    write(root.path(), &json!([reference(5, json!([1, 99]), false, "x")]));
    let error = Dataset::open("grefcoco", root.path()).unwrap_err().to_string();
    assert!(error.contains("ref_id 5: its annotation 99"), "{error}");
}
