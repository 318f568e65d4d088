use crate::canvas::{Canvas, overlay};
use crate::sheet::{CAPTION, CELL, GAP, PREDICTED, TRUE};

/// One expression with the predictions of several models.
#[derive(Debug, Clone)]
pub struct ComparisonRow {
    /// The image.
    pub picture: Canvas,
    /// The expression.
    pub expression: String,
    /// Ground-truth mask, `height * width` bytes.
    pub target: Vec<u8>,
    /// Predicted mask of each model, `height * width` bytes, and its IoU, 0 to 1.
    pub predictions: Vec<(Vec<u8>, f64)>,
}

/// Width that several columns of expressions may take together.
const WIDTH: usize = 1380;

/// For each expression the ground truth, then each model's mask with the model's name above and the IoU below; in as many columns as
/// stand beside each other on a page.
pub fn comparison_sheet(models: &[String], rows: &[ComparisonRow]) -> Canvas {
    let n_cells = models.len() + 1;
    let block = n_cells * (CELL + GAP) + 2 * GAP;
    let n_columns = (WIDTH / block).clamp(1, rows.len().max(1));
    let line = 2 * CAPTION + CELL + GAP;
    let n_lines = rows.len().div_ceil(n_columns);
    let mut sheet = Canvas::new(n_columns * block, n_lines * line + CAPTION, [250; 3]);
    for column in 0..n_columns {
        let titles = std::iter::once("ground truth").chain(models.iter().map(String::as_str));
        for (cell, title) in titles.enumerate() {
            sheet.text(title, column * block + GAP + cell * (CELL + GAP), 5, 15.0, CELL, [110; 3]);
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let (x, y) = (index % n_columns * block + GAP, CAPTION + index / n_columns * line);
        let whole = n_cells * (CELL + GAP) - GAP;
        sheet.text(&format!("\u{201c}{}\u{201d}", row.expression), x, y + 3, 17.0, whole, [20; 3]);
        sheet.paste(&overlay(row.picture.clone(), &row.target, TRUE).fit(CELL, CELL), x, y + CAPTION);
        for (cell, (mask, iou)) in (1..).zip(&row.predictions) {
            let left = x + cell * (CELL + GAP);
            let drawn = overlay(row.picture.clone(), mask, PREDICTED).fit(CELL, CELL);
            sheet.paste(&drawn, left, y + CAPTION);
            sheet.text(&format!("IoU {iou:.2}"), left, y + CAPTION + CELL + 2, 15.0, CELL, [90; 3]);
        }
    }
    sheet
}
