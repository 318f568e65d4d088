//! RefShapes: synthetic scenes of coloured shapes with referring expressions, written in the REFER layout.
//!
//! Scenes hold three to six objects; most objects share their category (shape) with another one, so that an
//! expression cannot be answered by category alone. Expressions come in the three flavours of the RefCOCO family:
//! location words allowed (RefCOCO), appearance only (RefCOCO+), longer and relational (G-Ref). None is ambiguous.

mod draw;
mod expression;
mod scene;
mod write;

pub use expression::Flavour;
pub use write::{ensure, generate, generate_as};

use crate::error::{Error, Result};

/// What to generate. The same settings always give the same files.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Fixes everything.
    pub seed: u64,
    /// Images in `train`.
    pub train_images: usize,
    /// Images in `val`.
    pub val_images: usize,
    /// Images in `testA`, made like `train`.
    pub test_a_images: usize,
    /// Images in `testB`: as many objects as allowed, at least three of one category.
    pub test_b_images: usize,
    /// Objects per scene, at least.
    pub min_objects: usize,
    /// Objects per scene, at most.
    pub max_objects: usize,
    /// Colours per scene, at most; fewer make objects harder to tell apart.
    pub max_colours: usize,
    /// Largest share of an object that others may hide, 0 to 0.5.
    pub occlusion: f64,
    /// Objects of a scene's main category, at least, outside of `testB`.
    pub same_category: usize,
    /// Objects of a scene's main category, at most, if there are so many objects; in `testB` at least three anyway.
    pub same_category_at_most: usize,
    /// Strokes and specks in the background.
    pub clutter: usize,
    /// Factor on the objects' areas.
    pub object_scale: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            train_images: 4000,
            val_images: 120,
            test_a_images: 60,
            test_b_images: 60,
            min_objects: 3,
            max_objects: 6,
            max_colours: 6,
            occlusion: 0.2,
            same_category: 2,
            same_category_at_most: 3,
            clutter: 12,
            object_scale: 1.0,
        }
    }
}

/// File names have room for no more.
const MAX_IMAGES: usize = 10_000_000;

impl Settings {
    /// The settings of a generated data set, by its name; none for any other data set.
    ///
    /// - `refshapes`: the default
    /// - `refshapes_nta`: for the study of non-target activation: three to five objects of the main category in every
    ///   scene, in few colours, so that places and relations must decide
    /// - `refshapes_pretrain`: scenes that encoders are pretrained on. Another seed draws every scene, so it shares none
    ///   with the others
    pub fn named(name: &str) -> Option<Self> {
        let default = Self::default();
        // Objects of a size at which a small encoder can learn their categories.
        let large = Self { object_scale: 1.7, clutter: 6, ..default.clone() };
        match name {
            "refshapes" => Some(default),
            "refshapes_nta" => Some(Self {
                seed: 20_001,
                train_images: 2500,
                val_images: 150,
                test_a_images: 150,
                min_objects: 4,
                max_colours: 4,
                same_category: 3,
                same_category_at_most: 5,
                ..large
            }),
            "refshapes_pretrain" => Some(Self {
                seed: 10_007,
                train_images: 8000,
                val_images: 200,
                test_a_images: 1,
                test_b_images: 1,
                ..large
            }),
            _ => None,
        }
    }

    fn validate(&self) -> Result<()> {
        let check = |ok: bool, what: &str| if ok { Ok(()) } else { Err(Error::RefShapes(what.to_owned())) };
        check(self.train_images > 0 && self.val_images > 0, "train_images and val_images must be positive")?;
        let parts = [self.train_images, self.val_images, self.test_a_images, self.test_b_images];
        let total = parts.iter().try_fold(0_usize, |sum, &n| sum.checked_add(n));
        check(
            total.is_some_and(|total| total <= MAX_IMAGES),
            "there can be at most 10,000,000 images, all splits together",
        )?;
        check(self.min_objects >= 2, "min_objects must be at least 2")?;
        check(self.max_objects >= self.min_objects, "max_objects must not be below min_objects")?;
        check(self.max_objects <= 10, "max_objects must be at most 10")?;
        check(
            (1..=self.min_objects).contains(&self.same_category),
            "same_category must be at least 1 and at most min_objects",
        )?;
        check(
            self.same_category_at_most >= self.same_category,
            "same_category_at_most must not be below same_category",
        )?;
        check(self.clutter <= 1000, "clutter must be at most 1000")?;
        check((1..=8).contains(&self.max_colours), "max_colours must be 1 to 8")?;
        check((0.0..=0.5).contains(&self.occlusion), "occlusion must be 0 to 0.5")?;
        check((0.2..=2.0).contains(&self.object_scale), "object_scale must be 0.2 to 2")
    }
}
