//! What one file may cost: reading it takes at most three times its own size and 1 GiB, whatever it claims to hold.
//!
//! `TALENT_MAX_IMAGE_MIB` sets another number of MiB in the place of 1 GiB, for pictures and masks that are larger.

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// The environment variable.
pub(crate) const VARIABLE: &str = "TALENT_MAX_IMAGE_MIB";

/// Bytes that a segmentation's text may have for each byte that decoding it may cost: a number of two characters takes 32
/// bytes, twice while a list grows.
const TEXT_COST: u64 = 32;

/// Bytes that decoding one picture, mask or segmentation may take.
fn limit() -> Result<u64, String> {
    static LIMIT: OnceLock<Result<u64, String>> = OnceLock::new();
    LIMIT
        .get_or_init(|| parse(std::env::var_os(VARIABLE).map(|text| text.to_string_lossy().into_owned())))
        .clone()
}

fn parse(given: Option<String>) -> Result<u64, String> {
    let mib = match given.as_deref().map(str::trim) {
        None | Some("") => 1024,
        Some(text) => text
            .parse::<u64>()
            .ok()
            .filter(|mib| *mib > 0)
            .ok_or_else(|| format!("{VARIABLE}={text:?}: expected a number of MiB, 1 or more"))?,
    };
    Ok(mib.saturating_mul(1 << 20))
}

/// Checks the environment variable, so that a program can do so before it works.
///
/// # Errors
/// When it is no number.
pub fn check_memory_rule() -> Result<()> {
    limit().map(|_| ()).map_err(|what| Error::Environment { what })
}

/// # Errors
/// When a picture or mask of this size costs more than it may.
pub(crate) fn afford_pixels(width: u64, height: u64, bytes_per_pixel: u64) -> Result<(), String> {
    let limit = limit()?;
    let bytes = width.checked_mul(height).and_then(|n| n.checked_mul(bytes_per_pixel));
    if bytes.is_some_and(|bytes| bytes <= limit) {
        return Ok(());
    }
    Err(format!(
        "{width} x {height} pixels would take {} MiB of memory, more than {}; {VARIABLE} can allow more",
        bytes.map_or_else(|| "2^44 or more".to_owned(), |bytes| (bytes >> 20).to_string()),
        limit >> 20
    ))
}

/// Copies of a line that reading it may take, the room a growing one has in front of it included.
const LINE_COST: u64 = 4;

/// Bytes that one line of a file may have.
pub(crate) fn line_limit() -> Result<u64> {
    limit().map(|limit| limit / LINE_COST).map_err(|what| Error::Environment { what })
}

/// # Errors
/// When a segmentation's text is so long that reading it costs more than it may.
pub(crate) fn afford_text(length: usize) -> Result<(), String> {
    let limit = limit()?;
    if length as u64 <= limit / TEXT_COST {
        return Ok(());
    }
    Err(format!("its text has {length} bytes, more than {}; {VARIABLE} can allow more", limit / TEXT_COST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_a_number() {
        assert_eq!(parse(None), Ok(1 << 30));
        assert_eq!(parse(Some(" 2 ".into())), Ok(2 << 20));
        for text in ["abc", "0", "-1", "1.5"] {
            assert!(parse(Some(text.into())).unwrap_err().contains(VARIABLE), "{text}");
        }
    }

    #[test]
    fn sizes_that_overflow_are_refused_like_others() {
        assert!(afford_pixels(10_000, 10_000, 3).is_ok());
        for (width, height) in [(18_000, 18_000), (u64::MAX, 2), (1 << 40, 1 << 40)] {
            assert!(afford_pixels(width, height, 8).unwrap_err().contains("pixels would take"));
        }
        assert!(afford_text(1 << 25).is_ok() && afford_text(105_000_000).is_err());
    }
}
