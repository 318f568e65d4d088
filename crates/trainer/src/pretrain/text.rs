//! Pretrains the text encoder, which learns to predict from the sentence vector what the sentence says (the target's looks, its
//! place, its relation to an anchor), and the next token at each position.

use std::collections::BTreeMap;

use anyhow::Result;
use backbone::guest::nobody;
use backbone::unobserved;
use rand::Rng;
use refcoco::Dataset;
use refcoco::sampler::stream;
use serde_json::json;
use talent::TEXT_ENCODER;
use tch::{Device, Kind, Tensor};
use torch_ext::Store;
use torch_ext::layers::Linear;

use super::facts::Facts;
use super::{Trained, accuracy, fit, n_categories};
use crate::config::Config;
use crate::encoder_input::tokenizer;

/// Class that the loss ignores, for a fact that the sentence does not mention.
const IGNORED: i64 = -100;

/// Expressions of a split.
struct Sentences {
    /// Token ids, int64 `[n, K]`.
    ids: Tensor,
    /// For each fact, int64 `[n]`: the class, or [`IGNORED`].
    classes: [Tensor; Facts::N],
}

pub(super) fn train(cfg: &Config, device: Device, dataset: &Dataset) -> Result<Trained> {
    let store = Store::new(device, Kind::Float);
    let root = store.root();
    let encoder_cfg = cfg.model.text.sizes();
    let path = root.in_group(TEXT_ENCODER) / cfg.model.text.spec().prefix;
    let encoder = cfg.model.text.encoder.build(&path, &encoder_cfg, &mut |_, _| {});
    let heads: Vec<Linear> = Facts::NAMES
        .iter()
        .zip(Facts::n_classes(n_categories(dataset)))
        .map(|(name, n)| Linear::torch_default(&(&root / name), encoder_cfg.state_width, n))
        .collect();

    let sentences = Sentences::load(cfg, dataset, "train", device)?;
    // The head has a class only for the few tokens that occur; with all 49,408 it would learn no more.
    let occurring = OccurringTokens::of(&sentences.ids)?;
    let next_head = Linear::torch_default(&(&root / "next"), encoder_cfg.width, occurring.n);
    let next = occurring.next_tokens(&sentences.ids)?;
    let n = sentences.ids.size()[0];
    let batch_size = (2 * cfg.pretrain.batch_size as i64).min(n);
    fit("pretrain the text encoder", &store, &cfg.pretrain, cfg.pretrain.text_steps, |step| {
        let mut rng = stream(cfg.pretrain.seed, [4, step, 0]);
        let chosen: Vec<i64> = (0..batch_size).map(|_| rng.random_range(0..n)).collect();
        let chosen = Tensor::from_slice(&chosen).to_device(device);
        let output = encoder.forward(&sentences.ids.index_select(0, &chosen), &nobody, &unobserved);
        let loss = |logits: &Tensor, targets: &Tensor| {
            logits.cross_entropy_loss::<Tensor>(targets, None, tch::Reduction::Sum, IGNORED, 0.0)
                / targets.ne(IGNORED).sum(Kind::Float).clamp_min(1.0)
        };
        let words = next_head.forward(&output.words).flatten(0, 1);
        let mut total = loss(&words, &next.index_select(0, &chosen).flatten(0, 1));
        for (head, classes) in heads.iter().zip(&sentences.classes) {
            total += loss(&head.forward(&output.state), &classes.index_select(0, &chosen));
        }
        total
    })?;

    let held_out = Sentences::load(cfg, dataset, "val", device)?;
    let state = tch::no_grad(|| encoder.forward(&held_out.ids, &nobody, &unobserved).state);
    let mut accuracies = serde_json::Map::new();
    for ((name, head), classes) in Facts::NAMES.iter().zip(&heads).zip(&held_out.classes) {
        let found = tch::no_grad(|| head.forward(&state).argmax(-1, false));
        accuracies.insert((*name).to_owned(), json!(accuracy(&found, classes, 0)?));
    }
    Ok(Trained { store, held_out: accuracies.into() })
}

impl Sentences {
    fn load(cfg: &Config, dataset: &Dataset, split: &str, device: Device) -> Result<Self> {
        let tokenizer = tokenizer(cfg)?;
        let word_len = cfg.model.word_len as usize;
        let categories: BTreeMap<&str, i64> =
            dataset.instances.categories.iter().map(|(&id, name)| (name.as_str(), id)).collect();
        let mut ids = Vec::new();
        let mut classes: [Vec<i64>; Facts::N] = std::array::from_fn(|_| Vec::new());
        for index in dataset.split(split)? {
            for expression in &dataset.refs[index].expressions {
                ids.extend(tokenizer.encode_padded(&expression.sent, word_len)?);
                let facts = Facts::of(&expression.sent, &categories);
                for (classes, fact) in classes.iter_mut().zip(facts.0) {
                    classes.push(fact.unwrap_or(IGNORED));
                }
            }
        }
        let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        Ok(Self {
            ids: tensor(&ids).view([-1, word_len as i64]),
            classes: classes.each_ref().map(|classes| tensor(classes)),
        })
    }
}

/// The tokens that occur in a set of sentences, numbered from 0.
struct OccurringTokens {
    numbers: BTreeMap<i64, i64>,
    n: i64,
}

impl OccurringTokens {
    fn of(ids: &Tensor) -> Result<Self> {
        let tokens: std::collections::BTreeSet<i64> =
            Vec::<i64>::try_from(ids.flatten(0, -1))?.into_iter().collect();
        let numbers: BTreeMap<i64, i64> = tokens.into_iter().zip(0..).collect();
        let n = numbers.len() as i64;
        Ok(Self { numbers, n })
    }

    /// The number of the next token at each position, `[n, K]`; [`IGNORED`] at the end token and on padding.
    fn next_tokens(&self, ids: &Tensor) -> Result<Tensor> {
        let (n, word_len) = ids.size2()?;
        let flat = Vec::<i64>::try_from(ids.flatten(0, -1))?;
        let mut next = Vec::with_capacity(flat.len());
        for sentence in flat.chunks_exact(word_len as usize) {
            for at in 0..sentence.len() {
                let behind = sentence.get(at + 1).filter(|&&token| token != 0);
                next.push(behind.and_then(|token| self.numbers.get(token)).copied().unwrap_or(IGNORED));
            }
        }
        Ok(Tensor::from_slice(&next).view([n, word_len]).to_device(ids.device()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_word_by_hand() {
        let ids = Tensor::from_slice(&[7_i64, 5, 9, 0, 7, 9, 0, 0]).view([2, 4]);
        let occurring = OccurringTokens::of(&ids).unwrap();
        // 0, 5, 7, 9 are numbered 0 to 3.
        assert_eq!(occurring.n, 4);
        let next = Vec::<i64>::try_from(occurring.next_tokens(&ids).unwrap().flatten(0, -1)).unwrap();
        assert_eq!(next, [1, 3, IGNORED, IGNORED, 3, IGNORED, IGNORED, IGNORED]);
    }
}
