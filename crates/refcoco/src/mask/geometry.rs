//! Bounding box and connected parts of a mask.

use super::Mask;

/// A box around pixels of an image, in COCO's order, in whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelBox {
    /// Column of the first pixel.
    pub x: usize,
    /// Row of the first pixel.
    pub y: usize,
    /// Width, at least 1.
    pub width: usize,
    /// Height, at least 1.
    pub height: usize,
}

impl PixelBox {
    /// `[x, y, width, height]`, as COCO writes boxes.
    pub fn xywh(self) -> [usize; 4] {
        [self.x, self.y, self.width, self.height]
    }

    /// Intersection over union of two boxes, 0 to 1.
    pub fn iou(self, other: Self) -> f64 {
        let overlap = |a: usize, n_a: usize, b: usize, n_b: usize| {
            (a + n_a).min(b + n_b).saturating_sub(a.max(b)) as f64
        };
        let intersection = overlap(self.x, self.width, other.x, other.width)
            * overlap(self.y, self.height, other.y, other.height);
        let area = |one: Self| one.width as f64 * one.height as f64;
        intersection / (area(self) + area(other) - intersection)
    }
}

impl Mask {
    /// The smallest box that holds the foreground; `None` for an empty mask.
    ///
    /// ```
    /// let mask = refcoco::Mask { width: 3, height: 2, data: vec![0, 0, 1, 0, 1, 1] };
    /// assert_eq!(mask.bounding_box().unwrap().xywh(), [1, 0, 2, 2]);
    /// ```
    pub fn bounding_box(&self) -> Option<PixelBox> {
        let rows = || self.data.chunks_exact(self.width.max(1));
        let y = rows().position(|row| row.contains(&1))?;
        let last = self.height - 1 - rows().rev().position(|row| row.contains(&1))?;
        let first_of = |row: &[u8]| row.iter().position(|&pixel| pixel != 0);
        let last_of = |row: &[u8]| row.iter().rposition(|&pixel| pixel != 0);
        let x = rows().filter_map(first_of).min()?;
        let right = rows().filter_map(last_of).max()?;
        Some(PixelBox { x, y, width: right + 1 - x, height: last + 1 - y })
    }

    /// Areas in pixels of the connected parts, largest first. Pixels that touch at a corner are connected.
    pub fn parts(&self) -> Vec<usize> {
        let mut labels = Runs::default();
        let mut above: Vec<Run> = Vec::new();
        for row in self.data.chunks_exact(self.width.max(1)) {
            let mut here = Vec::new();
            let (mut column, mut candidates) = (0, 0);
            for run in row.chunk_by(|a, b| a == b) {
                let (start, end) = (column, column + run.len());
                column = end;
                if run[0] == 0 {
                    continue;
                }
                let label = labels.add(run.len());
                // Runs above that end before this one starts cannot touch a later one either.
                while candidates < above.len() && above[candidates].end < start {
                    candidates += 1;
                }
                for other in above[candidates..].iter().take_while(|other| other.start <= end) {
                    labels.join(label, other.label);
                }
                here.push(Run { start, end, label });
            }
            above = here;
        }
        labels.areas()
    }
}

/// Foreground pixels of a row, from `start` to before `end`.
struct Run {
    start: usize,
    end: usize,
    label: usize,
}

/// Union-find over the labels of runs.
#[derive(Default)]
struct Runs {
    parent: Vec<usize>,
    area: Vec<usize>,
}

impl Runs {
    fn add(&mut self, area: usize) -> usize {
        self.parent.push(self.parent.len());
        self.area.push(area);
        self.parent.len() - 1
    }

    fn root(&mut self, mut label: usize) -> usize {
        while self.parent[label] != label {
            self.parent[label] = self.parent[self.parent[label]];
            label = self.parent[label];
        }
        label
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        if one != other {
            let (older, newer) = (one.min(other), one.max(other));
            self.parent[newer] = older;
            self.area[older] += self.area[newer];
        }
    }

    /// Areas of all sets, largest first.
    fn areas(self) -> Vec<usize> {
        let labels = self.parent.iter().enumerate();
        let mut areas: Vec<usize> =
            labels.filter(|(label, parent)| label == *parent).map(|(label, _)| self.area[label]).collect();
        areas.sort_unstable_by(|a, b| b.cmp(a));
        areas
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Mask {
        let data = rows.iter().flat_map(|row| row.bytes().map(|byte| u8::from(byte == b'#'))).collect();
        Mask { width: rows[0].len(), height: rows.len(), data }
    }

    #[test]
    fn parts_by_hand() {
        assert!(mask(&["....", "...."]).parts().is_empty());
        assert_eq!(mask(&["#...", ".#..", "...#"]).parts(), [2, 1]);
        // Two arms that meet at the bottom, a hole, and a ring around a dot.
        assert_eq!(mask(&["#.#.#", "#.#.#", "####.", "....#"]).parts(), [11]);
        assert_eq!(mask(&["#####", "#...#", "#.#.#", "#...#", "#####"]).parts(), [16, 1]);
    }

    #[test]
    fn boxes_by_hand() {
        assert_eq!(mask(&["...", "..."]).bounding_box(), None);
        let found = mask(&["....", ".#..", "..#.", "...."]).bounding_box().unwrap();
        assert_eq!(found.xywh(), [1, 1, 2, 2]);
        let other = PixelBox { x: 2, y: 2, width: 2, height: 2 };
        assert!((found.iou(other) - 1.0 / 7.0).abs() < 1e-12 && found.iou(found) == 1.0);
        assert_eq!(found.iou(PixelBox { x: 3, ..other }), 0.0);
    }

    #[test]
    fn parts_are_those_of_a_flood_fill() {
        let mut state = 1_u64;
        for size in 1..40_usize {
            let data = (0..size * 7).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                u8::from(state >> 61 < 3)
            });
            let mask = Mask { width: size, height: 7, data: data.collect() };
            let mut left = mask.data.clone();
            let mut areas = Vec::new();
            for start in 0..left.len() {
                let (mut stack, mut area) = (vec![start], 0);
                while let Some(at) = stack.pop() {
                    if std::mem::take(&mut left[at]) == 0 {
                        continue;
                    }
                    area += 1;
                    let (x, y) = ((at % size) as i64, (at / size) as i64);
                    for (dx, dy) in (-1..=1).flat_map(|dx| (-1..=1).map(move |dy| (dx, dy))) {
                        let (x, y) = (x + dx, y + dy);
                        if (0..size as i64).contains(&x) && (0..7).contains(&y) {
                            stack.push(y as usize * size + x as usize);
                        }
                    }
                }
                if area > 0 {
                    areas.push(area);
                }
            }
            areas.sort_unstable_by(|a: &usize, b| b.cmp(a));
            assert_eq!(mask.parts(), areas);
        }
    }
}
