//! Reads settings from the `config.json` of the `transformers` library beside an encoder's weights.

use serde_json::Value as Json;

/// Settings of one network. A setting that equals the library's default may be missing in the file.
#[derive(Debug)]
pub struct Settings<'a> {
    config: &'a Json,
    /// Objects in which settings are looked up, in this order.
    places: Vec<&'a Json>,
}

impl<'a> Settings<'a> {
    pub(crate) fn new(config: &'a Json) -> Self {
        Self { config, places: vec![config] }
    }

    /// Settings of a part of the network that has nested objects in the file, by the keys of these objects. Earlier keys take
    /// precedence, and the whole file comes last.
    pub fn of_part(&self, keys: &[&str]) -> Self {
        let nested = keys.iter().filter_map(|key| self.config.get(key));
        Self { config: self.config, places: nested.chain([self.config]).collect() }
    }

    fn get(&self, key: &str) -> Option<&'a Json> {
        self.places.iter().find_map(|place| place.get(key)).filter(|value| !value.is_null())
    }

    /// An integer setting.
    pub fn integer(&self, key: &str) -> Option<i64> {
        self.get(key).and_then(Json::as_i64)
    }

    /// # Errors
    /// When the file is for another kind of model.
    pub fn expect_model(&self, expected: &[&str]) -> Result<(), String> {
        match self.config.get("model_type").and_then(Json::as_str) {
            Some(found) if !expected.contains(&found) => {
                Err(format!("config.json: model_type is `{found}`, expected `{}`", expected.join("` or `")))
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// When the setting is present and is another text.
    pub fn expect_text(&self, key: &str, ours: &str) -> Result<(), String> {
        match self.get(key).and_then(Json::as_str) {
            Some(found) if found != ours => {
                Err(format!("config.json: {key} is `{found}`, but this network computes `{ours}`"))
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// When the setting is present and is another number.
    pub fn expect_number(&self, key: &str, ours: f64) -> Result<(), String> {
        match self.get(key).and_then(Json::as_f64) {
            Some(found) if found != ours => {
                Err(format!("config.json: {key} is {found}, but this network uses {ours}"))
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// When the setting is present and has the other value.
    pub fn expect_flag(&self, key: &str, ours: bool) -> Result<(), String> {
        match self.get(key).and_then(Json::as_bool) {
            Some(found) if found != ours => {
                Err(format!("config.json: {key} is {found}, which is another network"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_and_what_is_missing_is_the_default() {
        let text =
            r#"{"model_type": "clip", "eps": 1, "text_config": {"heads": 8, "act": "gelu", "bias": null}}"#;
        let config: Json = serde_json::from_str(text).unwrap();
        let all = Settings::new(&config);
        let settings = all.of_part(&["text_config_dict", "text_config"]);
        assert_eq!((settings.integer("heads"), all.integer("heads")), (Some(8), None));
        assert_eq!(settings.integer("eps"), Some(1));
        assert!(all.expect_model(&["clip", "siglip"]).is_ok());
        assert!(all.expect_model(&["siglip"]).unwrap_err().contains("`clip`, expected `siglip`"));
        assert!(settings.expect_text("act", "gelu").is_ok() && settings.expect_text("bias", "x").is_ok());
        assert!(settings.expect_text("act", "quick_gelu").unwrap_err().contains("act is `gelu`"));
        assert!(settings.expect_number("eps", 2.0).is_err() && settings.expect_flag("bias", true).is_ok());
    }
}
