//! Resampling of the learned positional embedding (position table) to another grid.

use serde::{Deserialize, Serialize};
use tch::{IndexOp, Kind, Tensor};

/// How a position table is resampled if the input's grid differs from the table's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PositionRule {
    /// As in the official TALENT code, which uses the defaults of DINOv2's code: bicubic with a = -0.75, source coordinates
    /// from the scale factor `(side + 0.1) / P`, no antialiasing (specification, section 4.2).
    Talent,
    /// As in DINOv2's own configuration of the models with registers: bicubic with a = -0.5, source coordinates from the output
    /// size, antialiased.
    Dinov2,
}

/// Resamples a position table to a `side` x `side` grid. The row of the class token is kept. A table of this size is returned
/// unchanged. Computed in float32 for every dtype, as in DINOv2.
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
