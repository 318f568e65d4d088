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

/// One line per expression: the ground truth, then each model's mask with the model's name above and the IoU below.
pub fn comparison_sheet(models: &[String], rows: &[ComparisonRow]) -> Canvas {
    let n_columns = models.len() + 1;
    let line = 2 * CAPTION + CELL + GAP;
    let mut sheet = Canvas::new(n_columns * (CELL + GAP) + GAP, rows.len() * line + CAPTION, [250; 3]);
    let left = |column: usize| GAP + column * (CELL + GAP);
    let titles = std::iter::once("ground truth").chain(models.iter().map(String::as_str));
    for (column, title) in titles.enumerate() {
        sheet.text(title, left(column), 5, 15.0, CELL, [120; 3]);
    }
    for (index, row) in rows.iter().enumerate() {
        let y = CAPTION + index * line;
        let whole = n_columns * (CELL + GAP) - GAP;
        sheet.text(&format!("\u{201c}{}\u{201d}", row.expression), GAP, y + 3, 17.0, whole, [20; 3]);
        sheet.paste(&overlay(row.picture.clone(), &row.target, TRUE).fit(CELL, CELL), GAP, y + CAPTION);
        for (column, (mask, iou)) in (1..).zip(&row.predictions) {
            let cell = overlay(row.picture.clone(), mask, PREDICTED).fit(CELL, CELL);
            sheet.paste(&cell, left(column), y + CAPTION);
            sheet.text(&format!("IoU {iou:.2}"), left(column), y + CAPTION + CELL + 2, 15.0, CELL, [90; 3]);
        }
    }
    sheet
}
