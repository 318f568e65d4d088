//! The example of own data in `datasets/example`.
#![allow(missing_docs)]

use std::path::Path;

use refcoco::Dataset;

fn example() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets")
}

#[test]
fn the_documented_example_reads_as_documented() {
    let dataset = Dataset::open("example", &example()).unwrap();
    assert_eq!(dataset.splits(), ["train", "val"]);
    let areas: Vec<usize> =
        dataset.refs.iter().map(|reference| dataset.target(reference).unwrap().area()).collect();
    // A disc of radius 18, one of radius 12, a box, nothing, a disc of radius 26.
    assert!((1020..1100).contains(&areas[0]) && (440..500).contains(&areas[1]), "{areas:?}");
    assert_eq!(areas[3], 0);
    let distractors = |index: usize| dataset.distractors(&dataset.refs[index]);
    assert_eq!(distractors(0), dataset.refs[1].ann_ids);
    assert_eq!((distractors(2), distractors(3)), (vec![], vec![]));
    let numbers: Vec<i64> = dataset
        .refs
        .iter()
        .flat_map(|reference| reference.expressions.iter().map(|one| one.sent_id))
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}
