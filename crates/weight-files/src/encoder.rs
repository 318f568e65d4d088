use crate::error::Error;
use crate::file::WeightFile;
use crate::huggingface::{self, EncoderFacts};

/// A frozen encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoder {
    /// DINOv2 with registers.
    Image,
    /// CLIP's text tower.
    Text,
}

/// How a stored tensor becomes an official one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// As it is.
    Copy,
    /// The `index`th of three equal stacks of rows: queries, keys and values in this order.
    Third(usize),
    /// Rows and columns exchanged.
    Transpose,
}

/// Where a stored tensor goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name in the file.
    pub source: String,
    /// The official name it fills, without `dinov2.` or `txt_backbone.`.
    pub target: String,
    /// How.
    pub step: Step,
}

/// How to fill an encoder from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderPlan {
    /// The naming scheme, for reports.
    pub layout: &'static str,
    /// Tensors to use.
    pub parts: Vec<Part>,
    /// Tensors that belong to something else and are known to: the image tower of a CLIP file, for one.
    pub ignored: Vec<String>,
    /// Tensors that nothing is known about.
    pub unexpected: Vec<String>,
    /// What the configuration beside the weights says; all open if there is none.
    pub facts: EncoderFacts,
}

/// Finds out which naming scheme a file uses, and which of its tensors are which of the encoder's.
///
/// # Errors
/// When the file holds no such encoder, or one that computes something else than ours.
pub fn encoder_plan(file: &WeightFile, encoder: Encoder) -> Result<EncoderPlan, Error> {
    let has = |name: &str| file.info(name).is_some();
    let official = match encoder {
        Encoder::Image => has("cls_token"),
        Encoder::Text => has("token_embedding.weight"),
    };
    if official {
        return Ok(official_plan(file, encoder));
    }
    if let Some(plan) = huggingface::plan(file, encoder)? {
        return Ok(plan);
    }
    let wanted = match encoder {
        Encoder::Image => "a DINOv2 image encoder (`cls_token` or `embeddings.cls_token`)",
        Encoder::Text => {
            "a CLIP text encoder (`token_embedding.weight` or `text_model.embeddings.token_embedding.weight`)"
        }
    };
    let first: Vec<&str> = file.tensors().map(|(name, _)| name).take(3).collect();
    Err(Error::malformed(file.path(), format!("no sign of {wanted}; it begins with {}", first.join(", "))))
}

fn official_plan(file: &WeightFile, encoder: Encoder) -> EncoderPlan {
    let layout = match encoder {
        Encoder::Image => "DINOv2's own names",
        Encoder::Text => "OpenAI's own names",
    };
    let (mut parts, mut ignored) = (Vec::new(), Vec::new());
    for (name, _) in file.tensors() {
        let beside = ["input_resolution", "context_length", "vocab_size"].contains(&name);
        if encoder == Encoder::Text && (name.starts_with("visual.") || beside) {
            ignored.push(name.to_owned());
        } else {
            parts.push(Part { source: name.to_owned(), target: name.to_owned(), step: Step::Copy });
        }
    }
    EncoderPlan { layout, parts, ignored, unexpected: vec![], facts: EncoderFacts::default() }
}
