//! Memory limit for reading one file: three times the file's size plus 1 GiB, whatever sizes the file claims.
//!
//! `TALENT_MAX_IMAGE_MIB` replaces the 1 GiB by another number of MiB, for larger images and masks.

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// Environment variable with the limit in MiB.
pub(crate) const VARIABLE: &str = "TALENT_MAX_IMAGE_MIB";

/// Memory per byte of a segmentation's JSON text, in bytes. A number of two characters takes 32 bytes when parsed, and twice
/// that while its list grows.
const TEXT_COST: u64 = 32;

/// Memory limit for decoding one image, mask or segmentation, in bytes.
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

/// Checks `TALENT_MAX_IMAGE_MIB`, so that a program can report a mistake when it starts.
///
/// # Errors
/// When it is not a whole number, 1 or more.
pub fn check_memory_rule() -> Result<()> {
    limit().map(|_| ()).map_err(|what| Error::Environment { what })
}

/// # Errors
/// When an image or mask of this size would take more memory than the limit.
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

/// Copies of a line that are in memory while it is read, with the spare capacity of a growing buffer.
const LINE_COST: u64 = 4;

/// Maximum length of one line of a file, in bytes.
pub(crate) fn line_limit() -> Result<u64> {
    limit().map(|limit| limit / LINE_COST).map_err(|what| Error::Environment { what })
}

/// # Errors
/// When parsing a segmentation's text of this length would take more memory than the limit.
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
