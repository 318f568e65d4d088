//! UTF-8 that was read in another encoding, undone.

use crate::badness::is_bad;
use crate::bytes::{decode, replace_lossy_sequences, restore_no_break_spaces};
use crate::encodings::{CLUES, ENCODINGS, Kind, windows_1252};

/// Undoes mojibake, as many layers as there are.
pub(crate) fn fix_encoding(text: &str) -> String {
    let mut text = text.to_owned();
    loop {
        match one_layer(&text) {
            Some(fixed) if fixed != text => text = fixed,
            _ => return text,
        }
    }
}

/// The text with one layer less; `None` where nothing is to do or nothing can be done.
fn one_layer(text: &str) -> Option<String> {
    if text.is_ascii() || !is_bad(text) {
        return None;
    }
    let as_utf8 = ENCODINGS.iter().find_map(|encoding| {
        let mut bytes = encoding.encode(text)?;
        // In Mac Roman it would be an en dash and a space.
        if encoding.kind != Kind::MacRoman {
            bytes = restore_no_break_spaces(bytes);
        }
        if encoding.kind == Kind::Windows {
            bytes = replace_lossy_sequences(bytes);
        }
        decode(&bytes)
    });
    as_utf8.or_else(|| changed(text, fix_embedded(text))).or_else(|| changed(text, latin_1_as_windows(text)))
}

fn changed(text: &str, fixed: String) -> Option<String> {
    (fixed != text).then_some(fixed)
}

/// Reads C1 control characters as the characters that Windows-1252 has in their places.
pub(crate) fn latin_1_as_windows(text: &str) -> String {
    let of = |letter: char| match letter {
        '\u{80}'..='\u{9f}' => windows_1252().letter(letter as u8),
        _ => letter,
    };
    text.chars().map(of).collect()
}

/// Undoes mojibake in the midst of other text, sequence by sequence.
fn fix_embedded(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut fixed = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let after_garble = at > 0 && CLUES.strict.contains(&letters[at - 1]);
        let length = if after_garble { 0 } else { sequences(&letters[at..]) };
        if length == 0 {
            fixed.push(letters[at]);
            at += 1;
            continue;
        }
        let part: String = letters[at..at + length].iter().collect();
        // A part that is the whole would never end.
        let fixable = length < letters.len() && is_bad(&part);
        fixed.push_str(&if fixable { fix_encoding(&part) } else { part });
        at += length;
    }
    fixed
}

/// Number of characters at the beginning that look like UTF-8 sequences read in another encoding.
fn sequences(letters: &[char]) -> usize {
    let mut length = 0;
    while let Some(first) = letters.get(length) {
        let following = match first {
            first if CLUES.first_of_2.contains(first) => 1,
            first if CLUES.first_of_3.contains(first) => 2,
            first if CLUES.first_of_4.contains(first) => 3,
            _ => break,
        };
        let rest = letters.get(length + 1..=length + following);
        if !rest.is_some_and(|rest| rest.iter().all(|letter| CLUES.continuation.contains(letter))) {
            break;
        }
        length += 1 + following;
    }
    length
}
