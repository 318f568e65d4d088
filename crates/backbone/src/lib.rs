//! The encoders of TALENT: [`ImageEncoder`] (DINOv2 with registers) and [`TextEncoder`] (CLIP), each with small
//! adapters in some of its blocks. Parameter names are the official ones below `dinov2` and `txt_backbone`.

pub mod adapter;
mod clip_text;
mod dinov2;
mod positions;
mod stage;

pub use clip_text::{TextBlock, TextEncoder, TextEncoderConfig, TextOutput};
pub use dinov2::{Gate, ImageBlock, ImageEncoder, ImageEncoderConfig};
pub use positions::{PositionRule, resample_positions};
pub use stage::Stage;
