//! The encoders there are, by the names that configs call them. Adding one takes its file and a line here.

use serde::{Deserialize, Serialize};

use crate::clip_text::ClipText;
use crate::dinov2::Dinov2Registers;
use crate::image::ImageFamily;
use crate::text::TextFamily;

/// The image encoders there are.
pub static IMAGE_ENCODERS: &[&dyn ImageFamily] = &[&Dinov2Registers];

/// One of [`IMAGE_ENCODERS`], by its name where it is written down.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDesign(&'static dyn ImageFamily);

impl ImageDesign {
    /// The encoder that TALENT was published with.
    pub const PUBLISHED: Self = Self(&Dinov2Registers);
}

impl std::ops::Deref for ImageDesign {
    type Target = dyn ImageFamily;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl PartialEq for ImageDesign {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for ImageDesign {}

impl From<ImageDesign> for String {
    fn from(design: ImageDesign) -> Self {
        design.name().to_owned()
    }
}

impl TryFrom<String> for ImageDesign {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = IMAGE_ENCODERS.iter().find(|family| family.name() == name);
        found.map(|family| Self(*family)).ok_or_else(|| {
            let known: Vec<&str> = IMAGE_ENCODERS.iter().map(|family| family.name()).collect();
            format!("there is no image encoder `{name}`; there are {}", known.join(", "))
        })
    }
}

/// The text encoders there are.
pub static TEXT_ENCODERS: &[&dyn TextFamily] = &[&ClipText];

/// One of [`TEXT_ENCODERS`], by its name where it is written down.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TextDesign(&'static dyn TextFamily);

impl TextDesign {
    /// The encoder that TALENT was published with.
    pub const PUBLISHED: Self = Self(&ClipText);
}

impl std::ops::Deref for TextDesign {
    type Target = dyn TextFamily;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl PartialEq for TextDesign {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for TextDesign {}

impl From<TextDesign> for String {
    fn from(design: TextDesign) -> Self {
        design.name().to_owned()
    }
}

impl TryFrom<String> for TextDesign {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = TEXT_ENCODERS.iter().find(|family| family.name() == name);
        found.map(|family| Self(*family)).ok_or_else(|| {
            let known: Vec<&str> = TEXT_ENCODERS.iter().map(|family| family.name()).collect();
            format!("there is no text encoder `{name}`; there are {}", known.join(", "))
        })
    }
}
