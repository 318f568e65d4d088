//! Everything that requests are answered from.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::catalog::Catalog;
use crate::engine::Engine;
use crate::failure::{Answered, Failure};
use crate::history::History;
use crate::sources::Source;
use crate::thumbnails::Thumbnails;

/// Uploads that are read at the same time.
pub(crate) const MAX_UPLOADS: usize = 12;
/// Pictures that are decoded or encoded at the same time.
pub(crate) const MAX_DECODERS: usize = 2;

/// A run's folder.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Studio {
    pub(crate) catalogs: Vec<Catalog>,
    pub(crate) sources: Vec<Source>,
    pub(crate) runs: Vec<Run>,
    pub(crate) engine: Option<Engine>,
    pub(crate) history: History,
    pub(crate) thumbnails: Thumbnails,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) decoders: Arc<Semaphore>,
}

impl Studio {
    /// Index of a data set by its name; the first without one.
    pub(crate) fn catalog(&self, name: Option<&str>) -> Answered<usize> {
        let found = match name.filter(|name| !name.is_empty()) {
            None => (!self.catalogs.is_empty()).then_some(0),
            Some(name) => self.catalogs.iter().position(|catalog| catalog.name() == name),
        };
        found.ok_or_else(|| match name {
            Some(name) => Failure::missing(format!("no data set `{name}` is open")),
            None => Failure::missing("no data set is open; start the program with --dataset NAME"),
        })
    }

    /// The sources about a data set.
    pub(crate) fn sources_of(&self, catalog: usize) -> Vec<&Source> {
        self.sources.iter().filter(|source| source.catalog == catalog).collect()
    }

    pub(crate) fn engine(&self) -> Answered<&Engine> {
        self.engine
            .as_ref()
            .ok_or_else(|| Failure::missing("no model is loaded; start the program with --checkpoint FILE"))
    }

    /// Measures what the table needs, until all is done.
    pub(crate) fn measure(&self) {
        for source in &self.sources {
            source.measure_all(&self.catalogs[source.catalog]);
        }
        for catalog in &self.catalogs {
            catalog.measure_areas();
        }
    }
}
