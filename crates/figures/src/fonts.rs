//! Which letters can be drawn: those of the compiled-in fonts, and those of the machine's for what they lack.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, OnceLock};

use ab_glyph::{Font, FontRef};

use crate::raster::machine_fonts;

/// The compiled-in fonts, in the order in which they are asked: Latin, Greek and Cyrillic, then emoji.
pub(crate) const BUILT_IN: [&[u8]; 2] =
    [epaint_default_fonts::UBUNTU_LIGHT, epaint_default_fonts::NOTO_EMOJI_REGULAR];

fn built_in() -> &'static [FontRef<'static>] {
    static FONTS: OnceLock<Vec<FontRef<'static>>> = OnceLock::new();
    FONTS.get_or_init(|| BUILT_IN.iter().filter_map(|bytes| FontRef::try_from_slice(bytes).ok()).collect())
}

/// Whether a font of the machine has a letter; each letter is looked for once.
fn machine_has(letter: char) -> bool {
    static FOUND: OnceLock<Mutex<HashMap<char, bool>>> = OnceLock::new();
    let Ok(mut found) = FOUND.get_or_init(Mutex::default).lock() else { return false };
    *found.entry(letter).or_insert_with(|| {
        let fonts = machine_fonts();
        let has = |data: &[u8], index: u32| {
            FontRef::try_from_slice_and_index(data, index).is_ok_and(|font| can_draw(&font, letter))
        };
        fonts.faces().any(|face| fonts.with_face_data(face.id, has).unwrap_or(false))
    })
}

/// Whether a font has a letter as an outline. Fonts of coloured pictures, as most of emoji are, have none.
fn can_draw(font: &impl Font, letter: char) -> bool {
    let id = font.glyph_id(letter);
    id.0 != 0 && (letter.is_whitespace() || font.outline(id).is_some())
}

/// Whether a compiled-in font has a letter.
pub(crate) fn has_built_in(letter: char) -> bool {
    letter.is_control() || built_in().iter().any(|font| can_draw(font, letter))
}

/// Whether the program or the machine has a font with a letter. If neither has, that is noted for [`missing_letters`].
pub(crate) fn has_letter(letter: char) -> bool {
    if has_built_in(letter) {
        return true;
    }
    let found = machine_has(letter);
    if !found && let Ok(mut missing) = missing().lock() {
        missing.insert(letter);
    }
    found
}

fn missing() -> &'static Mutex<BTreeSet<char>> {
    static MISSING: OnceLock<Mutex<BTreeSet<char>>> = OnceLock::new();
    MISSING.get_or_init(Mutex::default)
}

/// The letters that were drawn as `\u{...}` since the last call, because no font has them.
pub fn missing_letters() -> BTreeSet<char> {
    missing().lock().map(|mut missing| std::mem::take(&mut *missing)).unwrap_or_default()
}

/// One line about [`missing_letters`]; `None` if there are none.
pub fn missing_letters_note() -> Option<String> {
    let missing = missing_letters();
    if missing.is_empty() {
        return None;
    }
    let few: String = missing.iter().filter(|letter| !letter.is_control()).take(8).collect();
    let more = if missing.len() > 8 { ", and others" } else { "" };
    Some(format!(
        "no font on this machine has {} of the letters ({few}{more}); they are drawn as \\u{{...}}. Install a font of that script, \
         for example Noto",
        missing.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_looked_for_in_every_font() {
        assert!(has_built_in('ж') && has_built_in('🐈'));
        // A private letter, which no font has.
        let private = '\u{10fffd}';
        assert!(!has_letter(private));
        assert!(missing_letters().contains(&private));
    }
}
