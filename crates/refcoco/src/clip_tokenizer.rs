use std::io::Read;

use flate2::read::GzDecoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{AddedToken, SplitDelimiterBehavior, Tokenizer as Inner};

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Id of CLIP's start token.
pub const START: i64 = 49_406;
/// Id of CLIP's end token, the largest id.
pub const END: i64 = 49_407;
/// Size of CLIP's vocabulary.
pub const VOCABULARY: i64 = 49_408;

const MERGES: &[u8] = include_bytes!("../assets/bpe_simple_vocab_16e6.txt.gz");
const N_MERGES: usize = 49_152 - 256 - 2;
const PATTERN: &str =
    r"(?i)<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// CLIP's byte-pair tokenizer, built on the `tokenizers` crate. Text is first cleaned as in the reference.
#[derive(Debug)]
pub struct ClipTokenizer {
    inner: Inner,
}

impl ClipTokenizer {
    /// Creates the tokenizer with CLIP's published merges.
    ///
    /// # Errors
    /// Never with the bundled merges, which a test checks.
    pub fn new() -> Result<Self> {
        let fail = |what: String| Error::Expression { what: format!("CLIP tokenizer: {what}") };
        let mut text = String::new();
        GzDecoder::new(MERGES).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
        let merges: Vec<(String, String)> = text
            .lines()
            .skip(1)
            .take(N_MERGES)
            .filter_map(|line| line.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())))
            .collect();
        let mut tokens: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
        tokens.extend(byte_alphabet().iter().map(|letter| format!("{letter}</w>")));
        tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
        let specials = ["<|startoftext|>", "<|endoftext|>"];
        tokens.extend(specials.map(str::to_owned));
        let vocabulary = tokens.into_iter().zip(0..);
        let model = BPE::builder()
            .vocab_and_merges(vocabulary.collect::<Vocab>(), merges)
            .end_of_word_suffix("</w>".into())
            .build()
            .map_err(|error| fail(error.to_string()))?;
        let split = Split::new(SplitPattern::Regex(PATTERN.into()), SplitDelimiterBehavior::Removed, true)
            .map_err(|error| fail(error.to_string()))?;
        let mut inner = Inner::new(model);
        inner.with_pre_tokenizer(Some(Sequence::new(vec![
            split.into(),
            ByteLevel::new(false, false, false).into(),
        ])));
        inner.add_special_tokens(&specials.map(|token| AddedToken::from(token, true)));
        Ok(Self { inner })
    }
}

impl Tokenizer for ClipTokenizer {
    fn vocabulary(&self) -> i64 {
        VOCABULARY
    }

    fn end(&self) -> i64 {
        END
    }

    fn padding(&self) -> i64 {
        0
    }

    fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let cleaned = clean(text);
        let encoding = self
            .inner
            .encode_fast(cleaned.as_str(), false)
            .map_err(|error| Error::Expression { what: format!("cannot tokenise `{text}`: {error}") })?;
        let ids = encoding.get_ids().iter().map(|&id| i64::from(id));
        Ok(std::iter::once(START).chain(ids).chain(std::iter::once(END)).collect())
    }
}

/// Cleans text as the reference does: repairs it as ftfy, unescapes HTML entities twice, collapses
/// white space, converts to lower case.
fn clean(text: &str) -> String {
    let repaired = text_repair::fix_text(text);
    let once = text_repair::unescape_html(&repaired);
    let twice = text_repair::unescape_html(&once);
    twice.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// One printable character per byte, in the order of CLIP's vocabulary.
fn byte_alphabet() -> Vec<char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let rest = (0..=255_u8).filter(|byte| !printable(byte)).count() as u32;
    let shown = (0..=255_u8).filter(printable).map(char::from);
    shown.chain((0..rest).filter_map(|index| char::from_u32(256 + index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_expressions() {
        let tokenizer = ClipTokenizer::new().unwrap();
        assert_eq!(tokenizer.encode("left bear").unwrap(), [START, 1823, 4298, END]);
        assert_eq!(tokenizer.encode("  Left&nbsp;BEAR.").unwrap(), [START, 1823, 4298, 269, END]);
        assert_eq!(
            tokenizer.encode("brown bear on pillow on left").unwrap(),
            [START, 2866, 4298, 525, 12182, 525, 1823, END]
        );
        assert_eq!(tokenizer.encode("").unwrap(), [START, END]);
    }

    #[test]
    fn padding_and_cutting() {
        let tokenizer = ClipTokenizer::new().unwrap();
        assert_eq!(tokenizer.encode_padded("left bear", 6).unwrap(), [START, 1823, 4298, END, 0, 0]);
        assert_eq!(tokenizer.encode_padded("left bear", 3).unwrap(), [START, 1823, END]);
        assert!(tokenizer.encode_padded("left bear", 1).is_err());
    }
}
