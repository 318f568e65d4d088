//! Training, evaluation and prediction with TALENT, behind the `talent` program.
//!
//! In reading order: [`config`] says what to run, `experiment` opens data and model, [`train`] is the loop, `losses` computes
//! the weighted loss, `evaluate` follows the official protocol, `checkpoint` saves and loads the state of a run.

mod ablate;
mod adapter_responses;
pub mod allocator;
mod batch;
mod bench;
mod check_device;
mod checkpoint;
pub mod cli;
pub mod config;
pub mod data_notes;
mod data_program;
mod distributed;
mod encoder_input;
mod eval;
mod evaluate;
mod experiment;
mod export;
mod feature_nta;
mod first_batches;
mod gradient_buckets;
mod gradients;
mod interrupt;
mod losses;
mod lr_find;
mod memory_limit;
mod official_checkpoint;
mod optim;
mod panics;
mod params;
mod pictures;
mod precision;
mod predict;
mod prediction_file;
mod pretrain;
mod proc_status;
#[cfg(test)]
mod recordings;
mod run_dir;
mod run_report;
#[cfg(test)]
mod start_values;
mod step;
mod step_graph;
mod studio;
mod tensorboard;
pub mod train;
