//! Input formats of a network's encoders: sizes, pixel normalisation and tokenizer. The encoders' specs define them, and the
//! data path receives them as plain values.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use refcoco::letterbox::{Letterbox, Normalisation};
use refcoco::{Canonical, ClipTokenizer, FileTokenizer, RgbImage, SampleShape, Tokenizer};
use talent::{ModelConfig, PixelInput};
use tch::Device;

use crate::batch::EvalTensors;
use crate::config::{Config, WeightsConfig};

/// Sizes of a network's inputs, and the pixel normalisation of its image encoder.
pub(crate) fn sample_shape(cfg: &ModelConfig) -> SampleShape {
    let PixelInput { mean, std, border, .. } = cfg.image.spec().input;
    let pixels = Normalisation { mean, std, border };
    SampleShape { input_size: cfg.input_size as usize, word_len: cfg.word_len as usize, pixels }
}

/// The tokenizer of a network's text encoder.
///
/// # Errors
/// When it is in a file that is missing or does not fit the encoder.
pub(crate) fn tokenizer(cfg: &Config) -> Result<Arc<dyn Tokenizer>> {
    let input = cfg.model.text.spec().input;
    let canonical = match input.tokenizer {
        talent::Tokenizer::Clip => {
            let given = &cfg.weights.tokenizer;
            ensure!(
                given.is_empty(),
                "weights.tokenizer ({given}): the tokenizer of model.text.encoder=clip is built in"
            );
            return Ok(Arc::new(ClipTokenizer::new()?));
        }
        talent::Tokenizer::Siglip => Canonical::WithoutPunctuation,
        talent::Tokenizer::Siglip2 => Canonical::LowerCase,
    };
    let name = cfg.model.text.spec().name;
    let path = tokenizer_path(&cfg.weights);
    let found = path.context("there are no text weights that it could lie beside").and_then(|path| {
        let found = FileTokenizer::open(&path, canonical)?;
        let shown = path.display();
        let (needed, padding) = (found.vocabulary(), found.padding());
        ensure!(
            input.vocabulary >= needed,
            "{shown}: model.text.vocabulary ({}) must hold the {needed} tokens of this tokenizer",
            input.vocabulary
        );
        ensure!(
            padding == input.padding,
            "{shown}: it pads with token {padding}, but `{name}` with {}; is it another model's?",
            input.padding
        );
        Ok(found)
    });
    let found = found.with_context(|| {
        format!("model.text.encoder={name} needs its model's tokenizer.json; say where it is with --set weights.tokenizer=FILE")
    })?;
    Ok(Arc::new(found))
}

/// Where the tokenizer's file is: as given, or beside the text encoder's weights.
fn tokenizer_path(weights: &WeightsConfig) -> Option<PathBuf> {
    let text = Path::new(&weights.text);
    match (weights.tokenizer.is_empty(), weights.text.is_empty()) {
        (false, _) => Some(PathBuf::from(&weights.tokenizer)),
        (true, true) => None,
        (true, false) if text.is_dir() => Some(text.to_path_buf()),
        (true, false) => Some(text.with_file_name("tokenizer.json")),
    }
}

/// Refuses a text encoder whose vocabulary is smaller than that of its tokenizer.
pub(crate) fn ensure_vocabulary(cfg: &ModelConfig) -> Result<()> {
    let words = cfg.text.spec().input;
    let (needed, name) = match words.tokenizer {
        talent::Tokenizer::Clip => (refcoco::VOCABULARY, "CLIP's"),
        // Known when its file is read.
        talent::Tokenizer::Siglip | talent::Tokenizer::Siglip2 => return Ok(()),
    };
    let vocabulary = words.vocabulary;
    ensure!(
        vocabulary >= needed,
        "model.text.vocabulary ({vocabulary}) must hold the {needed} tokens of {name} tokenizer"
    );
    Ok(())
}

/// An evaluation batch of several expressions about one image, and the letterbox that maps results back to the image.
pub(crate) fn about_one_image(
    image: &RgbImage,
    texts: &[&str],
    tokenizer: &dyn Tokenizer,
    shape: SampleShape,
    device: Device,
) -> Result<(Letterbox, EvalTensors)> {
    let letterbox = Letterbox::new(image.width, image.height, shape.input_size);
    let pixels = letterbox.normalised_image(image, &shape.pixels);
    let mut ids = Vec::with_capacity(texts.len() * shape.word_len);
    for text in texts {
        ids.extend(tokenizer.encode_padded(text, shape.word_len)?);
    }
    Ok((letterbox, EvalTensors::from_parts(&pixels, &vec![0; texts.len()], &ids, shape, device)?))
}
