use crate::canvas::{Canvas, overlay};

/// One expression of a contact sheet.
#[derive(Debug, Clone)]
pub struct SheetRow {
    /// The image.
    pub picture: Canvas,
    /// The expression.
    pub expression: String,
    /// Predicted mask, `height * width` bytes.
    pub prediction: Vec<u8>,
    /// Ground-truth mask, `height * width` bytes.
    pub target: Vec<u8>,
    /// IoU of prediction and ground truth, 0 to 1.
    pub iou: f64,
    /// What the prediction does with other objects of the category; `None` where there are none.
    pub verdict: Option<SheetVerdict>,
}

/// Whether a prediction lights up objects of the target's category that were not referred to (non-target activation, NTA).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SheetVerdict {
    /// None of them is covered.
    TargetAlone,
    /// One of them is covered as well.
    CoversAnother,
    /// One of them fits the prediction better than the target does.
    TakesAnother,
}

impl SheetVerdict {
    pub(crate) fn words(self) -> (&'static str, [u8; 3]) {
        match self {
            Self::TargetAlone => ("NTA: none", [0, 120, 90]),
            Self::CoversAnother => ("NTA: covers another", [180, 90, 0]),
            Self::TakesAnother => ("NTA: takes another", [190, 20, 20]),
        }
    }
}

pub(crate) const CELL: usize = 176;
pub(crate) const CAPTION: usize = 24;
pub(crate) const GAP: usize = 6;
pub(crate) const PREDICTED: [u8; 3] = [230, 60, 40];
pub(crate) const TRUE: [u8; 3] = [40, 190, 80];

/// Width of a contact sheet.
const WIDTH: usize = 1140;
const PAPER: [u8; 3] = [250; 3];

/// Image, prediction and ground truth of each expression beside each other, with the expression, the IoU and the verdict above. Lines
/// are filled from edge to edge, whatever shapes the images have.
pub fn contact_sheet(rows: &[SheetRow]) -> Canvas {
    let lines = lines_of(rows);
    let height: usize = lines.iter().map(|line| line.height + CAPTION + 2 * GAP).sum();
    let mut sheet = Canvas::new(WIDTH, height + CAPTION + GAP, PAPER);
    sheet.text(
        "image; prediction (red outline); ground truth (green outline). NTA: does the prediction light up another object of the category?",
        GAP,
        5,
        15.0,
        WIDTH - 2 * GAP,
        [110; 3],
    );
    let mut y = CAPTION + GAP;
    for Line { rows, height } in lines {
        // What whole pixels leave over goes between the expressions.
        let filled: usize = rows.iter().map(|row| 3 * cell_width(row, height) + 4 * GAP).sum();
        let spare = WIDTH.saturating_sub(filled) / rows.len().max(2).saturating_sub(1);
        let mut x = GAP;
        for row in rows {
            let width = cell_width(row, height);
            let block = 3 * width + 2 * GAP;
            caption(&mut sheet, row, (x, y), block);
            let cells = [
                row.picture.clone(),
                overlay(row.picture.clone(), &row.prediction, PREDICTED),
                overlay(row.picture.clone(), &row.target, TRUE),
            ];
            for (column, cell) in cells.iter().enumerate() {
                sheet.paste(&cell.fit(width, height), x + column * (width + GAP), y + CAPTION);
            }
            x += block + 2 * GAP + spare;
        }
        y += height + CAPTION + 2 * GAP;
    }
    sheet
}

/// Writes IoU and verdict, then what fits of the expression.
fn caption(sheet: &mut Canvas, row: &SheetRow, (x, y): (usize, usize), width: usize) {
    let iou = format!("IoU {:.2}", row.iou);
    sheet.text(&iou, x, y + 3, 15.0, width, [20; 3]);
    let mut left = 62;
    let (words, colour) = row.verdict.map_or(("no other of its category", [110; 3]), SheetVerdict::words);
    sheet.text(words, x + left, y + 3, 15.0, width.saturating_sub(left), colour);
    left += 9 + words.len() * 7;
    let expression = format!("\u{201c}{}\u{201d}", row.expression);
    sheet.text(&expression, x + left, y + 3, 15.0, width.saturating_sub(left), [20; 3]);
}

/// Expressions beside each other, their pictures scaled to one height.
#[derive(Debug)]
struct Line<'a> {
    rows: Vec<&'a SheetRow>,
    height: usize,
}

/// Width of a picture at a height.
fn cell_width(row: &SheetRow, height: usize) -> usize {
    let (width, own) = (row.picture.width(), row.picture.height().max(1));
    // At most 3 : 1, so that a panorama does not fill the sheet.
    ((width * height) as f64 / own as f64).round().clamp(1.0, 3.0 * height as f64) as usize
}

/// Deals expressions to lines, about as many to each and never one alone, and scales the pictures of each line so that it ends at the
/// edge.
fn lines_of(rows: &[SheetRow]) -> Vec<Line<'_>> {
    let width = |rows: &[SheetRow], height: usize| -> usize {
        let pictures: usize = rows.iter().map(|row| 3 * cell_width(row, height)).sum();
        pictures + 4 * GAP * rows.len()
    };
    let n_lines = width(rows, CELL).div_ceil(WIDTH).min(rows.len() / 2).max(1);
    let mut rest = rows;
    let mut lines = Vec::new();
    for line in 0..n_lines {
        let (own, behind) = rest.split_at(rest.len().div_ceil(n_lines - line));
        let fits = |height: &usize| width(own, *height) <= WIDTH;
        let height = (1..=2 * CELL).rev().find(fits).unwrap_or(1);
        lines.push(Line { rows: own.iter().collect(), height });
        rest = behind;
    }
    lines.retain(|line| !line.rows.is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(width: usize, height: usize) -> SheetRow {
        SheetRow {
            picture: Canvas::new(width, height, [9; 3]),
            expression: "the second zebra from the right".into(),
            prediction: vec![0; width * height],
            target: vec![1; width * height],
            iou: 0.5,
            verdict: Some(SheetVerdict::CoversAnother),
        }
    }

    #[test]
    fn lines_end_at_the_edge_whatever_the_shapes() {
        let rows: Vec<SheetRow> = [(40, 30), (30, 40), (90, 20), (30, 30), (200, 10)]
            .into_iter()
            .map(|(width, height)| row(width, height))
            .collect();
        let lines = lines_of(&rows);
        assert_eq!(lines.iter().map(|line| line.rows.len()).sum::<usize>(), rows.len());
        for line in &lines {
            let width = |height: usize| -> usize {
                let widths: usize = line.rows.iter().map(|row| 3 * cell_width(row, height)).sum();
                widths + GAP * 4 * line.rows.len()
            };
            let is_full = line.height == 2 * CELL || width(line.height + 1) > WIDTH;
            assert!(width(line.height) <= WIDTH && is_full);
        }
        assert_eq!(contact_sheet(&rows).width(), WIDTH);
        assert_eq!(contact_sheet(&[]).width(), WIDTH);
    }
}
