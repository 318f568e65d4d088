//! Checks RefShapes. An interpreter judges the meaning of expressions. It shares no code with the generator: it knows only the
//! words, the annotated attributes and the masks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use refcoco::refshapes::{Settings, generate};
use refcoco::{ClipTokenizer, Dataset, Mask, Ref, Tokenizer};
use serde_json::Value;

struct Thing {
    ann_id: i64,
    shape: String,
    colour: String,
    texture: String,
    size: String,
    area: f64,
    x: f64,
    y: f64,
}

fn things(root: &Path, dataset: &Dataset) -> BTreeMap<i64, Vec<Thing>> {
    let text = std::fs::read_to_string(root.join("refshapes/instances.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let mut by_image: BTreeMap<i64, Vec<Thing>> = BTreeMap::new();
    for annotation in json["annotations"].as_array().unwrap() {
        let ann_id = annotation["id"].as_i64().unwrap();
        let attribute = |name: &str| annotation["attributes"][name].as_str().unwrap().to_owned();
        let mask = dataset.mask(ann_id).unwrap();
        let (area, x, y) = centroid(&mask);
        by_image.entry(annotation["image_id"].as_i64().unwrap()).or_default().push(Thing {
            ann_id,
            shape: dataset.instances.categories[&annotation["category_id"].as_i64().unwrap()].clone(),
            colour: attribute("colour"),
            texture: attribute("texture"),
            size: attribute("size"),
            area,
            x,
            y,
        });
    }
    by_image
}

fn centroid(mask: &Mask) -> (f64, f64, f64) {
    let (mut n, mut x, mut y) = (0.0, 0.0, 0.0);
    for (index, _) in mask.data.iter().enumerate().filter(|(_, pixel)| **pixel == 1) {
        n += 1.0;
        x += (index % mask.width) as f64;
        y += (index / mask.width) as f64;
    }
    (n, x / n, y / n)
}

/// The things a plain description fits.
fn described<'a>(words: &[&str], scene: &'a [Thing]) -> Vec<&'a Thing> {
    let mut found: Vec<&Thing> = scene.iter().collect();
    for word in words {
        found.retain(|thing| match *word {
            "one" | "with" => true,
            "large" | "big" => thing.size == "big",
            "little" | "small" => thing.size == "small",
            "striped" | "stripes" => thing.texture == "striped",
            "dotted" | "dots" => thing.texture == "dotted",
            "plain" => thing.texture == "plain",
            "red" | "green" | "blue" | "yellow" | "orange" | "purple" | "white" | "black" => {
                thing.colour == *word
            }
            "circle" | "square" | "triangle" | "star" | "cross" | "hexagon" | "ring" => thing.shape == *word,
            other => panic!("unknown word `{other}`"),
        });
    }
    found
}

fn sorted(mut things: Vec<&Thing>, key: impl Fn(&Thing) -> f64) -> Vec<&Thing> {
    things.sort_by(|a, b| key(a).total_cmp(&key(b)));
    things
}

/// The things that stand in a relation to another one: "the ... to the left of the ...".
fn related<'a>(words: &[&str], text: &str, scene: &'a [Thing]) -> Vec<&'a Thing> {
    let end = words.iter().rposition(|word| *word == "the").unwrap();
    let anchors = described(&words[end + 1..], scene);
    assert_eq!(anchors.len(), 1, "the reference of `{text}` is ambiguous");
    let anchor = anchors[0];
    let front: Vec<&str> =
        words[1..end].iter().copied().filter(|word| *word != "that" && *word != "is").collect();
    let relations: [(&[&str], &str); 5] = [
        (&["to", "the", "left", "of"], "left"),
        (&["to", "the", "right", "of"], "right"),
        (&["above"], "above"),
        (&["below"], "below"),
        (&["closest", "to"], "closest"),
    ];
    let (phrase, relation) = relations.into_iter().find(|(phrase, _)| front.ends_with(phrase)).unwrap();
    let mut group = described(&front[..front.len() - phrase.len()], scene);
    group.retain(|thing| thing.ann_id != anchor.ann_id);
    match relation {
        "left" => group.into_iter().filter(|thing| thing.x < anchor.x).collect(),
        "right" => group.into_iter().filter(|thing| thing.x > anchor.x).collect(),
        "above" => group.into_iter().filter(|thing| thing.y < anchor.y).collect(),
        "below" => group.into_iter().filter(|thing| thing.y > anchor.y).collect(),
        _ => sorted(group, |thing| (thing.x - anchor.x).hypot(thing.y - anchor.y))[..1].to_vec(),
    }
}

/// Ids of the things that an expression refers to. More than one means that it is ambiguous.
fn meant(text: &str, scene: &[Thing]) -> Vec<i64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let ids = |things: Vec<&Thing>| things.into_iter().map(|thing| thing.ann_id).collect::<Vec<_>>();
    if words[0] == "the" {
        return ids(related(&words, text, scene));
    }
    let pick = |description: &[&str], n: usize, key: &dyn Fn(&Thing) -> f64| {
        let group = sorted(described(description, scene), key);
        assert!(group.len() >= 2, "`{text}` compares one thing");
        vec![group[n].ann_id]
    };
    let (first, rest) = (words[0], &words[1..]);
    match first {
        "left" | "leftmost" => pick(rest, 0, &|thing| thing.x),
        "right" | "rightmost" => pick(rest, 0, &|thing| -thing.x),
        "top" => pick(rest, 0, &|thing| thing.y),
        "bottom" => pick(rest, 0, &|thing| -thing.y),
        "biggest" => pick(rest, 0, &|thing| -thing.area),
        "smallest" => pick(rest, 0, &|thing| thing.area),
        "second" => {
            let description = &rest[..rest.len() - 3];
            if rest.ends_with(&["left"]) {
                pick(description, 1, &|thing| thing.x)
            } else {
                pick(description, 1, &|thing| -thing.x)
            }
        }
        "middle" => {
            assert_eq!(described(rest, scene).len(), 3, "`{text}` needs three things");
            pick(rest, 1, &|thing| thing.x)
        }
        _ => {
            let cut = words.len().saturating_sub(3);
            match words[cut..] {
                ["on", "the", "left"] => pick(&words[..cut], 0, &|thing| thing.x),
                ["on", "the", "right"] => pick(&words[..cut], 0, &|thing| -thing.x),
                ["at", "the", "top"] => pick(&words[..cut], 0, &|thing| thing.y),
                ["at", "the", "bottom"] => pick(&words[..cut], 0, &|thing| -thing.y),
                _ => ids(described(&words, scene)),
            }
        }
    }
}

fn small() -> Settings {
    Settings {
        train_images: 400,
        val_images: 40,
        test_a_images: 20,
        test_b_images: 20,
        ..Settings::default()
    }
}

#[test]
fn no_expression_is_ambiguous_or_wrong() {
    let root = tempfile::tempdir().unwrap();
    generate(&small(), root.path(), |_| {}).unwrap();
    let dataset = Dataset::open("refshapes", root.path()).unwrap();
    let scenes = things(root.path(), &dataset);
    let mut n = 0;
    for reference in &dataset.refs {
        for expression in &reference.expressions {
            let found = meant(&expression.sent, &scenes[&reference.image_id]);
            assert_eq!(found, reference.ann_ids, "`{}` in image {}", expression.sent, reference.image_id);
            n += 1;
        }
    }
    assert!(n > 3000, "only {n} expressions");
}

#[test]
fn the_default_difficulty() {
    let root = tempfile::tempdir().unwrap();
    generate(&small(), root.path(), |_| {}).unwrap();
    let dataset = Dataset::open("refshapes", root.path()).unwrap();
    let stats = dataset.stats().unwrap();
    assert_eq!(
        stats.splits.keys().map(String::as_str).collect::<Vec<_>>(),
        ["testA", "testB", "train", "val"]
    );
    let median = stats.total.median_target_percent;
    assert!((2.0..6.0).contains(&median), "{median}");
    for (split, stats) in &stats.splits {
        assert!(stats.refs_with_distractor as f64 >= 0.7 * stats.refs as f64, "{split}");
        assert!(stats.expressions >= 2 * stats.refs && stats.expressions <= 3 * stats.refs, "{split}");
    }

    let tokenizer = ClipTokenizer::new().unwrap();
    let mut splits_of_image: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    for reference in &dataset.refs {
        splits_of_image.entry(reference.image_id).or_default().insert(&reference.split);
        for expression in &reference.expressions {
            assert!(
                tokenizer.encode(&expression.sent).unwrap().len() <= 17,
                "`{}` is too long",
                expression.sent
            );
        }
    }
    assert!(splits_of_image.values().all(|splits| splits.len() == 1), "an image is in two splits");
    let sizes: BTreeSet<(usize, usize)> =
        dataset.instances.images.values().map(|image| (image.width, image.height)).collect();
    assert!(sizes.len() > 4 && sizes.iter().any(|(w, h)| w > h) && sizes.iter().any(|(w, h)| w < h));
}

#[test]
fn every_object_is_in_its_mask_and_every_mask_in_the_image() {
    let root = tempfile::tempdir().unwrap();
    let settings = Settings {
        train_images: 30,
        val_images: 5,
        test_a_images: 0,
        test_b_images: 5,
        ..Settings::default()
    };
    generate(&settings, root.path(), |_| {}).unwrap();
    let dataset = Dataset::open("refshapes", root.path()).unwrap();
    for reference in &dataset.refs {
        let (image, mask) = (dataset.image(reference.image_id).unwrap(), dataset.target(reference).unwrap());
        assert_eq!((image.width, image.height), (mask.width, mask.height));
        assert!(mask.area() > 16);
    }
}

#[test]
fn shifted_tests_are_unlike_the_training_scenes() {
    let root = tempfile::tempdir().unwrap();
    let named = Settings::named("refshapes_shifted").unwrap();
    let settings =
        Settings { train_images: 40, val_images: 20, test_a_images: 20, test_b_images: 20, ..named };
    generate(&settings, root.path(), |_| {}).unwrap();
    let dataset = Dataset::open("refshapes", root.path()).unwrap();
    let things = things(root.path(), &dataset);
    let pair = |thing: &Thing| format!("{} {}", thing.colour, thing.shape);
    let pairs = |split: &str| -> BTreeSet<String> {
        let refs = dataset.refs.iter().filter(|one| one.split == split);
        refs.flat_map(|one| things[&one.image_id].iter().map(pair)).collect()
    };
    let target =
        |one: &Ref| things[&one.image_id].iter().find(|thing| [thing.ann_id] == one.ann_ids[..]).unwrap();
    let referred: BTreeSet<String> =
        dataset.refs.iter().filter(|one| one.split == "testB").map(|one| pair(target(one))).collect();
    assert!(!referred.is_empty() && referred.len() <= 8, "{referred:?}");
    for split in ["train", "val", "testA"] {
        let shared: Vec<_> = pairs(split).intersection(&referred).cloned().collect();
        assert_eq!(shared, Vec::<String>::new(), "{split}");
    }
    for one in dataset.refs.iter().filter(|one| one.split == "testA") {
        let scene = &things[&one.image_id];
        let of_category = |thing: &Thing| scene.iter().filter(|other| other.shape == thing.shape).count();
        assert!(scene.len() == 7 && scene.iter().map(of_category).max().unwrap() >= 6);
    }
}

#[test]
fn the_seed_fixes_every_byte() {
    let settings = Settings {
        train_images: 12,
        val_images: 3,
        test_a_images: 2,
        test_b_images: 2,
        ..Settings::default()
    };
    let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (root, seed) in roots.iter().zip([5, 5, 6]) {
        generate(&Settings { seed, ..settings.clone() }, root.path(), |_| {}).unwrap();
    }
    let file = |root: &tempfile::TempDir, name: &str| {
        std::fs::read(root.path().join("refshapes").join(name)).unwrap()
    };
    for name in ["instances.json", "refs(unc).p", "images/train2014/refshapes_000000001001.jpg"] {
        assert_eq!(file(&roots[0], name), file(&roots[1], name), "{name}");
    }
    assert_ne!(file(&roots[0], "refs(unc).p"), file(&roots[2], "refs(unc).p"));
}

#[test]
fn impossible_settings_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let error = generate(&Settings { min_objects: 1, ..small() }, root.path(), |_| {}).unwrap_err();
    assert!(error.to_string().contains("min_objects"));
    assert!(std::fs::read_dir(root.path()).unwrap().next().is_none(), "nothing may be left behind");
}
