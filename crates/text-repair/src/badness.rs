//! Neighbouring characters that are far more often mojibake than meant, such as an accented letter and a currency sign.

use std::sync::LazyLock;

use regex::Regex;

// Kinds of the characters that UTF-8 turns into when it is read in another encoding, as members of a character class.
const COMMON: &str = r"\x{a0}\x{ad}·´–—―…’";
const C1: &str = r"\x{80}-\x{9f}";
const BAD: &str = "¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊\u{fffd}ªº";
const LAW: &str = "¶§";
const CURRENCY: &str = "¢£¥₧€";
const START: &str = "¡«¿©΄΅‘‚“„•‹\u{f8ff}";
const END: &str = "®»˝”›™";
const NUMERIC: &str = "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№";
/// Letters of which faces are made.
const FACES: &str = "Ò-ÖÙ-Üò-öø-üŐŌŪŲ°";
const UPPER: &str = "À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ";
const LOWER: &str = "ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ";
const UPPER_COMMON: &str = "ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я";
const LOWER_COMMON: &str = "α-ωάέήίΰа-џ";
const BOX: &str = "│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓";

/// Of two or three neighbours, the kinds at each place.
const BY_KIND: &[&[&[&str]]] = &[
    &[&[C1]],
    &[&[BAD, LOWER, UPPER, BOX, START, END, CURRENCY, NUMERIC, LAW], &[BAD]],
    &[&["a-zA-Z"], &[LOWER_COMMON, UPPER_COMMON], &[BAD]],
    &[&[BAD], &[LOWER, UPPER, BOX, START, END, CURRENCY, NUMERIC, LAW]],
    &[&[LOWER, LOWER_COMMON, BOX, END, CURRENCY, NUMERIC], &[UPPER]],
    &[&[BOX, END, CURRENCY, NUMERIC], &[LOWER]],
    &[&[LOWER, BOX, END], &[CURRENCY]],
    &[&[SPACE], &[UPPER], &[CURRENCY]],
    &[&[UPPER, BOX], &[NUMERIC, LAW]],
    &[&[LOWER, UPPER, BOX, CURRENCY, END], &[START], &[NUMERIC]],
    &[&[LOWER, UPPER, CURRENCY, NUMERIC, BOX, LAW], &[END], &[START]],
    &[&[CURRENCY, NUMERIC, BOX], &[START]],
    &[&["a-z"], &[UPPER], &[START, CURRENCY]],
    &[&[BOX], &[FACES]],
    &[&[LOWER, UPPER, CURRENCY, NUMERIC, START, END, LAW], &[BOX]],
    &[&[BOX], &[END]],
    &[&[LOWER, UPPER], &[START, END], &[WORD]],
    &[&["Œœ"], &["^A-Za-z"]],
    &[&[UPPER], &["°"]],
    // Windows-1252.
    &[&["ÂÃÎÐ"], &[r"€œŠš¢£Ÿž\x{a0}\x{ad}®©°·»–—´", START, END]],
    &[&["×"], &["²³"]],
    &[&["ØÙ"], ARABIC, &["ØÙ"], ARABIC],
    &[&["à"], &["²µ¹¼½¾"]],
    // Mac Roman.
    &[&["√"], &["±∂†≠®™´≤≥¥µø"]],
    &[&["≈"], &["°¢"]],
    &[&["‚"], &["Ä"], &["ìîïòôúùû†°¢π"]],
    &[&["‚"], &["âó"], &["àä°ê"]],
    // Windows-1251.
    &[&["в"], &["Ђ"]],
    &[&["ВГРС"], &[C1, BAD, START, END, CURRENCY, "°µ"], &["ВГРС"]],
    &[&["Г"], &["ў"], &["В"], &["Ђ"], &["В"], &[r"^\n"], &["A-Za-z "]],
    // Windows-1252: à, á, and the no-break space.
    &[&["Ã"], &[r"\x{a0}¡"]],
    &[&["a-z"], &["ÃÂ"], &[" "]],
    &[&["a-z"], &[SPACE], &["ÃÂ"], &[" "]],
    // A sign that Â only comes before.
    &[&["a-z.,?!", END], &["Â"], &[" ", START, END]],
    // Windows-1253.
    &[&["β"], &["€"], &[r"™\x{a0}Ά\x{ad}®°"]],
    &[&["ΒΓΞΟ"], &[C1, BAD, START, END, CURRENCY, "°"], &["ΒΓΞΟ"]],
    // Windows-1257.
    &[&["ā"], &["€"]],
];
/// White space as Python has it.
const SPACE: &str = r"\s\x1c-\x1f";
/// A letter, number or underscore, as Python has it.
const WORD: &str = r"\p{L}\p{N}_";
/// What follows the first byte of Arabic letters.
const ARABIC: &[&str] = &[COMMON, CURRENCY, BAD, NUMERIC, START, "ŸŠ®°µ»"];

static BADNESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let place = |kinds: &&[&str]| format!("[{}]", kinds.concat());
    let mut ways: Vec<String> = BY_KIND.iter().map(|places| places.iter().map(place).collect()).collect();
    ways.push("^[ÃÂ] ".into());
    Regex::new(&ways.join("|")).ok()
});

/// Whether the text looks like mojibake.
pub(crate) fn is_bad(text: &str) -> bool {
    BADNESS.as_ref().is_some_and(|badness| badness.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expression_compiles() {
        assert!(BADNESS.is_some());
    }

    #[test]
    fn ordinary_text_is_not_bad() {
        for text in [
            "",
            "left zebra",
            "café à la carte",
            "der Bär",
            "Ørsted’s élan",
            "ユーザー",
            "£3 — 50 %",
            "(ง'⌣')ง",
        ] {
            assert!(!is_bad(text), "{text}");
        }
        for text in ["Ã©", "â€œ", "voilÃ  le", "вЂ™", "\u{85}"] {
            assert!(is_bad(text), "{text}");
        }
    }
}
