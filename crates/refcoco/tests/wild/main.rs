//! Data sets as people have them: each kind of input that users of such tools report, with what is right.

use std::path::Path;

use refcoco::{Dataset, Descriptor, Verification, verify};

mod annotations;
mod own;
mod pictures;

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

/// A JPEG of 8 x 6 pixels with an EXIF orientation.
fn turned_jpeg(orientation: u8) -> Vec<u8> {
    let mut jpeg = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(8, 6, image::Rgb([90, 80, 70]))
        .write_to(&mut jpeg, image::ImageFormat::Jpeg)
        .unwrap();
    let jpeg = jpeg.into_inner();
    // TIFF, little-endian, one entry: tag 0x0112, type SHORT, one value.
    let tiff =
        [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[orientation, 0, 0, 0], &[0; 4]]
            .concat();
    let segment = [b"Exif\0\0".as_slice(), &tiff].concat();
    let length = (segment.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &segment, &jpeg[2..]].concat()
}
