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
}

pub(crate) const CELL: usize = 176;
pub(crate) const CAPTION: usize = 24;
pub(crate) const GAP: usize = 6;
pub(crate) const PREDICTED: [u8; 3] = [230, 60, 40];
pub(crate) const TRUE: [u8; 3] = [40, 190, 80];

/// Image, prediction and ground truth side by side, with the expression above, two expressions per line.
pub fn contact_sheet(rows: &[SheetRow]) -> Canvas {
    let n_lines = rows.len().div_ceil(2).max(1);
    let block = 3 * CELL + 4 * GAP;
    let line = CAPTION + CELL + 2 * GAP;
    let mut sheet = Canvas::new(2 * block, n_lines * line + CAPTION, [250; 3]);
    for half in 0..2 {
        for (column, title) in ["image", "prediction", "ground truth"].iter().enumerate() {
            sheet.text(title, half * block + GAP + column * (CELL + GAP), 5, 15.0, CELL, [120; 3]);
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let (x, y) = (index % 2 * block + GAP, index / 2 * line + CAPTION);
        let caption = format!("\u{201c}{}\u{201d}   IoU {:.2}", row.expression, row.iou);
        sheet.text(&caption, x, y + 3, 17.0, block - 2 * GAP, [20; 3]);
        let cells = [
            row.picture.clone(),
            overlay(row.picture.clone(), &row.prediction, PREDICTED),
            overlay(row.picture.clone(), &row.target, TRUE),
        ];
        for (column, cell) in cells.iter().enumerate() {
            sheet.paste(&cell.fit(CELL, CELL), x + column * (CELL + GAP), y + CAPTION);
        }
    }
    sheet
}
