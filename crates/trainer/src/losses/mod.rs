//! The losses of a run. Each is a file here that says what it is called, what it may be set to, and how it is computed; all else
//! (the objective, the config's keys and their bounds, ablation axes, records) reads [`LOSSES`].

mod cpcl;
mod exclusive;
mod instance;
mod mass;
mod object_bce;
mod pixel_levels;
mod segmentation;
mod tccl;

use talent::TalentOutput;
use tch::Tensor;

use crate::batch::TrainTensors;
use crate::config::LossConfig;
use crate::distributed::Processes;

/// All losses, in the order in which they are added up.
pub(crate) const LOSSES: &[&dyn Loss] = &[
    &segmentation::Seg,
    &cpcl::Cpcl,
    &tccl::Tccl,
    &instance::Instance,
    &instance::Adapters,
    &instance::LEVELS,
    &instance::NECK,
    &instance::DECODER,
    &pixel_levels::PixelLevels,
    &mass::Mass,
    &object_bce::ObjectBce,
    &exclusive::Exclusive,
];

/// A loss.
pub(crate) trait Loss: Sync {
    /// The key of its weight below `loss.`, and its name in records.
    fn name(&self) -> &'static str;

    /// Its weight in the official recipe, 0 for a loss that it lacks.
    fn weight(&self) -> f64 {
        0.0
    }

    /// What else may be set.
    fn settings(&self) -> &'static [Setting] {
        &[]
    }

    /// What it needs besides images, masks and expressions.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// The unweighted loss, a scalar; `None` where a pass has nothing to compute it from.
    fn term(&self, of: &Inputs<'_>, cfg: &LossConfig) -> Option<Tensor>;
}

/// What losses need of a batch besides images, masks and expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Needs {
    /// Maps of the objects of each target's category.
    pub(crate) objects: bool,
    /// Several expressions about one image.
    pub(crate) rivals: bool,
    /// Responses of the visual adapters.
    pub(crate) adapters: bool,
}

impl Needs {
    const OBJECTS: Self = Self { objects: true, rivals: false, adapters: false };
    const RIVALS: Self = Self { objects: false, rivals: true, adapters: false };
    const ADAPTERS: Self = Self { objects: true, rivals: false, adapters: true };
}

/// What losses are computed from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) output: &'a TalentOutput,
    /// Responses of the visual adapters, `[batch, H * W]` each; empty unless a loss needs them.
    pub(crate) adapters: &'a [Tensor],
    pub(crate) batch: &'a TrainTensors,
    /// Those that the batch is shared with.
    pub(crate) processes: &'a Processes,
}

/// A setting of a loss.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Below `loss.`; begins with the loss's name.
    pub(crate) key: &'static str,
    pub(crate) default: f64,
    /// Whether it is a whole number.
    pub(crate) is_whole: bool,
    /// Whether a value makes sense.
    pub(crate) allows: fn(f64) -> bool,
    /// What it must be, as the end of a sentence.
    pub(crate) expected: &'static str,
}

/// The loss and its terms, each a scalar tensor.
#[derive(Debug)]
pub(crate) struct Objective {
    /// The weighted sum.
    pub(crate) total: Tensor,
    /// Unweighted terms by name; only those that are switched on.
    pub(crate) terms: Vec<(&'static str, Tensor)>,
}

/// The terms that are switched on: name, weight, and the unweighted scalar with its graph.
pub(crate) fn weighted_terms(inputs: &Inputs<'_>, cfg: &LossConfig) -> Vec<(&'static str, f64, Tensor)> {
    let mut terms = Vec::new();
    for loss in LOSSES {
        let weight = cfg.get(loss.name());
        if weight > 0.0
            && let Some(term) = loss.term(inputs, cfg)
        {
            terms.push((loss.name(), weight, term));
        }
    }
    terms
}

/// Joins a pass's output with its targets: `seg + 0.1 cpcl + 0.1 tccl` in the official recipe.
pub(crate) fn objective(inputs: &Inputs<'_>, cfg: &LossConfig) -> Objective {
    let terms = weighted_terms(inputs, cfg);
    let total = terms.iter().map(|(_, weight, term)| term * *weight).sum();
    Objective { total, terms: terms.into_iter().map(|(name, _, term)| (name, term.detach())).collect() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_unique_and_defaults_are_allowed() {
        let mut keys = BTreeSet::new();
        for loss in LOSSES {
            assert!(keys.insert(loss.name()) && loss.weight() >= 0.0);
            for setting in loss.settings() {
                assert!(keys.insert(setting.key), "{}", setting.key);
                assert!(setting.key.starts_with(&format!("{}_", loss.name())), "{}", setting.key);
                assert!((setting.allows)(setting.default) && !(setting.allows)(f64::NAN), "{}", setting.key);
            }
        }
    }
}
