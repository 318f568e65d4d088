//! Which `fetch` command brings what a config reads.

use super::Config;
use super::load::SHIPPED;

impl Config {
    /// The command that downloads data and encoders, for messages about files that are not there.
    pub(crate) fn fetch_advice(&self) -> String {
        if SHIPPED.iter().any(|(name, _)| *name == self.name) {
            return format!("`cargo xtask fetch --for {}` downloads what this config reads", self.name);
        }
        "`cargo xtask fetch list` says what can be downloaded".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fetch::{Needs, Table};

    use super::super::{Source, load};
    use super::*;

    #[test]
    fn the_table_of_sources_has_what_each_shipped_config_reads() {
        let table = Table::shipped().unwrap();
        assert_eq!(table.configs.len(), SHIPPED.len());
        for (name, _) in SHIPPED {
            let config = load(&Source { config: Some((*name).to_owned()), ..Source::default() }).unwrap();
            let below_weights =
                |path: &str| Path::new(path).strip_prefix("weights").unwrap().to_str().unwrap().to_owned();
            let weights = [&config.weights.image, &config.weights.text].map(|path| below_weights(path));
            let expected = Needs { datasets: config.data.datasets.clone(), weights: weights.to_vec() };
            assert_eq!(table.configs[*name], expected, "{name}");
            assert!(config.fetch_advice().contains(&format!("--for {name}")));
        }
        assert!(Config::tiny().fetch_advice().contains("fetch list"));
    }
}
