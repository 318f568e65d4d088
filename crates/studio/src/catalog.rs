//! A data set as a table with a row per expression.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use anyhow::Result;
use rayon::prelude::*;
use refcoco::{Dataset, ImageRecord, Ref};
use run_files::Key;

use crate::failure::{Answered, Failure};

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Index into [`Dataset::refs`].
    pub(crate) ref_index: usize,
    /// `ref_id` and `sent_id`.
    pub(crate) key: Key,
    pub(crate) text: String,
    /// The text in lower case, for searches.
    lower: String,
    /// Names of the targets' categories, joined by commas; empty without a target.
    pub(crate) category: String,
    pub(crate) n_distractors: usize,
    pub(crate) has_position_word: bool,
    pub(crate) flavour: Option<String>,
}

impl Row {
    pub(crate) fn holds(&self, lower: &str) -> bool {
        self.lower.contains(lower)
    }
}

/// A data set and its rows, in the order of the data set.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) dataset: Dataset,
    pub(crate) rows: Vec<Row>,
    /// Categories and flavours that rows have, sorted.
    pub(crate) categories: BTreeSet<String>,
    pub(crate) flavours: BTreeSet<String>,
    places: BTreeMap<Key, usize>,
    /// Share of the picture that a ref's target covers, by ref; measured in the background.
    areas: OnceLock<Vec<Option<f32>>>,
}

impl Catalog {
    pub(crate) fn new(dataset: Dataset) -> Self {
        let mut rows = Vec::new();
        for (ref_index, reference) in dataset.refs.iter().enumerate() {
            let names: BTreeSet<&str> = reference
                .category_ids
                .iter()
                .filter_map(|id| Some(dataset.instances.categories.get(id)?.as_str()))
                .collect();
            let category = names.into_iter().collect::<Vec<_>>().join(", ");
            let n_distractors = dataset.distractors(reference).len();
            rows.extend(reference.expressions.iter().map(|expression| Row {
                ref_index,
                key: (reference.ref_id, expression.sent_id),
                text: expression.sent.clone(),
                lower: expression.sent.to_lowercase(),
                category: category.clone(),
                n_distractors,
                has_position_word: metrics::has_position_word(&expression.sent),
                flavour: expression.flavour.clone(),
            }));
        }
        let places = rows.iter().enumerate().map(|(place, row)| (row.key, place)).collect();
        let named = rows.iter().map(|row: &Row| row.category.clone()).filter(|name| !name.is_empty());
        let categories = named.collect();
        let flavours = rows.iter().filter_map(|row| row.flavour.clone()).collect();
        Self { dataset, rows, categories, flavours, places, areas: OnceLock::new() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.dataset.descriptor.name
    }

    /// The place of an expression.
    pub(crate) fn place(&self, key: Key) -> Option<usize> {
        self.places.get(&key).copied()
    }

    /// The record of a picture. Unlike the data set's own error, this one names no file of the disk.
    pub(crate) fn image(&self, id: i64) -> Answered<&ImageRecord> {
        let found = self.dataset.instances.images.get(&id);
        found.ok_or_else(|| Failure::missing(format!("{} has no picture {id}", self.name())))
    }

    pub(crate) fn split(&self, row: &Row) -> &str {
        &self.dataset.refs[row.ref_index].split
    }

    /// The ref with an id.
    pub(crate) fn reference(&self, ref_id: i64) -> Option<&Ref> {
        self.dataset.refs.iter().find(|reference| reference.ref_id == ref_id)
    }

    /// Measures how much of each picture the targets cover.
    pub(crate) fn measure_areas(&self) {
        let share = |reference| -> Result<f32> {
            let target = self.dataset.target(reference)?;
            Ok(target.area() as f32 / (target.width * target.height).max(1) as f32)
        };
        let areas = self.dataset.refs.par_iter().map(|reference| share(reference).ok()).collect();
        // Measured twice, it is the same.
        let _ = self.areas.set(areas);
    }

    /// Whether all areas are measured.
    pub(crate) fn has_areas(&self) -> bool {
        self.areas.get().is_some()
    }

    /// The share of the picture that a row's target covers; `None` until it is measured, and for unreadable masks.
    pub(crate) fn area(&self, row: &Row) -> Option<f32> {
        *self.areas.get()?.get(row.ref_index)?
    }
}
