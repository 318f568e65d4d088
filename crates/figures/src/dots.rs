use std::path::Path;

use plotters::prelude::*;

use crate::Error;
use crate::chart::{Area, COLOURS, Chart, Drawn, GRID, LETTERS, MARK, TITLE, save, svg, text_width, tick};

/// A dot with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dot {
    /// Place of the dot; nothing is drawn if it is not finite.
    pub value: f64,
    /// Ends of the line through the dot.
    pub interval: Option<[f64; 2]>,
}

/// A row of dots.
#[derive(Debug, Clone)]
pub struct DotRow {
    /// Name on the left.
    pub name: String,
    /// A dot of each series.
    pub dots: Vec<Dot>,
}

/// A chart of dots and intervals in rows, from top to bottom.
#[derive(Debug, Clone)]
pub struct DotPanel {
    /// Title above the chart.
    pub title: String,
    /// Label below the x axis.
    pub x_label: String,
    /// A line that values are compared with, such as 0 for differences.
    pub mark: Option<f64>,
    /// Names of the series; they stand beside the last chart if there are several.
    pub series: Vec<String>,
    /// The rows.
    pub rows: Vec<DotRow>,
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
        let longest = self.rows.iter().map(|row| text_width(&row.name, LETTERS)).max().unwrap_or(0);
        if place == 0 { (longest + 20).min(320) } else { 8 }
    }

    /// Name of the row at a height, rows counted from the top; empty between rows.
    fn name_at(&self, height: f64) -> String {
        let row = self.rows.len() as f64 - 1.0 - height;
        let is_row = (row.round() - row).abs() < 1e-6 && row > -0.5;
        let row = is_row.then(|| self.rows.get(row.round() as usize)).flatten();
        row.map(|row| row.name.clone()).unwrap_or_default()
    }

    /// Range of the x axis, a little wider than what it shows.
    fn range(&self) -> std::ops::Range<f64> {
        let ends = self
            .rows
            .iter()
            .flat_map(|row| &row.dots)
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
    fn legend(&self, is_last: bool) -> Vec<(String, RGBColor)> {
        let shown = is_last && self.series.len() > 1;
        let entries = self.series.iter().cloned().zip(COLOURS.iter().copied().cycle());
        if shown { entries.collect() } else { Vec::new() }
    }

    fn size(&self, place: usize) -> (u32, u32) {
        let row = 18 + 12 * self.series.len().max(1) as u32;
        (350 + self.names_width(place), 96 + row * self.rows.len().max(1) as u32)
    }

    fn draw(&self, area: &Area<'_>, place: usize) -> Drawn {
        let n = self.rows.len().max(1);
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
            .x_label_formatter(&|value| tick(*value, &self.range(), false))
            .y_label_formatter(&|height| if place == 0 { self.name_at(*height) } else { String::new() })
            .x_desc(&self.x_label)
            .draw()?;
        if let Some(mark) = self.mark {
            let line = [(mark, -0.6), (mark, n as f64 - 0.4)];
            chart.draw_series([PathElement::new(line, MARK.stroke_width(1))])?;
        }
        // The dots of a row stand below each other.
        let n_series = self.rows.iter().map(|row| row.dots.len()).max().unwrap_or(1).max(1) as f64;
        for (line, row) in self.rows.iter().enumerate() {
            for (series, dot) in row.dots.iter().enumerate().filter(|(_, dot)| dot.value.is_finite()) {
                let offset = (0.5 * (n_series - 1.0) - series as f64) * 0.7 / n_series;
                let (height, colour) = ((n - 1 - line) as f64 + offset, COLOURS[series % COLOURS.len()]);
                if let Some([low, high]) = dot.interval {
                    let line = [(low, height), (high, height)];
                    chart.draw_series([PathElement::new(line, colour.stroke_width(3))])?;
                }
                chart.draw_series([Circle::new((dot.value, height), 5, colour.filled())])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_count_from_the_top_and_everything_is_in_the_picture() {
        let row = |name: &str, value, interval| DotRow {
            name: name.to_owned(),
            dots: vec![Dot { value, interval }, Dot { value: 0.5, interval: None }],
        };
        let panel = DotPanel {
            title: "difference".into(),
            x_label: "percent".into(),
            mark: Some(0.0),
            series: vec!["val".into(), "testA".into()],
            rows: vec![
                row("first", -3.0, Some([-4.0, -2.0])),
                row("none", f64::NAN, None),
                row("last", 1.0, None),
            ],
        };
        let names: Vec<String> = [2.0, 1.0, 0.0, 0.5].map(|height| panel.name_at(height)).to_vec();
        assert_eq!(names, ["first", "none", "last", ""]);
        let range = panel.range();
        assert!(range.start < -4.0 && range.end > 1.0 && range.end < 2.0);
        let empty = DotPanel { rows: vec![], mark: None, ..panel.clone() };
        let text = dots_svg(&[panel.clone(), empty]).unwrap();
        assert!(text.contains("first") && text.contains("testA") && text.contains("prefers-color-scheme"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dots.png");
        dots(&path, &[panel]).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() > 1000 && path.with_extension("svg").exists());
    }
}
