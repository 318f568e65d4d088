//! Prefixes that training programs put in front of a network's own tensor names.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::file::WeightFile;

/// Wrapper modules and dictionaries, each ended by `.` (a module) or `/` (a dictionary of the file):
///
/// - `module.`: `DistributedDataParallel` and `DataParallel`
/// - `_orig_mod.`: `torch.compile`
/// - `backbone.`, `model.`, `net.`, `encoder.`: a network inside a training module, as in DINOv2's and Lightning's checkpoints
/// - `state_dict/`, `model/`, `teacher/`, `student/`, `ema/`: a checkpoint's dictionaries
const WRAPPERS: [&str; 13] = [
    "module.",
    "_orig_mod.",
    "backbone.",
    "model.",
    "net.",
    "encoder.",
    "teacher.",
    "student.",
    "state_dict/",
    "model/",
    "teacher/",
    "student/",
    "model_ema/",
];

/// Wrappers of wrappers beyond this number do not occur.
const MAX_DEPTH: usize = 6;

/// All prefixes of wrappers that a name begins with, the empty one first.
fn prefixes_of(name: &str) -> Vec<&str> {
    let mut ends = vec![0];
    while ends.len() <= MAX_DEPTH {
        let end = ends[ends.len() - 1];
        match WRAPPERS.iter().find(|wrapper| name[end..].starts_with(**wrapper)) {
            Some(wrapper) => ends.push(end + wrapper.len()),
            None => break,
        }
    }
    ends.into_iter().map(|end| &name[..end]).collect()
}

/// All prefixes of wrappers in a file: the empty one first, then short ones before long ones. `teacher` comes before `student`,
/// since its weights are the ones that DINO publishes.
pub(crate) fn wrappers(file: &WeightFile) -> Vec<String> {
    let all: BTreeSet<&str> = file.tensors().flat_map(|(name, _)| prefixes_of(name)).collect();
    let mut all: Vec<String> = all.into_iter().map(str::to_owned).collect();
    all.sort_by(|a, b| preference(a).cmp(&preference(b)));
    all
}

/// Sort key of prefixes, the preferred ones first.
fn preference(prefix: &str) -> (bool, usize, &str) {
    (prefix.contains("student"), prefix.len(), prefix)
}

/// The prefix of wrapper modules and dictionaries behind which a file holds the most of a network's tensors, such as
/// `state_dict/module.`; empty if the names stand in the file as they are. Of prefixes with equally many, the shortest, and
/// `teacher` before `student`: the teacher's weights are the ones that DINO publishes.
///
/// - knows: whether the network has a tensor of this name
///
/// ```
/// # fn of(file: &weight_files::WeightFile) -> String {
/// // "state_dict/module." for an official checkpoint of a network trained on several GPUs.
/// weight_files::wrapping(file, &|name| name.starts_with("neck."))
/// # }
/// ```
pub fn wrapping(file: &WeightFile, knows: &dyn Fn(&str) -> bool) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, _) in file.tensors() {
        for prefix in prefixes_of(name) {
            *counts.entry(prefix).or_default() += usize::from(knows(&name[prefix.len()..]));
        }
    }
    let best = counts.into_iter().min_by_key(|&(prefix, count)| (Reverse(count), preference(prefix)));
    best.filter(|(_, count)| *count > 0).map(|(prefix, _)| prefix.to_owned()).unwrap_or_default()
}

/// What a file's tensor names look like, for messages; `None` for names of no known family.
pub fn family(file: &WeightFile) -> Option<&'static str> {
    const FAMILIES: [(&str, &str); 14] = [
        ("lora_A", "LoRA weights of the library peft, without the network they belong to"),
        ("dino_head.", "a DINOv2 training checkpoint with its heads"),
        ("reg_token", "timm's names of DINOv2 with registers"),
        ("fc_norm.", "timm's names of a vision transformer"),
        ("embeddings.patch_embeddings", "Hugging Face's names of DINOv2"),
        ("embeddings.register_tokens", "Hugging Face's names of DINOv2 or DINOv3"),
        ("vision_model.", "Hugging Face's names of CLIP or SigLIP"),
        ("text_model.", "Hugging Face's names of a CLIP or SigLIP text encoder"),
        ("visual.transformer.resblocks", "OpenAI's or open_clip's names of CLIP"),
        ("visual.trunk.", "open_clip's names of a CLIP with a timm image encoder"),
        ("neck.txt_proj", "a whole TALENT network"),
        ("neck.", "a whole segmentation network, such as CRIS, ETRIS or DETRIS"),
        ("pos_embed", "a vision transformer of DINOv2's or timm's kind"),
        ("layer1.0.conv1", "a ResNet"),
    ];
    let holds = |mark: &str| file.tensors().any(|(name, _)| name.contains(mark));
    FAMILIES.iter().find(|(mark, _)| holds(mark)).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_peeled_one_by_one() {
        assert_eq!(prefixes_of("cls_token"), [""]);
        assert_eq!(
            prefixes_of("teacher/module.backbone.cls_token"),
            ["", "teacher/", "teacher/module.", "teacher/module.backbone."]
        );
        // A tensor may be called like a wrapper.
        assert_eq!(prefixes_of("model.module.x").len(), 3);
        assert!(prefixes_of(&"module.".repeat(50)).len() <= MAX_DEPTH + 1);
    }
}
