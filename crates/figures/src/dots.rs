use std::path::Path;

use plotters::prelude::*;

use crate::Error;
use crate::chart::{Area, COLOURS, Chart, Drawn, GRID, LETTERS, MARK, TITLE, number, save, svg, text_width};

/// A dot with its interval.
#[derive(Debug, Clone)]
pub struct Dot {
    /// Name on the left.
    pub name: String,
    /// Place of the dot; nothing is drawn if it is not finite.
    pub value: f64,
    /// Ends of the line through the dot.
    pub interval: Option<[f64; 2]>,
}

/// A chart of dots and intervals, one a row, from top to bottom.
#[derive(Debug, Clone)]
pub struct DotPanel {
    /// Title above the chart.
    pub title: String,
    /// Label below the x axis.
    pub x_label: String,
    /// A line that values are compared with, such as 0 for differences.
    pub mark: Option<f64>,
    /// The rows.
    pub dots: Vec<Dot>,
}

/// Draws charts of dots side by side into a PNG file, and beside it into an SVG file of the same name. Unlike the length of a bar, the
/// place of a dot can be read on an axis that does not start at 0. The rows are the same in all charts; their names stand beside the
/// first.
///
/// # Errors
/// When a file cannot be written.
pub fn dots(path: &Path, panels: &[DotPanel]) -> Result<(), Error> {
    save(path, panels)
}

/// [`dots`] as an SVG document.
///
/// # Errors
/// When the plotting library fails.
pub fn dots_svg(panels: &[DotPanel]) -> Result<String, Error> {
    svg(panels)
}

impl DotPanel {
    /// Width of the column of names.
    fn names_width(&self, place: usize) -> u32 {
        let longest = self.dots.iter().map(|dot| text_width(&dot.name, LETTERS)).max().unwrap_or(0);
        if place == 0 { (longest + 20).min(320) } else { 8 }
    }

    /// Name of the row at a height, rows counted from the top; empty between rows.
    fn name_at(&self, height: f64) -> String {
        let row = self.dots.len() as f64 - 1.0 - height;
        let is_row = (row.round() - row).abs() < 1e-6 && row > -0.5;
        let dot = is_row.then(|| self.dots.get(row.round() as usize)).flatten();
        dot.map(|dot| dot.name.clone()).unwrap_or_default()
    }

    /// Range of the x axis, a little wider than what it shows.
    fn range(&self) -> std::ops::Range<f64> {
        let ends = self
            .dots
            .iter()
            .flat_map(|dot| dot.interval.unwrap_or([dot.value; 2]).into_iter().chain([dot.value]));
        let shown: Vec<f64> = ends.chain(self.mark).filter(|value| value.is_finite()).collect();
        let (low, high) =
            (shown.iter().copied().fold(f64::MAX, f64::min), shown.iter().copied().fold(f64::MIN, f64::max));
        if low > high {
            return 0.0..1.0;
        }
        let room = 0.06 * (high - low).max(1e-3);
        low - room..high + room
    }
}

impl Chart for DotPanel {
    fn legend(&self) -> Vec<(String, RGBColor)> {
        Vec::new()
    }

    fn size(&self, place: usize) -> (u32, u32) {
        (350 + self.names_width(place), 96 + 30 * self.dots.len().max(1) as u32)
    }

    fn draw(&self, area: &Area<'_>, place: usize) -> Drawn {
        let n = self.dots.len().max(1);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", TITLE - 2))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(self.names_width(place))
            .build_cartesian_2d(self.range(), -0.6..n as f64 - 0.4)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .label_style(("sans-serif", LETTERS))
            // Heights at which a label could stand, whole numbers among them.
            .y_labels(2 * n + 1)
            .x_labels(6)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|height| if place == 0 { self.name_at(*height) } else { String::new() })
            .x_desc(&self.x_label)
            .draw()?;
        if let Some(mark) = self.mark {
            let line = [(mark, -0.6), (mark, n as f64 - 0.4)];
            chart.draw_series([PathElement::new(line, MARK.stroke_width(1))])?;
        }
        let colour = COLOURS[0];
        for (row, dot) in self.dots.iter().enumerate().filter(|(_, dot)| dot.value.is_finite()) {
            let height = (n - 1 - row) as f64;
            if let Some([low, high]) = dot.interval {
                let line = [(low, height), (high, height)];
                chart.draw_series([PathElement::new(line, colour.stroke_width(3))])?;
            }
            chart.draw_series([Circle::new((dot.value, height), 6, colour.filled())])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_count_from_the_top_and_everything_is_in_the_picture() {
        let dot = |name: &str, value, interval| Dot { name: name.to_owned(), value, interval };
        let panel = DotPanel {
            title: "difference".into(),
            x_label: "percent".into(),
            mark: Some(0.0),
            dots: vec![
                dot("first", -3.0, Some([-4.0, -2.0])),
                dot("none", f64::NAN, None),
                dot("last", 1.0, None),
            ],
        };
        let names: Vec<String> = [2.0, 1.0, 0.0, 0.5].map(|height| panel.name_at(height)).to_vec();
        assert_eq!(names, ["first", "none", "last", ""]);
        let range = panel.range();
        assert!(range.start < -4.0 && range.end > 1.0 && range.end < 2.0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dots.png");
        dots(&path, &[panel.clone(), DotPanel { dots: vec![], mark: None, ..panel }]).unwrap();
        assert!(std::fs::metadata(path).unwrap().len() > 1000);
    }
}
