//! Types of the files that a run writes into its folder. All code that writes or reads these files uses this crate.
//!
//! | file | type |
//! |---|---|
//! | `records.jsonl` | [`Record`], one line per step or evaluation |
//! | `metrics.json` | [`Metrics`], the final table |
//! | `expressions.jsonl` | [`ExpressionLine`], one line per expression |
//! | `predictions.jsonl` | [`PredictionLine`], one line per expression; read with [`Predictions`] |
//! | `cell.json` | [`Cell`], if the run is part of an ablation |
//! | `ablation.json` (in the folder of an ablation's runs) | [`Ablation`] |

mod ablation;
mod error;
mod expressions;
mod metrics_file;
mod predictions;
mod queries;
mod records;

pub use ablation::{Ablation, Cell, Row};
pub use error::{Error, Result};
pub use expressions::{ExpressionLine, read_expressions, write_expressions};
pub use metrics_file::{Metrics, RunTime, VERSION, is_val};
pub use predictions::{Key, PredictionLine, Predictions, key_of, may_hold_predictions};
pub use queries::{PictureQuery, read_queries};
pub use records::{
    EvalRecord, EvalTime, Record, StepRecord, StepTime, UnreadSample, read_records, records_file,
};
