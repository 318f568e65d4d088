//! Tokenizers that come as a `tokenizer.json` beside a text encoder's weights: SigLIP's and SigLIP 2's.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::tokenizer::Tokenizer as Inner;

use crate::error::{Error, Result, or_mistaken};
use crate::json_file::read_json;
use crate::tokenizer::Tokenizer;

/// How a model's text is brought to a canonical form. The reference library does this in Python, so that `tokenizer.json` lacks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canonical {
    /// SigLIP: lower case, without ASCII punctuation, white space collapsed.
    WithoutPunctuation,
    /// SigLIP 2: lower case.
    LowerCase,
}

impl Canonical {
    /// Text in this form.
    pub fn apply(self, text: &str) -> String {
        let lower = text.to_lowercase();
        match self {
            Self::LowerCase => lower,
            Self::WithoutPunctuation => {
                let kept: String = lower.chars().filter(|letter| !letter.is_ascii_punctuation()).collect();
                // Python counts the separators of files and records as white space.
                let is_space =
                    |letter: char| letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter);
                let words = kept.split(is_space).filter(|word| !word.is_empty());
                words.collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// End and padding token of the published models.
    fn published_tokens(self) -> [&'static str; 2] {
        match self {
            Self::WithoutPunctuation => ["</s>", "</s>"],
            Self::LowerCase => ["<eos>", "<pad>"],
        }
    }
}

/// A tokenizer from a file. An expression's tokens end with the end token; there is no start token.
#[derive(Debug)]
pub struct FileTokenizer {
    inner: Inner,
    canonical: Canonical,
    end: i64,
    padding: i64,
}

impl FileTokenizer {
    /// Reads a `tokenizer.json`. End and padding token are those that a `tokenizer_config.json` beside it names, by default those of
    /// the published models.
    ///
    /// - path: the file, or the folder that it is in
    ///
    /// # Errors
    /// When the file is missing or no tokenizer, or lacks the end or padding token.
    pub fn open(path: &Path, canonical: Canonical) -> Result<Self> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        let fail = |what: String| Error::Record { path: file.clone(), record: "the tokenizer".into(), what };
        if !file.is_file() {
            let only_pieces = file.with_file_name("spiece.model").is_file();
            let hint = if only_pieces {
                "; there is a spiece.model: load it in transformers as AutoTokenizer and save it with save_pretrained"
            } else {
                ""
            };
            return Err(fail(format!("there is no such file{hint}")));
        }
        let inner = Inner::from_file(&file).map_err(|error| or_mistaken(&file, fail(error.to_string())))?;
        let [end, padding] = special_tokens(&file.with_file_name("tokenizer_config.json"), canonical)?;
        let id = |token: &str| {
            let id = inner.token_to_id(token).map(i64::from);
            id.ok_or_else(|| fail(format!("its vocabulary lacks the token `{token}`")))
        };
        let (end, padding) = (id(&end)?, id(&padding)?);
        Ok(Self { inner, canonical, end, padding })
    }
}

/// End and padding token.
fn special_tokens(config: &Path, canonical: Canonical) -> Result<[String; 2]> {
    let published = canonical.published_tokens().map(str::to_owned);
    if !config.is_file() {
        return Ok(published);
    }
    let config: Value = read_json(&PathBuf::from(config))?;
    let named = |key: &str| {
        let token = &config[key];
        token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
    };
    let [end, padding] = published;
    Ok([named("eos_token").unwrap_or(end), named("pad_token").unwrap_or(padding)])
}

impl Tokenizer for FileTokenizer {
    fn vocabulary(&self) -> i64 {
        self.inner.get_vocab_size(true) as i64
    }

    fn end(&self) -> i64 {
        self.end
    }

    fn padding(&self) -> i64 {
        self.padding
    }

    fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let canonical = self.canonical.apply(text);
        // Without what the file adds around a text: some files begin with a start token that the models were trained without.
        let encoding = self
            .inner
            .encode_fast(canonical.as_str(), false)
            .map_err(|error| Error::Expression { what: format!("cannot tokenise `{text}`: {error}") })?;
        let ids = encoding.get_ids().iter().zip(encoding.get_attention_mask());
        // Padding that the file asks for is left out: the model's own length decides.
        let ids = ids.filter(|(_, is_text)| **is_text == 1).map(|(&id, _)| i64::from(id));
        Ok(ids.chain([self.end]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers").join(name)
    }

    #[test]
    fn text_in_canonical_form() {
        let text = " The LEFT-most  dog's_bed,\u{1f}no.\t2! \u{c9}T\u{c9} \u{2019}";
        assert_eq!(
            Canonical::WithoutPunctuation.apply(text),
            "the leftmost dogsbed no 2 \u{e9}t\u{e9} \u{2019}"
        );
        assert_eq!(Canonical::LowerCase.apply("The LEFT-most  dog!"), "the left-most  dog!");
    }

    /// Pieces of a unigram model: the longest likely ones win.
    #[test]
    fn siglip() {
        let tokenizer = FileTokenizer::open(&golden("siglip"), Canonical::WithoutPunctuation).unwrap();
        assert_eq!((tokenizer.vocabulary(), tokenizer.end(), tokenizer.padding()), (12, 1, 1));
        // left, bear, `s` by itself.
        assert_eq!(tokenizer.encode("LEFT bear.").unwrap(), [4, 5, 1]);
        assert_eq!(tokenizer.encode("left, bears").unwrap(), [4, 5, 6, 1]);
        assert_eq!(tokenizer.encode_padded("Left bear!", 5).unwrap(), [4, 5, 1, 1, 1]);
        assert_eq!(tokenizer.encode_padded("left bear left bear", 3).unwrap(), [4, 5, 1]);
        assert_eq!(tokenizer.encode("").unwrap(), [1]);
        // A letter that the vocabulary lacks.
        assert_eq!(tokenizer.encode("left q").unwrap(), [4, 3, 2, 1]);
    }

    /// Pairs of letters, bytes for what the vocabulary lacks.
    #[test]
    fn siglip_2() {
        let tokenizer = FileTokenizer::open(&golden("siglip2"), Canonical::LowerCase).unwrap();
        assert_eq!((tokenizer.end(), tokenizer.padding()), (1, 0));
        let ids = tokenizer.encode("Left BEAR").unwrap();
        assert_eq!(ids, [9, 4, 10, 1]);
        assert_eq!(tokenizer.encode_padded("left bear", 6).unwrap(), [9, 4, 10, 1, 0, 0]);
        assert_eq!(tokenizer.encode_padded("left bear left bear", 3).unwrap(), [9, 4, 1]);
        // `!` as its byte.
        assert_eq!(tokenizer.encode("left!").unwrap(), [9, 11, 1]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error =
            |folder: &Path| FileTokenizer::open(folder, Canonical::LowerCase).unwrap_err().to_string();
        assert!(
            error(folder.path()).contains("tokenizer.json") && error(folder.path()).contains("no such file")
        );
        std::fs::write(folder.path().join("spiece.model"), "").unwrap();
        assert!(error(folder.path()).contains("save_pretrained"));
        std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        assert!(error(folder.path()).contains("tokenizer.json"));
        std::fs::copy(golden("siglip/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
        assert!(error(folder.path()).contains("lacks the token `<eos>`"));
        let config = r#"{"eos_token": {"content": "</s>"}, "pad_token": "<unk>"}"#;
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        let tokenizer = FileTokenizer::open(folder.path(), Canonical::LowerCase).unwrap();
        assert_eq!((tokenizer.end(), tokenizer.padding()), (1, 2));
    }
}
