//! Sets in their published layouts, in small: RRSIS-D, RefSegRS, aRefCOCO, ReasonSeg and D-cube.

use std::path::{Path, PathBuf};

use refcoco::evaluation::queries;
use refcoco::{Dataset, Descriptor, Verification, verify};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/published")
}

fn open(name: &str) -> Dataset {
    Dataset::open(name, &root()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Splits with the number of their refs; area of each target in order.
fn contents(dataset: &Dataset) -> (Vec<(&str, usize)>, Vec<usize>) {
    let areas = dataset.refs.iter().map(|reference| dataset.target(reference).unwrap().area());
    (dataset.ref_counts().into_iter().collect(), areas.collect())
}

#[test]
fn every_set_verifies_without_errors() {
    for name in ["rrsisd", "refsegrs", "arefcoco", "reasonseg", "d3"] {
        let descriptor = Descriptor::find(name, &root()).unwrap();
        let Verification { errors, .. } = verify(descriptor, &root(), |_, _| {}).unwrap();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        let dataset = open(name);
        for id in dataset.instances.images.keys() {
            dataset.image(*id).unwrap();
        }
    }
}

#[test]
fn rrsisd_has_lists_of_rle_and_categories_id() {
    let dataset = open("rrsisd");
    let (splits, areas) = contents(&dataset);
    assert_eq!(splits, [("test", 1), ("train", 2), ("val", 1)]);
    assert_eq!(areas, [48; 4]);
    assert_eq!(dataset.instances.categories[&13], "ship");
}

#[test]
fn refsegrs_has_a_mask_file_for_each_phrase() {
    let dataset = open("refsegrs");
    let (splits, areas) = contents(&dataset);
    assert_eq!(splits, [("train", 2), ("val", 1)]);
    assert_eq!(areas, [30; 3]);
    assert_eq!(dataset.refs[0].expressions[0].sent, "vehicle in the parking area");
    assert!(dataset.distractors(&dataset.refs[0]).is_empty());
}

#[test]
fn arefcoco_takes_its_objects_from_both_sets_although_ids_collide() {
    let dataset = open("arefcoco");
    let (splits, areas) = contents(&dataset);
    assert_eq!(splits, [("test", 2), ("train", 1)]);
    assert_eq!(areas, [72, 60, 60]);
    let ids: Vec<i64> = dataset.refs.iter().map(|reference| reference.ref_id).collect();
    assert_eq!(ids, [500, 501, 502]);
    assert_eq!(dataset.refs[0].expressions[1].sent, "left box");
    // The other box of the same photo.
    assert_eq!(dataset.distractors(&dataset.refs[0]), [12]);
    let photo = dataset.image_record(dataset.refs[2].image_id).unwrap();
    assert_eq!(photo.file_name, "COCO_train2014_000000000002.jpg");
}

#[test]
fn arefcoco_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let to = folder.path().join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(root().join(name), to).unwrap();
    };
    for name in ["arefcoco/arefcoco.json", "refcoco/refs(unc).p", "refcoco/instances.json"] {
        copy(name);
    }
    std::fs::create_dir_all(folder.path().join("train2014")).unwrap();
    let error = Dataset::open("arefcoco", folder.path()).unwrap_err().to_string();
    assert!(error.contains("refs(umd).p"), "{error}");
    let write = |annotation: &str| {
        std::fs::write(
            folder.path().join("arefcoco/arefcoco.json"),
            format!(r#"{{"annotations": [{annotation}]}}"#),
        )
        .unwrap();
        Dataset::open("arefcoco", folder.path()).unwrap_err().to_string()
    };
    let error = write(r#"{"ref_id": 99, "original_dataset": "refcoco", "descriptions": ["a"]}"#);
    assert!(error.contains("annotation number 1") && error.contains("ref_id 99"), "{error}");
    let error = write(r#"{"ref_id": 1, "original_dataset": "coco", "descriptions": ["a"]}"#);
    assert!(error.contains("original_dataset"), "{error}");
}

#[test]
fn reasonseg_paints_its_polygons_and_knows_what_to_ignore() {
    let dataset = open("reasonseg");
    let (splits, areas) = contents(&dataset);
    assert_eq!(splits, [("train", 1), ("val", 1)]);
    // The boundary belongs to a polygon.
    assert_eq!(areas, [12 * 10, 12 * 10]);
    assert!(dataset.ignored(&dataset.refs[0]).unwrap().is_none());
    assert_eq!(dataset.ignored(&dataset.refs[1]).unwrap().unwrap().area(), 6 * 6);
    assert_eq!(queries(&dataset, "train").unwrap().len(), 2);
    let asked = queries(&dataset, "val").unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].text, "something the child’s hand can lift");
}

#[test]
fn d3_asks_each_image_the_sentences_of_its_group() {
    let dataset = open("d3");
    let (splits, areas) = contents(&dataset);
    assert_eq!(splits, [("abs", 2), ("pres", 2)]);
    // The second image has no box that is not red.
    assert_eq!(areas, [72, 60, 72, 0]);
    assert_eq!(dataset.refs[3].ref_id, 1002);
    // Objects of one group are one category.
    assert_eq!(dataset.distractors(&dataset.refs[0]), [2]);
}
