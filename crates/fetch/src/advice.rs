//! Which command brings a data set.

use crate::table::Table;

/// The command that downloads a data set, as a sentence for messages; `None` if the table of sources lacks it.
pub fn advice(dataset: &str) -> Option<String> {
    let table = Table::shipped().ok()?;
    let names: Vec<&str> = table
        .items
        .iter()
        .filter(|item| item.datasets.iter().any(|name| name == dataset))
        .map(|item| item.name.as_str())
        .collect();
    (!names.is_empty()).then(|| format!("`cargo xtask fetch {}` downloads it", names.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_needs_annotations_and_photos() {
        assert_eq!(
            advice("refcocog_g").as_deref(),
            Some("`cargo xtask fetch refcocog coco-train2014` downloads it")
        );
        assert_eq!(advice("refshapes"), None);
    }
}
