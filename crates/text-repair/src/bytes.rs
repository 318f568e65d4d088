//! Bytes that were nearly UTF-8: what got lost on the way is put back before they are decoded.

use std::sync::LazyLock;

use regex::bytes::{Captures, Regex};

/// UTF-8 in which the byte 0xA0 became a space.
static ALTERED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?-u)[\xc2\xc3\xc5\xce\xd0\xd9] |[\xe2\xe3] [\x80-\x84\x86-\x9f\xa1-\xbf]|[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf] |\xf0 [\x80-\xbf][\x80-\xbf]|\xf0[\x80-\xbf] [\x80-\xbf]|\xf0[\x80-\xbf][\x80-\xbf] ",
    )
    .ok()
});

/// UTF-8 in which bytes became a substitute or a question mark.
static LOSSY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?-u)[\xc2-\xdf]\x1a|[\xc2-\xc3]\?|\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]|\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]|[\xe0-\xef][\x1a?][\x1a\x80-\xbf]|[\xe0-\xef][\x1a\x80-\xbf][\x1a?]|[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]|\x1a",
    )
    .ok()
});

/// Puts 0xA0 back where a space in its place interrupts a UTF-8 sequence.
pub(crate) fn restore_no_break_spaces(bytes: Vec<u8>) -> Vec<u8> {
    let Some(altered) = ALTERED.as_ref().filter(|altered| altered.is_match(&bytes)) else { return bytes };
    let restored = |found: &Captures<'_>| -> Vec<u8> {
        found[0].iter().map(|&byte| if byte == b' ' { 0xa0 } else { byte }).collect()
    };
    altered.replace_all(&separate_a_grave(&bytes), restored).into_owned()
}

/// `Ã la` was `à la` and not `àla`: the space stays beside the byte that is put back. Portuguese words with an `à` of their own and a
/// further space are excepted.
fn separate_a_grave(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        out.push(byte);
        rest = after;
        let excepted = [b" ".as_slice(), b"quele", b"quela", b"quilo", b"s "];
        if let (0xc3, [b' ', next @ ..]) = (byte, rest)
            && !excepted.iter().any(|word| next.starts_with(word))
        {
            out.extend(b"\xa0 ");
            rest = next;
        }
    }
    out
}

/// Makes U+FFFD of each UTF-8 sequence that lost a byte.
pub(crate) fn replace_lossy_sequences(bytes: Vec<u8>) -> Vec<u8> {
    match LOSSY.as_ref() {
        Some(lossy) if lossy.is_match(&bytes) => {
            lossy.replace_all(&bytes, "\u{fffd}".as_bytes()).into_owned()
        }
        _ => bytes,
    }
}

/// Decodes UTF-8, Java's null (`C0 80`) and surrogate pairs (CESU-8); `None` if it is neither.
pub(crate) fn decode(bytes: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(bytes.len());
    let (mut start, mut at) = (0, 0);
    while at < bytes.len() {
        match variant(&bytes[at..]) {
            Some((letter, length)) => {
                text.push_str(std::str::from_utf8(&bytes[start..at]).ok()?);
                text.push(letter);
                at += length;
                start = at;
            }
            None => at += 1,
        }
    }
    text.push_str(std::str::from_utf8(&bytes[start..]).ok()?);
    Some(text)
}

/// The character and the length of what UTF-8 does not have, if the bytes begin with such.
fn variant(bytes: &[u8]) -> Option<(char, usize)> {
    match *bytes {
        [0xc0, 0x80, ..] => Some(('\0', 2)),
        [0xed, a @ 0xa0..=0xaf, b @ 0x80..=0xbf, 0xed, c @ 0xb0..=0xbf, d @ 0x80..=0xbf, ..] => {
            let bits = |byte: u8, mask: u8| u32::from(byte & mask);
            let point = (bits(a, 0xf) << 16) + (bits(b, 0x3f) << 10) + (bits(c, 0xf) << 6) + bits(d, 0x3f);
            char::from_u32(point + 0x1_0000).map(|letter| (letter, 6))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expressions_compile() {
        assert!(ALTERED.is_some() && LOSSY.is_some());
    }

    #[test]
    fn utf8_and_its_variants() {
        assert_eq!(decode("żółw".as_bytes()).unwrap(), "żółw");
        assert_eq!(decode(b"a\xc0\x80b").unwrap(), "a\0b");
        assert_eq!(decode(b"\xed\xa0\xbd\xed\xb8\x8d").unwrap(), "\u{1f60d}");
        assert_eq!(decode(b"\xed\xa0\xbd"), None);
        assert_eq!(decode(b"\xff"), None);
    }
}
