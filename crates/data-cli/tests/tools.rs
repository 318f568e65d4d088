//! `data import` of what annotation tools write.
#![allow(missing_docs)]

use std::ffi::OsString;
use std::path::Path;

use base64::Engine;
use image::{GrayImage, Luma, RgbImage};
use refcoco::Dataset;

/// Imports `root/from` as `root/data/mine`, in place of what is there.
fn import(root: &Path, from: &str, more: &[&str]) -> anyhow::Result<Dataset> {
    let (from, to) = (root.join(from), root.join("data/mine"));
    // What an earlier import of the same test wrote.
    if to.exists() {
        std::fs::remove_dir_all(&to)?;
    }
    let mut args: Vec<OsString> =
        vec!["import".into(), "--from".into(), from.into(), "--to".into(), to.into()];
    args.extend(more.iter().map(Into::into));
    data_cli::run(&args)?;
    Ok(Dataset::open("mine", &root.join("data"))?)
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn picture(root: &Path, name: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(20, 10, image::Rgb([90, 120, 90])).save(path).unwrap();
}

/// A mask of the size of [`picture`] that covers it.
fn white_mask(root: &Path, name: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    GrayImage::from_pixel(20, 10, Luma([255])).save(path).unwrap();
}

/// Each ref's expressions, split and area.
fn refs(dataset: &Dataset) -> Vec<(Vec<&str>, &str, usize)> {
    let one = |one: &'_ refcoco::Ref| -> (Vec<String>, String, usize) {
        let texts = one.expressions.iter().map(|expression| expression.sent.clone()).collect();
        (texts, one.split.clone(), dataset.target(one).unwrap().area())
    };
    let all: Vec<_> = dataset.refs.iter().map(one).collect();
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    all.into_iter()
        .map(|(texts, split, area)| (texts.into_iter().map(leak).collect(), leak(split), area))
        .collect()
}

#[test]
fn labelme() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "l/a.png");
    write(
        root.path(),
        "l/a.json",
        r#"{"version": "5.0", "flags": {}, "imagePath": "..\\l\\a.png", "imageData": null, "imageHeight": 10, "imageWidth": 20, "shapes": [
            {"label": "cup", "points": [[0, 0], [4, 0], [4, 5], [0, 5]], "group_id": null, "shape_type": "polygon", "flags": {}},
            {"label": "cup", "points": [[10, 2], [14, 6]], "group_id": 1, "shape_type": "rectangle"},
            {"label": "cup", "points": [[16, 2], [18, 6]], "group_id": 1, "shape_type": "rectangle"},
            {"label": "red_box", "points": [[10, 7], [13, 9]], "group_id": null, "shape_type": "rectangle", "description": "the box below"},
            {"label": "x", "points": [[1, 1]], "group_id": null, "shape_type": "point"}]}"#,
    );
    let dataset = import(root.path(), "l", &[]).unwrap();
    // Two cups, which their name alone asks for together; a cup of two parts.
    assert_eq!(refs(&dataset), [(vec!["the box below"], "train", 6), (vec!["cup"], "train", 20 + 16 + 8)]);
    assert_eq!(dataset.instances.annotations.len(), 3);
    assert_eq!(dataset.image(dataset.refs[0].image_id).unwrap().width, 20);
}

#[test]
fn coco_with_expressions_from_a_table_or_from_names() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "photos/a.jpg");
    write(
        root.path(),
        "instances_val2017.json",
        r#"{"images": [{"id": 3, "file_name": "a.jpg", "width": 20, "height": 10}],
            "annotations": [
              {"id": 7, "image_id": 3, "category_id": 1, "iscrowd": 0, "segmentation": [[0, 0, 4, 0, 4, 5, 0, 5]]},
              {"id": 8, "image_id": 3, "category_id": 1, "iscrowd": 0, "segmentation": [[8, 0, 10, 0, 10, 5, 8, 5]]},
              {"id": 9, "image_id": 3, "category_id": 1, "iscrowd": 1, "segmentation": {"size": [10, 20], "counts": [0, 10, 190]}},
              {"id": 10, "image_id": 3, "category_id": 1, "iscrowd": 0, "segmentation": []}],
            "categories": [{"id": 1, "name": "dog"}]}"#,
    );
    let photos = root.path().join("photos");
    let photos = photos.to_str().unwrap();
    let by_name = import(root.path(), "instances_val2017.json", &["--images", photos]).unwrap();
    assert_eq!(refs(&by_name), [(vec!["dog"], "val", 30)]);
    assert_eq!(by_name.instances.annotations.values().filter(|one| one.is_crowd).count(), 1);

    write(
        root.path(),
        "e.csv",
        "\u{feff}annotation_id,expression\n7,\"the dog, left\"\n7,first dog\n8,second dog\n",
    );
    let table = root.path().join("e.csv");
    let more = ["--images", photos, "--expressions", table.to_str().unwrap()];
    let by_table = import(root.path(), "instances_val2017.json", &more).unwrap();
    assert_eq!(
        refs(&by_table),
        [(vec!["the dog, left", "first dog"], "val", 20), (vec!["second dog"], "val", 10)]
    );
    assert_eq!(by_table.distractors(&by_table.refs[0]).len(), 1);

    write(root.path(), "e.csv", "annotation_id,expression\n99,nobody\n");
    let error = format!("{:#}", import(root.path(), "instances_val2017.json", &more).unwrap_err());
    assert!(error.contains("line 2 names no object"), "{error}");
    assert!(!root.path().join("data/mine").exists());
    let error = format!("{:#}", import(root.path(), "instances_val2017.json", &[]).unwrap_err());
    assert!(error.contains("--images"), "{error}");
}

#[test]
fn yolo() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "y/images/val/a.png");
    write(root.path(), "y/labels/val/a.txt", "1 0 0 0.5 0 0.5 0.5 0 0.5\n0 0.5 0.5 0.1 0.1\n");
    write(root.path(), "y/data.yaml", "path: .\nnames:\n  0: cat\n  1: fire_truck  # red\n");
    let dataset = import(root.path(), "y", &[]).unwrap();
    assert_eq!(refs(&dataset), [(vec!["fire truck"], "val", 50)]);
    write(root.path(), "y/data.yaml", "names: ['cat', \"truck\"]\n");
    assert_eq!(refs(&import(root.path(), "y", &[]).unwrap()), [(vec!["truck"], "val", 50)]);
    write(root.path(), "y/labels/val/a.txt", "1 0 zero\n");
    let error = format!("{:#}", import(root.path(), "y", &[]).unwrap_err());
    assert!(error.contains("a.txt: line 1"), "{error}");
}

#[test]
fn folders_of_masks() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "m/images/a.png");
    picture(root.path(), "m/images/a_b.png");
    std::fs::create_dir_all(root.path().join("m/masks/a_b")).unwrap();
    let mask = |name: &str, n: u32| {
        let mask = GrayImage::from_fn(20, 10, |x, y| Luma([if y == 0 && x < n { 255 } else { 0 }]));
        mask.save(root.path().join("m/masks").join(name)).unwrap();
    };
    mask("a_left_cup.png", 3);
    mask("a_b/the right cup.png", 5);
    let dataset = import(root.path(), "m", &[]).unwrap();
    assert_eq!(refs(&dataset), [(vec!["the right cup"], "train", 5), (vec!["left cup"], "train", 3)]);

    mask("a.png", 4);
    let error = format!("{:#}", import(root.path(), "m", &[]).unwrap_err());
    assert!(error.contains("a.png") && error.contains("--expressions"), "{error}");
    write(root.path(), "e.csv", "mask,expression,split\na.png,a cup,val\n");
    let table = root.path().join("e.csv");
    let named = import(root.path(), "m", &["--kind", "masks", "--expressions", table.to_str().unwrap()]);
    let named = named.unwrap();
    assert!(refs(&named).iter().any(|one| one.0.contains(&"a cup") && one.1 == "val"), "{:?}", refs(&named));
}

#[test]
fn labelme_s_masks_and_second_descriptions() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "l/a.png");
    let mut png = std::io::Cursor::new(Vec::new());
    GrayImage::from_pixel(3, 2, Luma([255])).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let mask = base64::engine::general_purpose::STANDARD.encode(png.get_ref());
    let text = |top: u32| {
        format!(
            r#"{{"imagePath": "a.png", "shapes": [
            {{"label": 7, "points": [[4, {top}], [6, {bottom}]], "shape_type": "mask", "mask": "{mask}", "group_id": 1, "description": "the cup"}},
            {{"label": 7, "points": [[10, 0], [14, 5]], "shape_type": "rectangle", "group_id": 1, "description": "its handle"}}], "x": NaN}}"#,
            bottom = top + 1
        )
    };
    write(root.path(), "l/a.json", &text(2));
    let dataset = import(root.path(), "l", &[]).unwrap();
    assert_eq!(refs(&dataset), [(vec!["the cup", "its handle"], "train", 6 + 20)]);
    assert_eq!(dataset.target(&dataset.refs[0]).unwrap().data[2 * 20 + 4], 1);
    write(root.path(), "l/a.json", &text(9));
    let error = format!("{:#}", import(root.path(), "l", &[]).unwrap_err());
    assert!(error.contains("shape 1") && error.contains("does not fit"), "{error}");
}

#[test]
fn roboflow_s_folders_of_splits() {
    let root = tempfile::tempdir().unwrap();
    for split in ["train", "valid"] {
        picture(root.path(), &format!("y/{split}/images/a.png"));
        write(root.path(), &format!("y/{split}/labels/a.txt"), "\u{feff}0 0 0 0.5 0 0.5 0.5 0 0.5\n");
    }
    write(root.path(), "y/data.yaml", "names: ['cat']\n");
    let dataset = import(root.path(), "y", &[]).unwrap();
    assert_eq!(refs(&dataset), [(vec!["cat"], "train", 50), (vec!["cat"], "val", 50)]);
    // Two pictures of one name.
    picture(root.path(), "y/train/images/a.jpg");
    let error = format!("{:#}", import(root.path(), "y", &[]).unwrap_err());
    assert!(error.contains("a.jpg") && error.contains("a.png"), "{error}");
}

#[test]
fn names_of_masks_that_say_nothing_and_masks_of_two_pictures() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "m/images/a.png");
    std::fs::create_dir_all(root.path().join("m/masks")).unwrap();
    let mask = GrayImage::from_pixel(20, 10, Luma([255]));
    mask.save(root.path().join("m/masks/a_mask.png")).unwrap();
    let error = format!("{:#}", import(root.path(), "m", &[]).unwrap_err());
    assert!(error.contains("a_mask.png") && error.contains("no expression"), "{error}");
    std::fs::rename(root.path().join("m/masks/a_mask.png"), root.path().join("m/masks/a_red cup.png"))
        .unwrap();
    assert_eq!(refs(&import(root.path(), "m", &[]).unwrap())[0].0, ["red cup"]);
    picture(root.path(), "m/images/a.jpg");
    let error = format!("{:#}", import(root.path(), "m", &[]).unwrap_err());
    assert!(error.contains("a.jpg") && error.contains("a.png"), "{error}");
    std::fs::remove_file(root.path().join("m/images/a.jpg")).unwrap();
    GrayImage::new(3, 3).save(root.path().join("m/masks/a_red cup.png")).unwrap();
    let error = format!("{:#}", import(root.path(), "m", &[]).unwrap_err());
    assert!(error.contains("3x3") && error.contains("20x10"), "{error}");
}

#[test]
fn numbers_of_coco_in_every_form_and_masks_without_a_pixel() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "a.jpg");
    let coco = |segmentation: &str| {
        format!(
            r#"{{"images": [{{"id": "3", "file_name": "a.jpg", "width": 20, "height": 10}}],
            "annotations": [
              {{"id": 7.0, "image_id": 3.0, "category_id": "1", "iscrowd": "0", "area": NaN, "segmentation": {segmentation}}},
              {{"id": 8, "image_id": 3, "category_id": 1, "iscrowd": 0, "segmentation": [[50, 50, 60, 50, 60, 60]]}}],
            "categories": [{{"id": 1.0, "name": "dog"}}]}}"#
        )
    };
    write(root.path(), "instances.json", &coco("[[0, 0, 4, 0, 4, 5, 0, 5]]"));
    write(root.path(), "e.csv", "ann_id,expression\n7.0,the dog\n");
    let table = root.path().join("e.csv");
    let dataset = import(root.path(), "instances.json", &["--expressions", table.to_str().unwrap()]).unwrap();
    assert_eq!(
        (refs(&dataset), dataset.instances.annotations.len()),
        (vec![(vec!["the dog"], "train", 20)], 1)
    );
    write(root.path(), "instances.json", &coco("[[50, 50, 60, 50, 60, 60]]"));
    let error = format!("{:#}", import(root.path(), "instances.json", &[]).unwrap_err());
    assert!(error.contains("no object with a mask"), "{error}");
    write(root.path(), "instances.json", &coco("[[0, 0, 4]]"));
    let error = format!("{:#}", import(root.path(), "instances.json", &[]).unwrap_err());
    assert!(error.contains("annotation 7") && error.contains("a.jpg"), "{error}");
}

#[test]
fn pictures_of_coco_by_every_spelling_and_a_folder_of_splits() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "c/images/a.jpg");
    let coco = |name: &str, width: u32| {
        format!(
            r#"{{"images": [{{"id": 3, "file_name": "{name}", "width": {width}, "height": 10}}],
            "annotations": [{{"id": 7, "image_id": 3, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 5, 0, 5]]}},
              {{"id": 8, "image_id": 99, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 5, 0, 5]]}}],
            "categories": {{"1": "dog"}}}}"#
        )
    };
    for name in
        ["a.jpg", "./a.jpg", "../images/a.jpg", "/home/me/a.jpg", "C:\\\\x\\\\a.jpg", "http://host/x/a.jpg"]
    {
        write(root.path(), "c/annotations/instances.json", &coco(name, 20));
        let dataset = import(root.path(), "c/annotations/instances.json", &[]).unwrap();
        assert_eq!(refs(&dataset), [(vec!["dog"], "train", 20)], "{name}");
    }
    // Coordinates of another scale.
    write(root.path(), "c/annotations/instances.json", &coco("a.jpg", 640));
    let error = format!("{:#}", import(root.path(), "c/annotations/instances.json", &[]).unwrap_err());
    assert!(error.contains("640x10") && error.contains("20x10"), "{error}");
    // Roboflow's folders.
    for split in ["train", "valid"] {
        picture(root.path(), &format!("r/{split}/a.jpg"));
        write(root.path(), &format!("r/{split}/_annotations.coco.json"), &coco("a.jpg", 20));
    }
    let dataset = import(root.path(), "r", &[]).unwrap();
    assert_eq!(refs(&dataset), [(vec!["dog"], "train", 20), (vec!["dog"], "val", 20)]);
}

#[test]
fn labelme_beside_a_folder_of_pictures() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "l/images/a.png");
    let text = |width: u32| {
        format!(
            r#"{{"imagePath": "..\\\\images\\\\a.png", "imageWidth": {width}, "imageHeight": 10, "shapes": [
            {{"label": "cup", "points": [[0, 0], [4, 5]], "shape_type": "rectangle", "description": ["the cup", "a cup"]}}]}}"#
        )
    };
    write(root.path(), "l/json/a.json", &text(20));
    assert_eq!(refs(&import(root.path(), "l", &[]).unwrap()), [(vec!["the cup", "a cup"], "train", 20)]);
    let images = root.path().join("l/images");
    let beside = import(root.path(), "l/json", &["--images", images.to_str().unwrap()]).unwrap();
    assert_eq!(refs(&beside).len(), 1);
    write(root.path(), "l/json/a.json", &text(200));
    let error = format!("{:#}", import(root.path(), "l", &[]).unwrap_err());
    assert!(error.contains("200x10"), "{error}");
}

#[test]
fn names_of_classes_as_yaml_has_them() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "y/images/a.png");
    write(root.path(), "y/labels/a.txt", "1 0 0 0.5 0 0.5 0.5 0 0.5\n");
    for (yaml, name) in [
        ("names: [a, \"\\u7EA2\\u7403\"]", "\u{7EA2}\u{7403}"),
        ("names: {'0': a, '1': 'it''s'}", "it's"),
        ("{names: [a, b], nc: 2}", "b"),
        ("nc: 2", "class 1"),
    ] {
        write(root.path(), "y/data.yaml", yaml);
        assert_eq!(refs(&import(root.path(), "y", &[]).unwrap())[0].0, [name], "{yaml}");
    }
}

#[test]
fn tables_with_other_separators_and_missing_quotation_marks() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "m/images/a.png");
    white_mask(root.path(), "m/masks/a_1.png");
    let table = root.path().join("e.csv");
    let more = ["--expressions", table.to_str().unwrap()];
    for text in ["mask;expression\na_1.png;the cup, left\n", "mask\texpression\na_1.png\tthe cup, left\n"] {
        write(root.path(), "e.csv", text);
        assert_eq!(refs(&import(root.path(), "m", &more).unwrap())[0].0, ["the cup, left"], "{text}");
    }
    write(root.path(), "e.csv", "mask,expression\na_1.png,\"left\na_1.png,right\n");
    let error = format!("{:#}", import(root.path(), "m", &more).unwrap_err());
    assert!(error.contains("line 2") && error.contains("quotation mark"), "{error}");
    // A number is no expression.
    let error = format!("{:#}", import(root.path(), "m", &[]).unwrap_err());
    assert!(error.contains("no expression"), "{error}");
}

#[test]
fn what_macos_and_notebooks_leave_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "y/images/a.png");
    write(root.path(), "y/labels/a.txt", "0 0 0 0.5 0 0.5 0.5 0 0.5\n");
    write(root.path(), "y/labels/classes.txt", "cat\n");
    for leftover in ["y/labels/._a.txt", "y/images/._a.png", "y/__MACOSX/a.yaml", "y/labels/README.md"] {
        write(root.path(), leftover, "\u{0}\u{5}\u{16}\u{7}");
    }
    write(root.path(), "y/images/.ipynb_checkpoints/a.png", "");
    assert_eq!(refs(&import(root.path(), "y", &[]).unwrap()), [(vec!["cat"], "train", 50)]);
}

#[test]
fn names_with_accents_and_blanks() {
    let root = tempfile::tempdir().unwrap();
    // Composed on one side, decomposed on the other.
    picture(root.path(), "m/images/caf\u{e9}.png");
    white_mask(root.path(), "m/masks/cafe\u{301}_cup.png");
    assert_eq!(refs(&import(root.path(), "m", &[]).unwrap())[0].0, ["cup"]);
    picture(root.path(), "c/images/default/a b.jpg");
    let coco = |name: &str| {
        format!(
            r#"{{"images": [{{"id": 3, "file_name": "{name}"}}, {{"id": 4, "file_name": "nobody-annotated-it.jpg"}}],
            "annotations": [{{"id": 7, "image_id": 3, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 5, 0, 5]]}}],
            "categories": [{{"id": 1, "name": " dog\n"}}]}}"#
        )
    };
    // CVAT's folder of pictures beside that of annotations, and Label Studio's `%20`.
    for name in ["a b.jpg", "default/a%20b.jpg"] {
        write(root.path(), "c/annotations/instances.json", &coco(name));
        let dataset = import(root.path(), "c/annotations/instances.json", &[]).unwrap();
        assert_eq!(refs(&dataset), [(vec!["dog"], "train", 20)], "{name}");
    }
    write(root.path(), "c/annotations/instances.json", &coco("A.jpg"));
    picture(root.path(), "c/annotations/a.jpg");
    let error = format!("{:#}", import(root.path(), "c/annotations/instances.json", &[]).unwrap_err());
    assert!(error.contains("there is `a.jpg`"), "{error}");
}

#[test]
fn objects_of_coco_that_are_there_twice() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "c/a.jpg");
    let coco = |ids: [u32; 2], category: u32| {
        let annotation = |id: u32, x: u32| {
            format!(
                r#"{{"id": {id}, "image_id": 3, "category_id": {category}, "segmentation": [[{x}, 0, 9, 0, 9, 5, {x}, 5]]}}"#
            )
        };
        format!(
            r#"{{"images": [{{"id": 3, "file_name": "a.jpg"}}], "annotations": [{}, {}], "categories": [{{"id": 1, "name": "person"}}]}}"#,
            annotation(ids[0], 0),
            annotation(ids[1], 5),
        )
    };
    // Instances and keypoints of the same people.
    write(root.path(), "c/instances.json", &coco([7, 8], 1));
    write(root.path(), "c/person_keypoints.json", &coco([7, 8], 1));
    assert_eq!(import(root.path(), "c", &[]).unwrap().instances.annotations.len(), 2);
    std::fs::remove_file(root.path().join("c/person_keypoints.json")).unwrap();
    // One id for two objects: a table cannot ask for one of them.
    write(root.path(), "c/instances.json", &coco([7, 7], 1));
    assert_eq!(refs(&import(root.path(), "c", &[]).unwrap()), [(vec!["person"], "train", 45)]);
    write(root.path(), "e.csv", "ann_id,expression\n7,the left one\n");
    let table = root.path().join("e.csv");
    let error =
        format!("{:#}", import(root.path(), "c", &["--expressions", table.to_str().unwrap()]).unwrap_err());
    assert!(error.contains("line 2 names no object"), "{error}");
    write(root.path(), "c/instances.json", &coco([7, 8], 2));
    let error = format!("{:#}", import(root.path(), "c", &[]).unwrap_err());
    assert!(error.contains("no object has an expression"), "{error}");
}

#[test]
fn files_of_other_tools_are_named() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "l/a.png");
    write(root.path(), "l/via.json", r#"{"_via_settings": {}, "_via_img_metadata": {}}"#);
    for from in ["l", "l/via.json"] {
        let error = format!("{:#}", import(root.path(), from, &["--kind", "labelme"]).unwrap_err());
        assert!(
            error.contains("via.json") && error.contains("_via_settings") && error.contains("COCO"),
            "{error}"
        );
    }
    write(root.path(), "h/data-00000-of-00001.arrow", "ARROW1");
    let error = format!("{:#}", import(root.path(), "h", &[]).unwrap_err());
    assert!(error.contains("to_parquet"), "{error}");
    // A mask in a format that is not read, and one that is no picture.
    picture(root.path(), "m/images/a.png");
    write(root.path(), "m/masks/a_cup.npy", "\u{93}NUMPY");
    let error = format!("{:#}", import(root.path(), "m", &[]).unwrap_err());
    assert!(error.contains("1 files in masks"), "{error}");
    write(root.path(), "m/masks/a_cup.gif", "GIF89a");
    let error = format!("{:#}", import(root.path(), "m", &[]).unwrap_err());
    assert!(error.contains("a_cup.gif") && error.contains("GIF"), "{error}");
}

#[test]
fn tables_as_excel_writes_them() {
    let root = tempfile::tempdir().unwrap();
    picture(root.path(), "m/images/a.png");
    white_mask(root.path(), "m/masks/a_1.png");
    let table = root.path().join("e.csv");
    let more = ["--expressions", table.to_str().unwrap()];
    // Its hint for itself, and rows that were cleared.
    write(root.path(), "e.csv", "sep=;\r\nmask;expression\r\na_1.png;left\r\n;\r\n;\r\n");
    assert_eq!(refs(&import(root.path(), "m", &more).unwrap())[0].0, ["left"]);
    for (bytes, what) in
        [(&b"mask,expression\na_1.png,l\xf6we\n"[..], "UTF-8"), (b"PK\x03\x04--[Content_Types].xml", "Excel")]
    {
        std::fs::write(&table, bytes).unwrap();
        let error = format!("{:#}", import(root.path(), "m", &more).unwrap_err());
        assert!(error.contains(what), "{error}");
    }
}
