//! Single-byte encodings that UTF-8 is mistaken for, and which of their characters hint at UTF-8.

use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Byte that stands for a lost character, U+FFFD, in the encodings of Windows.
pub(crate) const SUBSTITUTE: u8 = 0x1a;

/// A single-byte encoding, ASCII in its lower half. Unassigned bytes are control characters, as in Latin-1.
#[derive(Debug)]
pub(crate) struct Encoding {
    /// The characters of the bytes from 0x80 on.
    upper: [char; 128],
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Latin1,
    /// [`SUBSTITUTE`] is U+FFFD.
    Windows,
    MacRoman,
    Other,
}

impl Encoding {
    /// The text's bytes; `None` if the encoding lacks one of its characters.
    pub(crate) fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|letter| self.byte(letter)).collect()
    }

    fn byte(&self, letter: char) -> Option<u8> {
        match letter {
            '\u{fffd}' if self.kind == Kind::Windows => Some(SUBSTITUTE),
            '\u{1a}' if self.kind == Kind::Windows => None,
            '\0'..='\x7f' => Some(letter as u8),
            // At most 128 places: the sum fits.
            _ => self.upper.iter().position(|&upper| upper == letter).map(|place| 0x80 + place as u8),
        }
    }

    /// The character of a byte of the upper half.
    pub(crate) fn letter(&self, byte: u8) -> char {
        self.upper[usize::from(byte & 0x7f)]
    }
}

/// The encodings, most likely first.
pub(crate) static ENCODINGS: LazyLock<Vec<Encoding>> = LazyLock::new(|| {
    let latin_1: String = ('\u{80}'..='\u{ff}').collect();
    [
        (Kind::Latin1, latin_1.as_str()),
        (Kind::Windows, WINDOWS_1252),
        (Kind::Windows, WINDOWS_1251),
        (Kind::Windows, WINDOWS_1250),
        (Kind::Windows, WINDOWS_1253),
        (Kind::Windows, WINDOWS_1254),
        (Kind::Windows, WINDOWS_1257),
        (Kind::Other, ISO_8859_2),
        (Kind::MacRoman, MAC_ROMAN),
        (Kind::Other, CODE_PAGE_437),
    ]
    .map(|(kind, letters)| {
        let mut upper = ['\0'; 128];
        for (place, letter) in upper.iter_mut().zip(letters.chars()) {
            *place = letter;
        }
        Encoding { upper, kind }
    })
    .into()
});

/// Windows-1252, as which web browsers read Latin-1.
pub(crate) fn windows_1252() -> &'static Encoding {
    &ENCODINGS[1]
}

/// Characters of bytes that begin or continue a UTF-8 sequence, in Latin-1 or an encoding of Windows.
#[derive(Debug)]
pub(crate) struct Clues {
    pub(crate) first_of_2: BTreeSet<char>,
    pub(crate) first_of_3: BTreeSet<char>,
    pub(crate) first_of_4: BTreeSet<char>,
    /// Bytes 0x80 to 0xBF, and the space that some programs make of 0xA0.
    pub(crate) continuation: BTreeSet<char>,
    /// Those of `continuation` that seldom stand for themselves: no spaces, dashes, quotation marks, bullets and ellipses.
    pub(crate) strict: BTreeSet<char>,
}

pub(crate) static CLUES: LazyLock<Clues> = LazyLock::new(|| {
    let of = |bytes: &[u8]| -> BTreeSet<char> {
        let known = ENCODINGS.iter().filter(|encoding| matches!(encoding.kind, Kind::Latin1 | Kind::Windows));
        known.flat_map(|encoding| bytes.iter().map(|&byte| encoding.letter(byte))).collect()
    };
    let range = |bytes: std::ops::RangeInclusive<u8>| of(&bytes.collect::<Vec<_>>());
    let mut continuation = range(0x80..=0xbf);
    let strict = continuation.iter().copied().filter(|&letter| !"–—―‘’‚“”„•…".contains(letter)).collect();
    continuation.insert(' ');
    Clues {
        first_of_2: range(0xc2..=0xdf),
        first_of_3: range(0xe0..=0xef),
        // The planes of emoji and of private use; others hardly occur.
        first_of_4: of(&[0xf0, 0xf3]),
        continuation,
        strict,
    }
});

const WINDOWS_1250: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰Š‹ŚŤŽŹ\u{90}‘’“”•–—\u{98}™š›śťžź\
    \u{a0}ˇ˘Ł¤Ą¦§¨©Ş«¬\u{ad}®Ż°±˛ł´µ¶·¸ąş»Ľ˝ľż\
    ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß\
    ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙";
const WINDOWS_1251: &str = "\
    ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\u{98}™љ›њќћџ\
    \u{a0}ЎўЈ¤Ґ¦§Ё©Є«¬\u{ad}®Ї°±Ііґµ¶·ё№є»јЅѕї\
    АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ\
    абвгдежзийклмнопрстуфхцчшщъыьэюя";
const WINDOWS_1252: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ\
    \u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿\
    ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞß\
    àáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ";
const WINDOWS_1253: &str = "\
    €\u{81}‚ƒ„…†‡\u{88}‰\u{8a}‹\u{8c}\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}\u{9d}\u{9e}\u{9f}\
    \u{a0}΅Ά£¤¥¦§¨©ª«¬\u{ad}®―°±²³΄µ¶·ΈΉΊ»Ό½ΎΏ\
    ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡÒΣΤΥΦΧΨΩΪΫάέήί\
    ΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώÿ";
const WINDOWS_1254: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}\u{9e}Ÿ\
    \u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿\
    ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞß\
    àáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ";
const WINDOWS_1257: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰\u{8a}‹\u{8c}¨ˇ¸\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}¯˛\u{9f}\
    \u{a0}¡¢£¤¥¦§Ø©Ŗ«¬\u{ad}®Æ°±²³´µ¶·ø¹ŗ»¼½¾æ\
    ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽß\
    ąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž˙";
const ISO_8859_2: &str = "\
    \u{80}\u{81}\u{82}\u{83}\u{84}\u{85}\u{86}\u{87}\u{88}\u{89}\u{8a}\u{8b}\u{8c}\u{8d}\u{8e}\u{8f}\u{90}\u{91}\
    \u{92}\u{93}\u{94}\u{95}\u{96}\u{97}\u{98}\u{99}\u{9a}\u{9b}\u{9c}\u{9d}\u{9e}\u{9f}\
    \u{a0}Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u{ad}ŽŻ°ą˛ł´ľśˇ¸šşťź˝žż\
    ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß\
    ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙";
const MAC_ROMAN: &str = "\
    ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü\
    †°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø\
    ¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ\
    ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ";
const CODE_PAGE_437: &str = "\
    ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒ\
    áíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
    └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
    αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
