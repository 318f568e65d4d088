//! Reads settings from the `config.json` of the `transformers` library beside an encoder's weights.

use serde_json::Value as Json;

/// Settings of the library's that do not change what a trained encoder computes: about training, file formats, outputs, and the
/// generation of text.
const WITHOUT_EFFECT: [&str; 44] = [
    "apply_layernorm",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "bos_token_id",
    "decoder_start_token_id",
    "drop_path_rate",
    "dropout",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "hidden_dropout_prob",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "layerscale_value",
    "length_penalty",
    "max_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "out_features",
    "out_indices",
    "pad_token_id",
    "pos_embed_jitter",
    "pos_embed_rescale",
    "pos_embed_shift",
    "prefix",
    "repetition_penalty",
    "reshape_hidden_states",
    "return_dict",
    "sep_token_id",
    "stage_names",
    "temperature",
    "tie_word_embeddings",
    "top_k",
    "top_p",
    "torch_dtype",
    "transformers_version",
    "typical_p",
    "use_mask_token",
];

/// Settings of one network. A setting that equals the library's default may be missing in the file.
#[derive(Debug)]
pub struct Settings<'a> {
    config: &'a Json,
    /// Objects in which settings are looked up, in this order.
    places: Vec<&'a Json>,
}

impl<'a> Settings<'a> {
    /// All settings of a file.
    pub fn new(config: &'a Json) -> Self {
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

    /// An integer setting; `None` if it is missing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, String> {
        self.typed(key, "a whole number", Json::as_i64)
    }

    /// A number; `None` if it is missing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.typed(key, "a number", Json::as_f64)
    }

    /// A flag; `None` if it is missing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.typed(key, "true or false", Json::as_bool)
    }

    /// A text; `None` if it is missing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        self.typed(key, "a text", Json::as_str)
    }

    fn typed<T>(
        &self,
        key: &str,
        what: &str,
        read: impl FnOnce(&'a Json) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| format!("config.json: {key} is {value}, expected {what}"))
    }

    /// Refuses settings, nested ones and those above them, that switch something on which is not known, so that a network is not loaded as another one. Settings that
    /// are null, false, 0, or empty switch nothing on.
    ///
    /// - known: settings that the caller reads
    ///
    /// # Errors
    /// Names the first such setting.
    pub fn only(&self, known: &[&str]) -> Result<(), String> {
        let fields = || self.places.iter().filter_map(|place| place.as_object()).flatten();
        let is_known =
            |key: &str| known.contains(&key) || WITHOUT_EFFECT.contains(&key) || key.starts_with('_');
        match fields().find(|(key, value)| !is_known(key) && is_on(value)) {
            Some((key, value)) => Err(format!(
                "config.json: {key} is {value}, which is not known here: it may be another network"
            )),
            None => Ok(()),
        }
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
}

/// Whether a setting switches something on: null, false, 0 and what is empty do not.
pub(crate) fn is_on(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(flag) => *flag,
        Json::Number(number) => number.as_f64() != Some(0.0),
        Json::String(text) => !text.is_empty(),
        Json::Array(items) => !items.is_empty(),
        Json::Object(fields) => !fields.is_empty(),
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
        assert_eq!((settings.integer("heads"), all.integer("heads")), (Ok(Some(8)), Ok(None)));
        assert_eq!((settings.integer("eps"), settings.number("eps")), (Ok(Some(1)), Ok(Some(1.0))));
        assert!(all.expect_model(&["clip", "siglip"]).is_ok());
        assert!(all.expect_model(&["siglip"]).unwrap_err().contains("`clip`, expected `siglip`"));
        assert_eq!((settings.text("act"), settings.flag("bias")), (Ok(Some("gelu")), Ok(None)));
        assert!(settings.integer("act").unwrap_err().contains("act is \"gelu\", expected a whole number"));
        assert!(settings.only(&["heads", "act", "eps", "text_config"]).is_ok());
        // In the nested object and above it.
        assert!(settings.only(&["heads", "eps", "text_config"]).unwrap_err().contains("act"));
        assert!(settings.only(&["heads", "act", "text_config"]).unwrap_err().contains("eps"));
    }
}
