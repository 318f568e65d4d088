//! What a config needs.

use std::path::Path;

use crate::error::{Error, Result};
use crate::table::{Item, Needs, Source, Table, hint};

/// A file that is wanted, and the item that it belongs to.
pub(crate) type Wanted<'a> = (&'a Item, &'a Source);

/// The presets, with the encoders of those that read pretrained ones.
const PRESETS: [(&str, Option<[&str; 2]>); 4] = [
    ("tiny", None),
    ("testbed", None),
    ("base", Some(["dinov2_vitb14_reg4_pretrain.pth", "ViT-B-16.pt"])),
    ("large", Some(["dinov2_vitl14_reg4_pretrain.pth", "ViT-B-16.pt"])),
];

impl Needs {
    /// What a config needs: a shipped one by name, or a TOML file.
    ///
    /// # Errors
    /// When there is no such config, or the file is no TOML.
    pub fn of(config: &str, table: &Table) -> Result<Self> {
        if let Some(needs) = table.configs.get(config) {
            return Ok(needs.clone());
        }
        if PRESETS.iter().any(|(name, _)| *name == config) {
            return Self::parse(&format!("preset = \"{config}\""), Path::new(config));
        }
        let path = Path::new(config);
        if path.is_file() {
            let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
            return Self::parse(&text, path);
        }
        let names = || table.configs.keys().map(String::as_str);
        Err(Error::NoSuchConfig { name: config.to_owned(), hint: hint(config, names()) })
    }

    /// Reads the keys of a config file that name data sets and encoders, over those of its preset.
    fn parse(text: &str, path: &Path) -> Result<Self> {
        let value: toml::Table = toml::from_str(text)
            .map_err(|error| Error::Table { path: path.to_path_buf(), what: error.to_string() })?;
        let key = |group: &str, key: &str| value.get(group)?.get(key);
        let preset = value.get("preset").and_then(toml::Value::as_str).unwrap_or("tiny");
        let wrong = |what: &str| Error::Table { path: path.to_path_buf(), what: what.to_owned() };
        let encoders = PRESETS.iter().find(|(name, _)| *name == preset).map(|(_, encoders)| encoders);
        let encoders = encoders.ok_or_else(|| wrong(&format!("there is no preset `{preset}`")))?;
        let of_names = |value: &toml::Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let datasets = match key("data", "datasets") {
            Some(value) => of_names(value).ok_or_else(|| wrong("data.datasets must be a list of names"))?,
            None if encoders.is_some() => vec!["refcoco".to_owned()],
            None => Vec::new(),
        };
        let weights = ["image", "text"].iter().enumerate().filter_map(|(place, name)| {
            match key("weights", name).and_then(toml::Value::as_str) {
                Some(path) => {
                    let path = path.trim_start_matches("./");
                    Some(path.strip_prefix("weights/").unwrap_or(path).trim_end_matches('/').to_owned())
                }
                None => encoders.map(|encoders| encoders[place].to_owned()),
            }
        });
        Ok(Self { datasets, weights: weights.filter(|path| !path.is_empty()).collect() })
    }

    /// The files of the table that are needed, and the needs that the table does not know, such as own data.
    pub(crate) fn files<'a>(&self, table: &'a Table) -> (Vec<Wanted<'a>>, Vec<String>) {
        let (mut wanted, mut unknown): (Vec<Wanted<'a>>, _) = (Vec::new(), Vec::new());
        let mut add = |found: Vec<Wanted<'a>>, what: &str| {
            if found.is_empty() {
                unknown.push(what.to_owned());
            }
            for one in found {
                if wanted.iter().all(|other| other.1 != one.1) {
                    wanted.push(one);
                }
            }
        };
        let all = || table.items.iter().flat_map(|item| item.files.iter().map(move |file| (item, file)));
        for name in &self.datasets {
            add(all().filter(|(item, _)| item.datasets.contains(name)).collect(), name);
        }
        for name in &self.weights {
            let is_it = |file: &Source| {
                let rest = file.to.strip_prefix("weights/").and_then(|to| to.strip_prefix(name.as_str()));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            add(all().filter(|(_, file)| is_it(file)).collect(), name);
        }
        (wanted, unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(needs: &Needs) -> (Vec<String>, Vec<String>) {
        let table = Table::shipped().unwrap();
        let (wanted, unknown) = needs.files(&table);
        (wanted.iter().map(|(_, file)| file.to.clone()).collect(), unknown)
    }

    #[test]
    fn a_shipped_config_needs_annotations_photos_and_its_encoders() {
        let table = Table::shipped().unwrap();
        let base = places(&Needs::of("refcoco/base", &table).unwrap());
        let expected = [
            "data/refcoco.zip",
            "data/images/train2014.zip",
            "weights/dinov2_vitb14_reg4_pretrain.pth",
            "weights/ViT-B-16.pt",
        ];
        assert_eq!(base, (expected.map(str::to_owned).to_vec(), vec![]));
        let folders = places(&Needs::of("refcoco/dinov3-base-siglip2", &table).unwrap()).0;
        assert_eq!(folders.len(), 2 + 2 + 3, "{folders:?}");
        for name in table.configs.keys() {
            let (wanted, unknown) = places(&Needs::of(name, &table).unwrap());
            assert!(wanted.len() >= 4 && unknown.is_empty(), "{name}: {unknown:?}");
        }
        let error = Needs::of("refcoco/bas", &table).unwrap_err().to_string();
        assert!(error.contains("did you mean `refcoco/base`"), "{error}");
    }

    #[test]
    fn keys_of_a_file_stand_over_those_of_its_preset() {
        let needs = |text: &str| Needs::parse(text, Path::new("own.toml")).unwrap();
        assert_eq!(needs("preset = \"tiny\""), Needs { datasets: vec![], weights: vec![] });
        assert_eq!(needs("").datasets, Vec::<String>::new());
        assert_eq!(needs("preset = \"large\"").datasets, ["refcoco"]);
        let own = needs(
            "preset = \"base\"\n[data]\ndatasets = [\"mine\", \"refcoco+\"]\n[weights]\ntext = \"weights/x\"\nimage = \"\"",
        );
        assert_eq!(
            own,
            Needs { datasets: vec!["mine".into(), "refcoco+".into()], weights: vec!["x".into()] }
        );
        assert_eq!(places(&own).1, ["mine", "x"]);
    }
}
