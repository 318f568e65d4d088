//! What an expression of RefShapes says, as classes that a linear read-out of the sentence vector must tell apart.

use std::collections::BTreeMap;

/// Facts of an expression, in the order of [`Facts::NAMES`]; `None` for what it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts(pub(super) [Option<i64>; Facts::N]);

pub(super) const COLOURS: &[&[&str]] =
    &[&["red"], &["green"], &["blue"], &["yellow"], &["orange"], &["purple"], &["white"], &["black"]];
const TEXTURES: &[&[&str]] = &[&["plain"], &["striped", "stripes"], &["dotted", "dots"]];
const SIZES: &[&[&str]] = &[&["small", "little"], &["big", "large"]];
const SIDES: &[&[&str]] = &[&["left", "leftmost"], &["right", "rightmost"], &["top"], &["bottom"]];
/// Position in a row counted from a side. Neither word means the outermost object, class 0.
const ORDINALS: &[&[&str]] = &[&[], &["second"], &["middle"]];
/// How the target relates to another object, the anchor. The words between the two.
const RELATIONS: [&str; 5] =
    [" to the left of the ", " to the right of the ", " above the ", " below the ", " closest to the "];

impl Facts {
    /// Number of facts.
    pub(super) const N: usize = 9;

    /// Names of the facts: the target's looks, its place, its relation to the anchor, the anchor's looks.
    pub(super) const NAMES: [&str; Self::N] = [
        "category",
        "colour",
        "texture",
        "size",
        "side",
        "ordinal",
        "relation",
        "anchor_category",
        "anchor_colour",
    ];

    /// Number of classes of each fact.
    ///
    /// - n_categories: number of classes of a category
    pub(super) fn n_classes(n_categories: i64) -> [i64; Self::N] {
        let of = |words: &[&[&str]]| words.len() as i64;
        [
            n_categories,
            of(COLOURS),
            of(TEXTURES),
            of(SIZES),
            of(SIDES),
            of(ORDINALS),
            RELATIONS.len() as i64,
            n_categories,
            of(COLOURS),
        ]
    }

    /// The facts of a sentence.
    ///
    /// - categories: category ids by name
    pub(super) fn of(sentence: &str, categories: &BTreeMap<&str, i64>) -> Self {
        let relation = RELATIONS.iter().position(|words| sentence.contains(words));
        let (target, anchor) = match relation.and_then(|index| sentence.split_once(RELATIONS[index])) {
            Some((target, anchor)) => (target, Some(anchor)),
            None => (sentence, None),
        };
        let category = |text: &str| text.split_whitespace().find_map(|word| categories.get(word).copied());
        // Relations name sides as well, but in the words between target and anchor.
        let (side, ordinal) = (class(target, SIDES), class(target, ORDINALS));
        let is_placed = side.is_some() || ordinal.is_some();
        Self([
            category(target),
            class(target, COLOURS),
            class(target, TEXTURES),
            class(target, SIZES),
            side,
            is_placed.then(|| ordinal.unwrap_or(0)),
            relation.map(|index| index as i64),
            anchor.and_then(category),
            anchor.and_then(|anchor| class(anchor, COLOURS)),
        ])
    }
}

/// Index of the first class one of whose words a text holds.
fn class(text: &str, words: &[&[&str]]) -> Option<i64> {
    let holds = |known: &&&[&str]| text.split_whitespace().any(|word| known.contains(&word));
    words.iter().enumerate().find(|(_, known)| holds(known)).map(|(index, _)| index as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(sentence: &str) -> BTreeMap<&'static str, i64> {
        let categories = BTreeMap::from([("circle", 1), ("star", 4)]);
        let facts = Facts::of(sentence, &categories);
        Facts::NAMES.into_iter().zip(facts.0).filter_map(|(name, class)| Some((name, class?))).collect()
    }

    #[test]
    fn looks_and_places_by_hand() {
        assert_eq!(named("red one with stripes"), BTreeMap::from([("colour", 0), ("texture", 1)]));
        assert_eq!(
            named("second large star from the right"),
            BTreeMap::from([("category", 4), ("size", 1), ("side", 1), ("ordinal", 1)])
        );
        assert_eq!(named("middle circle"), BTreeMap::from([("category", 1), ("ordinal", 2)]));
        assert_eq!(named("one at the top"), BTreeMap::from([("side", 2), ("ordinal", 0)]));
        assert_eq!(named("biggest star"), BTreeMap::from([("category", 4)]));
    }

    #[test]
    fn target_and_anchor_are_kept_apart() {
        assert_eq!(
            named("the one that is to the left of the small blue circle"),
            BTreeMap::from([("relation", 0), ("anchor_category", 1), ("anchor_colour", 2)])
        );
        assert_eq!(
            named("the white star closest to the one with dots"),
            BTreeMap::from([("category", 4), ("colour", 6), ("relation", 4)])
        );
        assert_eq!(
            named("the big circle above the star"),
            BTreeMap::from([("category", 1), ("size", 1), ("relation", 2), ("anchor_category", 4)])
        );
    }
}
