//! Writes RefShapes to disk in the REFER layout: images, `instances.json` and `refs(unc).p`.

use std::path::{Path, PathBuf};

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use rand::Rng;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::Settings;
use super::draw::paint;
use super::expression::{Phrase, phrases};
use super::scene::{Crowding, Object, Scene, Shape};
use crate::error::{Error, Result, io_error};
use crate::sampler::stream;

struct Drawn {
    split: &'static str,
    scene: Scene,
    /// Index of each referred object, with its expressions.
    refs: Vec<(usize, Vec<Phrase>)>,
    jpeg: Vec<u8>,
}

/// Generates the data set `refshapes`, see [`generate_as`].
///
/// # Errors
/// As [`generate_as`].
pub fn generate(settings: &Settings, data_root: &Path, progress: impl Fn(usize) + Sync) -> Result<PathBuf> {
    generate_as("refshapes", settings, data_root, progress)
}

/// Generates a data set into `<data_root>/<name>`, which must not exist yet. The folder appears only when it is complete.
/// `progress` is called from any thread after each image, with the number of images made.
///
/// # Errors
/// When the settings are invalid or a file cannot be written.
pub fn generate_as(
    name: &str,
    settings: &Settings,
    data_root: &Path,
    progress: impl Fn(usize) + Sync,
) -> Result<PathBuf> {
    settings.validate()?;
    let target = data_root.join(name);
    let building = data_root.join(format!(".{name}-{}", std::process::id()));
    let images = building.join("images/train2014");
    std::fs::create_dir_all(&images).map_err(io_error(&images))?;
    let result = write_all(settings, &building, &images, progress);
    let result = result.and_then(|()| match std::fs::rename(&building, &target) {
        // Another process finished first; its files are the same.
        Err(_) if target.join("instances.json").is_file() => Ok(()),
        renamed => renamed.map_err(io_error(&target)),
    });
    if building.exists() {
        let _ = std::fs::remove_dir_all(&building);
    }
    result.map(|()| target)
}

/// Generates a data set if it does not exist. Does nothing for a name that is not [generated](Settings::named). `progress` is
/// called from any thread after each image, with the number of images made and the total; it is not called if there is nothing
/// to do.
///
/// # Errors
/// As [`generate_as`].
pub fn ensure(name: &str, data_root: &Path, progress: impl Fn(usize, usize) + Sync) -> Result<()> {
    let Some(settings) = Settings::named(name) else { return Ok(()) };
    if data_root.join(name).join("instances.json").is_file() {
        return Ok(());
    }
    let total = settings.train_images + settings.val_images + settings.test_a_images + settings.test_b_images;
    generate_as(name, &settings, data_root, |done| progress(done, total)).map(|_| ())
}

fn write_all(
    settings: &Settings,
    folder: &Path,
    images: &Path,
    progress: impl Fn(usize) + Sync,
) -> Result<()> {
    let splits = [
        ("train", settings.train_images),
        ("val", settings.val_images),
        ("testA", settings.test_a_images),
        ("testB", settings.test_b_images),
    ];
    let jobs: Vec<&'static str> =
        splits.iter().flat_map(|&(split, n)| std::iter::repeat_n(split, n)).collect();
    let done = std::sync::atomic::AtomicUsize::new(0);
    let drawn: Vec<Drawn> = jobs
        .par_iter()
        .enumerate()
        .map(|(index, split)| {
            let drawn = draw(settings, split, index)?;
            let path = images.join(file_name(index));
            std::fs::write(&path, &drawn.jpeg).map_err(io_error(&path))?;
            progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1);
            Ok(Drawn { jpeg: Vec::new(), ..drawn })
        })
        .collect::<Result<_>>()?;
    let instances = folder.join("instances.json");
    let text = instances_json(settings, &drawn).to_string();
    std::fs::write(&instances, text).map_err(io_error(&instances))?;
    let refs = folder.join("refs(unc).p");
    std::fs::write(&refs, refs_pickle(&drawn)).map_err(io_error(&refs))
}

fn file_name(index: usize) -> String {
    format!("refshapes_{:012}.jpg", image_id(index))
}

/// Ids with gaps, as in COCO.
fn image_id(index: usize) -> i64 {
    1001 + 3 * index as i64
}

fn ann_id(image: usize, object: usize) -> i64 {
    image_id(image) * 100 + object as i64
}

fn crowding(settings: &Settings, split: &str) -> Crowding {
    let n = settings.max_objects;
    match (split, settings.shifted_tests) {
        ("testA", true) => Crowding { objects: (n + 1, n + 1), same_category: (n, n + 1) },
        ("testB", false) => {
            Crowding { objects: (n, n), same_category: (3, settings.same_category_at_most.max(3)) }
        }
        _ => Crowding {
            objects: (settings.min_objects, settings.max_objects),
            same_category: (settings.same_category, settings.same_category_at_most),
        },
    }
}

fn draw(settings: &Settings, split: &'static str, index: usize) -> Result<Drawn> {
    let mut rng = stream(settings.seed, [2, index as u64, 0]);
    let crowding = crowding(settings, split);
    let only_held_out = settings.shifted_tests && split == "testB";
    let none_held_out = settings.shifted_tests && split != "testB";
    let fewest_refs = if only_held_out { 1 } else { 2 };
    loop {
        let scene = Scene::random(&mut rng, settings, crowding);
        if none_held_out && scene.objects.iter().any(Object::is_held_out) {
            continue;
        }
        let mut refs = Vec::new();
        for target in 0..scene.objects.len() {
            if only_held_out && !scene.objects[target].is_held_out() {
                continue;
            }
            let shape = scene.objects[target].shape;
            let alone = scene.objects.iter().filter(|other| other.shape == shape).count() == 1;
            if alone && rng.random_bool(0.5) {
                continue;
            }
            let n = rng.random_range(2..=3);
            let found = phrases(&scene, target, n, &mut rng);
            if found.len() >= 2 {
                refs.push((target, found));
            }
        }
        if refs.len() < fewest_refs {
            continue;
        }
        let pixels = paint(&scene, settings.clutter, &mut rng);
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, 92)
            .encode(&pixels, scene.width as u32, scene.height as u32, ExtendedColorType::Rgb8)
            .map_err(|error| Error::RefShapes(format!("cannot encode an image: {error}")))?;
        return Ok(Drawn { split, scene, refs, jpeg });
    }
}

fn instances_json(settings: &Settings, drawn: &[Drawn]) -> Value {
    let images: Vec<Value> = drawn
        .iter()
        .enumerate()
        .map(|(index, drawn)| {
            json!({
                "id": image_id(index), "file_name": file_name(index),
                "width": drawn.scene.width, "height": drawn.scene.height,
            })
        })
        .collect();
    let mut annotations = Vec::new();
    for (index, drawn) in drawn.iter().enumerate() {
        for (number, object) in drawn.scene.objects.iter().enumerate() {
            annotations.push(json!({
                "id": ann_id(index, number), "image_id": image_id(index), "category_id": category_id(object.shape),
                "iscrowd": 0, "area": object.area, "bbox": bounding_box(object),
                "segmentation": segmentation(object),
                "attributes": {
                    "colour": object.colour.word(), "texture": object.texture.word(), "size": object.size.word(),
                },
            }));
        }
    }
    let categories: Vec<Value> = Shape::ALL
        .iter()
        .map(|&shape| json!({"id": category_id(shape), "name": shape.word(), "supercategory": "shape"}))
        .collect();
    json!({
        "info": {"description": "RefShapes", "version": env!("CARGO_PKG_VERSION"), "settings": settings},
        "images": images, "annotations": annotations, "categories": categories,
    })
}

fn category_id(shape: Shape) -> i64 {
    1 + Shape::ALL.iter().position(|&other| other == shape).unwrap_or(0) as i64
}

/// A polygon if one outline describes the visible part, otherwise RLE.
fn segmentation(object: &Object) -> Value {
    let outlines = object.outlines();
    if object.occluded || outlines.len() > 1 {
        let mask = &object.visible;
        return json!({"size": [mask.height, mask.width], "counts": mask.to_rle_string()});
    }
    let hundredths = |value: f64| (value * 100.0).round() / 100.0;
    let flat: Vec<f64> = outlines[0].iter().flat_map(|point| point.map(hundredths)).collect();
    json!([flat])
}

fn bounding_box(object: &Object) -> [usize; 4] {
    let mask = &object.visible;
    let pixels = || mask.data.iter().enumerate().filter(|(_, value)| **value == 1).map(|(index, _)| index);
    let columns = || pixels().map(|index| index % mask.width);
    let rows = || pixels().map(|index| index / mask.width);
    let (x, y) = (columns().min().unwrap_or(0), rows().min().unwrap_or(0));
    let (right, bottom) = (columns().max().unwrap_or(0), rows().max().unwrap_or(0));
    [x, y, right - x + 1, bottom - y + 1]
}

fn refs_pickle(drawn: &[Drawn]) -> Vec<u8> {
    let (mut ref_id, mut sent_id) = (0, 0);
    let mut writer = safe_pickle::Writer::new();
    writer.list(|list| {
        for (index, drawn) in drawn.iter().enumerate() {
            for (number, phrases) in &drawn.refs {
                let sent_ids: Vec<i64> = (sent_id..sent_id + phrases.len() as i64).collect();
                sent_id += phrases.len() as i64;
                list.dict(|reference| {
                    reference.key("ref_id").int(ref_id);
                    reference.key("ann_id").int(ann_id(index, *number));
                    reference.key("image_id").int(image_id(index));
                    reference.key("category_id").int(category_id(drawn.scene.objects[*number].shape));
                    reference.key("split").text(drawn.split);
                    reference.key("file_name").text(&file_name(index));
                    reference.key("sent_ids").list(|ids| {
                        for &id in &sent_ids {
                            ids.int(id);
                        }
                    });
                    reference.key("sentences").list(|sentences| {
                        for (phrase, &id) in phrases.iter().zip(&sent_ids) {
                            sentences.dict(|sentence| write_sentence(sentence, phrase, id));
                        }
                    });
                });
                ref_id += 1;
            }
        }
    });
    writer.finish()
}

fn write_sentence(sentence: &mut safe_pickle::Writer, phrase: &Phrase, id: i64) {
    sentence.key("sent_id").int(id);
    sentence.key("raw").text(&phrase.text);
    sentence.key("sent").text(&phrase.text);
    sentence.key("flavour").text(match phrase.flavour {
        super::Flavour::Location => "location",
        super::Flavour::Appearance => "appearance",
        super::Flavour::Relational => "relational",
    });
    sentence.key("tokens").list(|tokens| {
        for token in phrase.text.split_whitespace() {
            tokens.text(token);
        }
    });
}
