//! The encoders there are, by the names that configs call them. Adding one takes its file and a line here.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::clip_text::ClipText;
use crate::dinov2::{Dinov2, Dinov2Registers};
use crate::dinov3::Dinov3;
use crate::image::ImageFamily;
use crate::siglip_text::{SIGLIP, SIGLIP2};
use crate::text::TextFamily;

/// The image encoders there are.
pub static IMAGE_ENCODERS: &[&dyn ImageFamily] = &[&Dinov2Registers, &Dinov2, &Dinov3];

/// The text encoders there are.
pub static TEXT_ENCODERS: &[&dyn TextFamily] = &[&ClipText, &SIGLIP, &SIGLIP2];

/// One of [`IMAGE_ENCODERS`], by its name where it is written down.
pub type ImageDesign = Design<dyn ImageFamily>;

/// One of [`TEXT_ENCODERS`], by its name where it is written down.
pub type TextDesign = Design<dyn TextFamily>;

impl ImageDesign {
    /// The encoder that TALENT was published with.
    pub const PUBLISHED: Self = Self(&Dinov2Registers);
}

impl TextDesign {
    /// The encoder that TALENT was published with.
    pub const PUBLISHED: Self = Self(&ClipText);
}

/// A family of encoders that configs name.
pub trait Registered: 'static {
    /// What its encoders encode, `image` or `text`.
    const ENCODES: &'static str;

    /// All of them.
    fn all() -> &'static [&'static Self];

    /// What configs call this one.
    fn registered_name(&self) -> &'static str;
}

impl Registered for dyn ImageFamily {
    const ENCODES: &'static str = "image";

    fn all() -> &'static [&'static Self] {
        IMAGE_ENCODERS
    }

    fn registered_name(&self) -> &'static str {
        self.name()
    }
}

impl Registered for dyn TextFamily {
    const ENCODES: &'static str = "text";

    fn all() -> &'static [&'static Self] {
        TEXT_ENCODERS
    }

    fn registered_name(&self) -> &'static str {
        self.name()
    }
}

/// A registered encoder; serialised as its name.
#[derive(Serialize, Deserialize)]
#[serde(try_from = "String", into = "String", bound = "F: Registered")]
pub struct Design<F: Registered + ?Sized>(&'static F);

impl<F: Registered + ?Sized> Clone for Design<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Registered + ?Sized> Copy for Design<F> {}

impl<F: Registered + ?Sized> fmt::Debug for Design<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Design").field(&self.registered_name()).finish()
    }
}

impl<F: Registered + ?Sized> Deref for Design<F> {
    type Target = F;

    fn deref(&self) -> &F {
        self.0
    }
}

impl<F: Registered + ?Sized> PartialEq for Design<F> {
    fn eq(&self, other: &Self) -> bool {
        self.registered_name() == other.registered_name()
    }
}

impl<F: Registered + ?Sized> Eq for Design<F> {}

impl<F: Registered + ?Sized> From<Design<F>> for String {
    fn from(design: Design<F>) -> Self {
        design.registered_name().to_owned()
    }
}

impl<F: Registered + ?Sized> TryFrom<String> for Design<F> {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = F::all().iter().find(|family| family.registered_name() == name);
        found.map(|family| Self(*family)).ok_or_else(|| {
            let known: Vec<&str> = F::all().iter().map(|family| family.registered_name()).collect();
            format!("there is no {} encoder `{name}`; there are {}", F::ENCODES, known.join(", "))
        })
    }
}
