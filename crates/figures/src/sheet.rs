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
    fn words(self) -> (&'static str, [u8; 3]) {
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
        "image; prediction (red outline); ground truth (green outline)",
        GAP,
        5,
        15.0,
        WIDTH - 2 * GAP,
        [110; 3],
    );
    let mut y = CAPTION + GAP;
    for Line { rows, height } in lines {
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
            x += block + 2 * GAP;
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
    if let Some((words, colour)) = row.verdict.map(SheetVerdict::words) {
        sheet.text(words, x + left, y + 3, 15.0, width.saturating_sub(left), colour);
        left += 9 + words.len() * 7;
    }
    let expression = format!("\u{201c}{}\u{201d}", row.expression);
    sheet.text(&expression, x + left, y + 3, 15.0, width.saturating_sub(left), [20; 3]);
}

/// Expressions beside each other, their pictures scaled to one height.
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

/// Fills lines with expressions, and scales the pictures of each so that it ends at the edge.
fn lines_of(rows: &[SheetRow]) -> Vec<Line<'_>> {
    let gaps = |n: usize| GAP * (4 * n - 2 + 2);
    let width = |rows: &[&SheetRow], height: usize| -> usize {
        rows.iter().map(|row| 3 * cell_width(row, height)).sum::<usize>() + gaps(rows.len())
    };
    let mut lines: Vec<Line<'_>> = Vec::new();
    let mut open: Vec<&SheetRow> = Vec::new();
    for row in rows {
        open.push(row);
        if width(&open, CELL) >= WIDTH {
            // The largest height at which the line fits.
            let height = (1..=CELL).rev().find(|&height| width(&open, height) <= WIDTH).unwrap_or(1);
            lines.push(Line { rows: std::mem::take(&mut open), height });
        }
    }
    if !open.is_empty() {
        let height = lines.last().map_or(CELL, |line| line.height.max(CELL / 2));
        lines.push(Line { rows: open, height });
    }
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
        for line in &lines[..lines.len() - 1] {
            let widths = line.rows.iter().map(|row| 3 * cell_width(row, line.height)).sum::<usize>();
            let width = widths + GAP * 4 * line.rows.len();
            assert!((WIDTH - 12..=WIDTH).contains(&width), "{width}");
        }
        assert_eq!(contact_sheet(&rows).width(), WIDTH);
        assert_eq!(contact_sheet(&[]).width(), WIDTH);
    }
}
