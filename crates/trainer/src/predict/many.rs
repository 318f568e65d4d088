//! Many expressions or images: batches on the device, a line for each query.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::{Context, Result, anyhow, ensure};
use cli_kit::{errln, outln};
use command_kit::Progress;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::PredictArgs;
use super::answer::Reading;
use super::load::{Chunk, Loaded, chunks};
use super::output::{Opened, Output, Wanted};
use super::request::{Expression, Picture};
use super::write::{Slice, Writer};
use crate::batch::EvalTensors;
use crate::checkpoint::{Meta, file_sha256, hex, is_same};
use crate::evaluate::probabilities;
use crate::experiment::Experiment;
use crate::interrupt::{Interrupt, Interrupted};
use crate::panics::message;

pub(super) fn predict(args: &PredictArgs, pictures: Vec<Picture>) -> Result<()> {
    refuse_own_inputs(args, &pictures)?;
    let n_queries: usize = pictures.iter().map(|picture| picture.expressions.len()).sum();
    let device = args.machine.set_up()?;
    let (cfg, meta) = args.stored.open(&args.checkpoint)?;
    let mut experiment = Experiment::with_datasets(cfg, device, Vec::new())?;
    args.stored.fill(&experiment.model, &args.checkpoint, meta.as_ref())?;
    experiment.interrupt = Interrupt::listen()?;
    let reading = Reading::of(&experiment.cfg);
    let wanted = Wanted {
        settings: settings(args, meta.as_ref(), &pictures, reading)?,
        folders: [("masks", args.masks), ("overlays", args.overlays)]
            .into_iter()
            .filter_map(|(name, wanted)| wanted.then_some(name))
            .collect(),
        queries: asked(&pictures, n_queries),
    };
    let output = match Output::open(&args.out, wanted)? {
        Opened::Open(output) => *output,
        Opened::Finished(summary) => {
            errln!("{}: these predictions are finished", args.out.display());
            if args.json {
                outln!("{}", serde_json::to_string(&summary)?);
            }
            return Ok(());
        }
    };
    let mut writer = Writer::new(args, reading, output);
    match carry_out(args, &experiment, &mut writer, pictures, n_queries) {
        Ok(()) => writer.finish(n_queries),
        Err(error) => {
            if error.is::<Interrupted>() {
                let (n, out) = (writer.n(), args.out.display());
                errln!("interrupted; {n} of {n_queries} predictions are in {out}. The same command goes on");
            }
            Err(error)
        }
    }
}

/// Refuses an output folder whose files are read.
fn refuse_own_inputs(args: &PredictArgs, pictures: &[Picture]) -> Result<()> {
    let written =
        ["predictions.jsonl", "predictions.unfinished.jsonl", "predict.json"].map(|name| args.out.join(name));
    for file in [Some(&args.checkpoint), args.queries.as_ref()].into_iter().flatten() {
        ensure!(
            !written.iter().any(|path| is_same(path, file)),
            "--out: {} is what is read; choose another folder",
            file.display()
        );
    }
    let folders = ["masks", "overlays"].map(|name| args.out.join(name));
    let reads = |folder: &Path| {
        let mut files = pictures.iter().filter_map(|picture| picture.file.as_ref().ok());
        files.any(|file| file.parent().is_some_and(|parent| is_same(parent, folder)))
    };
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        ensure!(!reads(folder), "--out: images are read from {}; choose another folder", folder.display());
    }
    Ok(())
}

/// Image and expression of every query.
fn asked(pictures: &[Picture], n_queries: usize) -> Vec<(String, String)> {
    let mut asked = vec![Default::default(); n_queries];
    for Picture { name, expressions, .. } in pictures {
        for expression in expressions {
            asked[expression.place] = (name.clone(), expression.text.clone());
        }
    }
    asked
}

/// What decides the predictions. Two calls with equal settings give the same lines.
///
/// - meta: of the checkpoint, whose checksum was verified when it was opened; `None` for a file of another program
fn settings(
    args: &PredictArgs,
    meta: Option<&Meta>,
    pictures: &[Picture],
    reading: Reading,
) -> Result<Map<String, Value>> {
    let checkpoint = match meta {
        Some(meta) => meta.sha256.clone(),
        None => file_sha256(&args.checkpoint)?,
    };
    let mut list = Sha256::new();
    for Picture { name, expressions, .. } in pictures {
        for Expression { place, text, ids } in expressions {
            list.update(json!([place, name, text, ids.0, ids.1]).to_string());
        }
    }
    let settings = json!({
        "checkpoint": checkpoint,
        "config": args.stored.named_config(),
        "tensors that may be missing": args.stored.missing(),
        "images": std::fs::canonicalize(&args.image).unwrap_or_else(|_| args.image.clone()).to_string_lossy(),
        "list of queries": hex(list),
        "threshold": reading.shown_threshold(),
        "masks": args.masks,
        "overlays": args.overlays,
    });
    match settings {
        Value::Object(settings) => Ok(settings),
        _ => Err(anyhow!("settings are an object")),
    }
}

/// Predicts what is not there yet.
fn carry_out(
    args: &PredictArgs,
    experiment: &Experiment,
    writer: &mut Writer<'_>,
    pictures: Vec<Picture>,
    n_queries: usize,
) -> Result<()> {
    let todo: Vec<Picture> = pictures
        .into_iter()
        .map(|mut picture| {
            picture.expressions.retain(|expression| !writer.has(expression.place));
            picture
        })
        .filter(|picture| !picture.expressions.is_empty())
        .collect();
    if writer.n() > 0 {
        errln!("{} of {n_queries} predictions are there already", writer.n());
    }
    tell_cut(experiment, &todo);
    let batch_size = args.batch_size.unwrap_or(experiment.cfg.eval.batch_size).max(1);
    let loader = chunks(todo, batch_size, experiment.shape());
    let mut progress = Progress::new("predict", n_queries as u64, writer.n() as u64);
    // A second thread warps back and writes the maps of one batch while the network computes the next.
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Work>(1);
        let writing = scope.spawn(|| {
            for work in receiver {
                let n = match work {
                    Work::Begin(chunk) => writer.leave_out_unreadable(&chunk)?,
                    Work::Write(chunk, slice) => writer.write(&chunk, slice)?,
                };
                progress.advance(n as u64, "");
            }
            Ok::<_, anyhow::Error>(())
        });
        let predicted = predict_chunks(experiment, loader, batch_size, &sender);
        drop(sender);
        let written = writing.join().map_err(|panic| anyhow!("writing predictions: {}", message(&*panic)));
        // An error of the writer ends the loop above without one of its own.
        written.flatten().and(predicted)
    })
}

/// Says how many expressions are longer than the model's input.
fn tell_cut(experiment: &Experiment, pictures: &[Picture]) {
    let (tokenizer, word_len) = (&*experiment.tokenizer, experiment.shape().word_len);
    let expressions: Vec<&Expression> = pictures.iter().flat_map(|picture| &picture.expressions).collect();
    let is_cut = |one: &&Expression| tokenizer.encode(&one.text).is_ok_and(|ids| ids.len() > word_len);
    let cut: Vec<&Expression> = expressions.par_iter().copied().filter(is_cut).collect();
    if let Some(first) = cut.first() {
        let (n, shown): (usize, String) = (cut.len(), first.text.chars().take(60).collect());
        errln!(
            "note: longer than the model's {word_len} tokens and cut: {n} of the expressions, the first is query {}, \"{shown}...\"",
            first.place + 1
        );
    }
}

/// What the writing thread gets.
enum Work {
    /// A chunk whose images were decoded.
    Begin(Arc<Chunk>),
    /// Probability maps of a chunk.
    Write(Arc<Chunk>, Slice),
}

/// Sends each chunk, then its probability maps, until the receiver is gone.
fn predict_chunks(
    experiment: &Experiment,
    chunks: impl Iterator<Item = refcoco::Result<Chunk>>,
    batch_size: usize,
    sender: &SyncSender<Work>,
) -> Result<()> {
    for chunk in chunks {
        experiment.interrupt.check()?;
        let chunk = Arc::new(chunk?);
        if sender.send(Work::Begin(Arc::clone(&chunk))).is_err() {
            return Ok(());
        }
        let readable = chunk.pictures.iter().enumerate().filter(|(_, loaded)| loaded.image.is_ok());
        let members: Vec<(usize, usize)> = readable
            .flat_map(|(image, loaded)| (0..loaded.picture.expressions.len()).map(move |one| (image, one)))
            .collect();
        for members in members.chunks(batch_size) {
            experiment.interrupt.check()?;
            let batch = tensors(experiment, &chunk, members)?;
            let maps = probabilities(experiment, &batch, experiment.cfg.train.precision)?;
            let slice = Slice { members: members.to_vec(), maps };
            if sender.send(Work::Write(Arc::clone(&chunk), slice)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The batch of some expressions of a chunk; each of their images once.
fn tensors(experiment: &Experiment, chunk: &Chunk, members: &[(usize, usize)]) -> Result<EvalTensors> {
    let shape = experiment.shape();
    let (mut pixels, mut image_of, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    let (mut n_images, mut last) = (0, None);
    for &(image, expression) in members {
        let Loaded { picture, image: loaded } = &chunk.pictures[image];
        if last != Some(image)
            && let Ok(loaded) = loaded
        {
            pixels.extend_from_slice(&loaded.pixels);
            n_images += 1;
            last = Some(image);
        }
        image_of.push(n_images - 1);
        let text = &picture.expressions[expression].text;
        let padded = experiment.tokenizer.encode_padded(text, shape.word_len);
        ids.extend(padded.with_context(|| format!("{}: {text:?}", picture.name))?);
    }
    EvalTensors::from_parts(&pixels, &image_of, &ids, shape, experiment.device)
}
