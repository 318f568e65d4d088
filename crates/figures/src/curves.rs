use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::Error;

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

pub(crate) const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 69, 33),
    RGBColor(44, 140, 60),
    RGBColor(130, 80, 170),
    RGBColor(200, 150, 20),
    RGBColor(90, 90, 90),
];

/// Draws panels side by side into a PNG file.
///
/// # Errors
/// When the file cannot be written.
pub fn curves(path: &Path, panels: &[Panel]) -> Result<(), Error> {
    panels_side_by_side(path, panels, draw)
}

/// Draws panels side by side into a PNG file, 640 x 440 pixels each.
pub(crate) fn panels_side_by_side<P>(
    path: &Path,
    panels: &[P],
    draw: impl Fn(&DrawingArea<BitMapBackend<'_>, Shift>, &P) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<(), Error> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // Fails only if the bytes are not a font.
        let _ = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
    let failed = |error: &dyn std::fmt::Display| Error::Draw(format!("{}: {error}", path.display()));
    let size = (640 * panels.len().max(1) as u32, 440);
    let mut pixels = vec![255; (size.0 * size.1 * 3) as usize];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        root.fill(&WHITE).map_err(|error| failed(&error))?;
        for (area, panel) in root.split_evenly((1, panels.len().max(1))).iter().zip(panels) {
            draw(area, panel).map_err(|error| failed(&error))?;
        }
        root.present().map_err(|error| failed(&error))?;
    }
    crate::Canvas::from_rgb(size.0 as usize, size.1 as usize, pixels).save(path)
}

fn draw(
    area: &DrawingArea<BitMapBackend<'_>, Shift>,
    panel: &Panel,
) -> Result<(), Box<dyn std::error::Error>> {
    let finite = |series: &Series| -> Vec<(f64, f64)> {
        series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let all: Vec<(f64, f64)> = panel.series.iter().flat_map(finite).collect();
    let range = |values: &dyn Fn(&(f64, f64)) -> f64| {
        let low = all.iter().map(values).fold(f64::INFINITY, f64::min);
        let high = all.iter().map(values).fold(f64::NEG_INFINITY, f64::max);
        if low > high { 0.0..1.0 } else { low..(high + (high - low) * 0.05).max(low + 1e-9) }
    };
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(range(&|point| point.0), range(&|point| point.1))?;
    chart
        .configure_mesh()
        .light_line_style(RGBColor(240, 240, 240))
        .label_style(("sans-serif", 14))
        .x_desc(&panel.x_label)
        .draw()?;
    for (index, series) in panel.series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points = finite(series);
        if points.len() <= 40 {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
        }
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .label_font(("sans-serif", 15))
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    Ok(())
}
