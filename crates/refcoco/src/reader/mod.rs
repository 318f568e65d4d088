//! Readers of annotation files, one module per format.

mod arefcoco;
mod d3;
mod grefs;
mod instances;
mod json_text;
mod lenient;
mod merged;
mod own;
mod pickled;
mod reasonseg;
mod refs_pickle;
mod refsegrs;

pub(crate) use arefcoco::read_arefcoco;
pub(crate) use d3::read_d3;
pub use grefs::read_grefs;
pub use instances::{Instances, Unusable, read_instances};
pub(crate) use json_text::json_text;
pub use lenient::whole_number;
pub use own::read_own;
pub(crate) use reasonseg::read_reasonseg;
pub use refs_pickle::read_refs;
pub(crate) use refsegrs::read_refsegrs;

use serde_json::value::RawValue;

use crate::error::{Error, Result, json_problem};

/// A segmentation as JSON text.
fn json_raw(value: &serde_json::Value) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(value)
        .map_err(|source| Error::Json { path: std::path::PathBuf::from("a segmentation"), source })
}

/// Message of a JSON error without its line number, which is always 1 in single-line text.
pub(crate) fn in_one_line(error: &serde_json::Error) -> String {
    let text = json_problem(error).replace(" at line 1 column ", " at column ");
    let why = match &text {
        text if text.contains("surrogate") || text.contains("hex escape") => {
            ": half of an emoji or another character beyond \\uFFFF, a \\uD800 to \\uDFFF that stands alone"
        }
        text if text.contains("recursion limit") => {
            ": lists or objects inside each other, more than 100 deep"
        }
        _ => "",
    };
    text + why
}
