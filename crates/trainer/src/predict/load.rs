//! Decodes images ahead of the network.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use refcoco::letterbox::Letterbox;
use refcoco::{Prefetch, ReadImage, SampleShape, read_image_to_work_on};

use super::one::WORK;
use super::request::Picture;

/// Some images with all of their expressions.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) pictures: Vec<Loaded>,
}

/// An image, ready for the network, or why it cannot be read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) picture: Picture,
    pub(super) image: Result<Letterboxed, String>,
}

#[derive(Debug)]
pub(super) struct Letterboxed {
    pub(super) file: PathBuf,
    pub(super) is_cut_short: bool,
    pub(super) letterbox: Letterbox,
    /// Normalised, `[3, S, S]`.
    pub(super) pixels: Vec<f32>,
}

/// Starts decoding images in a thread, each chunk on all cores. A chunk has at most `batch_size` expressions, or one image.
pub(super) fn chunks(pictures: Vec<Picture>, batch_size: usize, shape: SampleShape) -> Prefetch<Chunk> {
    let mut jobs: Vec<Vec<Picture>> = Vec::new();
    let mut n_expressions = 0;
    for picture in pictures {
        let n = picture.expressions.len();
        match jobs.last_mut() {
            Some(job) if n_expressions + n <= batch_size => {
                n_expressions += n;
                job.push(picture);
            }
            _ => {
                n_expressions = n;
                jobs.push(vec![picture]);
            }
        }
    }
    let shape = Arc::new(shape);
    Prefetch::new(jobs, 2, move |pictures: &Vec<Picture>| {
        let loaded = pictures.par_iter().map(|picture| Loaded {
            picture: picture.clone(),
            image: picture.file.clone().and_then(|file| load(&file, &shape)),
        });
        Ok(Chunk { pictures: loaded.collect() })
    })
}

fn load(file: &Path, shape: &SampleShape) -> Result<Letterboxed, String> {
    let ReadImage { image, is_cut_short } =
        read_image_to_work_on(file, WORK).map_err(|error| error.to_string())?;
    let letterbox = Letterbox::new(image.width, image.height, shape.input_size);
    let pixels = letterbox.normalised_image(&image, &shape.pixels);
    Ok(Letterboxed { file: file.to_path_buf(), is_cut_short, letterbox, pixels })
}
