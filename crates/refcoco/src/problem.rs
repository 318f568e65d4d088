use serde::Serialize;

/// One problem found in a data set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The record or file at fault, for example `ref_id 17`.
    pub record: String,
    /// What is wrong with it.
    pub what: String,
}
