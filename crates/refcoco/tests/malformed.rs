//! Broken and unusual inputs: either one clear error or a correct reading, never a panic, and nothing is executed.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use refcoco::{Mask, read_grefs, read_instances, read_own, read_refs};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/malformed").join(name)
}

/// Refs files that load, with their number of refs.
const LOAD: [(&str, usize); 6] = [
    ("empty_list.p", 0),
    ("empty_sentences.p", 3),
    // Whole floats are numbers.
    ("float_ids.p", 3),
    ("trailing_garbage.p", 3),
    ("unknown_extra_key.p", 3),
    ("unknown_split.p", 3),
];

/// Refs files that are refused, and what the message must contain besides the file's name.
const REFUSED: [(&str, &str); 28] = [
    ("ann_id_is_string.p", "`ann_id` must be an int"),
    ("bad_memo_get.p", "memo"),
    ("build_setstate.p", "refused"),
    ("duplicate_ref_id.p", "occurs twice"),
    ("empty.p", "empty"),
    ("global_builtin_eval.p", "eval"),
    ("global_only.p", "refused"),
    ("huge_length.p", "unexpected end"),
    ("huge_length8.p", "unexpected end"),
    ("inst_os_system.p", "system"),
    ("list_of_ints.p", "must be a dict"),
    ("missing_mark.p", "mark"),
    ("missing_sentences_key.p", "`sentences` is missing"),
    ("not_a_pickle.p", "byte 0"),
    ("persid.p", "persistent id"),
    ("protocol_9.p", "protocol 9"),
    ("reduce_hidden_in_refs.p", "refused"),
    ("reduce_os_system_p0.p", "system"),
    ("reduce_os_system_p2.p", "system"),
    ("reduce_os_system_p4.p", "system"),
    ("self_reference.p", "must be a dict"),
    ("sent_is_bytes.p", "is missing"),
    ("sent_is_none.p", "`sent` must be text"),
    ("stack_underflow.p", "underflow"),
    ("top_level_dict.p", "must be a list of refs"),
    ("truncated_in_string.p", "unexpected end"),
    ("unknown_opcode.p", "unknown opcode"),
    ("missing_file.p", "No such file"),
];

#[test]
fn refs_files() {
    for (name, n) in LOAD {
        let refs = read_refs(&golden(&format!("pickles/{name}"))).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(refs.len(), n, "{name}");
    }
    for (name, part) in REFUSED {
        let message = read_refs(&golden(&format!("pickles/{name}"))).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(part), "{name}: {message}");
    }
    let tested = LOAD.iter().map(|(name, _)| *name).chain(REFUSED.iter().map(|(name, _)| *name));
    let tested: Vec<&str> = tested.collect();
    for entry in std::fs::read_dir(golden("pickles")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(tested.contains(&name.as_str()), "{name} is not tested");
    }
}

/// Segmentations that are refused; all others decode to the area the COCO tools give.
const NO_MASK: [&str; 19] = [
    "two_points",
    "one_point",
    "odd_number_of_coords",
    "empty_part",
    "no_parts",
    "string_coords",
    "null_segmentation",
    "rle_sum_short",
    "rle_sum_long",
    "rle_sum_overflow",
    "rle_negative",
    "rle_float",
    "rle_empty_counts",
    "rle_size_mismatch",
    "rle_size_swapped",
    "rle_missing_size",
    "rle_string_truncated",
    "rle_string_bad_chars",
    "rle_string_empty",
];

#[test]
fn segmentations() {
    let text = std::fs::read_to_string(golden("segmentations.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let found = Mask::from_segmentation(size("width"), size("height"), &case["segmentation"]);
        if NO_MASK.contains(&name) {
            assert!(found.is_err(), "{name}");
        } else {
            let area = case["pycocotools_2_0_7"]["area"].as_u64().unwrap() as usize;
            assert_eq!(found.unwrap_or_else(|error| panic!("{name}: {error}")).area(), area, "{name}");
        }
    }
    assert!(NO_MASK.iter().all(|name| cases.iter().any(|case| case["name"] == *name)));
}

proptest! {
    #[test]
    fn random_bytes_are_no_refs(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = safe_pickle::parse(&bytes);
        let _ = safe_pickle::parse_objects(&bytes, &|_| true);
    }

    #[test]
    fn a_refs_file_cut_anywhere_is_an_error(at in 0_usize..1500) {
        let bytes = std::fs::read(golden("pickles/unknown_split.p")).unwrap();
        prop_assume!(at < bytes.len());
        prop_assert!(safe_pickle::parse(&bytes[..at]).is_err());
    }

    #[test]
    fn a_damaged_refs_file_never_panics(at in 0_usize..1500, value in any::<u8>()) {
        let mut bytes = std::fs::read(golden("pickles/unknown_split.p")).unwrap();
        prop_assume!(at < bytes.len());
        bytes[at] = value;
        let _ = safe_pickle::parse(&bytes);
    }

    #[test]
    fn damaged_json_files_never_panic(at in 0_usize..400, value in any::<u8>()) {
        let own = br#"{"image": "a.png", "mask": [[0, 0, 4, 0, 4, 4]], "expressions": ["x"], "sent_ids": [4]}
            {"image": "a.png", "mask": null, "expressions": ["y"], "category": "c", "split": "val", "ref_id": 3}"#;
        let grefs = br#"[{"ref_id": 1, "image_id": 7, "ann_id": [-1], "category_id": [-1], "split": "val",
            "sentences": [{"sent_id": 1, "sent": "a", "raw": "A"}], "no_target": true}]"#;
        let instances = br#"{"images": [{"id": 1, "file_name": "a", "width": 3, "height": 2}], "annotations":
            [{"id": 2, "image_id": 1, "category_id": 1, "segmentation": {"size": [2, 3], "counts": "051"}}]}"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        for sound in [own.as_slice(), grefs, instances] {
            let mut bytes = sound.to_vec();
            let at = at % bytes.len();
            bytes[at] = value;
            std::fs::write(file.path(), &bytes).unwrap();
            let _ = (read_own(file.path()), read_grefs(file.path()), read_instances(file.path()));
        }
    }

    #[test]
    fn masks_survive_their_run_lengths(
        (width, height, data) in (1_usize..40, 1_usize..40).prop_flat_map(|(width, height)| {
            (Just(width), Just(height), prop::collection::vec(0_u8..2, width * height))
        })
    ) {
        let mask = Mask { width, height, data };
        prop_assert_eq!(&Mask::from_counts(width, height, &mask.to_counts()).unwrap(), &mask);
        prop_assert_eq!(&Mask::from_rle_string(width, height, &mask.to_rle_string()).unwrap(), &mask);
    }

    #[test]
    fn run_lengths_never_panic(text in ".{0,60}", counts in prop::collection::vec(any::<u64>(), 0..20)) {
        let _ = Mask::from_rle_string(30, 20, &text);
        let _ = Mask::from_counts(30, 20, &counts);
    }

    #[test]
    fn polygons_stay_inside_their_image(
        points in prop::collection::vec((-1e6_f64..1e6, -1e6_f64..1e6), 3..12),
        near in prop::collection::vec((-20.0_f64..60.0, -20.0_f64..60.0), 3..12),
    ) {
        for points in [points, near] {
            let polygon: Vec<f64> = points.iter().flat_map(|&(x, y)| [x, y]).collect();
            let mask = Mask::from_polygons(40, 30, &[polygon]).unwrap();
            prop_assert!(mask.data.len() == 1200 && mask.data.iter().all(|&pixel| pixel <= 1));
        }
    }
}
