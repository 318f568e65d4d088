//! Readers of annotation files, one module per format.

mod grefs;
mod instances;
mod json_text;
mod lenient;
mod own;
mod pickled;
mod refs_pickle;

pub use grefs::read_grefs;
pub use instances::{Instances, Unusable, read_instances};
pub(crate) use json_text::json_text;
pub use own::read_own;
pub use refs_pickle::read_refs;

/// Message of a JSON error without its line number, which is always 1 in single-line text.
fn in_one_line(error: &serde_json::Error) -> String {
    let text = error.to_string().replace(" at line 1 column ", " at column ");
    match text.contains("surrogate") || text.contains("hex escape") {
        true => format!(
            "{text}: half of an emoji or another character beyond \\uFFFF, a \\uD800 to \\uDFFF that stands alone"
        ),
        false => text,
    }
}
