use crate::error::{Error, Result};

/// Converts expressions to token ids.
pub trait Tokenizer: std::fmt::Debug + Send + Sync {
    /// Size of the vocabulary.
    fn vocabulary(&self) -> i64;

    /// Id of the end token.
    fn end(&self) -> i64;

    /// Id that short expressions are padded with.
    fn padding(&self) -> i64;

    /// Token ids of an expression with start and end token, not truncated.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    fn encode(&self, text: &str) -> Result<Vec<i64>>;

    /// Token ids, padded to exactly `word_len`. A longer expression is truncated and its last id becomes the end token.
    ///
    /// # Errors
    /// When `word_len` is below 2 or the tokenizer refuses the text.
    fn encode_padded(&self, text: &str, word_len: usize) -> Result<Vec<i64>> {
        if word_len < 2 {
            return Err(Error::Expression { what: format!("word_len must be at least 2, not {word_len}") });
        }
        let mut ids = self.encode(text)?;
        if ids.len() > word_len {
            ids.truncate(word_len);
            ids[word_len - 1] = self.end();
        }
        ids.resize(word_len, self.padding());
        Ok(ids)
    }
}
