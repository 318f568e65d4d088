//! `ftfy-6.3.1.json`: triples of a text, what `ftfy.fix_text` 6.3.1 makes of it, and what Python's `html.unescape` makes of that
//! when applied twice. The texts were put together at random from words of several scripts, HTML entities, control characters and
//! layers of mojibake.

use text_repair::{fix_text, unescape_html};

#[test]
fn as_ftfy_and_python() {
    let recorded: Vec<[String; 3]> = serde_json::from_str(include_str!("ftfy-6.3.1.json")).unwrap();
    assert!(recorded.len() > 400);
    for [text, fixed, unescaped] in &recorded {
        let have = fix_text(text);
        assert_eq!(&*have, fixed, "{text:?}");
        assert_eq!(unescape_html(&unescape_html(&have)), unescaped.as_str(), "{text:?}");
    }
}
