//! The linear layers of an encoder's blocks, by what they do and by what published files call them: the layers that low-rank
//! updates (LoRA) can change.

use serde::{Deserialize, Serialize};
use torch_ext::Rows;

/// What a linear layer of a block does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProjectionRole {
    /// The attention's queries.
    Query,
    /// The attention's keys.
    Key,
    /// The attention's values.
    Value,
    /// The attention's output.
    Output,
    /// The gate of a gated MLP, where it is a layer of its own.
    Gate,
    /// The MLP's first layer.
    Up,
    /// The MLP's last layer.
    Down,
}

impl ProjectionRole {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Its name in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::Output => "output",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// A linear layer of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Projection {
    /// What it does.
    pub role: ProjectionRole,
    /// Name of the layer below its block.
    pub layer: &'static str,
    /// Which of several equal blocks of the layer's rows it is, for packed layers; `None` for the whole layer.
    pub rows: Option<Rows>,
    /// Names of the module below its block in the `transformers` library, the current one first.
    pub published: &'static [&'static str],
}

/// The blocks of an encoder and their linear layers.
#[derive(Debug, Clone, Copy)]
pub struct Projections {
    /// Name in front of a block's number, below the encoder's prefix.
    pub blocks: &'static str,
    /// The same in the `transformers` library.
    pub published_blocks: &'static str,
    /// What stands in front of that in the library's model, which `peft` wraps.
    pub published_front: &'static str,
    /// What the names of the library's classes with these blocks begin with.
    pub published_classes: &'static [&'static str],
    /// Names that can stand in front of the blocks of another encoder, and never in front of these.
    pub foreign: &'static [&'static str],
    /// The layers of a block.
    pub layers: &'static [Projection],
}

impl Projection {
    pub(crate) const fn new(
        role: ProjectionRole,
        layer: &'static str,
        rows: Option<(usize, usize)>,
        published: &'static [&'static str],
    ) -> Self {
        let rows = match rows {
            Some((index, of)) => Some(Rows { index, of }),
            None => None,
        };
        Self { role, layer, rows, published }
    }
}

impl Projections {
    /// For encoders whose layers take no low-rank updates.
    pub const NONE: Self = Self {
        blocks: "",
        published_blocks: "",
        published_front: "",
        published_classes: &[],
        foreign: &[],
        layers: &[],
    };
}
