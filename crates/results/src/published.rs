//! Published results from official logs and papers, with which runs on RefCOCO are compared.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A published model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Model {
    /// Name of the model.
    pub name: String,
    /// mIoU in percent by `data set/split`.
    #[serde(rename = "mIoU")]
    pub miou: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct File {
    model: Vec<Model>,
}

/// The published models; see `published.toml` for sources.
pub fn models() -> Vec<Model> {
    // A test checks that the file can be parsed.
    toml::from_str::<File>(include_str!("published.toml")).map_or_else(|_| Vec::new(), |file| file.model)
}

/// Published mIoU on a split of a data set, by model.
pub fn on(dataset: &str, split: &str) -> Vec<(String, f64)> {
    let key = format!("{dataset}/{split}");
    models().into_iter().filter_map(|model| Some((model.name, *model.miou.get(&key)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_has_all_nine_splits() {
        let models = models();
        assert_eq!(
            models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(),
            ["TALENT-B", "DETRIS-B", "DETRIS-L"]
        );
        assert!(models.iter().all(|model| model.miou.len() == 9));
        assert_eq!(on("refcoco+", "testB")[0], ("TALENT-B".to_owned(), 63.35));
    }
}
