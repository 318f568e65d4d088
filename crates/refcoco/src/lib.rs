//! Data for referring image segmentation: the RefCOCO family read from its original files, and RefShapes, a
//! synthetic set in the same layout. No framework is involved: samples are plain buffers with their shapes.
//!
//! - [`Dataset`] reads `refs(...).p`, gRefCOCO's `grefs(...).json`, `instances.json`, own JSONL data and the images,
//!   with errors that name file and record;
//! - [`Mask`] decodes polygons and run lengths as the COCO tools do;
//! - [`letterbox`] holds the geometry and the warps of the reference data path (OpenCV 4 arithmetic);
//! - [`Tokenizer`] is what makes token ids; [`ClipTokenizer`] is CLIP's, with the reference's text cleaning;
//! - [`sampler`] and [`training_batches`] give training batches whose order depends on the seed alone;
//! - [`verify`] checks a whole data set and lists all that is wrong;
//! - [`refshapes`] makes the synthetic set.

mod annotation;
mod buffers;
mod dataset;
mod descriptor;
mod error;
pub mod evaluation;
mod image_file;
mod image_source;
mod jsonl;
pub mod letterbox;
mod loader;
mod mask;
mod memory_rule;
mod prefetch;
mod problem;
mod reader;
pub mod refshapes;
mod regular_file;
pub mod sampler;
mod stats;
mod tokenizer;
pub mod training_mix;
mod verify;

pub use annotation::{Annotation, Expression, ImageRecord, Ref};
pub use buffers::Buffers;
pub use dataset::Dataset;
pub use descriptor::{AnnotationFormat, Descriptor};
pub use error::{Error, MaskError, Result};
pub use image_file::{RgbImage, decode_image, image_size, read_image, read_image_to_work_on};
#[cfg(fuzzing)]
pub use image_source::read_whole_archive;
pub use jsonl::read_lines;
pub use loader::{BadSample, Batch, BatchPlan, OnError, RefAt, SampleShape, load_batch, training_batches};
pub use mask::Mask;
pub use memory_rule::check_memory_rule;
pub use prefetch::Prefetch;
pub use problem::Problem;
pub use reader::{Instances, read_grefs, read_instances, read_own, read_refs};
pub use regular_file::open_regular;
pub use stats::{DatasetStats, SplitStats, TARGET_PERCENT_BOUNDS};
pub use tokenizer::{ClipTokenizer, END, START, Tokenizer, VOCABULARY};
pub use verify::{Verification, verify};
