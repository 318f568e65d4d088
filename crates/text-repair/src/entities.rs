//! HTML entities: those that end with a semicolon, and all that a browser would replace.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// What may be an entity to a browser.
static REFERENCE: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\x0C <&#;]{1,32};?)").ok());

static ENTITY: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new("&#?[0-9A-Za-z]{1,24};").ok());

/// Replaces HTML entities that end with a semicolon by what they stand for, and names in capitals that HTML does not know
/// (`&EACUTE;`) by the capital. Unlike [`htmlize::unescape`], nothing is replaced in part.
pub(crate) fn unescape_entities(text: &str) -> String {
    let replace = |found: &Captures<'_>| {
        let entity = &found[0];
        meaning(entity).unwrap_or_else(|| entity.to_owned())
    };
    match ENTITY.as_ref() {
        Some(expression) if text.contains('&') => expression.replace_all(text, replace).into_owned(),
        _ => text.to_owned(),
    }
}

/// Replaces HTML entities as Python's `html.unescape`: also those without their semicolon (`&copy`), in part if need be
/// (`&notit;` is `¬it;`); references to what is not a character vanish.
pub fn unescape_html(text: &str) -> Cow<'_, str> {
    let replace = |found: &Captures<'_>| {
        let reference = &found[0];
        match reference.strip_prefix("&#") {
            Some(number) => numeric(number.trim_end_matches(';')).unwrap_or_else(|| reference.to_owned()),
            None => htmlize::unescape(reference).into_owned(),
        }
    };
    match REFERENCE.as_ref() {
        Some(expression) if text.contains('&') => expression.replace_all(text, replace),
        _ => text.into(),
    }
}

fn meaning(entity: &str) -> Option<String> {
    if let Some(number) = entity.strip_prefix("&#") {
        // A semicolon that is meant could not be told from one that is left.
        return numeric(number.strip_suffix(';')?).filter(|meant| meant != ";");
    }
    if entity == "&semi;" {
        return Some(";".into());
    }
    let known = htmlize::unescape(entity);
    if !known.contains(';') {
        return Some(known.into_owned());
    }
    let lower = entity.to_ascii_lowercase();
    let in_capitals = known == entity && entity == entity.to_ascii_uppercase();
    let known = htmlize::unescape(lower.as_str());
    (in_capitals && !known.contains(';')).then(|| known.to_uppercase())
}

/// As HTML reads `&#number;`: control characters as those of Windows-1252, what is not a character as nothing or U+FFFD.
fn numeric(number: &str) -> Option<String> {
    let (digits, radix) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    // A number too large for a u32 is not a character either.
    let point = u32::from_str_radix(digits, radix).unwrap_or(u32::MAX);
    let no_character = matches!(point, 0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef)
        || (point <= 0x10_ffff && point & 0xfffe == 0xfffe);
    match point {
        0 => Some("\u{fffd}".into()),
        0xd => Some("\r".into()),
        0x80..=0x9f => {
            char::from_u32(point).map(|letter| crate::mojibake::latin_1_as_windows(&letter.to_string()))
        }
        _ if no_character => Some(String::new()),
        _ => Some(char::from_u32(point).unwrap_or('\u{fffd}').to_string()),
    }
}
