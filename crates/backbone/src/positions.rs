//! Resampling of the learned position table to another grid.

use serde::{Deserialize, Serialize};
use tch::{IndexOp, Kind, Tensor};

/// How a position table is resampled when the input's grid is not its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PositionRule {
    /// As TALENT runs the encoder, with the defaults of DINOv2's code: bicubic with a = -0.75, driven by the scale
    /// factor `(side + 0.1) / P`, no antialiasing (specification, section 4.2).
    Talent,
    /// As DINOv2's own configuration of the models with registers: bicubic with a = -0.5, driven by the size,
    /// antialiased.
    Dinov2,
}

/// Resamples a position table to a `side` x `side` grid. The class row stays; a table that fits already is used as it
/// is. Done in float32 whatever the table's dtype, as DINOv2 does.
///
/// - table: `[1, 1 + P * P, D]`, result `[1, 1 + side * side, D]`
pub fn resample_positions(table: &Tensor, side: i64, rule: PositionRule) -> Tensor {
    let (n, d) = (table.size()[1] - 1, table.size()[2]);
    if n == side * side {
        return table.shallow_clone();
    }
    let grid = (n as f64).sqrt().round() as i64;
    let map = table.i((.., 1.., ..)).reshape([1, grid, grid, d]).permute([0, 3, 1, 2]).to_kind(Kind::Float);
    let resampled = match rule {
        PositionRule::Talent => {
            let scale = (side as f64 + 0.1) / grid as f64;
            map.upsample_bicubic2d([side, side], false, scale, scale)
        }
        PositionRule::Dinov2 => map.internal_upsample_bicubic2d_aa([side, side], false, None, None),
    };
    let rows = resampled.permute([0, 2, 3, 1]).reshape([1, side * side, d]).to_kind(table.kind());
    Tensor::cat(&[table.i((.., ..1, ..)), rows], 1)
}
