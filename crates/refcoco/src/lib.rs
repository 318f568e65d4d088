//! Data for referring image segmentation: the RefCOCO family read from its original files, and RefShapes, a synthetic set in
//! the same layout. No deep learning framework is needed: samples are plain buffers with their shapes.
//!
//! - [`Dataset`] reads `refs(...).p`, gRefCOCO's `grefs(...).json`, `instances.json`, JSONL files of the user's own data, and
//!   the images; errors name the file and the record;
//! - [`Mask`] decodes COCO polygons and RLE as the COCO tools do;
//! - [`letterbox`] holds the geometry and the warps of the reference data path (OpenCV 4 arithmetic);
//! - [`Tokenizer`] turns text into token ids; [`ClipTokenizer`] is CLIP's, with the reference's text cleaning;
//! - [`sampler`] and [`training_batches`] give training batches whose order depends on the seed alone;
//! - [`verify`] checks a whole data set and lists every problem;
//! - [`refshapes`] generates the synthetic set.
//!
//! Without the default feature `tokenizers` there are no [`ClipTokenizer`], [`FileTokenizer`], [`verify`] and [`Dataset::stats`], which count
//! tokens; all else stays, batches with a [`Tokenizer`] of your own included.

#![cfg_attr(not(feature = "tokenizers"), allow(dead_code, reason = "only `verify` calls it"))]

mod annotation;
mod archive;
mod buffers;
#[cfg(feature = "tokenizers")]
mod clip_tokenizer;
mod dataset;
mod dataset_files;
mod descriptor;
mod error;
pub mod evaluation;
mod file_spelling;
mod findings;
mod image_file;
mod image_source;
mod json_file;
mod jsonl;
pub mod letterbox;
mod loader;
mod mask;
mod mask_file;
mod memory_rule;
mod picture_key;
mod prefetch;
mod problem;
mod reader;
pub mod refshapes;
mod regular_file;
pub mod sampler;
#[cfg(feature = "tokenizers")]
mod stats;
mod tokenizer;
#[cfg(feature = "tokenizers")]
mod tokenizer_file;
pub mod training_mix;
mod unreadable;
#[cfg(feature = "tokenizers")]
mod verify;

pub use annotation::{Annotation, Expression, ImageRecord, Ref};
#[cfg(fuzzing)]
pub use archive::read_whole_archive;
pub use buffers::{Buffers, Pixels};
#[cfg(feature = "tokenizers")]
pub use clip_tokenizer::{ClipTokenizer, END, START, VOCABULARY};
pub use dataset::Dataset;
pub use descriptor::{AnnotationFormat, Descriptor};
pub use error::{Error, MaskError, Result, Turned, json_problem};
pub use file_spelling::{file_below, similar_file};
pub use findings::Findings;
pub use image_file::{
    ReadImage, RgbImage, decode_image, encoded_size, image_size, is_cut_short, is_turned_by_exif, read_image,
    read_image_to_work_on,
};
pub use json_file::read_json;
pub use jsonl::{Lines, read_lines};
pub use loader::{
    BadSample, Batch, BatchPlan, ObjectMapShape, OnError, RefAt, SampleOptions, SampleShape, load_batch,
    training_batches,
};
pub use mask::{Mask, PixelBox};
pub use mask_file::decode_mask;
pub use memory_rule::check_memory_rule;
pub use prefetch::Prefetch;
pub use problem::Problem;
pub use reader::{Instances, Unusable, read_grefs, read_instances, read_own, read_refs, whole_number};
pub use regular_file::open_regular;
#[cfg(feature = "tokenizers")]
pub use stats::{DatasetStats, SplitStats, TARGET_PERCENT_BOUNDS};
pub use tokenizer::Tokenizer;
#[cfg(feature = "tokenizers")]
pub use tokenizer_file::{Canonical, FileTokenizer};
pub use unreadable::LeftOut;
#[cfg(feature = "tokenizers")]
pub use verify::{Verification, verify};

/// The README's example is tested.
#[cfg(all(doctest, feature = "tokenizers"))]
#[doc = include_str!("../README.md")]
struct Readme;
