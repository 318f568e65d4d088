//! Records as other tools write them.

use super::*;

#[test]
fn segmentations_in_every_form() {
    let first = "[[0, 0, 2, 0, 2, 2, 0, 2]]";
    for form in [
        "[0, 0, 2, 0, 2, 2, 0, 2]",
        "[[[0, 0, 2, 0, 2, 2, 0, 2]]]",
        "[[0, 0], [2, 0], [2, 2], [0, 2]]",
        "[[[0, 0], [2, 0], [2, 2], [0, 2]]]",
        r#"[{"size": [6, 8], "counts": [0, 2, 46]}, {"size": [6.0, 8.0], "counts": [6, 2, 40]}]"#,
    ] {
        let (_root, dataset) = edited(|text| text.replace(first, form));
        assert_eq!(dataset.target(&dataset.refs[0]).unwrap().area(), 4, "{form}");
    }
}

#[test]
fn an_odd_record_that_nothing_needs_does_no_harm() {
    for odd in [
        r#"{"id": 999, "image_id": 7, "category_id": 90}"#,
        r#"{"id": 999, "image_id": 7, "category_id": null, "segmentation": []}"#,
        r#"{"id": 999, "image_id": "seven", "category_id": 90, "segmentation": []}"#,
        r#"{"image_id": 7}"#,
        "null",
        r#"{"id": 999, "image_id": 7, "category_id": 90, "score": NaN, "segmentation": [[NaN, 1]]}"#,
    ] {
        let insert = |text: String| text.replace("\"annotations\": [", &format!("\"annotations\": [{odd}, "));
        let (root, dataset) = edited(insert);
        assert_eq!(dataset.distractor_masks(&dataset.refs[0]).unwrap().len(), 1, "{odd}");
        let warnings = verified("refcoco", root.path()).warnings;
        let shown = format!("{warnings:?}");
        assert!(
            shown.contains("annotation 999") || shown.contains("number 1 of the annotations"),
            "{odd}: {shown}"
        );
    }
    let image = r#""images": [{"id": 77, "file_name": "x.png", "width": null, "height": 6}, "#;
    let (root, _) = edited(|text| text.replace("\"images\": [", image));
    assert!(format!("{:?}", verified("refcoco", root.path()).warnings).contains("image 77"));
}

#[test]
fn a_record_that_a_ref_needs_is_named_by_what_it_is() {
    let root = tempfile::tempdir().unwrap();
    for (from, to, expected) in [
        ("\"width\": 8", "\"width\": null", "image 7 cannot be used: `width` is missing or null"),
        (
            "\"iscrowd\": 0, \"segmentation\": [[0, 0, 2, 0, 2, 2, 0, 2]]",
            "\"x\": 0",
            "annotation 1 cannot be used",
        ),
        ("\"iscrowd\": 0", "\"iscrowd\": 7", "annotation 1 cannot be used: 7 is neither"),
        ("\"height\": 6}", "\"height\": 6}]", "image 7: what follows it is no JSON"),
    ] {
        refer(root.path(), |text| text.replacen(from, to, 1));
        let error = Dataset::open("refcoco", root.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("line 1 column"), "{error}");
    }
}

#[test]
fn flags_numbers_and_marks_as_other_tools_write_them() {
    for (from, to) in [
        ("\"iscrowd\": 0", "\"iscrowd\": false"),
        ("\"iscrowd\": 0", "\"iscrowd\": null"),
        ("\"width\": 8, \"height\": 6", "\"width\": 8.0, \"height\": \"6\""),
        ("\"id\": 1,", "\"id\": 1.0,"),
        ("{\"images\"", "\u{feff}{\"images\""),
        ("{\"images\"", "{\"info\": {\"mean\": NaN, \"text\": \"NaN\"}, \"images\""),
    ] {
        let (_root, dataset) = edited(|text| text.replacen(from, to, 1));
        assert_eq!(dataset.target(&dataset.refs[0]).unwrap().area(), 4, "{to}");
    }
}

#[test]
fn a_distractor_without_a_mask_is_left_out_and_counted() {
    let (root, dataset) = edited(|text| text.replace("[[4, 2, 8, 2, 8, 6, 4, 6]]", "[]"));
    assert_eq!(dataset.distractors(&dataset.refs[0]), [2]);
    assert!(dataset.distractor_masks(&dataset.refs[0]).unwrap().is_empty());
    assert_eq!(dataset.left_out_distractors().into_iter().collect::<Vec<_>>(), [2]);
    assert!(format!("{:?}", verified("refcoco", root.path()).warnings).contains("annotation 2"));
}

#[test]
fn a_descriptor_in_the_data_root_wins() {
    let root = tempfile::tempdir().unwrap();
    refer(root.path(), |text| text);
    std::fs::rename(root.path().join("images"), root.path().join("pictures")).unwrap();
    assert!(Dataset::open("refcoco", root.path()).is_err());
    let own = "\u{feff}name = \"refcoco\"\nabout = \"mine\"\nfolder = \"refcoco\"\nrefs = \"refs(unc).p\"\n\
               images = [\"pictures/train2014\"]\nword_len = 20\nval = \"val\"\ntest = []\n";
    std::fs::write(root.path().join("refcoco.toml"), own).unwrap();
    assert!(verified("refcoco", root.path()).errors.is_empty());
    assert_eq!(Descriptor::find("refcoco", root.path()).unwrap().word_len, 20);
    assert!(Descriptor::override_of("refcoco", root.path()).is_some());
    assert_eq!(Descriptor::described_below(root.path()).unwrap().len(), 1);
}

#[test]
fn a_file_that_is_none_is_called_that() {
    for (content, expected) in [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("<!DOCTYPE html><html>404</html>", "web page"),
        ("", "empty"),
    ] {
        for file in [
            "refcoco/instances.json",
            "refcoco/refs(unc).p",
            "images/train2014/COCO_train2014_000000000007.png",
        ] {
            let root = tempfile::tempdir().unwrap();
            refer(root.path(), |text| text);
            std::fs::write(root.path().join(file), content).unwrap();
            let error = match verify(Descriptor::named("refcoco").unwrap(), root.path(), |_, _| {}) {
                Ok(found) => format!("{:?}", found.errors),
                Err(error) => error.to_string(),
            };
            assert!(error.contains(expected), "{file}: {error}");
        }
    }
}

/// Written by numpy 2: `int32`, `int64`, `float64`, `str_` scalars, an `OrderedDict`, tuples.
#[test]
fn refs_with_numpy_s_scalars() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/numpy-refs.p");
    let [first, second] = &refcoco::read_refs(&path).unwrap()[..] else { panic!("two refs") };
    assert_eq!((first.ref_id, &first.ann_ids[..], first.image_id), (1, &[11][..], 7));
    assert_eq!((first.split.as_str(), first.expressions[0].sent.as_str()), ("val", "left cup"));
    assert_eq!((second.ref_id, second.expressions.len()), (2, 2));
}

/// Written by numpy 2: each id is an array with one element, of whole numbers or floats, with 0 to 2 dimensions.
#[test]
fn ids_that_are_numpy_arrays() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/numpy-arrays.p");
    let [only] = &refcoco::read_refs(&path).unwrap()[..] else { panic!("one ref") };
    assert_eq!(
        (only.ref_id, &only.ann_ids[..], only.image_id, &only.category_ids[..]),
        (1, &[7][..], 3, &[1][..])
    );
}

#[test]
fn segmentations_of_other_tools() {
    let first = "[[0, 0, 2, 0, 2, 2, 0, 2]]";
    for form in [
        r#"[{"x": 0, "y": 0}, {"x": 2, "y": 0}, {"x": 2, "y": 2}, {"x": 0, "y": 2}]"#,
        "[[0, 0, 2, 0, 2, 2, 0, 2], []]",
        "[[3, 3], [0, 0, 2, 0, 2, 2, 0, 2], [1, 1, 2, 2]]",
        r#"{"size": ["6", "8"], "counts": [0, 2, 4, 2, 40]}"#,
    ] {
        let (_root, dataset) = edited(|text| text.replace(first, form));
        assert_eq!(dataset.target(&dataset.refs[0]).unwrap().area(), 4, "{form}");
    }
    for (form, says) in [
        ("[[0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0]]", "matrix of 0 and 1"),
        (r#"{"X": [0, 2], "Y": [0, 2]}"#, "an object with X, Y"),
        ("[[0, 0, 2, 0, NaN, 2, 0, 2]]", "NaN"),
        ("[[0, 0, 2, 0, \"2\", 2, 0, 2]]", "coordinate"),
    ] {
        let root = tempfile::tempdir().unwrap();
        refer(root.path(), |text| text.replace(first, form));
        let errors = format!("{:?}", verified("refcoco", root.path()).errors);
        assert!(errors.contains("annotation 1") && errors.contains(says), "{form}: {errors}");
    }
}

#[test]
fn lists_of_categories_in_every_form() {
    let list = r#"[{"id": 90, "name": "cup"}]"#;
    for form in [list, r#"{"90": "cup"}"#, r#"{"cup": 90}"#, r#"[{"id": "90", "name": "cup"}, 7]"#] {
        let (_root, dataset) = edited(|text| text.replace(list, form));
        assert_eq!(dataset.instances.categories[&90], "cup", "{form}");
    }
    let (_root, dataset) =
        edited(|text| text.replace("\"category_id\": 90", "\"category_id\": 90, \"categories_id\": 90"));
    assert_eq!(dataset.instances.annotations[&2].category_id, 90);
}

#[test]
fn records_that_are_none_are_named_in_plain_words() {
    let root = tempfile::tempdir().unwrap();
    refer(root.path(), |text| text.replace("\"images\": [", "\"images\": [null, "));
    let warnings = format!("{:?}", verified("refcoco", root.path()).warnings);
    assert!(warnings.contains("an image's record") && !warnings.contains("struct"), "{warnings}");
    refer(root.path(), |text| {
        text.replace("[[0, 0, 2, 0, 2, 2, 0, 2]]", &("[".repeat(3000) + &"]".repeat(3000)))
    });
    let errors = format!("{:?}", verified("refcoco", root.path()).errors);
    assert!(errors.contains("annotation 1") && errors.contains("inside each other"), "{errors}");
}

/// The refs of a pickle.
fn refs_of(pickle: &[u8]) -> refcoco::Result<Vec<refcoco::Ref>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pickle).unwrap();
    refcoco::read_refs(file.path())
}

#[test]
fn values_that_nobody_reads_may_be_anything_plain() {
    // A list of one ref without category, with `ann_id` in a list, and with more entries.
    let with = |more: &[u8]| {
        let mut pickle = b"\x80\x04]}(\x8c\x06ref_idK\x01\x8c\x06ann_id]K\x05a\x8c\x08image_idK\x07".to_vec();
        pickle.extend(
            b"\x8c\x05split\x8c\x03val\x8c\x09sentences]}(\x8c\x04sent\x8c\x03cup\x8c\x07sent_idK\x02ua",
        );
        pickle.extend(b"\x8c\x04more");
        pickle.extend(more);
        pickle.extend(b"ua.");
        pickle
    };
    let values: [&[u8]; 6] = [
        // set(), a set of one, date(2020, 1, 2), PosixPath("a"), an int of nine bytes, deque([1])
        b"\x8f",
        b"\x8f(K\x01\x90",
        b"\x8c\x08datetime\x8c\x04date\x93C\x04\x07\xe4\x01\x02\x85R",
        b"\x8c\x07pathlib\x8c\x09PosixPath\x93\x8c\x01a\x85R",
        b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01",
        b"\x8c\x0bcollections\x8c\x05deque\x93)R(K\x01e",
    ];
    for value in values {
        let refs = refs_of(&with(value)).unwrap_or_else(|error| panic!("{value:?}: {error}"));
        assert_eq!((refs[0].ref_id, &refs[0].ann_ids[..], refs[0].category_ids.len()), (1, &[5][..], 0));
    }
    let refused =
        refs_of(&with(b"\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R")).unwrap_err().to_string();
    assert!(refused.contains("posix.system"), "{refused}");
    // Half of a character, in a field that nobody reads and in the expression.
    assert!(refs_of(&with(b"\x8c\x03\xed\xa0\xbd")).is_ok());
    let mut pickle = with(b"N");
    let at = pickle.windows(3).position(|bytes| bytes == b"cup").unwrap();
    pickle[at..at + 3].copy_from_slice(b"\xed\xa0\xbd");
    let error = refs_of(&pickle).unwrap_err().to_string();
    assert!(error.contains("ref_id 1") && error.contains("surrogate"), "{error}");
}

#[test]
fn targets_of_grefcoco_in_every_form() {
    for (ann_id, expected) in
        [("null", 0), ("[[10]]", 1), ("\"\"", 0), ("[10, 11.0]", 2), ("-1", 0), ("[[10], [11]]", 2)]
    {
        let text = format!(
            r#"[{{"ref_id": 1, "image_id": 7, "ann_id": {ann_id}, "no_target": null, "split": "val", "sentences": []}}]"#
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let refs = refcoco::read_grefs(file.path()).unwrap_or_else(|error| panic!("{ann_id}: {error}"));
        assert_eq!(refs[0].ann_ids.len(), expected, "{ann_id}");
    }
}
