//! A table of expressions (CSV) for objects that have none.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use refcoco::whole_number;

use super::labelled::Labelled;

/// Rows of a CSV file with a header.
#[derive(Debug)]
pub(super) struct Expressions {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    /// Line in the file, for messages.
    line: usize,
    number: Option<i64>,
    image: Option<String>,
    category: Option<String>,
    expression: String,
    split: Option<String>,
}

impl Expressions {
    /// Reads a CSV file with the column `expression`, and either `ann_id` (or `annotation_id`, `id`), or `image` with or without
    /// `category` (or `label`); optionally `split`.
    ///
    /// # Errors
    /// Names the file and the line.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let fail = || path.display().to_string();
        let text = std::fs::read(path).with_context(fail)?;
        let text = file_kind::without_mark(&text);
        let start = &text[..text.len().min(file_kind::PREFIX_LEN)];
        if let Some(what) = file_kind::mistaken(start).or_else(|| file_kind::zip_in_place(start)) {
            bail!("{}: {what}", path.display());
        }
        ensure!(
            std::str::from_utf8(text).is_ok(),
            "{}: it is not UTF-8: save the file as UTF-8 (in Excel: CSV UTF-8)",
            path.display()
        );
        // A first line `sep=;` is for Excel alone.
        let is_first = |line: &[u8]| line.starts_with(b"sep=") && line.trim_ascii_end().len() <= 5;
        let line_end = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
        let (n_skipped, text) = if is_first(&text[..line_end]) { (1, &text[line_end..]) } else { (0, text) };
        // What separates most of the header's names.
        let header = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let count = |mark: &u8| header.iter().filter(|byte| *byte == mark).count();
        let delimiter = [b',', b';', b'\t'].into_iter().rev().max_by_key(count).unwrap_or(b',');
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).delimiter(delimiter).from_reader(text);
        let header = reader.headers().with_context(fail)?.clone();
        let column =
            |names: &[&str]| header.iter().position(|name| names.contains(&name.to_lowercase().as_str()));
        let number = column(&["ann_id", "annotation_id", "id"]);
        let (image, category) =
            (column(&["image", "file_name", "mask"]), column(&["category", "label", "class"]));
        let split = column(&["split"]);
        let (Some(expression), true) =
            (column(&["expression", "sentence", "text", "caption"]), number.or(image).is_some())
        else {
            bail!(
                "{}: expected the columns ann_id or image, and expression; found {}",
                path.display(),
                header.iter().collect::<Vec<_>>().join(", ")
            );
        };
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.with_context(fail)?;
            // Rows that were cleared in a spreadsheet.
            if record.iter().all(str::is_empty) {
                continue;
            }
            let line = n_skipped + record.position().map_or(0, |position| position.line() as usize);
            let at = || format!("{}: line {line}", path.display());
            let cell = |column: Option<usize>| {
                column
                    .and_then(|column| record.get(column))
                    .filter(|cell| !cell.is_empty())
                    .map(str::to_owned)
            };
            let number = match cell(number) {
                Some(text) => {
                    let number = whole_number(&text.into()).with_context(at);
                    Some(number.context("ann_id must be a whole number")?)
                }
                None => None,
            };
            let expression = cell(Some(expression)).with_context(at).context("the expression is empty")?;
            if expression.contains('\n') {
                bail!("{}: the expression goes over several lines; is a quotation mark missing?", at());
            }
            rows.push(Row {
                line,
                number,
                image: cell(image),
                category: cell(category),
                expression,
                split: cell(split),
            });
        }
        Ok(Self { rows })
    }

    /// Gives each expression to the objects that its row names. Those for several objects together are returned with the places of
    /// the objects.
    ///
    /// # Errors
    /// Names the row that fits no object.
    pub(super) fn assign(&self, objects: &mut [Labelled]) -> Result<Vec<(Vec<usize>, String)>> {
        let mut together = Vec::new();
        for row in &self.rows {
            let places: Vec<usize> = (0..objects.len()).filter(|&index| row.fits(&objects[index])).collect();
            ensure!(!places.is_empty(), "--expressions: line {} names no object of the source", row.line);
            if let Some(split) = &row.split {
                for &place in &places {
                    objects[place].split.clone_from(split);
                }
            }
            together.push((places, row.expression.clone()));
        }
        Ok(together)
    }
}

impl Row {
    fn fits(&self, object: &Labelled) -> bool {
        let same_image = |image: &String| {
            let image = image.replace('\\', "/");
            let stem =
                |name: &str| name.rsplit_once('.').map_or(name.to_owned(), |(stem, _)| stem.to_owned());
            let base = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
            object.name == image
                || base(&object.name) == base(&image)
                || stem(&base(&object.name)) == base(&image)
                || object.mask_name().is_some_and(|mask| mask == base(&image) || stem(&mask) == base(&image))
        };
        self.number.is_none_or(|number| object.number == Some(number))
            && self.image.as_ref().is_none_or(same_image)
            && self.category.as_ref().is_none_or(|category| object.category.as_ref() == Some(category))
    }
}

impl Labelled {
    /// Name of the mask file, if the mask is one.
    fn mask_name(&self) -> Option<String> {
        match &self.mask {
            super::labelled::LabelledMask::File(path) => {
                Some(path.file_name()?.to_string_lossy().into_owned())
            }
            super::labelled::LabelledMask::Coco(_) => None,
        }
    }
}
