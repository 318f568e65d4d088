//! Fonts for captions: one that is compiled in, and those of the machine for what it lacks.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, OnceLock};

use ab_glyph::{Font, FontRef, FontVec};

/// The compiled-in fonts, in the order in which they are asked: Latin, Greek and Cyrillic, then emoji.
fn built_in() -> &'static [FontRef<'static>] {
    static FONTS: OnceLock<Vec<FontRef<'static>>> = OnceLock::new();
    FONTS.get_or_init(|| {
        let all = [epaint_default_fonts::UBUNTU_LIGHT, epaint_default_fonts::NOTO_EMOJI_REGULAR];
        all.iter().filter_map(|bytes| FontRef::try_from_slice(bytes).ok()).collect()
    })
}

/// Fonts of the machine, each loaded when a letter needs it.
#[derive(Default)]
struct Machine {
    database: Option<fontdb::Database>,
    /// By letter; `None` if no font has it.
    found: HashMap<char, Option<&'static FontVec>>,
    loaded: HashMap<fontdb::ID, Option<&'static FontVec>>,
}

impl Machine {
    fn font_of(&mut self, letter: char) -> Option<&'static FontVec> {
        if let Some(&found) = self.found.get(&letter) {
            return found;
        }
        let database = self.database.get_or_insert_with(|| {
            let mut database = fontdb::Database::new();
            database.load_system_fonts();
            database
        });
        let ids: Vec<fontdb::ID> = database.faces().map(|face| face.id).collect();
        let found = ids.into_iter().find_map(|id| {
            let font = *self.loaded.entry(id).or_insert_with(|| load(database, id));
            font.filter(|font| can_draw(*font, letter))
        });
        self.found.insert(letter, found);
        found
    }
}

/// Loads a face for the rest of the program: captions are drawn with few fonts.
fn load(database: &fontdb::Database, id: fontdb::ID) -> Option<&'static FontVec> {
    let font =
        database.with_face_data(id, |data, index| FontVec::try_from_vec_and_index(data.to_vec(), index).ok());
    let font: &'static FontVec = Box::leak(Box::new(font??));
    Some(font)
}

/// Whether a font has a letter as an outline. Fonts of coloured pictures, as most of emoji are, have none.
fn can_draw(font: &impl Font, letter: char) -> bool {
    let id = font.glyph_id(letter);
    id.0 != 0 && (letter.is_whitespace() || font.outline(id).is_some())
}

/// A font that has a letter.
pub(crate) enum Face {
    BuiltIn(&'static FontRef<'static>),
    Machine(&'static FontVec),
}

/// Finds a font that has a letter; `None` if neither the program nor the machine has one, which is noted for [`missing_letters`].
pub(crate) fn face_of(letter: char) -> Option<Face> {
    if let Some(font) = built_in().iter().find(|font| can_draw(*font, letter)) {
        return Some(Face::BuiltIn(font));
    }
    static MACHINE: OnceLock<Mutex<Machine>> = OnceLock::new();
    let mut machine = MACHINE.get_or_init(Mutex::default).lock().ok()?;
    let found = machine.font_of(letter).map(Face::Machine);
    if found.is_none()
        && let Ok(mut missing) = missing().lock()
    {
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
        assert!(matches!(face_of('ж'), Some(Face::BuiltIn(_))));
        assert!(matches!(face_of('🐈'), Some(Face::BuiltIn(_))));
        // A private letter, which no font has.
        let private = '\u{10fffd}';
        assert!(face_of(private).is_none());
        assert!(missing_letters().contains(&private));
    }
}
