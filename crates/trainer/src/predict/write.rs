//! Turns probability maps into lines, masks and overlays.

use anyhow::{Result, anyhow, bail, ensure};
use cli_kit::{errln, outln};
use figures::{Canvas, overlay, save_mask};
use rayon::prelude::*;
use refcoco::{Mask, read_image_to_work_on};
use serde_json::{Map, Value};
use torch_ext::Download;

use super::PredictArgs;
use super::answer::{Reading, describe};
use super::load::{Chunk, Letterboxed, Loaded};
use super::one::{COLOUR, CUT_SHORT, WORK};
use super::output::{LeftOut, Output, Summary};
use super::request::{Expression, Picture};
use crate::evaluate::values;

/// Some expressions of a chunk that went through the network together.
pub(super) struct Slice {
    /// Index of the image in its chunk, and of the expression in its image.
    pub(super) members: Vec<(usize, usize)>,
    pub(super) maps: Download,
}

/// Writes predictions to the output folder.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    args: &'a PredictArgs,
    reading: Reading,
    output: Output,
    left_out: Vec<LeftOut>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(args: &'a PredictArgs, reading: Reading, output: Output) -> Self {
        Self { args, reading, output, left_out: Vec::new() }
    }

    pub(super) fn has(&self, query: usize) -> bool {
        self.output.has(query)
    }

    /// Number of predictions that are there.
    pub(super) fn n(&self) -> usize {
        self.output.n()
    }

    /// Notes the images of a chunk that cannot be read, or not to their end. Returns the number of expressions about the former.
    pub(super) fn leave_out_unreadable(&mut self, chunk: &Chunk) -> Result<usize> {
        let mut n = 0;
        for Loaded { picture, image } in &chunk.pictures {
            if image.as_ref().is_ok_and(|image| image.is_cut_short) {
                ensure!(!self.args.strict, "{}: {CUT_SHORT}", picture.name);
                errln!("warning: {}: {CUT_SHORT}", picture.name);
            }
            if let Err(what) = image {
                let why = what.replace(['\n', '\r'], " ");
                let named = if why.contains(&picture.name) {
                    why.clone()
                } else {
                    format!("{}: {why}", picture.name)
                };
                ensure!(!self.args.strict, "{named}");
                errln!("warning: {named}; left out");
                let queries: Vec<usize> = picture.expressions.iter().map(|one| one.place).collect();
                n += queries.len();
                self.left_out.push(LeftOut { image: picture.name.clone(), why, queries });
            }
        }
        Ok(n)
    }

    /// Writes the predictions of a batch. Returns their number.
    pub(super) fn write(&mut self, chunk: &Chunk, slice: Slice) -> Result<usize> {
        let Slice { members, maps } = slice;
        let maps = values(maps)?;
        let plane = (maps.len() / members.len().max(1)).max(1);
        let lines: Vec<Result<(usize, String)>> = members
            .par_iter()
            .zip(maps.par_chunks_exact(plane))
            .map(|(&(image, expression), map)| {
                let Loaded { picture, image } = &chunk.pictures[image];
                let Ok(image) = image else { return Err(anyhow!("{}: not read", picture.name)) };
                let expression = &picture.expressions[expression];
                Ok((expression.place, self.line(picture, image, expression, map)?))
            })
            .collect();
        let lines = lines.into_iter().collect::<Result<Vec<_>>>()?;
        self.output.append(&lines)?;
        Ok(lines.len())
    }

    /// The line of a prediction; writes its mask and overlay.
    fn line(
        &self,
        picture: &Picture,
        image: &Letterboxed,
        expression: &Expression,
        map: &[f32],
    ) -> Result<String> {
        let Expression { place, text, ids } = expression;
        let map = image.letterbox.map_to_image(map);
        let mask = Mask::above(image.letterbox.width, image.letterbox.height, &map, self.reading.threshold);
        let mut line = Map::new();
        line.insert("image".into(), picture.name.clone().into());
        line.insert("expression".into(), text.clone().into());
        for (name, id) in [("ref_id", ids.0), ("sent_id", ids.1)] {
            if let Some(id) = id {
                line.insert(name.into(), id.into());
            }
        }
        line.append(&mut describe(&mask, &map, self.reading));
        drop(map);
        let name = |folder: &str| format!("{folder}/{place:06}.png");
        if self.args.masks {
            save_mask(&self.output.folder().join(name("masks")), mask.width, &mask.data)?;
            line.insert("mask".into(), name("masks").into());
        }
        if self.args.overlays {
            let image = read_image_to_work_on(&image.file, WORK)?.image;
            ensure!(
                (image.width, image.height) == (mask.width, mask.height),
                "{}: the file has changed",
                picture.name
            );
            let drawn = overlay(Canvas::from_rgb(image.width, image.height, image.data), &mask.data, COLOUR);
            drawn.save(&self.output.folder().join(name("overlays")))?;
            line.insert("overlay".into(), name("overlays").into());
        }
        Ok(Value::Object(line).to_string())
    }

    /// Finishes the folder, and says what was done.
    pub(super) fn finish(self, n_queries: usize) -> Result<()> {
        let Self { args, output, left_out, .. } = self;
        let n = output.n();
        if let (0, Some(first)) = (n, left_out.first()) {
            bail!("no image could be read; the first: {}: {}", first.image, first.why);
        }
        let file = output.folder().join("predictions.jsonl");
        let summary = Summary { n_queries, n_predictions: n, left_out };
        output.finish(&summary)?;
        if args.json {
            outln!("{}", serde_json::to_string(&summary)?);
        } else {
            let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            let images = match summary.left_out.len() {
                0 => String::new(),
                images => format!(
                    "; {} left out with {}",
                    counted(images, "image"),
                    counted(n_queries - n, "expression")
                ),
            };
            outln!("{} written to {}{images}", counted(n, "prediction"), file.display());
        }
        Ok(())
    }
}
