//! Input formats of a network's encoders: sizes, pixel normalisation and tokenizer. The encoders' specs define them, and the
//! data path receives them as plain values.

use std::sync::Arc;

use anyhow::{Result, ensure};
use refcoco::letterbox::{Letterbox, Normalisation};
use refcoco::{ClipTokenizer, RgbImage, SampleShape, Tokenizer};
use talent::{ModelConfig, PixelInput};
use tch::{Device, Kind, Tensor};

use crate::batch::EvalTensors;

/// Sizes of a network's inputs, and the pixel normalisation of its image encoder.
pub(crate) fn sample_shape(cfg: &ModelConfig) -> SampleShape {
    let PixelInput { mean, std, border, .. } = cfg.image.spec().input;
    let pixels = Normalisation { mean, std, border };
    SampleShape { input_size: cfg.input_size as usize, word_len: cfg.word_len as usize, pixels }
}

/// The tokenizer of a network's text encoder.
pub(crate) fn tokenizer(cfg: &ModelConfig) -> Result<Arc<dyn Tokenizer>> {
    match cfg.text.spec().input.tokenizer {
        talent::Tokenizer::Clip => Ok(Arc::new(ClipTokenizer::new()?)),
    }
}

/// Refuses a text encoder whose vocabulary is smaller than that of its tokenizer.
pub(crate) fn ensure_vocabulary(cfg: &ModelConfig) -> Result<()> {
    let words = cfg.text.spec().input;
    let (needed, name) = match words.tokenizer {
        talent::Tokenizer::Clip => (refcoco::VOCABULARY, "CLIP's"),
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
    let side = shape.input_size as i64;
    let pixels = letterbox.normalised_image(image, &shape.pixels);
    let mut ids = Vec::with_capacity(texts.len() * shape.word_len);
    for text in texts {
        ids.extend(tokenizer.encode_padded(text, shape.word_len)?);
    }
    let n = texts.len() as i64;
    let batch = EvalTensors {
        images: Tensor::from_slice(&pixels).view([1, 3, side, side]).to_device(device),
        image_of: Tensor::zeros([n], (Kind::Int64, device)),
        words: Tensor::from_slice(&ids).view([n, -1]).to_device(device),
    };
    Ok((letterbox, batch))
}
