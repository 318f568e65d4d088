//! Pictures and archives: names, folders, formats.

use super::*;

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

/// A zip archive of pictures of one colour each.
fn zipped(path: &Path, entries: &[(&str, u8)]) {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, level) in entries {
        let mut png = std::io::Cursor::new(Vec::new());
        image::RgbImage::from_pixel(8, 6, image::Rgb([*level; 3]))
            .write_to(&mut png, image::ImageFormat::Png)
            .unwrap();
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(png.get_ref()).unwrap();
    }
    zip.finish().unwrap();
}

#[test]
fn folders_in_front_of_names_inside_and_outside_of_an_archive() {
    let errors = |record: &str, entries: &[(&str, u8)]| {
        let root = tempfile::tempdir().unwrap();
        refer(root.path(), |text| text.replace("COCO_train2014_000000000007.png", record));
        std::fs::remove_dir_all(root.path().join("images")).unwrap();
        zipped(&root.path().join("train2014.zip"), entries);
        format!("{:?}", verified("refcoco", root.path()).errors)
    };
    let saiapr = [("sai/00/images/1.png", 1), ("sai/01/images/2.png", 2)];
    assert_eq!(errors("benchmark/saiapr/01/images/2.png", &saiapr), "[]");
    assert_eq!(errors("2.png", &saiapr), "[]");
    assert_eq!(errors("saiapr/00/images/1.png", &[("1.png", 1), ("2.png", 2)]), "[]");
    // Two pictures of one name: the record must say which.
    let twice = [("00/1.png", 1), ("01/1.png", 2)];
    let found = errors("1.png", &twice);
    assert!(found.contains("00/1.png") && found.contains("01/1.png"), "{found}");
    assert_eq!(errors("01/1.png", &twice), "[]");
    assert!(errors("02/1.png", &twice).contains("No such file"));
    // The same picture twice.
    assert_eq!(errors("1.png", &[("00/1.png", 1), ("01/1.png", 1)]), "[]");
    assert_eq!(errors("caf\u{e9}.png", &[("p/cafe\u{301}.png", 1)]), "[]");
}

#[test]
fn folders_in_front_of_names_where_pictures_lie_flat() {
    let root = tempfile::tempdir().unwrap();
    for front in ["some/where/", "/some/where/"] {
        refer(root.path(), |text| text.replace("COCO_train2014", &format!("{front}COCO_train2014")));
        assert_eq!(verified("refcoco", root.path()).errors, []);
    }
}

#[test]
fn an_archive_unpacked_into_a_folder_of_its_own_name() {
    let root = tempfile::tempdir().unwrap();
    refer(root.path(), |text| text);
    let folder = root.path().join("images/train2014");
    std::fs::rename(&folder, root.path().join("images/inner")).unwrap();
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::rename(root.path().join("images/inner"), folder.join("train2014")).unwrap();
    assert_eq!(verified("refcoco", root.path()).errors, []);
}

#[test]
fn pictures_of_published_sets_that_are_turned_are_told() {
    let root = tempfile::tempdir().unwrap();
    refer(root.path(), |text| text.replace(".png", ".jpg"));
    std::fs::write(root.path().join("images/train2014/COCO_train2014_000000000007.jpg"), turned_jpeg(3))
        .unwrap();
    let warnings = format!("{:?}", verified("refcoco", root.path()).warnings);
    assert!(warnings.contains("EXIF") && warnings.contains("images 7"), "{warnings}");
}
