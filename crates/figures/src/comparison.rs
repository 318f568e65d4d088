use crate::canvas::{Canvas, overlay};
use crate::sheet::{CAPTION, CELL, GAP, PREDICTED, SheetVerdict, TRUE};

/// One expression with the predictions of several models.
#[derive(Debug, Clone)]
pub struct ComparisonRow {
    /// The image.
    pub picture: Canvas,
    /// The expression.
    pub expression: String,
    /// Ground-truth mask, `height * width` bytes.
    pub target: Vec<u8>,
    /// What each model predicts.
    pub predictions: Vec<Compared>,
}

/// A model's prediction.
#[derive(Debug, Clone)]
pub struct Compared {
    /// Predicted mask, `height * width` bytes.
    pub mask: Vec<u8>,
    /// IoU with the ground truth, 0 to 1.
    pub iou: f64,
    /// As in [`SheetRow`](crate::SheetRow).
    pub verdict: Option<SheetVerdict>,
}

/// Width that several columns of expressions may take together.
const WIDTH: usize = 1380;

/// For each expression the ground truth, then each model's mask with the model's name above and the IoU below; in as many columns as
/// stand beside each other on a page.
pub fn comparison_sheet(models: &[String], rows: &[ComparisonRow]) -> Canvas {
    let n_cells = models.len() + 1;
    let block = n_cells * (CELL + GAP) + 2 * GAP;
    let n_columns = (WIDTH / block).clamp(1, rows.len().max(1));
    let lines: Vec<&[ComparisonRow]> = rows.chunks(n_columns).collect();
    // As high as the highest picture of the line.
    let heights: Vec<usize> =
        lines.iter().map(|line| line.iter().map(shown_height).max().unwrap_or(CELL)).collect();
    let frame = 2 * CAPTION + GAP;
    let whole: usize = heights.iter().map(|height| height + frame).sum();
    let mut sheet = Canvas::new(n_columns * block, whole + CAPTION, [250; 3]);
    for column in 0..n_columns {
        let titles = std::iter::once("ground truth").chain(models.iter().map(String::as_str));
        for (cell, title) in titles.enumerate() {
            sheet.text(title, column * block + GAP + cell * (CELL + GAP), 5, 15.0, CELL - GAP, [110; 3]);
        }
    }
    let mut y = CAPTION;
    for (line, height) in lines.into_iter().zip(heights) {
        for (column, row) in line.iter().enumerate() {
            draw(&mut sheet, row, (column * block + GAP, y), block - 3 * GAP);
        }
        y += height + frame;
    }
    sheet
}

/// Height of a picture that is fitted into a cell.
fn shown_height(row: &ComparisonRow) -> usize {
    let (width, height) = (row.picture.width().max(1), row.picture.height());
    (CELL * height / width).clamp(1, CELL)
}

/// Draws an expression, its ground truth and its predictions beside each other.
fn draw(sheet: &mut Canvas, row: &ComparisonRow, (x, y): (usize, usize), width: usize) {
    sheet.text(&format!("\u{201c}{}\u{201d}", row.expression), x, y + 3, 17.0, width, [20; 3]);
    let height = shown_height(row);
    let fitted = |mask: &[u8], colour| overlay(row.picture.clone(), mask, colour).fit(CELL, height);
    sheet.paste(&fitted(&row.target, TRUE), x, y + CAPTION);
    for (cell, Compared { mask, iou, verdict }) in (1..).zip(&row.predictions) {
        let (left, below) = (x + cell * (CELL + GAP), y + CAPTION + height + 2);
        sheet.paste(&fitted(mask, PREDICTED), left, y + CAPTION);
        sheet.text(&format!("IoU {iou:.2}"), left, below, 15.0, CELL, [90; 3]);
        if let Some((words, colour)) = verdict.map(SheetVerdict::words) {
            let short = words.trim_start_matches("NTA: ");
            sheet.text(
                if short == "none" { words } else { short },
                left + 62,
                below,
                15.0,
                CELL - 62,
                colour,
            );
        }
    }
}
