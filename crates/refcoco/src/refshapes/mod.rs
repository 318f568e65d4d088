//! RefShapes: synthetic scenes of coloured shapes with referring expressions, written in the REFER layout.
//!
//! Scenes hold three to six objects. Most objects share their category (shape) with another one, so that an expression cannot
//! be resolved by category alone. Expressions come in the three flavours of the RefCOCO family: location words allowed
//! (RefCOCO), appearance only (RefCOCO+), longer and relational (G-Ref). No expression is ambiguous.

mod draw;
mod expression;
mod scene;
mod write;

pub use expression::Flavour;
pub use write::{ensure, generate, generate_as};

use crate::error::{Error, Result};

/// Settings of the generator. The same settings always give the same files.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Seed of the RNG.
    pub seed: u64,
    /// Number of images in `train`.
    pub train_images: usize,
    /// Number of images in `val`.
    pub val_images: usize,
    /// Number of images in `testA`, made like `train` unless [`shifted_tests`](Self::shifted_tests) says otherwise.
    pub test_a_images: usize,
    /// Number of images in `testB`. Without `shifted_tests`, its scenes have `max_objects` objects, at least three of one category.
    pub test_b_images: usize,
    /// Minimum number of objects per scene.
    pub min_objects: usize,
    /// Maximum number of objects per scene.
    pub max_objects: usize,
    /// Maximum number of colours per scene; fewer make objects harder to tell apart.
    pub max_colours: usize,
    /// Largest fraction of an object that others may hide, 0 to 0.5.
    pub occlusion: f64,
    /// Minimum number of objects of a scene's main category, outside of `testB`.
    pub same_category: usize,
    /// Maximum number of objects of a scene's main category, limited by the number of objects. In `testB`, values below 3 count
    /// as 3.
    pub same_category_at_most: usize,
    /// Number of strokes and specks in the background.
    pub clutter: usize,
    /// Factor on the area of objects.
    pub object_scale: f64,
    /// Shifted tests. Eight pairs of colour and shape, one per colour, are held out of `train`, `val` and `testA`, and every ref of
    /// `testB` is an object of such a pair, in scenes otherwise like those of `train`. Scenes of `testA` have one object more than
    /// `max_objects`, all or all but one of them of the main category.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shifted_tests: bool,
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
            shifted_tests: false,
        }
    }
}

/// Maximum number of images, all splits together; file names have no room for more.
const MAX_IMAGES: usize = 10_000_000;

impl Settings {
    /// Settings of a generated data set by name; `None` for any other data set.
    ///
    /// - `refshapes`: the default
    /// - `refshapes_nta`: for the study of non-target activation. Every scene has three to five objects of the main category in
    ///   few colours, so that locations and relations must decide
    /// - `refshapes_shifted`: the same with [shifted tests](Self::shifted_tests)
    /// - `refshapes_pretrain`: scenes for pretraining the encoders. They are drawn from another seed, so no scene is shared
    ///   with the others
    pub fn named(name: &str) -> Option<Self> {
        let default = Self::default();
        // Objects large enough for a small encoder to learn their categories.
        let large = Self { object_scale: 1.7, clutter: 6, ..default.clone() };
        let nta = Self {
            seed: 20_001,
            train_images: 2500,
            val_images: 150,
            test_a_images: 150,
            min_objects: 4,
            max_colours: 4,
            same_category: 3,
            same_category_at_most: 5,
            ..large.clone()
        };
        match name {
            "refshapes" => Some(default),
            "refshapes_nta" => Some(nta),
            "refshapes_shifted" => {
                Some(Self { seed: 30_011, test_b_images: 150, shifted_tests: true, ..nta })
            }
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
            !self.shifted_tests || self.max_objects <= 6,
            "with shifted_tests, max_objects must be at most 6: testA has one object more",
        )?;
        check(
            !self.shifted_tests || self.max_colours > 1,
            "with shifted_tests, max_colours must be at least 2",
        )?;
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
