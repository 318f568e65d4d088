//! Data sets as people have them: each kind of input that users of such tools report, with what is right.

use std::path::Path;

use refcoco::training_mix::{leaked_images, training_mix};
use refcoco::{Dataset, Descriptor, Verification, verify};

/// One photo of 8 x 6 pixels in `images/train2014`, two cups in it, and one ref an object.
fn refer(root: &Path, edit: impl Fn(String) -> String) {
    let (folder, images) = (root.join("refcoco"), root.join("images/train2014"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(&images).unwrap();
    photo(&images.join("COCO_train2014_000000000007.png"), 8, 6);
    let instances = r#"{"images": [{"id": 7, "file_name": "COCO_train2014_000000000007.png", "width": 8, "height": 6}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "iscrowd": 0, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
            {"id": 2, "image_id": 7, "category_id": 90, "segmentation": [[4, 2, 8, 2, 8, 6, 4, 6]]}],
        "categories": [{"id": 90, "name": "cup"}]}"#;
    std::fs::write(folder.join("instances.json"), edit(instances.to_owned())).unwrap();
    let mut writer = safe_pickle::Writer::new();
    writer.list(|list| {
        list.dict(|one| {
            for (key, number) in [("ref_id", 1), ("ann_id", 1), ("image_id", 7), ("category_id", 90)] {
                one.key(key).int(number);
            }
            one.key("split").text("val");
            one.key("sentences").list(|list| {
                list.dict(|entry| {
                    entry.key("sent").text("left cup").key("sent_id").int(0);
                });
            });
        });
    });
    std::fs::write(folder.join("refs(unc).p"), writer.finish()).unwrap();
}

fn photo(path: &Path, width: u32, height: u32) {
    image::RgbImage::from_pixel(width, height, image::Rgb([90, 80, 70])).save(path).unwrap();
}

fn verified(name: &str, root: &Path) -> Verification {
    verify(Descriptor::find(name, root).unwrap(), root, |_, _| {}).unwrap()
}

/// Opens the data set that `edit` makes of the sound one.
fn edited(edit: impl Fn(String) -> String) -> (tempfile::TempDir, Dataset) {
    let root = tempfile::tempdir().unwrap();
    refer(root.path(), edit);
    let dataset = Dataset::open("refcoco", root.path()).unwrap();
    assert!(verified("refcoco", root.path()).errors.is_empty());
    (root, dataset)
}

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
            shown.contains("annotation 999") || shown.contains("one of the annotations"),
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
fn photos_of_coco_2017_and_names_with_folders() {
    for (folder, name) in [
        ("images/train2017", "000000000007.png"),
        ("images/train2014", "000000000007.png"),
        ("images/train2014", "COCO_train2014_000000000007.png"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let in_folders = |text: String| text.replace("\"COCO_train2014", "\"./train2014/COCO_train2014");
        refer(root.path(), in_folders);
        std::fs::remove_dir_all(root.path().join("images")).unwrap();
        std::fs::create_dir_all(root.path().join("images/train2014")).unwrap();
        std::fs::create_dir_all(root.path().join(folder)).unwrap();
        photo(&root.path().join(folder).join(name), 8, 6);
        let found = verified("refcoco", root.path());
        assert!(found.errors.is_empty(), "{folder}/{name}: {:?}", found.errors);
    }
}

#[test]
fn folders_in_a_name_are_not_overruled() {
    let root = tempfile::tempdir().unwrap();
    refer(root.path(), |text| text.replace("COCO_train2014_000000000007.png", "01/1.png"));
    photo(&root.path().join("images/train2014/1.png"), 8, 6);
    std::fs::create_dir_all(root.path().join("images/train2014/09")).unwrap();
    photo(&root.path().join("images/train2014/09/1.png"), 8, 6);
    assert!(format!("{:?}", verified("refcoco", root.path()).errors).contains("No such file"));
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

/// A folder `name` of own data below the root: one picture and one line for each `(file, shade, split)`.
fn own(root: &Path, name: &str, pictures: &[(&str, u8, &str)]) {
    let folder = root.join(name);
    std::fs::create_dir_all(folder.join("p")).unwrap();
    let mut lines = Vec::new();
    for (file, shade, split) in pictures {
        let pixel = image::Rgb([*shade, 0, 0]);
        image::RgbImage::from_pixel(8, 6, pixel).save(folder.join("p").join(file)).unwrap();
        lines.push(format!(
            "{{\"image\": \"p/{file}\", \"mask\": [0, 0, 4, 0, 4, 4], \"expressions\": [\"red\"], \"split\": \"{split}\"}}"
        ));
    }
    std::fs::write(folder.join("refs.jsonl"), lines.join("\n")).unwrap();
}

#[test]
fn own_pictures_are_the_same_if_their_content_is() {
    let root = tempfile::tempdir().unwrap();
    own(root.path(), "one", &[("0001.png", 1, "train"), ("0002.png", 2, "val")]);
    own(root.path(), "two", &[("0002.png", 3, "train"), ("0001.png", 4, "val"), ("copy.png", 2, "train")]);
    let sets = ["one", "two"].map(|name| Dataset::open(name, root.path()).unwrap());
    let mix = training_mix(&sets, false).unwrap();
    // The copy of one's validation picture is left out; equal names of other pictures are not.
    assert_eq!((mix.refs.len(), mix.n_leaking), (2, vec![0, 1]));
    let everything = training_mix(&sets, true).unwrap();
    assert_eq!(leaked_images(&sets, &everything).into_iter().collect::<Vec<_>>(), ["two/p/copy.png"]);
}

#[test]
fn a_picture_in_two_splits_is_treated_alike() {
    let root = tempfile::tempdir().unwrap();
    own(root.path(), "mine", &[("a.png", 1, "train"), ("b.png", 2, "train"), ("again.png", 1, "val")]);
    let found = verified("mine", root.path());
    assert!(format!("{:?}", found.errors).contains("same picture"), "{:?}", found.errors);
    let mix = training_mix(&[Dataset::open("mine", root.path()).unwrap()], false).unwrap();
    assert_eq!((mix.refs.len(), mix.n_leaking), (1, vec![1]));
}

#[test]
fn oddities_of_own_data_are_told() {
    let root = tempfile::tempdir().unwrap();
    own(root.path(), "mine", &[("a.png", 1, "train")]);
    let folder = root.path().join("mine");
    image::GrayImage::from_pixel(8, 6, image::Luma([255])).save(folder.join("all.png")).unwrap();
    image::GrayImage::from_pixel(8, 6, image::Luma([200])).save(folder.join("m.jpg")).unwrap();
    let long = "red ".repeat(40);
    std::fs::write(
        folder.join("refs.jsonl"),
        format!(
            "[{{\"image\": \"p\\\\a.png\", \"mask\": \"./all.png\", \"expressions\": [\"{long}\"]}},\n\
             {{\"image\": \"./p/a.png\", \"mask\": \"m.jpg\", \"expressions\": [\"red\"]}}]"
        ),
    )
    .unwrap();
    let found = verified("mine", root.path());
    assert!(found.errors.is_empty(), "{:?}", found.errors);
    let shown = format!("{:?}", found.warnings);
    for expected in ["covers the whole picture", "is a JPEG", "more than 22 tokens", "no split `val`"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[test]
fn pictures_and_masks_in_tiff_and_webp() {
    let root = tempfile::tempdir().unwrap();
    let set = root.path().join("mine");
    std::fs::create_dir(&set).unwrap();
    let mut lines = String::new();
    for extension in ["tif", "webp", "png"] {
        photo(&set.join(format!("a.{extension}")), 8, 6);
        let mask = image::GrayImage::from_fn(8, 6, |x, _| image::Luma([if x < 3 { 255 } else { 0 }]));
        image::DynamicImage::from(mask).to_rgb8().save(set.join(format!("m.{extension}"))).unwrap();
        lines += &format!(
            "{{\"image\": \"a.{extension}\", \"mask\": \"m.{extension}\", \"expressions\": [\"a cup\"], \"split\": \"val\"}}\n"
        );
    }
    std::fs::write(set.join("refs.jsonl"), lines).unwrap();
    let dataset = Dataset::open("mine", root.path()).unwrap();
    for reference in &dataset.refs {
        assert_eq!(dataset.image(reference.image_id).unwrap().data[..3], [90, 80, 70]);
        assert_eq!(dataset.target(reference).unwrap().area(), 18);
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
