//! What a run leaves in its folder, as types. Whoever writes these files and whoever reads them does it through this crate.
//!
//! | file | type |
//! |---|---|
//! | `records.jsonl` | [`Record`], a line a step or evaluation |
//! | `metrics.json` | [`Metrics`], the final table |
//! | `expressions.jsonl` | [`ExpressionLine`], a line an expression |
//! | `predictions.jsonl` | [`PredictionLine`], a line an expression; read with [`Predictions`] |
//! | `cell.json` | [`Cell`], where the run is one of an ablation |
//! | `ablation.json` (in the folder of an ablation's runs) | [`Ablation`] |

mod ablation;
mod error;
mod expressions;
mod metrics_file;
mod predictions;
mod records;

pub use ablation::{Ablation, Cell, Row};
pub use error::{Error, Result};
pub use expressions::{ExpressionLine, read_expressions, write_expressions};
pub use metrics_file::{Metrics, RunTime, VERSION, is_val};
pub use predictions::{Key, PredictionLine, Predictions, key_of, may_hold_predictions};
pub use records::{
    EvalRecord, EvalTime, Record, StepRecord, StepTime, UnreadSample, read_records, records_file,
};
