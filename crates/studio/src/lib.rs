//! A local web page on which people try models, browse data sets, and compare predictions.
//!
//! The server needs no libtorch. Whoever has a network hands over a [`Predictor`]; without one the page browses and compares.
//!
//! | module | what it holds |
//! |---|---|
//! | `args`, `load` | the command line, and what it names: data sets, runs, files of predictions |
//! | `serve`, `guard` | connections and their limits; who may ask (Host, Origin, token), and what answers forbid the browser |
//! | `routes` | one file per address of the page |
//! | `catalog`, `filter` | expressions as rows of a table, filtered and sorted |
//! | `sources` | predictions of runs and files, measured in the background |
//! | `engine` | the queue in front of the network: one prediction at a time |
//! | `history` | answers that can be returned to, in bounded memory |

mod args;
mod catalog;
mod engine;
mod failure;
mod filter;
mod guard;
mod history;
mod load;
mod picture;
mod routes;
mod serve;
mod sources;
mod state;
mod thumbnails;

pub use args::StudioArgs;
pub use engine::{Answer, Model, Predictor, Stage};
pub use load::unique_names;
pub use picture::Picture;
pub use serve::{LoadNetworks, Server, serve};
