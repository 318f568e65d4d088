//! Batches in which several expressions are about one image, and the maps of the objects that could be confused.

use std::collections::BTreeSet;
use std::path::Path;

use refcoco::letterbox::{Letterbox, Normalisation, patch_shares};
use refcoco::refshapes::{Settings, generate};
use refcoco::sampler::{Negatives, draw_expressions, epoch_order, with_rivals};
use refcoco::{
    Batch, Buffers, ClipTokenizer, Dataset, ObjectMapShape, OnError, RefAt, SampleOptions, SampleShape,
    load_batch,
};

const SHAPE: SampleShape = SampleShape { input_size: 96, word_len: 17, pixels: Normalisation::CLIP };

/// Scenes with at least three objects of one category.
fn scenes(root: &Path) -> Dataset {
    let settings = Settings {
        train_images: 12,
        val_images: 1,
        test_a_images: 0,
        test_b_images: 0,
        same_category: 3,
        same_category_at_most: 5,
        ..Settings::default()
    };
    generate(&settings, root, |_| {}).unwrap();
    Dataset::open("refshapes", root).unwrap()
}

fn train_refs(dataset: &Dataset) -> Vec<RefAt> {
    dataset.split("train").unwrap().into_iter().map(|index| RefAt { dataset: 0, index }).collect()
}

fn batch(datasets: &[Dataset], refs: &[RefAt], options: SampleOptions) -> Batch {
    let tokenizer = ClipTokenizer::new().unwrap();
    load_batch(datasets, &tokenizer, refs, (3, 1), SHAPE, &options, &Buffers::default()).unwrap()
}

#[test]
fn rivals_follow_each_other_and_every_ref_is_visited_once() {
    let root = tempfile::tempdir().unwrap();
    let datasets = [scenes(root.path())];
    let refs = train_refs(&datasets[0]);
    let order = epoch_order(5, 0, refs.len());
    assert_eq!(with_rivals(&datasets, &refs, &order, 1), order);
    let grouped = with_rivals(&datasets, &refs, &order, 3);
    assert_eq!(grouped.iter().collect::<BTreeSet<_>>().len(), refs.len());
    assert_eq!(grouped.len(), refs.len());
    let reference = |index: usize| &datasets[0].refs[refs[index].index];
    let image = |index: usize| reference(index).image_id;
    // The first of the order comes first, with two others of its image, those of its category before others.
    assert_eq!(grouped[0], order[0]);
    assert!(grouped[..3].iter().all(|&index| image(index) == image(order[0])));
    let same = order.iter().filter(|&&index| {
        image(index) == image(order[0]) && reference(index).category_ids == reference(order[0]).category_ids
    });
    let n_same = same.count().min(3);
    assert!(
        grouped[..n_same]
            .iter()
            .all(|&index| reference(index).category_ids == reference(order[0]).category_ids)
    );
    // No image begins a second group before it had a full one.
    let groups = grouped.chunk_by(|&one, &other| image(one) == image(other));
    assert!(groups.map(<[usize]>::len).max() >= Some(3));
}

#[test]
fn a_shared_image_is_loaded_once_and_nothing_else_changes() {
    let root = tempfile::tempdir().unwrap();
    let datasets = [scenes(root.path())];
    let all = train_refs(&datasets[0]);
    // Refs of one image beside each other and apart.
    let refs = [all[0], all[1], all[5], all[6], all[0], all[2]];
    let apart = batch(&datasets, &refs, SampleOptions::default());
    let shared = batch(&datasets, &refs, SampleOptions { share_images: true, ..SampleOptions::default() });
    let image = |at: &RefAt| datasets[0].refs[at.index].image_id;
    let distinct: BTreeSet<i64> = refs.iter().map(image).collect();
    let size = 3 * SHAPE.input_size * SHAPE.input_size;
    assert_eq!(apart.image_of, [0, 1, 2, 3, 4, 5]);
    assert_eq!((apart.images.len(), shared.images.len()), (refs.len() * size, distinct.len() * size));
    for (place, &image) in shared.image_of.iter().enumerate() {
        let image = image as usize;
        assert_eq!(
            shared.images[image * size..(image + 1) * size],
            apart.images[place * size..(place + 1) * size]
        );
    }
    let rest = |batch: &Batch| (batch.masks.to_vec(), batch.words.clone(), batch.negative_words.clone());
    assert_eq!(rest(&shared), rest(&apart));
}

#[test]
fn object_maps_are_those_of_target_and_distractors() {
    let root = tempfile::tempdir().unwrap();
    let datasets = [scenes(root.path())];
    let refs = train_refs(&datasets[0]);
    let shape = ObjectMapShape { side: 24, at_most: 3 };
    let found = batch(&datasets, &refs, SampleOptions { objects: Some(shape), ..SampleOptions::default() });
    let cells = shape.side * shape.side;
    assert_eq!(found.objects.len(), refs.len() * shape.at_most * cells);
    for (at, maps) in refs.iter().zip(found.objects.chunks_exact(shape.at_most * cells)) {
        let reference = &datasets[0].refs[at.index];
        let target = datasets[0].target(reference).unwrap();
        let letterbox = Letterbox::new(target.width, target.height, SHAPE.input_size);
        assert_eq!(maps[..cells], patch_shares(&letterbox.mask(&target), SHAPE.input_size, shape.side));
        let area = |map: &[f32]| map.iter().sum::<f32>();
        let areas: Vec<f32> = maps.chunks_exact(cells).map(area).collect();
        let n_distractors = datasets[0].distractors(reference).len();
        assert_eq!(areas[1..].iter().filter(|area| **area > 0.0).count(), n_distractors.min(2));
        assert!(areas[1] >= areas[2], "largest first");
        // No cell belongs to more than one object in full.
        let covered = (0..cells).map(|cell| maps[cell] + maps[cells + cell] + maps[2 * cells + cell]);
        assert!(covered.fold(0.0, f32::max) < 1.05);
    }
}

#[test]
fn negatives_of_the_same_category_where_there_are_some() {
    let root = tempfile::tempdir().unwrap();
    let dataset = scenes(root.path());
    let (mut n_same, mut n_other) = (0, 0);
    for at in train_refs(&dataset) {
        let reference = &dataset.refs[at.index];
        let rivals: Vec<&str> = dataset
            .refs_in_image(reference.image_id)
            .iter()
            .map(|&index| &dataset.refs[index])
            .filter(|other| other.category_ids == reference.category_ids && other.ref_id != reference.ref_id)
            .flat_map(|other| other.expressions.iter().map(|one| one.sent.as_str()))
            .collect();
        let drawn = draw_expressions(&dataset, reference, Negatives::SameCategory, (0, 0)).unwrap();
        match rivals.is_empty() {
            true => n_other += usize::from(drawn.negative.is_some()),
            false => {
                assert!(rivals.contains(&drawn.negative.unwrap().as_str()));
                n_same += 1;
            }
        }
    }
    assert!(n_same > 10 && n_other > 0, "{n_same}, {n_other}");
}

#[test]
fn an_unreadable_image_takes_all_its_samples_along() {
    let root = tempfile::tempdir().unwrap();
    let datasets = [scenes(root.path())];
    let all = train_refs(&datasets[0]);
    let image = |at: &RefAt| datasets[0].refs[at.index].image_id;
    let good = *all.iter().find(|at| image(at) != image(&all[0])).unwrap();
    let refs = [all[0], good, all[1]];
    assert_eq!(image(&all[0]), image(&all[1]));
    let name = &datasets[0].instances.images[&image(&all[0])].file_name;
    std::fs::write(root.path().join("refshapes/images/train2014").join(name), "no picture").unwrap();
    let options = SampleOptions { on_error: OnError::Skip, share_images: true, ..SampleOptions::default() };
    let found = batch(&datasets, &refs, options);
    assert_eq!((found.n, found.bad.len(), found.image_of.as_slice()), (1, 2, &[0][..]));
    let alone = batch(&datasets, &[good], options);
    assert_eq!((found.images.to_vec(), found.masks.to_vec()), (alone.images.to_vec(), alone.masks.to_vec()));
}
