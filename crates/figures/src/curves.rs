use std::path::Path;

use plotters::prelude::*;

use crate::Error;
use crate::chart::{Area, COLOURS, Chart, Drawn, GRID, LETTERS, TITLE, save, svg, tick};

/// One line of a plot.
#[derive(Debug, Clone)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points (x, y); points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// One plot.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Title above the plot.
    pub title: String,
    /// Label below the x axis.
    pub x_label: String,
    /// Lines of the plot.
    pub series: Vec<Series>,
}

/// Draws panels side by side into a PNG file, and beside it into an SVG file of the same name.
///
/// # Errors
/// When a file cannot be written.
pub fn curves(path: &Path, panels: &[Panel]) -> Result<(), Error> {
    save(path, panels)
}

/// Draws panels side by side as an SVG document.
///
/// # Errors
/// When the plotting library fails.
pub fn curves_svg(panels: &[Panel]) -> Result<String, Error> {
    svg(panels)
}

impl Series {
    fn finite(&self) -> Vec<(f64, f64)> {
        self.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    }
}

impl Chart for Panel {
    fn legend(&self, _: bool) -> Vec<(String, RGBColor)> {
        self.series
            .iter()
            .zip(COLOURS.iter().cycle())
            .map(|(series, colour)| (series.name.clone(), *colour))
            .collect()
    }

    fn size(&self, _: usize) -> (u32, u32) {
        (520, 380)
    }

    fn draw(&self, area: &Area<'_>, _: usize) -> Drawn {
        let all: Vec<(f64, f64)> = self.series.iter().flat_map(Series::finite).collect();
        let range = |values: &dyn Fn(&(f64, f64)) -> f64| {
            let low = all.iter().map(values).fold(f64::INFINITY, f64::min);
            let high = all.iter().map(values).fold(f64::NEG_INFINITY, f64::max);
            match high - low {
                span if span > 0.0 => low - 0.03 * span..high + 0.05 * span,
                // A single place in the middle; without any, the sum is not a tick.
                _ if low.is_finite() => low - 1.0..low + 1.0,
                _ => 0.0..1.0,
            }
        };
        let (across, up) = (range(&|point| point.0), range(&|point| point.1));
        let counts = all.iter().all(|point| point.0.fract() == 0.0);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", TITLE))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(across.clone(), up.clone())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .label_style(("sans-serif", LETTERS))
            .x_label_formatter(&|value| tick(*value, &across, counts))
            .y_label_formatter(&|value| tick(*value, &up, false))
            .x_desc(&self.x_label)
            .draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let points = series.finite();
            if points.len() <= 40 {
                chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
            }
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        }
        Ok(())
    }
}
