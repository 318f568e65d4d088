//! `data import` on the two public Parquet layouts.
#![allow(missing_docs)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use refcoco::Dataset;

fn golden(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).display().to_string()
}

fn import(args: &[&str]) -> anyhow::Result<()> {
    let args: Vec<OsString> = std::iter::once("import").chain(args.iter().copied()).map(Into::into).collect();
    data_cli::run(&args)
}

fn target(root: &tempfile::TempDir) -> PathBuf {
    root.path().join("data/mine")
}

#[test]
fn pictures_inside_the_file_are_written_once_each() {
    let root = tempfile::tempdir().unwrap();
    let to = target(&root);
    import(&["--from", &golden("testA-00000-of-00001.parquet"), "--to", to.to_str().unwrap()]).unwrap();
    let dataset = Dataset::open("mine", &root.path().join("data")).unwrap();
    assert_eq!(dataset.splits(), ["testA"]);
    assert_eq!((dataset.refs.len(), dataset.instances.images.len()), (3, 2));
    assert_eq!(dataset.refs[0].expressions[1].sent, "the red one");
    // A corner at 20.5, 20.25 is rounded as the COCO tools round it.
    assert_eq!(dataset.target(&dataset.refs[0]).unwrap().area(), 17 * 16);
    assert_eq!(dataset.target(&dataset.refs[2]).unwrap().area(), 30 * 20);
    let picture = dataset.image(dataset.refs[2].image_id).unwrap();
    assert_eq!((picture.width, picture.height), (48, 32));
    assert!(std::fs::read_dir(root.path().join("data")).unwrap().count() == 1, "nothing else is left");
}

#[test]
fn pictures_elsewhere_are_linked_to() {
    let root = tempfile::tempdir().unwrap();
    let to = target(&root);
    let from = golden("train-00000-of-00001-jxu124.parquet");
    let error = import(&["--from", &from, "--to", to.to_str().unwrap()]).unwrap_err();
    assert!(format!("{error:#}").contains("--images"), "{error:#}");
    assert!(std::fs::read_dir(root.path().join("data")).unwrap().count() == 0, "half a data set is left");

    import(&["--from", &from, "--to", to.to_str().unwrap(), "--images", &golden("")]).unwrap();
    let dataset = Dataset::open("mine", &root.path().join("data")).unwrap();
    let [first, second] = &dataset.refs[..] else { panic!("{} refs", dataset.refs.len()) };
    assert_eq!((first.ref_id, first.split.as_str(), second.split.as_str()), (0, "train", "testB"));
    assert_eq!((second.expressions[0].sent_id, second.expressions[0].sent.as_str()), (10, "blue strip"));
    assert_eq!(dataset.instances.categories[&second.category_ids[0]], "bottle");
    assert_eq!(dataset.mask_parts(first.ann_ids[0]).unwrap().len(), 2);
    assert_eq!(dataset.target(second).unwrap().area(), 20);
    assert_eq!(dataset.image(second.image_id).unwrap().width, 48);

    let again =
        import(&["--from", &from, "--to", to.to_str().unwrap(), "--images", &golden("")]).unwrap_err();
    assert!(again.to_string().contains("exists already"), "{again}");
}

#[test]
fn other_files_are_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let cases = [("README.md", "not a readable parquet file"), ("missing.parquet", "No such file")];
    for (name, what) in cases {
        let error = import(&["--from", &golden(name), "--to", target(&root).to_str().unwrap()]).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(name) && error.contains(what), "{error}");
    }
}

#[test]
fn tables_of_other_sets() {
    // The areas of the targets in order.
    let cases: [(&str, &str, &[usize]); 4] = [
        ("validation-00000-of-00001-refcoco-m.parquet", "val", &[72, 60]),
        ("val-00000-of-00001-whole-numbers.parquet", "val", &[72]),
        ("val-00000-of-00001-nested.parquet", "val", &[72 + 60]),
        ("test-00000-of-00001-masks.parquet", "test", &[72]),
    ];
    for (name, split, areas) in cases {
        let root = tempfile::tempdir().unwrap();
        import(&["--from", &golden(name), "--to", target(&root).to_str().unwrap()])
            .unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let dataset = Dataset::open("mine", &root.path().join("data")).unwrap();
        assert_eq!(dataset.splits(), [split], "{name}");
        let found: Vec<usize> =
            dataset.refs.iter().map(|reference| dataset.target(reference).unwrap().area()).collect();
        assert_eq!(found, areas, "{name}");
        assert_eq!(dataset.image(1).unwrap().width, 32);
    }
}

#[test]
fn refcoco_m_is_a_set_by_name() {
    let root = tempfile::tempdir().unwrap();
    let to = root.path().join("refcoco_m");
    let from = golden("validation-00000-of-00001-refcoco-m.parquet");
    import(&["--from", &from, "--to", to.to_str().unwrap()]).unwrap();
    let dataset = Dataset::open("refcoco_m", root.path()).unwrap();
    assert_eq!(dataset.descriptor.val, "val");
    assert_eq!(dataset.distractors(&dataset.refs[0]).len(), 1);
}
