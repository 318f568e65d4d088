//! Reads a small data set in the REFER layout, written by hand, intact and with every kind of error.

use std::path::{Path, PathBuf};

use refcoco::letterbox::Normalisation;
use refcoco::sampler::{Negatives, draw_expressions};
use refcoco::training_mix::{leaked_images, training_mix};
use refcoco::{Buffers, ClipTokenizer, Dataset, Error, RefAt, SampleOptions, SampleShape, load_batch};
use safe_pickle::Writer;

/// Two 8 x 6 images; image 7 has two squares, image 9 one. Ids are large and have gaps.
fn write_dataset(root: &Path, edit: impl Fn(&str, String) -> String) {
    let folder = root.join("refcoco");
    let images = root.join("images/train2014");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(&images).unwrap();
    for name in ["a.png", "b.png"] {
        let pixels = vec![90_u8; 8 * 6 * 3];
        image::save_buffer(images.join(name), &pixels, 8, 6, image::ColorType::Rgb8).unwrap();
    }
    let instances = r#"{
        "images": [{"id": 7, "file_name": "a.png", "width": 8, "height": 6},
                   {"id": 9, "file_name": "b.png", "width": 8, "height": 6}],
        "annotations": [
            {"id": 5000000001, "image_id": 7, "category_id": 90, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
            {"id": 12, "image_id": 7, "category_id": 90, "iscrowd": 0, "segmentation": [[4, 2, 8, 2, 8, 6, 4, 6]]},
            {"id": 13, "image_id": 9, "category_id": 1, "segmentation": {"size": [6, 8], "counts": [6, 12, 30]}}],
        "categories": [{"id": 90, "name": "cup"}, {"id": 1, "name": "person"}]}"#;
    std::fs::write(folder.join("instances.json"), edit("instances", instances.to_owned())).unwrap();
    let refs: [(i64, i64, i64, &str, &[&str]); 3] = [
        (3, 5_000_000_001, 7, "train", &["left cup", "small cup"]),
        (1, 12, 7, "train", &["right cup"]),
        (2, 13, 9, "val", &["person"]),
    ];
    let mut sent_id = 0;
    let mut writer = Writer::new();
    writer.list(|list| {
        for (ref_id, ann_id, image_id, split, sentences) in refs {
            list.dict(|reference| {
                reference.key("ref_id").int(ref_id);
                reference.key("ann_id").int(ann_id);
                reference.key("image_id").int(image_id);
                reference.key("category_id").int(90);
                reference.key("split").text(split);
                reference.key("sentences").list(|list| {
                    for sentence in sentences {
                        list.dict(|entry| {
                            entry.key("sent").text(&edit("sentence", (*sentence).to_owned()));
                            entry.key("sent_id").int(sent_id);
                        });
                        sent_id += 1;
                    }
                });
            });
        }
    });
    std::fs::write(folder.join("refs(unc).p"), writer.finish()).unwrap();
}

fn sound(root: &Path) -> Dataset {
    write_dataset(root, |_, text| text);
    Dataset::open("refcoco", root).unwrap()
}

#[track_caller]
fn refused(edit: impl Fn(&str, String) -> String, parts: &[&str]) {
    let root = tempfile::tempdir().unwrap();
    write_dataset(root.path(), edit);
    let message = Dataset::open("refcoco", root.path()).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

#[test]
fn a_sound_data_set_is_read_whole() {
    let root = tempfile::tempdir().unwrap();
    let dataset = sound(root.path());
    assert_eq!(dataset.splits(), ["train", "val"]);
    assert_eq!(dataset.split("train").unwrap(), [0, 1]);
    assert_eq!(dataset.mask(5_000_000_001).unwrap().area(), 4);
    assert_eq!(dataset.mask(12).unwrap().area(), 16);
    // Twelve pixels from the second column on: columns 1 and 2.
    let mask = dataset.mask(13).unwrap();
    assert_eq!((mask.area(), mask.data[1], mask.data[2], mask.data[3]), (12, 1, 1, 0));
    let stats = dataset.stats().unwrap();
    assert_eq!((stats.total.refs, stats.total.expressions, stats.total.images), (3, 4, 2));
    assert_eq!(stats.splits["train"].refs_with_distractor, 2);
}

#[test]
fn samples_are_drawn_as_the_official_loader_does() {
    let root = tempfile::tempdir().unwrap();
    let dataset = sound(root.path());
    let drawn = |reference, epoch| draw_expressions(&dataset, reference, Negatives::AnyObject, (1, epoch));
    for epoch in 0..20 {
        let several = drawn(&dataset.refs[0], epoch).unwrap();
        assert!(several.anchor != several.positive && several.negative.as_deref() == Some("right cup"));
        let single = drawn(&dataset.refs[1], epoch).unwrap();
        assert_eq!((single.anchor.as_str(), single.positive.as_str()), ("right cup", "right cup."));
        assert!(["left cup", "small cup"].contains(&single.negative.unwrap().as_str()));
        assert_eq!(drawn(&dataset.refs[2], epoch).unwrap().negative, None);
    }
}

#[test]
fn a_batch_has_the_declared_shapes() {
    let root = tempfile::tempdir().unwrap();
    let datasets = [sound(root.path())];
    let tokenizer = ClipTokenizer::new().unwrap();
    let refs = [RefAt { dataset: 0, index: 2 }, RefAt { dataset: 0, index: 0 }];
    let shape = SampleShape { input_size: 16, word_len: 9, pixels: Normalisation::CLIP };
    let batch = load_batch(
        &datasets,
        &tokenizer,
        &refs,
        (0, 0),
        shape,
        &SampleOptions::default(),
        &Buffers::default(),
    )
    .unwrap();
    assert_eq!((batch.images.len(), batch.masks.len(), batch.words.len()), (2 * 3 * 256, 2 * 256, 2 * 9));
    assert_eq!(batch.valid, [0.0, 1.0]);
    assert!(batch.negative_words[..9].iter().all(|&id| id == 0));
    assert_eq!(batch.refs, ["refcoco/2", "refcoco/3"]);
    assert!(batch.masks.iter().all(|value| (0.0..=1.0).contains(value)));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let datasets = [sound(root.path())];
    let tokenizer = ClipTokenizer::new().unwrap();
    // Twice as many samples as threads, so that threads reuse their decoding buffers.
    let refs: Vec<RefAt> = (0..12).map(|index| RefAt { dataset: 0, index: [2, 0][index % 2] }).collect();
    let shape = SampleShape { input_size: 24, word_len: 9, pixels: Normalisation::CLIP };
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            load_batch(
                &datasets,
                &tokenizer,
                &refs,
                (3, 1),
                shape,
                &SampleOptions::default(),
                &Buffers::default(),
            )
            .unwrap()
        })
    };
    let one = with(1);
    assert_eq!((&one, &one), (&with(2), &with(5)));
}

#[test]
fn a_mix_leaves_out_images_that_are_evaluated_on() {
    let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = sound(roots[0].path());
    assert_eq!(training_mix(&[sound(roots[1].path())], false).unwrap().refs.len(), 2);
    // A second data set, with image 7 in an evaluation split.
    write_dataset(roots[1].path(), |kind, text| {
        if kind == "instances" {
            text.replace("9, \"file", "99, \"file").replace("\"image_id\": 9", "\"image_id\": 99")
        } else {
            text
        }
    });
    let mut second = sound(roots[1].path());
    second.refs[2].image_id = 7;
    let sets = [first, second];
    let mix = training_mix(&sets, false).unwrap();
    assert_eq!((mix.refs.len(), mix.n_leaking.as_slice()), (0, [2, 2].as_slice()));
    assert!(leaked_images(&sets, &mix).is_empty());
    let all = training_mix(&sets, true).unwrap();
    assert_eq!((all.refs.len(), leaked_images(&sets, &all).len()), (4, 1));
}

#[test]
fn broken_records_are_named() {
    refused(
        |_, text| text.replace("\"id\": 12,", "\"id\": 120,"),
        &["refs(unc).p", "ref_id 1", "annotation 12"],
    );
    refused(|_, text| text.replace("{\"id\": 9,", "{\"id\": 90,"), &["ref_id 2", "image 9"]);
    refused(|_, text| text.replace("\"id\": 12,", "\"id\": 13,"), &["annotation 13", "twice"]);
    refused(
        |kind, text| if kind == "instances" { text[..100].to_owned() } else { text },
        &["instances.json", "line"],
    );
}

#[test]
fn broken_files_are_named_when_they_are_used() {
    let root = tempfile::tempdir().unwrap();
    write_dataset(root.path(), |_, text| {
        text.replace("a.png", "../a.png")
            .replace("\"width\": 8, \"height\": 6}]", "\"width\": 18, \"height\": 6}]")
            .replace("[6, 12, 30]", "[6, 12]")
    });
    let dataset = Dataset::open("refcoco", root.path()).unwrap();
    let escaping = dataset.image(7).unwrap_err().to_string();
    assert!(escaping.contains("../a.png") && escaping.contains("image 7"), "{escaping}");
    assert!(matches!(
        dataset.image(9).unwrap_err(),
        Error::ImageSize { found: (8, 6), expected: (18, 6), .. }
    ));
    assert!(matches!(dataset.mask(13).unwrap_err(), Error::Segmentation { ann_id: 13, .. }));
    std::fs::write(root.path().join("images/train2014/b.png"), b"no image").unwrap();
    assert!(dataset.image(9).unwrap_err().to_string().contains("b.png"));
    std::fs::remove_file(root.path().join("images/train2014/b.png")).unwrap();
    assert!(dataset.image(9).unwrap_err().to_string().contains("b.png"));
}

#[test]
fn missing_parts_of_the_layout_are_named() {
    let root = tempfile::tempdir().unwrap();
    let open = |name: &str, path: PathBuf| Dataset::open(name, &path).unwrap_err().to_string();
    assert!(open("refcoco", root.path().join("nowhere")).contains("refcoco/refs(unc).p"));
    assert!(
        open("refcocoo", root.path().to_path_buf())
            .contains("known are refshapes, refshapes_nta, refshapes_shifted, refshapes_pretrain, refcoco")
    );
    let dataset = sound(root.path());
    let unknown = dataset.split("testZ").unwrap_err().to_string();
    assert!(unknown.contains("testZ") && unknown.contains("train, val"), "{unknown}");
    std::fs::remove_dir_all(root.path().join("images")).unwrap();
    assert!(open("refcoco", root.path().to_path_buf()).contains("images/train2014"));
}
