//! `data export`: nothing is lost on the way to another layout and back.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use refcoco::refshapes::{Settings, generate};
use refcoco::{Dataset, Mask};

fn run(args: &[&str]) -> anyhow::Result<()> {
    let args: Vec<OsString> = args.iter().map(Into::into).collect();
    data_cli::run(&args)
}

fn export(name: &str, root: &Path, to: &Path, format: &str) -> Dataset {
    run(&[
        "export",
        "--dataset",
        name,
        "--data-root",
        root.to_str().unwrap(),
        "--to",
        to.to_str().unwrap(),
        "--format",
        format,
    ])
    .unwrap_or_else(|error| panic!("{name} as {format}: {error:#}"));
    let new = to.file_name().unwrap().to_str().unwrap();
    Dataset::open(new, to.parent().unwrap()).unwrap_or_else(|error| panic!("{name} as {format}: {error}"))
}

/// Everything a data set says about one ref.
type Told = (i64, String, Vec<(i64, String, String)>, Vec<i64>, i64, Vec<Option<String>>, Vec<i64>, Mask);

/// Each object's image, crowd mark and mask, by id.
type Objects = BTreeMap<i64, (i64, bool, Mask)>;

/// What a data set says: its refs and its objects.
fn told(dataset: &Dataset) -> (Vec<Told>, Objects) {
    let category = |id: &i64| dataset.instances.categories.get(id).filter(|name| *name != "object").cloned();
    let refs = dataset.refs.iter().map(|one| {
        let expressions =
            one.expressions.iter().map(|one| (one.sent_id, one.sent.clone(), one.raw.clone())).collect();
        let categories =
            one.ann_ids.iter().map(|id| category(&dataset.instances.annotations[id].category_id)).collect();
        let distractors = dataset.distractors(one);
        let (ids, mask) = (one.ann_ids.clone(), dataset.target(one).unwrap());
        (one.ref_id, one.split.clone(), expressions, ids, one.image_id, categories, distractors, mask)
    });
    let of_refs: Vec<i64> = dataset.refs.iter().map(|one| one.image_id).collect();
    let objects = dataset.instances.annotations.values().filter(|one| of_refs.contains(&one.image_id));
    let objects = objects.map(|one| (one.id, (one.image_id, one.is_crowd, dataset.mask(one.id).unwrap())));
    (refs.collect(), objects.collect())
}

fn published() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../refcoco/tests/golden/published")
}

fn there_and_back(name: &str, root: &Path) {
    let original = Dataset::open(name, root).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (there, back) in [("own", "refer"), ("refer", "own")] {
        let first = export(name, root, &folder.path().join(format!("{there}-1")), there);
        assert_eq!(told(&first), told(&original), "{name} as {there}");
        let second =
            export(&format!("{there}-1"), folder.path(), &folder.path().join(format!("{there}-2")), back);
        assert_eq!(told(&second), told(&original), "{name} as {there}, then as {back}");
        for id in second.instances.images.keys().filter(|id| !second.refs_in_image(**id).is_empty()) {
            assert_eq!(second.image(*id).unwrap().data, original.image(*id).unwrap().data, "{name}");
        }
        // The folder of the pictures is not put in front a second time.
        let plain = second.instances.images.values().all(|image| !image.file_name.contains("images/images"));
        assert!(plain, "{name} as {there}, then as {back}");
        assert_eq!(
            second.image_record(original.refs[0].image_id).unwrap().width,
            first.image(original.refs[0].image_id).unwrap().width
        );
    }
}

#[test]
fn nothing_is_lost_of_any_published_set() {
    for name in ["rrsisd", "refsegrs", "arefcoco", "reasonseg", "d3", "refcoco"] {
        there_and_back(name, &published());
    }
}

#[test]
fn nothing_is_lost_of_refshapes_and_the_example() {
    let folder = tempfile::tempdir().unwrap();
    let few = Settings {
        train_images: 3,
        val_images: 2,
        test_a_images: 1,
        test_b_images: 1,
        ..Settings::default()
    };
    generate(&few, folder.path(), |_| {}).unwrap();
    there_and_back("refshapes", folder.path());
    there_and_back("example", &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets"));
}

#[test]
fn only_the_splits_that_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = published();
    let export = |to: &str, splits: &str| {
        let to = folder.path().join(to);
        let (root, to) = (root.to_str().unwrap(), to.to_str().unwrap());
        run(&["export", "--dataset", "rrsisd", "--data-root", root, "--to", to, "--split", splits])
    };
    export("few", "val,test").unwrap();
    let few = Dataset::open("few", folder.path()).unwrap();
    assert_eq!(few.splits(), ["val", "test"]);
    assert_eq!(few.instances.images.len(), 2);
    let error = export("few", "val").unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
    let error = export("other", "testA").unwrap_err().to_string();
    assert!(error.contains("testA") && !folder.path().join("other").exists(), "{error}");
}
