//! Repairs text that went through the wrong programs: UTF-8 that was read in another encoding ("mojibake"), HTML entities,
//! typographic ligatures, full-width letters, curly quotes, line breaks, terminal escapes, control characters.
//!
//! CLIP's tokenizer cleans every expression with `ftfy.fix_text` first, so tokens are equal only if this is. [`fix_text`] does what
//! ftfy 6.3.1 does with its default settings; its rules and its lists of characters are ftfy's (Robyn Speer, Apache-2.0), tested
//! against recordings of it.
//!
//! ```
//! assert_eq!(text_repair::fix_text("the girlâ€™s hat"), "the girl's hat");
//! assert_eq!(text_repair::fix_text("P&EACUTE;REZ &amp; ﬁls"), "PÉREZ & fils");
//! ```

mod badness;
mod bytes;
mod encodings;
mod entities;
mod mojibake;

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, is_nfc};

use entities::unescape_entities;
pub use entities::unescape_html;

/// Repairs text, line by line, until nothing changes any more. From the first line with a `<` on the text counts as HTML, and
/// its entities stay.
///
/// Text of printable ASCII without `&` comes back as it is.
pub fn fix_text(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n') && byte != b'&') {
        return text.into();
    }
    let mut html = false;
    let mut repair = |line: &str| {
        html |= line.contains('<');
        fix_line(line, html)
    };
    text.split_inclusive('\n').map(&mut repair).collect::<String>().into()
}

fn fix_line(line: &str, html: bool) -> String {
    let mut line = line.to_owned();
    loop {
        let unescaped = if html { line.clone() } else { unescape_entities(&line) };
        let decoded = mojibake::latin_1_as_windows(&mojibake::fix_encoding(&unescaped));
        let spelt: String =
            decoded.chars().flat_map(|letter| plain(letter).chars().collect::<Vec<_>>()).collect();
        let broken = spelt.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
        let mut fixed: String =
            without_terminal_escapes(&broken).chars().filter(|&letter| !is_control(letter)).collect();
        if !is_nfc(&fixed) {
            fixed = fixed.nfc().collect();
        }
        if fixed == line {
            return fixed;
        }
        line = fixed;
    }
}

/// A ligature, a full-width or half-width form, or a curly quote as plain characters.
fn plain(letter: char) -> Cow<'static, str> {
    let ligature = match letter {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        '\u{3000}' => " ",
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => "'",
        '\u{201c}'..='\u{201f}' => "\"",
        '\u{ff01}'..='\u{ffef}' => return letter.nfkc().collect::<String>().into(),
        _ => return letter.to_string().into(),
    };
    ligature.into()
}

/// Control characters that nobody means, deprecated Arabic ones, annotations, the byte order mark. White space stays.
fn is_control(letter: char) -> bool {
    matches!(letter,
        '\0'..='\x08' | '\x0b' | '\x0e'..='\x1f' | '\x7f' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

/// Drops terminal escape codes, for example `ESC [31m`.
fn without_terminal_escapes(text: &str) -> Cow<'_, str> {
    const START: &str = "\x1b[";
    if !text.contains(START) {
        return text.into();
    }
    let mut pieces = text.split(START);
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let is_digit = |letter: char| letter.is_numeric() || letter == ';';
        let code = piece.trim_start_matches(is_digit);
        match code.strip_prefix(|letter: char| letter.is_ascii_alphabetic()) {
            Some(rest) => kept.push_str(rest),
            None => kept.extend([START, piece]),
        }
    }
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_are_dropped() {
        assert_eq!(fix_text("\u{1b}[31mred\u{1b}[0m man"), "red man");
        assert_eq!(without_terminal_escapes("a\u{1b}[1;31mb"), "ab");
        assert_eq!(without_terminal_escapes("a\u{1b}[1;mb"), "ab");
        assert_eq!(without_terminal_escapes("a\u{1b}[?"), "a\u{1b}[?");
    }

    #[test]
    fn plain_text_is_not_copied() {
        assert!(matches!(fix_text("left bear\tin red\n"), Cow::Borrowed(_)));
    }
}
