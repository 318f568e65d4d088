//! Readers of annotation files, one module a format.

mod grefs;
mod instances;
mod own;
mod refs_pickle;

pub use grefs::read_grefs;
pub use instances::{Instances, read_instances};
pub use own::read_own;
pub use refs_pickle::read_refs;

/// The message of an error in a text without line breaks, whose line number would only mislead.
fn in_one_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}
