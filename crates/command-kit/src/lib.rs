//! Code that the project's commands share. Programs depend on this crate and not on one another.
//!
//! - [`parse`] and [`conclude`] begin and end a program, [`succeeds`] ends a command inside another one;
//!   [`as_errors`] turns panics into errors;
//! - [`Progress`] and [`Live`] show the progress of long work;
//! - [`metrics_table`] shows metrics on a terminal;
//! - [`open`] opens data sets, and generates those that can be generated;
//! - [`curve_panels`] are the charts of a run;
//! - [`Differences`] gives means over expressions their intervals;
//! - [`score`](score()) computes metrics of predicted masks in a file.

mod bootstrap;
mod curve_panels;
mod data_root;
mod left_out;
mod measure;
mod metrics_table;
mod panics;
mod program;
mod progress;
mod score;
mod suite;
mod verdict;

pub use bootstrap::{Differences, Interval};
pub use curve_panels::curve_panels;
pub use data_root::{DEFAULT_DATA_ROOT, ensure_generated, open, tell_override};
pub use left_out::{leave_out_unreadable, left_out_of_evaluation, tell_left_out};
pub use measure::{covered, evaluated, measure_mask, measure_probabilities};
pub use metrics_table::{metric_or_dash, metrics_table};
pub use panics::{as_errors, message};
pub use program::{conclude, one_line, parse, succeeds};
pub use progress::{Live, Pauser, Progress};
pub use score::{ScoreArgs, reports_json, score, score_query};
pub use verdict::verdict;
