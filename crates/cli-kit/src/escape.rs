use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character may change what a terminal shows elsewhere: control characters (C0 except line feed and tab, DEL, C1),
/// and characters that change the text direction.
fn is_harmful(letter: char) -> bool {
    match letter {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        letter => letter.is_control(),
    }
}

/// Escapes control characters as in JSON strings, so that JSON text stays valid JSON.
///
/// ```
/// assert_eq!(cli_kit::escape("red\u{1b}[2J zebra\n"), "red\\u001b[2J zebra\n");
/// ```
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if is_harmful(letter) {
            // Writing to a string does not fail. All harmful characters lie below 0x10000.
            let _ = write!(escaped, "\\u{:04x}", u32::from(letter));
        } else {
            escaped.push(letter);
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out_and_nothing_else_is() {
        let text = "a\tb\nü中🦓";
        assert!(matches!(escape(text), Cow::Borrowed(same) if same == text));
        assert_eq!(
            escape("\u{1b}]0;x\u{7}\r\u{9b}31m\u{7f}\u{202e}"),
            "\\u001b]0;x\\u0007\\u000d\\u009b31m\\u007f\\u202e"
        );
    }
}
