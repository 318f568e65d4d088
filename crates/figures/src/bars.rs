use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Error;
use crate::curves::{COLOURS, panels_side_by_side};

/// One series of bars, drawn in one colour.
#[derive(Debug, Clone)]
pub struct Bars {
    /// Name in the legend.
    pub name: String,
    /// Height of the bar of each class; values that are not finite are left out.
    pub values: Vec<f64>,
    /// Error bar of each class: how far a line reaches above and below the bar's end; may be empty.
    pub deviations: Vec<f64>,
}

/// One bar chart: for each class a bar of each series.
#[derive(Debug, Clone)]
pub struct BarPanel {
    /// Title above the chart.
    pub title: String,
    /// Label below the x axis.
    pub x_label: String,
    /// Where the y axis starts; bars are cut off there.
    pub from: f64,
    /// Label below each group of bars.
    pub classes: Vec<String>,
    /// Series of bars.
    pub series: Vec<Bars>,
}

/// Draws bar charts side by side into a PNG file.
///
/// # Errors
/// When the file cannot be written.
pub fn bars(path: &Path, panels: &[BarPanel]) -> Result<(), Error> {
    panels_side_by_side(path, panels, draw)
}

/// Share of a class's width that its bars fill.
const FILLED: f64 = 0.8;

impl BarPanel {
    /// Name of the class whose bars are centred at `x`; empty if there is none.
    fn class_at(&self, x: f64) -> String {
        let nearest = x.round();
        let named = (nearest - x).abs() < 1e-6 && nearest >= 0.0;
        let name = named.then(|| self.classes.get(nearest as usize)).flatten();
        name.cloned().unwrap_or_default()
    }
}

impl Bars {
    /// Upper ends of the bars with their error bars; ends that are not finite are left out.
    fn ends(&self) -> impl Iterator<Item = f64> {
        let deviation = |class: usize| self.deviations.get(class).copied().unwrap_or(0.0);
        let ends = self.values.iter().enumerate().map(move |(class, value)| value + deviation(class));
        ends.filter(|value| value.is_finite())
    }
}

fn draw(
    area: &DrawingArea<BitMapBackend<'_>, Shift>,
    panel: &BarPanel,
) -> Result<(), Box<dyn std::error::Error>> {
    let highest = panel.series.iter().flat_map(Bars::ends).fold(panel.from, f64::max);
    let top = highest + 0.08 * (highest - panel.from);
    let n_classes = panel.classes.len().max(1);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(-0.5..n_classes as f64 - 0.5, panel.from..top.max(panel.from + 1e-9))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(RGBColor(240, 240, 240))
        .label_style(("sans-serif", 14))
        .x_labels(2 * n_classes + 1)
        .x_label_formatter(&|x| panel.class_at(*x))
        .x_desc(&panel.x_label)
        .draw()?;
    let width = FILLED / panel.series.len().max(1) as f64;
    let left = |index: usize, class: usize| class as f64 - FILLED / 2.0 + index as f64 * width;
    for (index, bars) in panel.series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let rectangles =
            bars.values.iter().enumerate().filter(|(_, value)| value.is_finite()).map(|(class, &value)| {
                let left = left(index, class);
                Rectangle::new([(left, panel.from), (left + width, value)], colour.filled())
            });
        chart
            .draw_series(rectangles)?
            .label(&bars.name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
    }
    for (index, bars) in panel.series.iter().enumerate() {
        let middle = |class: usize| left(index, class) + 0.5 * width;
        let lines = bars.values.iter().zip(&bars.deviations).enumerate().filter(|(_, (value, deviation))| {
            value.is_finite() && deviation.is_finite() && **deviation > 0.0
        });
        chart.draw_series(lines.map(|(class, (value, deviation))| {
            let points = [(middle(class), value - deviation), (middle(class), value + deviation)];
            PathElement::new(points, BLACK.stroke_width(2))
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(("sans-serif", 15))
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    Ok(())
}
