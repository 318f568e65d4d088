//! Expressions that pick out exactly one object of a scene.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::scene::{Colour, Object, Scene, Shape, Size, Texture};

/// Style of an expression, after the data set that it imitates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flavour {
    /// RefCOCO: short, location words allowed.
    Location,
    /// RefCOCO+: appearance only.
    Appearance,
    /// G-Ref: longer, relates the object to another one.
    Relational,
}

/// An expression and its style.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Phrase {
    pub(super) text: String,
    pub(super) flavour: Flavour,
}

/// A partial description of an object. Attributes that are `None` are not mentioned.
#[derive(Debug, Clone, Copy, Default)]
struct Description {
    size: Option<Size>,
    texture: Option<Texture>,
    colour: Option<Colour>,
    shape: Option<Shape>,
}

impl Description {
    /// Describes an object by the attributes chosen by the bits of `choice`.
    fn of(object: &Object, choice: u8) -> Self {
        let wants = |bit: u8| choice >> bit & 1 == 1;
        Self {
            shape: wants(0).then_some(object.shape),
            colour: wants(1).then_some(object.colour),
            texture: wants(2).then_some(object.texture),
            size: wants(3).then_some(object.size),
        }
    }

    fn fits(&self, object: &Object) -> bool {
        self.size.is_none_or(|size| size == object.size)
            && self.texture.is_none_or(|texture| texture == object.texture)
            && self.colour.is_none_or(|colour| colour == object.colour)
            && self.shape.is_none_or(|shape| shape == object.shape)
    }

    fn words(&self, rng: &mut ChaCha8Rng) -> String {
        let size = self.size.map(|size| match (size, rng.random_bool(0.3)) {
            (Size::Big, true) => "large",
            (Size::Small, true) => "little",
            (size, false) => size.word(),
        });
        let late_texture = rng.random_bool(0.3);
        let (early, late) = match self.texture {
            Some(Texture::Striped) if late_texture => (None, Some("with stripes")),
            Some(Texture::Dotted) if late_texture => (None, Some("with dots")),
            texture => (texture.map(Texture::word), None),
        };
        let noun = self.shape.map_or("one", Shape::word);
        let words = [size, early, self.colour.map(Colour::word), Some(noun), late];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// Bit sets of attributes for [`Description::of`], mostly by number of words. Choice 0 would say only "one".
const CHOICES: [u8; 14] = [1, 2, 3, 5, 9, 6, 10, 12, 7, 11, 13, 14, 15, 4];

/// Minimum distance of two objects for a clear location word, as a fraction of the image's side.
const MIN_GAP: f64 = 0.07;
/// Minimum distance of the outermost object of a group from the next one, which must be visible at a glance.
const MIN_OUTERMOST_GAP: f64 = 0.15;

/// Maximum number of words per expression, so that it fits into 17 tokens ("hexagon" takes two).
const MAX_WORDS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
    Top,
    Bottom,
}

impl Side {
    const ALL: [Self; 4] = [Self::Left, Self::Right, Self::Top, Self::Bottom];

    /// Position of an object along the direction of this side, as a fraction of the image's side.
    fn towards(self, scene: &Scene, object: &Object) -> f64 {
        let [x, y] = [object.seen_at[0] / scene.width as f64, object.seen_at[1] / scene.height as f64];
        match self {
            Self::Left => -x,
            Self::Right => x,
            Self::Top => -y,
            Self::Bottom => y,
        }
    }
}

/// Up to `n` different expressions for an object, of mixed flavours. May be fewer, or none.
pub(super) fn phrases(scene: &Scene, target: usize, n: usize, rng: &mut ChaCha8Rng) -> Vec<Phrase> {
    let mut flavours = vec![Flavour::Location, Flavour::Appearance];
    flavours.shuffle(rng);
    // Relational expressions are the hardest to learn from, so they come first only with probability 0.3.
    let relational_at = if rng.random_bool(0.3) { 0 } else { 2 };
    flavours.insert(relational_at, Flavour::Relational);
    let mut phrases: Vec<Phrase> = Vec::new();
    for round in 0..6 {
        for &flavour in &flavours {
            if phrases.len() == n {
                return phrases;
            }
            let candidates = match flavour {
                Flavour::Location => location(scene, target, rng),
                Flavour::Appearance => appearance(scene, target, rng),
                Flavour::Relational => relational(scene, target, rng),
            };
            let short: Vec<&String> =
                candidates.iter().filter(|text| text.split_whitespace().count() <= MAX_WORDS).collect();
            let Some(&text) = short.choose(rng) else { continue };
            let fresh = phrases.iter().all(|phrase| phrase.text != *text);
            // One of each flavour first; a flavour repeats only from round 2 on.
            let first_of_flavour = phrases.iter().all(|phrase| phrase.flavour != flavour);
            if fresh && (first_of_flavour || round >= 2) {
                phrases.push(Phrase { text: text.clone(), flavour });
            }
        }
    }
    phrases
}

fn fitting<'a>(scene: &'a Scene, description: &Description) -> Vec<&'a Object> {
    scene.objects.iter().filter(|object| description.fits(object)).collect()
}

/// The `n` shortest descriptions that fit only the target. The longer ones say more than necessary, as people do.
fn unique_descriptions(scene: &Scene, target: usize, n: usize) -> Vec<Description> {
    let object = &scene.objects[target];
    let all = CHOICES.iter().map(|&choice| Description::of(object, choice));
    all.filter(|description| fitting(scene, description).len() == 1).take(n).collect()
}

fn appearance(scene: &Scene, target: usize, rng: &mut ChaCha8Rng) -> Vec<String> {
    let object = &scene.objects[target];
    let mut texts: Vec<String> =
        unique_descriptions(scene, target, 6).iter().map(|description| description.words(rng)).collect();
    for choice in [1, 3] {
        let description = Description::of(object, choice);
        let rivals: Vec<f64> = fitting(scene, &description)
            .iter()
            .filter(|other| !std::ptr::eq(**other, object))
            .map(|other| other.area)
            .collect();
        if !rivals.is_empty() {
            let words = description.words(rng);
            if rivals.iter().all(|area| object.area > area * 1.4) {
                texts.push(format!("biggest {words}"));
            }
            if rivals.iter().all(|area| object.area * 1.4 < *area) {
                texts.push(format!("smallest {words}"));
            }
        }
    }
    texts
}

fn location(scene: &Scene, target: usize, rng: &mut ChaCha8Rng) -> Vec<String> {
    let object = &scene.objects[target];
    let mut texts = Vec::new();
    for choice in [1, 3, 5, 9, 2] {
        let description = Description::of(object, choice);
        let group = fitting(scene, &description);
        if group.len() < 2 {
            continue;
        }
        let words = description.words(rng);
        for side in Side::ALL {
            // The group sorted from this side inwards.
            let mut depth: Vec<(f64, bool)> = group
                .iter()
                .map(|other| (side.towards(scene, other), std::ptr::eq(*other, object)))
                .collect();
            depth.sort_by(|a, b| b.0.total_cmp(&a.0));
            let gap = |index: usize| depth[index].0 - depth[index + 1].0;
            if depth[0].1 && gap(0) > MIN_OUTERMOST_GAP {
                texts.extend(extreme(side, &words));
            }
            if depth.len() >= 3 && depth[1].1 && gap(0) > MIN_GAP && gap(1) > MIN_GAP {
                match side {
                    Side::Left => texts.push(format!("second {words} from the left")),
                    Side::Right => texts.push(format!("second {words} from the right")),
                    _ => {}
                }
                if depth.len() == 3 && side == Side::Left {
                    texts.push(format!("middle {words}"));
                }
            }
        }
    }
    texts
}

fn extreme(side: Side, words: &str) -> Vec<String> {
    match side {
        Side::Left => {
            vec![format!("left {words}"), format!("leftmost {words}"), format!("{words} on the left")]
        }
        Side::Right => {
            vec![format!("right {words}"), format!("rightmost {words}"), format!("{words} on the right")]
        }
        Side::Top => vec![format!("top {words}"), format!("{words} at the top")],
        Side::Bottom => vec![format!("bottom {words}"), format!("{words} at the bottom")],
    }
}

fn relational(scene: &Scene, target: usize, rng: &mut ChaCha8Rng) -> Vec<String> {
    let object = &scene.objects[target];
    let mut texts = Vec::new();
    for anchor in (0..scene.objects.len()).filter(|&index| index != target) {
        let Some(anchor_description) = unique_descriptions(scene, anchor, 3).choose(rng).copied() else {
            continue;
        };
        let anchor_object = &scene.objects[anchor];
        for choice in [1, 3, 9, 5] {
            let description = Description::of(object, choice);
            let rivals: Vec<&Object> = fitting(scene, &description)
                .into_iter()
                .filter(|other| !std::ptr::eq(*other, object) && !std::ptr::eq(*other, anchor_object))
                .collect();
            let (words, reference) = (description.words(rng), anchor_description.words(rng));
            for side in Side::ALL {
                let beyond = |other: &Object| side.towards(scene, other) - side.towards(scene, anchor_object);
                if beyond(object) > MIN_GAP && rivals.iter().all(|rival| beyond(rival) < -MIN_GAP) {
                    let relation = match side {
                        Side::Left => "to the left of",
                        Side::Right => "to the right of",
                        Side::Top => "above",
                        Side::Bottom => "below",
                    };
                    let link = if rng.random_bool(0.4) { "that is " } else { "" };
                    texts.push(format!("the {words} {link}{relation} the {reference}"));
                }
            }
            let distance = |other: &Object| {
                (other.seen_at[0] - anchor_object.seen_at[0])
                    .hypot(other.seen_at[1] - anchor_object.seen_at[1])
            };
            if !rivals.is_empty() && rivals.iter().all(|rival| distance(rival) > 1.4 * distance(object)) {
                texts.push(format!("the {words} closest to the {reference}"));
            }
        }
    }
    texts
}
