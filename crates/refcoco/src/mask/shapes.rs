//! Polygons painted one over another, as ReasonSeg's masks are made: with OpenCV's integer arithmetic (`polylines`, then
//! `fillPoly`), so the boundary belongs to a polygon. Equal to OpenCV to the pixel for polygons inside the image.

use serde_json::Value;

use super::Mask;
use crate::error::MaskError;

/// Bits behind the binary point of a crossing.
const SHIFT: u32 = 16;
/// Coordinates beyond this are refused: no image is that large, and walking their edges would take long.
const FARTHEST: f64 = 100_000.0;

/// Masks of a list of labelled polygons.
#[derive(Debug, Clone)]
pub(crate) struct Painted {
    /// Pixels of the target.
    pub(crate) target: Mask,
    /// Pixels that an evaluation leaves out.
    pub(crate) ignored: Mask,
}

/// Paints `[{"label": ..., "points": [[x, y], ...]}, ...]`, the largest first, so that a smaller polygon lies on top. A label with
/// "ignore" in it marks pixels to leave out, the label "flag" marks nothing, every other one the target.
///
/// # Errors
/// [`MaskError::Polygon`] names the shape by its place.
pub(crate) fn paint(width: usize, height: usize, shapes: &[Value]) -> Result<Painted, MaskError> {
    let mut painted: Vec<(bool, Mask)> = Vec::new();
    for (index, shape) in shapes.iter().enumerate() {
        let fail = |what: &str| MaskError::Polygon(format!("shape {index} {what}"));
        let label = shape.get("label").and_then(Value::as_str).ok_or_else(|| fail("has no label"))?;
        let label = label.to_lowercase();
        if label == "flag" {
            continue;
        }
        let points = points(shape).ok_or_else(|| fail("needs `points`, a list of [x, y] in pixels"))?;
        let mut mask = Mask::zeros(width, height);
        fill(&mut mask, &points);
        painted.push((label.contains("ignore"), mask));
    }
    painted.sort_by_key(|(_, mask)| std::cmp::Reverse(mask.area()));
    let (mut target, mut ignored) = (Mask::zeros(width, height), Mask::zeros(width, height));
    for (is_ignored, mask) in painted {
        let (to, from) = if is_ignored { (&mut ignored, &mut target) } else { (&mut target, &mut ignored) };
        for ((to, from), &inside) in to.data.iter_mut().zip(&mut from.data).zip(&mask.data) {
            if inside != 0 {
                (*to, *from) = (1, 0);
            }
        }
    }
    Ok(Painted { target, ignored })
}

/// The points of a shape, cut to whole pixels.
fn points(shape: &Value) -> Option<Vec<[i64; 2]>> {
    let number = |value: &Value| value.as_f64().filter(|number| number.abs() <= FARTHEST);
    let point = |value: &Value| match value.as_array().map(Vec::as_slice) {
        Some([x, y]) => Some([number(x)? as i64, number(y)? as i64]),
        _ => None,
    };
    let points: Option<Vec<[i64; 2]>> = shape.get("points")?.as_array()?.iter().map(point).collect();
    points.filter(|points| !points.is_empty())
}

fn fill(mask: &mut Mask, points: &[[i64; 2]]) {
    let edges: Vec<[[i64; 2]; 2]> = (0..points.len())
        .map(|index| [points[(index + points.len() - 1) % points.len()], points[index]])
        .collect();
    for [from, to] in &edges {
        draw_line(mask, *from, *to);
    }
    let rows = points.iter().map(|point| point[1]);
    let (top, bottom) = (rows.clone().min().unwrap_or(0), rows.max().unwrap_or(0));
    for y in top.max(0)..bottom.min(mask.height as i64) {
        let mut crossings: Vec<i64> = edges.iter().filter_map(|&edge| crossing(edge, y)).collect();
        crossings.sort_unstable();
        for pair in crossings.as_chunks::<2>().0 {
            let (left, right) = ((pair[0] + (1 << SHIFT) - 1) >> SHIFT, pair[1] >> SHIFT);
            let (left, right) = (left.max(0), right.min(mask.width as i64 - 1));
            if left <= right {
                let row = y as usize * mask.width;
                mask.data[row + left as usize..=row + right as usize].fill(1);
            }
        }
    }
}

/// Where an edge crosses a row of pixels, with [`SHIFT`] bits behind the point.
fn crossing([mut from, mut to]: [[i64; 2]; 2], y: i64) -> Option<i64> {
    if from[1] > to[1] {
        (from, to) = (to, from);
    }
    if !(from[1]..to[1]).contains(&y) {
        return None;
    }
    // Division truncates, as C's does.
    let slope = ((to[0] - from[0]) << SHIFT) / (to[1] - from[1]);
    Some((from[0] << SHIFT) + slope * (y - from[1]))
}

/// Bresenham's line, walked from left to right.
fn draw_line(mask: &mut Mask, from: [i64; 2], to: [i64; 2]) {
    let ([mut x, mut y], end) = if to[0] < from[0] { (to, from) } else { (from, to) };
    let (dx, dy) = (end[0] - x, end[1] - y);
    let down = dy.signum();
    let is_steep = dy.abs() > dx;
    let (major, minor) = if is_steep { (dy.abs(), dx) } else { (dx, dy.abs()) };
    let mut error = major - 2 * minor;
    for _ in 0..=major {
        if (0..mask.width as i64).contains(&x) && (0..mask.height as i64).contains(&y) {
            mask.data[y as usize * mask.width + x as usize] = 1;
        }
        let both = error < 0;
        error += if both { 2 * major } else { 0 } - 2 * minor;
        x += i64::from(both || !is_steep);
        y += if both || is_steep { down } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(mask: &Mask) -> Vec<String> {
        let row = |row: &[u8]| row.iter().map(|&inside| if inside == 0 { '.' } else { '#' }).collect();
        mask.data.chunks(mask.width).map(row).collect()
    }

    /// The expected pixels are those of OpenCV 5.0.
    #[test]
    fn polygons_are_opencv_s() {
        let shapes = [json!({"label": "target", "points": [[1.9, 0.5], [8, 2], [3, 6], [4, 3]]})];
        let painted = paint(10, 8, &shapes).unwrap();
        assert_eq!(rows(&painted.target), OPENCV);
    }

    const OPENCV: [&str; 8] = [
        ".##.......",
        "..#####...",
        "...######.",
        "....####..",
        "....###...",
        "...##.....",
        "...#......",
        "..........",
    ];

    #[test]
    fn the_smaller_polygon_lies_on_top_and_flags_are_nothing() {
        let square = |from: i64, to: i64| json!([[from, from], [to, from], [to, to], [from, to]]);
        let shapes = [
            json!({"label": "target", "points": square(3, 4)}),
            json!({"label": "Ignore it", "points": square(1, 6)}),
            json!({"label": "target", "points": square(0, 7)}),
            json!({"label": "Flag", "points": square(0, 9)}),
        ];
        let Painted { target, ignored } = paint(10, 10, &shapes).unwrap();
        assert_eq!((target.area(), ignored.area()), (64 - 36 + 4, 36 - 4));
        let far = [json!({"label": "target", "points": [[1e18, 0], [0, 1]]})];
        assert!(paint(4, 4, &far).unwrap_err().to_string().contains("shape 0"));
    }
}
