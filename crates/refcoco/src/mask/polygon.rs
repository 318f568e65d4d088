//! Fills polygons with the COCO tools' arithmetic, so that every boundary pixel agrees: vertices are rounded to a five-fold
//! grid, edges are walked with one point per grid step, and column crossings are sorted into run lengths.

use super::Mask;
use crate::error::MaskError;

const SCALE: f64 = 5.0;

pub(super) fn rasterise(width: usize, height: usize, polygons: &[Vec<f64>]) -> Result<Mask, MaskError> {
    if polygons.is_empty() {
        return Err(MaskError::Polygon("no parts".into()));
    }
    // Points and lines beside an outline enclose nothing; COCO's tools accept lines behind the first part.
    let any_outline = polygons.iter().any(|polygon| polygon.len() >= 6);
    for (index, polygon) in polygons.iter().enumerate() {
        let problem = match polygon.len() {
            0 => Some("is empty".to_owned()),
            n if n % 2 == 1 => Some(format!("has {n} coordinates, an odd number")),
            n if n < 6 && !any_outline => Some(format!("has only {} point(s)", n / 2)),
            _ if polygon.iter().any(|value| !value.is_finite()) => {
                Some("has a coordinate that is not finite".into())
            }
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(MaskError::Polygon(format!("part {index} {problem}")));
        }
    }
    let mut mask = Mask::zeros(width, height);
    for polygon in polygons.iter().filter(|polygon| polygon.len() >= 6) {
        let points: Vec<[f64; 2]> = polygon.chunks_exact(2).map(|point| [point[0], point[1]]).collect();
        fill(&mut mask, &clip_if_far(points, width, height));
    }
    Ok(mask)
}

/// Clips a polygon that reaches far outside the image, so that walking its edges stays short. Other polygons are unchanged:
/// clipping would move their boundary points.
fn clip_if_far(points: Vec<[f64; 2]>, width: usize, height: usize) -> Vec<[f64; 2]> {
    let limits = [8.0 * width as f64 + 64.0, 8.0 * height as f64 + 64.0];
    let far = points.iter().any(|point| (0..2).any(|axis| point[axis].abs() > limits[axis]));
    if !far {
        return points;
    }
    let mut points = points;
    for axis in 0..2 {
        for sign in [1.0, -1.0] {
            let inside = |point: &[f64; 2]| sign * point[axis] <= limits[axis];
            let mut kept = Vec::with_capacity(points.len() + 4);
            for (index, point) in points.iter().enumerate() {
                let previous = &points[(index + points.len() - 1) % points.len()];
                if inside(point) != inside(previous) {
                    let along = (sign * limits[axis] - previous[axis]) / (point[axis] - previous[axis]);
                    let mut crossing = [0, 1].map(|k| previous[k] + along * (point[k] - previous[k]));
                    crossing[axis] = sign * limits[axis];
                    kept.push(crossing);
                }
                if inside(point) {
                    kept.push(*point);
                }
            }
            points = kept;
        }
    }
    points
}

fn fill(mask: &mut Mask, points: &[[f64; 2]]) {
    let (width, height) = (mask.width as f64, mask.height as f64);
    let grid: Vec<[i64; 2]> =
        points.iter().map(|point| point.map(|value| (SCALE * value + 0.5) as i64)).collect();
    // Column-major positions where the fill toggles. Two toggles at one position cancel, so at most one per pixel counts.
    let mut toggles: Vec<usize> = Vec::new();
    let max_toggles = 2 * (mask.data.len() + 512);
    let mut before: Option<[i64; 2]> = None;
    for (index, &from) in grid.iter().enumerate() {
        walk_edge(from, grid[(index + 1) % grid.len()], |point| {
            let Some([u0, v0]) = before.replace(point) else { return };
            let [u1, v1] = point;
            if u0 == u1 {
                return;
            }
            let column = (if u1 < u0 { u1 } else { u1 - 1 }) as f64;
            let column = (column + 0.5) / SCALE - 0.5;
            if column.floor() != column || column < 0.0 || column > width - 1.0 {
                return;
            }
            let row = ((v0.min(v1) as f64 + 0.5) / SCALE - 0.5).clamp(0.0, height).ceil();
            toggles.push(column as usize * mask.height + row as usize);
            if toggles.len() > max_toggles {
                cancel_pairs(&mut toggles);
            }
        });
    }
    toggles.sort_unstable();
    for span in toggles.chunks(2) {
        let end = span.get(1).copied().unwrap_or(mask.width * mask.height);
        for position in span[0]..end {
            mask.data[position % mask.height * mask.width + position / mask.height] = 1;
        }
    }
}

/// Sorts the toggles and removes pairs at the same position.
fn cancel_pairs(toggles: &mut Vec<usize>) {
    toggles.sort_unstable();
    let odd = toggles.chunk_by(|a, b| a == b).filter(|same| same.len() % 2 == 1).map(|same| same[0]);
    *toggles = odd.collect();
}

/// Visits the grid points from one vertex to the next, both included, one per step along the longer axis.
fn walk_edge(from: [i64; 2], to: [i64; 2], mut visit: impl FnMut([i64; 2])) {
    let (dx, dy) = ((to[0] - from[0]).abs(), (to[1] - from[1]).abs());
    let (along, across) = if dx >= dy { (0, 1) } else { (1, 0) };
    let n = dx.max(dy);
    // Rounding starts from the end with the smaller coordinate, so that both directions give the same points.
    let flip = from[along] > to[along];
    let (start, end) = if flip { (to, from) } else { (from, to) };
    let slope = if n == 0 { 0.0 } else { (end[across] - start[across]) as f64 / n as f64 };
    for step in 0..=n {
        let t = if flip { n - step } else { step };
        let mut point = [0; 2];
        point[along] = start[along] + t;
        point[across] = (start[across] as f64 + slope * t as f64 + 0.5) as i64;
        visit(point);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(width: usize, height: usize, polygons: &[Vec<f64>]) -> usize {
        rasterise(width, height, polygons).unwrap().area()
    }

    #[test]
    fn an_axis_parallel_square_has_its_area() {
        assert_eq!(area(80, 60, &[vec![10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]), 400);
    }

    #[test]
    fn parts_are_united() {
        let square = vec![10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0];
        assert_eq!(area(80, 60, &[square.clone(), square]), 400);
    }

    #[test]
    fn polygons_are_clipped_to_the_image() {
        assert_eq!(area(80, 60, &[vec![-1e9, -1e9, 1e9, -1e9, 1e9, 1e9, -1e9, 1e9]]), 80 * 60);
        assert_eq!(area(80, 60, &[vec![100.0, 100.0, 120.0, 100.0, 120.0, 120.0]]), 0);
    }

    #[test]
    fn malformed_polygons_are_refused() {
        for polygons in
            [vec![], vec![vec![]], vec![vec![1.0, 2.0]], vec![vec![0.0, 0.0, 9.0, 9.0]], vec![vec![1.0; 7]]]
        {
            assert!(rasterise(8, 8, &polygons).is_err(), "{polygons:?}");
        }
        assert!(rasterise(8, 8, &[vec![f64::NAN, 0.0, 1.0, 1.0, 2.0, 0.0]]).is_err());
    }
}
