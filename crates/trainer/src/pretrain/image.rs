//! Pretrains the image encoder, which learns to predict the category, the colour and the place of each patch.

use anyhow::Result;
use backbone::guest::nobody;
use backbone::unobserved;
use rand::Rng;
use rayon::prelude::*;
use refcoco::Dataset;
use refcoco::letterbox::{Letterbox, patch_shares};
use refcoco::sampler::stream;
use serde_json::json;
use talent::IMAGE_ENCODER;
use tch::{Device, Kind, Tensor};
use torch_ext::Store;
use torch_ext::layers::Linear;

use super::facts::COLOURS;
use super::{Colours, Trained, accuracy, fit, n_categories};
use crate::config::Config;
use crate::encoder_input::sample_shape;

/// Class of a patch that is neither clearly an object nor clearly background; the loss ignores it.
const UNCLEAR: i64 = -100;
/// Covered shares of a patch: from `OBJECT_SHARE` on it is an object's, up to `BACKGROUND_SHARE` it is background.
const OBJECT_SHARE: f32 = 0.5;
const BACKGROUND_SHARE: f32 = 0.1;
/// Weight of the colour loss relative to the category loss: enough to keep colours readable from the features, too little to
/// separate objects of one category.
const COLOUR_WEIGHT: f64 = 0.3;
/// Weight of the loss of the patch coordinates: real pretrained features keep positions readable.
const POSITION_WEIGHT: f64 = 1.0;

/// Class weight of background patches, which are nine in ten.
const BACKGROUND_WEIGHT: f64 = 0.1;

/// What the features of a patch must tell.
pub(super) const TAUGHT: [&str; 3] = ["category", "colour", "position"];

/// Scenes of a split.
struct Scenes {
    /// Images `[n, 3, S, S]`, normalised.
    images: Tensor,
    /// int64 `[n, H, W]`: 0 for background, otherwise the category from 1, or [`UNCLEAR`].
    categories: Tensor,
    /// int64 `[n, H, W]`: the colour from 0, or [`UNCLEAR`].
    colours: Tensor,
}

pub(super) fn train(cfg: &Config, device: Device, dataset: &Dataset, colours: &Colours) -> Result<Trained> {
    let store = Store::new(device, Kind::Float);
    let root = store.root();
    let width = cfg.model.image.width;
    let path = root.in_group(IMAGE_ENCODER) / cfg.model.image.spec().prefix;
    let encoder = cfg.model.image.encoder.build(&path, &cfg.model.image.sizes(), &mut |_, _| {});
    let n_categories = n_categories(dataset);
    let category_head = Linear::torch_default(&(&root / "category"), width, n_categories);
    let colour_head = Linear::torch_default(&(&root / "colour"), width, COLOURS.len() as i64);
    let position_head = Linear::torch_default(&(&root / "position"), width, 2);
    let coordinates = coordinates(cfg.model.grid(), device);
    let class_weights = Tensor::ones([n_categories], (Kind::Float, device));
    let _ = class_weights.get(0).fill_(BACKGROUND_WEIGHT);
    // Patch features, `[batch, H * W, D]`.
    let features = |images: &Tensor| {
        let last = encoder.forward(images, &[], &nobody, &unobserved).last;
        encoder.map(&encoder.normalise(&last)).flatten(2, 3).transpose(1, 2)
    };

    let scenes = Scenes::load(cfg, dataset, "train", colours, device)?;
    let n = scenes.images.size()[0];
    let batch_size = (cfg.pretrain.batch_size as i64).min(n);
    fit("pretrain the image encoder", &store, &cfg.pretrain, cfg.pretrain.image_steps, |step| {
        let mut rng = stream(cfg.pretrain.seed, [3, step, 0]);
        let chosen: Vec<i64> = (0..batch_size).map(|_| rng.random_range(0..n)).collect();
        let chosen = Tensor::from_slice(&chosen).to_device(device);
        // Augmentation: a rotated or mirrored shape is the same shape, so every scene serves as eight.
        let (mirrored, turns) = (rng.random_bool(0.5), rng.random_range(0..4));
        let turn = |maps: &Tensor| {
            let maps = maps.index_select(0, &chosen).rot90(turns, [-2, -1]);
            if mirrored { maps.flip([-1]) } else { maps }
        };
        let features = features(&turn(&scenes.images));
        let loss = |head: &Linear, targets: &Tensor, weights: Option<&Tensor>| {
            let logits = head.forward(&features).flatten(0, 1);
            let targets = turn(targets).flatten(0, -1);
            logits.cross_entropy_loss(&targets, weights, tch::Reduction::Mean, UNCLEAR, 0.0)
        };
        loss(&category_head, &scenes.categories, Some(&class_weights))
            + COLOUR_WEIGHT * loss(&colour_head, &scenes.colours, None)
            + POSITION_WEIGHT * (position_head.forward(&features) - &coordinates).square().mean(None)
    })?;

    let held_out = Scenes::load(cfg, dataset, "val", colours, device)?;
    let (categories, colours, miss) = tch::no_grad(|| {
        let features = features(&held_out.images);
        let class = |head: &Linear| head.forward(&features).argmax(-1, false);
        let miss = (position_head.forward(&features) - &coordinates).abs().amax([-1].as_slice(), false);
        (class(&category_head), class(&colour_head), miss * cfg.model.grid() as f64)
    });
    let within_a_patch = f64::try_from(miss.le(1.0).to_kind(Kind::Float).mean(None))?;
    let held_out = json!({
        "patch_category": accuracy(&categories, &held_out.categories, 0)?,
        "object_patch_category": accuracy(&categories, &held_out.categories, 1)?,
        "object_patch_colour": accuracy(&colours, &held_out.colours, 0)?,
        "position_within_a_patch": (1000.0 * within_a_patch).round() / 10.0,
    });
    Ok(Trained { store, held_out })
}

/// Centre (x, y) of each patch of a grid as a share of its side, `[side * side, 2]` in row-major order.
fn coordinates(side: i64, device: Device) -> Tensor {
    let centres = (Tensor::arange(side, (Kind::Float, device)) + 0.5) / side as f64;
    let place = [side, side];
    let (x, y) = (centres.view([1, side]).expand(place, false), centres.view([side, 1]).expand(place, false));
    Tensor::stack(&[x, y], -1).view([-1, 2])
}

impl Scenes {
    fn load(cfg: &Config, dataset: &Dataset, split: &str, colours: &Colours, device: Device) -> Result<Self> {
        let refs = dataset.split(split)?;
        let ids: std::collections::BTreeSet<i64> =
            refs.into_iter().map(|index| dataset.refs[index].image_id).collect();
        let shape = sample_shape(&cfg.model);
        let (size, side) = (shape.input_size, cfg.model.grid() as usize);
        let loaded: Vec<(Vec<f32>, Vec<i64>, Vec<i64>)> = ids
            .into_par_iter()
            .map(|id| {
                let image = dataset.image(id)?;
                let letterbox = Letterbox::new(image.width, image.height, size);
                let mut objects = Vec::new();
                for &ann_id in dataset.annotations_in_image(id) {
                    let mask = letterbox.mask(&dataset.mask(ann_id)?);
                    let category = dataset.instances.annotations[&ann_id].category_id;
                    objects.push((patch_shares(&mask, size, side), category, colours.of(ann_id)?));
                }
                let labels = (0..side * side).map(|at| label(&objects, at));
                let (categories, colours) = labels.unzip();
                Ok((letterbox.normalised_image(&image, &shape.pixels), categories, colours))
            })
            .collect::<Result<_>>()?;
        let n = loaded.len() as i64;
        let (mut images, mut categories, mut colours) = (Vec::new(), Vec::new(), Vec::new());
        for (image, category, colour) in loaded {
            images.extend(image);
            categories.extend(category);
            colours.extend(colour);
        }
        let (size, side) = (size as i64, side as i64);
        let grid = |labels: &[i64]| Tensor::from_slice(labels).view([n, side, side]).to_device(device);
        Ok(Self {
            images: Tensor::from_slice(&images).view([n, 3, size, size]).to_device(device),
            categories: grid(&categories),
            colours: grid(&colours),
        })
    }
}

/// Category and colour of a patch.
fn label(objects: &[(Vec<f32>, i64, i64)], at: usize) -> (i64, i64) {
    let covering = objects.iter().find(|(shares, ..)| shares[at] >= OBJECT_SHARE);
    let covered: f32 = objects.iter().map(|(shares, ..)| shares[at]).sum();
    match covering {
        Some(&(_, category, colour)) => (category, colour),
        None if covered <= BACKGROUND_SHARE => (0, UNCLEAR),
        None => (UNCLEAR, UNCLEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_by_hand() {
        let found = Vec::<f32>::try_from(coordinates(2, Device::Cpu).flatten(0, -1)).unwrap();
        assert_eq!(found, [0.25, 0.25, 0.75, 0.25, 0.25, 0.75, 0.75, 0.75]);
    }

    #[test]
    fn patches_by_hand() {
        // 4 x 4 pixels in patches of 2 x 2: one object fills the first patch and half of the second, another a pixel of the
        // last.
        let first = [255, 255, 255, 0, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut second = [0; 16];
        second[15] = 255;
        let shares = [patch_shares(&first, 4, 2), patch_shares(&second, 4, 2)];
        assert_eq!(shares[0], [1.0, 0.5, 0.0, 0.0]);
        assert_eq!(shares[1], [0.0, 0.0, 0.0, 0.25]);
        let [first, second] = shares;
        let objects = [(first, 3, 1), (second, 5, 2)];
        let labels: Vec<(i64, i64)> = (0..4).map(|at| label(&objects, at)).collect();
        assert_eq!(labels, [(3, 1), (3, 1), (0, UNCLEAR), (UNCLEAR, UNCLEAR)]);
    }
}
