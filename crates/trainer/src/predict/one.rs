//! One expression in one image: mask.png, overlay.png and prediction.json.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use cli_kit::{errln, outln};
use figures::{Canvas, overlay};
use refcoco::{Mask, ReadImage, read_image_to_work_on};
use serde_json::{Map, Value};

use super::PredictArgs;
use super::answer::{Reading, describe};
use crate::checkpoint::is_same;
use crate::encoder_input::about_one_image;
use crate::evaluate::{probabilities, values};
use crate::experiment::Experiment;

/// Bytes per pixel of the image that prediction needs: probabilities and mask, then the mask as a picture.
pub(super) const WORK: u64 = 5;
pub(super) const CUT_SHORT: &str = "the JPEG has no end marker: part of it may be missing";
pub(super) const COLOUR: [u8; 3] = [230, 60, 40];

pub(super) fn predict(args: &PredictArgs, image_file: &Path, text: &str) -> Result<()> {
    for name in ["mask.png", "overlay.png", "prediction.json"] {
        let file = args.out.join(name);
        ensure!(
            !is_same(&file, image_file) && !is_same(&file, &args.checkpoint),
            "--out: {} is what is read; choose another folder",
            file.display()
        );
    }
    let ReadImage { image, is_cut_short } = read_image_to_work_on(image_file, WORK)?;
    if is_cut_short {
        let shown = image_file.display();
        ensure!(!args.strict, "{shown}: {CUT_SHORT}");
        errln!("warning: {shown}: {CUT_SHORT}");
    }
    let device = args.machine.set_up()?;
    let (cfg, meta) = args.stored.open(&args.checkpoint)?;
    let experiment = Experiment::with_datasets(cfg, device, Vec::new())?;
    args.stored.fill(&experiment.model, &args.checkpoint, meta.as_ref())?;

    let (shape, tokenizer) = (experiment.shape(), &*experiment.tokenizer);
    if tokenizer.encode(text)?.len() > shape.word_len {
        errln!("note: the expression is longer than the model's {} tokens and was cut", shape.word_len);
    }
    let (letterbox, batch) = about_one_image(&image, &[text], tokenizer, shape, device)?;
    let square = values(probabilities(&experiment, &batch, experiment.cfg.train.precision)?)?;
    let map = letterbox.map_to_image(&square);
    let reading = Reading::of(&experiment.cfg);
    let mask = Mask::above(image.width, image.height, &map, reading.threshold);

    let mut prediction = Map::new();
    prediction.insert("image".into(), image_file.display().to_string().into());
    prediction.insert("expression".into(), text.into());
    prediction.insert("threshold".into(), reading.shown_threshold().into());
    prediction.append(&mut describe(&mask, &map, reading));
    let prediction = Value::Object(prediction);
    // Freed early: each of these buffers may take a gigabyte.
    drop(map);
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let picture = Canvas::from_rgb(image.width, image.height, image.data);
    overlay(picture, &mask.data, COLOUR).save(&args.out.join("overlay.png"))?;
    figures::save_mask(&args.out.join("mask.png"), mask.width, &mask.data)?;
    whole_file::write(&args.out.join("prediction.json"), format!("{prediction:#}\n").as_bytes())?;
    if args.json {
        outln!("{prediction}");
    } else {
        let percent = 100.0 * mask.area() as f64 / (mask.width * mask.height) as f64;
        outln!("\"{text}\": {percent:.1} % of the image; written to {}", args.out.display());
    }
    Ok(())
}
