//! Resampling of the learned positional embedding (position table) to another grid.

use serde::{Deserialize, Serialize};
use tch::{IndexOp, Kind, Tensor};

use crate::image::Grid;

/// How a position table is resampled if the input's grid differs from the table's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PositionRule {
    /// As in the official TALENT code, which uses the defaults of DINOv2's code: bicubic with a = -0.75, source coordinates
    /// from the scale factor `(side + 0.1) / P`, no antialiasing (specification, section 4.2). DINOv2's own models without registers
    /// are configured so, too.
    Talent,
    /// As in DINOv2's own configuration of the models with registers: bicubic with a = -0.5, source coordinates from the output
    /// size, antialiased.
    Dinov2,
    /// As in the `transformers` library's DINOv2 without registers: bicubic with a = -0.75, source coordinates from the output size,
    /// no antialiasing.
    Plain,
}

/// Resamples a position table to a `side` x `side` grid. The row of the class token is kept. A table of this size is returned
/// unchanged. Computed in float32 for every dtype, as in DINOv2.
///
/// - table: `[1, 1 + P * P, D]`, result `[1, 1 + side * side, D]`
pub fn resample_positions(table: &Tensor, side: i64, rule: PositionRule) -> Tensor {
    resample_to(table, Grid::square(side), rule)
}

/// As [`resample_positions`], to any grid.
pub(crate) fn resample_to(table: &Tensor, to: Grid, rule: PositionRule) -> Tensor {
    let (n, d) = (table.size()[1] - 1, table.size()[2]);
    let grid = (n as f64).sqrt().round() as i64;
    let size = [to.rows, to.columns];
    if size == [grid, grid] {
        return table.shallow_clone();
    }
    let map = table.i((.., 1.., ..)).reshape([1, grid, grid, d]).permute([0, 3, 1, 2]).to_kind(Kind::Float);
    let resampled = match rule {
        PositionRule::Talent => {
            let [down, across] = size.map(|side| (side as f64 + 0.1) / grid as f64);
            map.upsample_bicubic2d(size, false, down, across)
        }
        PositionRule::Dinov2 => map.internal_upsample_bicubic2d_aa(size, false, None, None),
        PositionRule::Plain => map.upsample_bicubic2d(size, false, None, None),
    };
    let rows = resampled.permute([0, 2, 3, 1]).reshape([1, to.rows * to.columns, d]).to_kind(table.kind());
    Tensor::cat(&[table.i((.., ..1, ..)), rows], 1)
}
