//! The user's own data: pictures, masks, splits.

use refcoco::training_mix::{leaked_images, training_mix};

use super::*;

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
fn numbers_and_lines_of_own_data_in_every_form() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("mine");
    std::fs::create_dir(&folder).unwrap();
    photo(&folder.join("a.png"), 8, 6);
    let lines = r#"{"image": "a.png", "mask": [[0, 0, 2, 0, 2, 2, 0, 2]], "expressions": ["it"],
  "ref_id": 3.0, "sent_ids": ["4"], "category": 7, "ann_id": "5", "crowd": 0, "split": "val"
}
{"image": "a.png", "expressions": ["both"], "ann_ids": [5.0], "split": "val"}"#;
    std::fs::write(folder.join("refs.jsonl"), lines).unwrap();
    let dataset = Dataset::open("mine", root.path()).unwrap();
    assert_eq!((dataset.refs[0].ref_id, dataset.refs[0].expressions[0].sent_id), (3, 4));
    assert_eq!(
        (&dataset.refs[1].ann_ids[..], dataset.instances.categories.values().next().unwrap().as_str()),
        (&[5][..], "7")
    );
    // A missing picture is named with its line.
    std::fs::remove_file(folder.join("a.png")).unwrap();
    photo(&folder.join("A.PNG"), 8, 6);
    let error = Dataset::open("mine", root.path()).unwrap_err().to_string();
    assert!(
        error.contains("line 1") && error.contains("`a.png`") && error.contains("there is `A.PNG`"),
        "{error}"
    );
}

#[test]
fn masks_beside_pictures_that_their_orientation_mirrors() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("mine");
    std::fs::create_dir(&folder).unwrap();
    let line = r#"{"image": "a.jpg", "mask": "m.png", "expressions": ["it"], "split": "val"}"#;
    std::fs::write(folder.join("refs.jsonl"), line).unwrap();
    image::GrayImage::from_pixel(8, 6, image::Luma([255])).save(folder.join("m.png")).unwrap();
    for (orientation, warns) in [(1, false), (2, true), (3, true), (4, true)] {
        std::fs::write(folder.join("a.jpg"), turned_jpeg(orientation)).unwrap();
        let warnings = format!("{:?}", verified("mine", root.path()).warnings);
        assert_eq!(warnings.contains("EXIF"), warns, "{orientation}: {warnings}");
        assert!(warnings.contains("covers the whole picture"), "{warnings}");
    }
}

#[test]
fn a_lossy_mask_is_told_beside_what_else_is_odd() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("mine");
    std::fs::create_dir(&folder).unwrap();
    photo(&folder.join("a.png"), 8, 6);
    image::GrayImage::from_pixel(8, 6, image::Luma([255])).save(folder.join("m.jpg")).unwrap();
    let line = r#"{"image": "a.png", "mask": "m.jpg", "expressions": ["it"], "split": "val"}"#;
    std::fs::write(folder.join("refs.jsonl"), line).unwrap();
    let warnings = format!("{:?}", verified("mine", root.path()).warnings);
    assert!(warnings.contains("JPEG") && warnings.contains("covers the whole picture"), "{warnings}");
}

#[test]
fn a_jsonl_file_is_found_from_the_working_folder() {
    let root = tempfile::tempdir().unwrap();
    own(root.path(), "mine", &[("a.png", 1, "val")]);
    let path = root.path().join("mine/refs.jsonl");
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(Dataset::open(path.to_str().unwrap(), elsewhere.path()).unwrap().refs.len(), 1);
    let here = std::env::current_dir().unwrap();
    let up: String = here.components().skip(1).map(|_| "../").collect();
    let relative = up + path.strip_prefix("/").unwrap().to_str().unwrap();
    assert_eq!(Dataset::open(&relative, elsewhere.path()).unwrap().refs.len(), 1);
}

/// Own data of one picture, from its lines.
fn lines(root: &Path, lines: &[&str]) {
    let folder = root.join("mine");
    std::fs::create_dir_all(&folder).unwrap();
    photo(&folder.join("a.png"), 8, 6);
    std::fs::write(folder.join("refs.jsonl"), lines.join("\n")).unwrap();
}

#[test]
fn absolute_paths_are_those_of_another_machine() {
    let root = tempfile::tempdir().unwrap();
    let line = |image: &str| {
        format!(r#"{{"image": "{image}", "mask": null, "expressions": ["left"], "split": "val"}}"#)
    };
    for image in ["/home/other/data/mine/a.png", "C:\\\\data\\\\a.png", "/a.png"] {
        lines(root.path(), &[&line(image)]);
        assert_eq!(verified("mine", root.path()).errors, [], "{image}");
    }
    // Nothing outside the folder, and no file of the same name in place of one in a folder.
    std::fs::create_dir_all(root.path().join("mine/b")).unwrap();
    photo(&root.path().join("outside.png"), 8, 6);
    for image in [root.path().join("outside.png").to_str().unwrap(), "/data/c/a.png"] {
        lines(root.path(), &[&line(image)]);
        let errors = format!("{:?}", verified("mine", root.path()).errors);
        assert!(errors.contains("absolute paths are looked for below"), "{errors}");
    }
}

#[test]
fn expressions_that_are_cut_are_named() {
    let root = tempfile::tempdir().unwrap();
    let long = "a red cup on the table ".repeat(12);
    let line = |ref_id: i64, text: &str| {
        format!(
            r#"{{"image": "a.png", "mask": null, "expressions": ["{text}"], "split": "val", "ref_id": {ref_id}}}"#
        )
    };
    lines(root.path(), &[&line(3, "left"), &line(7, &long)]);
    let warnings = format!("{:?}", verified("mine", root.path()).warnings);
    assert!(
        warnings.contains("1 have more than") && warnings.contains("sent_id 2 of ref_id 7"),
        "{warnings}"
    );
}

#[test]
fn all_malformed_lines_are_named() {
    let root = tempfile::tempdir().unwrap();
    let good = r#"{"image": "a.png", "mask": null, "expressions": ["left"]}"#;
    lines(root.path(), &[good, &good[..20], good, &format!("{good}{good}"), r#"{"picture": "a.png"}"#]);
    let error = Dataset::open("mine", root.path()).unwrap_err().to_string();
    assert!(error.contains("line 2: ") && error.ends_with("2 more, in line 4, 5"), "{error}");
    lines(root.path(), &[&format!("{good}{good}")]);
    let error = Dataset::open("mine", root.path()).unwrap_err().to_string();
    assert!(error.contains("something follows the object on its line"), "{error}");
}

#[test]
fn one_object_has_one_mask_and_one_picture_one_name() {
    let root = tempfile::tempdir().unwrap();
    let left = r#"{"image": "a.png", "ann_id": 5, "mask": [[0, 0, 2, 0, 2, 2]], "expressions": ["left"], "category": "c", "split": "val"}"#;
    let other = left.replace("[[0, 0, 2, 0, 2, 2]]", "[[4, 4, 6, 4, 6, 6]]").replace("\"left\"", "\"right\"");
    lines(root.path(), &[left, &other]);
    let error = Dataset::open("mine", root.path()).unwrap_err().to_string();
    assert!(error.contains("line 2: ann_id 5 has another mask than in line 1"), "{error}");
    // Another object under another spelling of the picture's name.
    let other = other.replace("\"ann_id\": 5", "\"ann_id\": 6").replace("\"a.png\"", "\"./a.png\"");
    lines(root.path(), &[left, &other]);
    let dataset = Dataset::open("mine", root.path()).unwrap();
    assert_eq!((dataset.instances.images.len(), dataset.distractors(&dataset.refs[0])), (1, vec![6]));
}

#[test]
fn splits_and_expressions_as_people_write_them() {
    let root = tempfile::tempdir().unwrap();
    let line = |split: &str| {
        format!(r#"{{"image": "a.png", "mask": null, "expressions": "one text", "split": "{split}"}}"#)
    };
    let names = ["Train", " val ", "validation", "testa", "mine"];
    let all: Vec<String> = names.iter().map(|split| line(split)).collect();
    lines(root.path(), &all.iter().map(String::as_str).collect::<Vec<_>>());
    let dataset = Dataset::open("mine", root.path()).unwrap();
    let splits: Vec<&str> = dataset.refs.iter().map(|reference| reference.split.as_str()).collect();
    assert_eq!(splits, ["train", "val", "val", "testA", "mine"]);
    assert_eq!(dataset.refs[0].expressions[0].sent, "one text");
}

#[test]
fn verify_finds_what_training_and_scoring_would_stumble_over() {
    let root = tempfile::tempdir().unwrap();
    lines(
        root.path(),
        &[
            r#"{"image": "a.png", "mask": null, "expressions": ["x", "y"], "sent_ids": [7, 7], "split": "val"}"#,
        ],
    );
    assert!(format!("{:?}", verified("mine", root.path()).errors).contains("sent_id 7 twice"));
    // Every missing picture is named.
    let missing =
        |name: &str| format!(r#"{{"image": "{name}", "mask": null, "expressions": ["x"], "split": "val"}}"#);
    lines(root.path(), &[&missing("b.png"), &missing("c.png")]);
    let errors = format!("{:?}", verified("mine", root.path()).errors);
    assert!(errors.contains("line 1: image `b.png`") && errors.contains("line 2: image `c.png`"), "{errors}");
    lines(root.path(), &[]);
    assert!(Dataset::open("mine", root.path()).unwrap_err().to_string().contains("it is empty"));
}

#[test]
fn palettes_whose_background_is_an_object_are_told() {
    let root = tempfile::tempdir().unwrap();
    for (palette, warns) in [([[0, 0, 0], [255, 0, 0]], false), ([[255, 255, 255], [0, 0, 0]], true)] {
        let line = r#"{"image": "a.png", "mask": "m.png", "expressions": ["x"], "split": "val"}"#;
        lines(root.path(), &[line]);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 8, 6);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_palette(palette.concat());
        let pixels: Vec<u8> = (0..48).map(|at| u8::from(at % 8 < 4)).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        std::fs::write(root.path().join("mine/m.png"), bytes).unwrap();
        assert_eq!(format!("{:?}", verified("mine", root.path()).warnings).contains("palette"), warns);
    }
}
