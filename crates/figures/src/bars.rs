use std::path::Path;

use plotters::prelude::*;

use crate::Error;
use crate::chart::{Area, COLOURS, Chart, Drawn, GRID, LETTERS, TITLE, number, save, svg};

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

/// One bar chart: for each class a bar of each series, from 0 on.
#[derive(Debug, Clone)]
pub struct BarPanel {
    /// Title above the chart.
    pub title: String,
    /// Label below the x axis.
    pub x_label: String,
    /// Label below each group of bars.
    pub classes: Vec<String>,
    /// Series of bars.
    pub series: Vec<Bars>,
}

/// Draws bar charts side by side into a PNG file, and beside it into an SVG file of the same name.
///
/// # Errors
/// When a file cannot be written.
pub fn bars(path: &Path, panels: &[BarPanel]) -> Result<(), Error> {
    save(path, panels)
}

/// [`bars`] as an SVG document.
///
/// # Errors
/// When the plotting library fails.
pub fn bars_svg(panels: &[BarPanel]) -> Result<String, Error> {
    svg(panels)
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

impl Chart for BarPanel {
    fn legend(&self, _: bool) -> Vec<(String, RGBColor)> {
        self.series
            .iter()
            .zip(COLOURS.iter().cycle())
            .map(|(bars, colour)| (bars.name.clone(), *colour))
            .collect()
    }

    fn size(&self, _: usize) -> (u32, u32) {
        (520, 380)
    }

    fn draw(&self, area: &Area<'_>, _: usize) -> Drawn {
        let highest = self.series.iter().flat_map(Bars::ends).fold(0.0, f64::max);
        let n_classes = self.classes.len().max(1);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", TITLE))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(48)
            .build_cartesian_2d(-0.5..n_classes as f64 - 0.5, 0.0..(1.08 * highest).max(1e-9))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .label_style(("sans-serif", LETTERS))
            .x_labels(2 * n_classes + 1)
            .x_label_formatter(&|x| self.class_at(*x))
            .y_label_formatter(&|value| number(*value))
            .x_desc(&self.x_label)
            .draw()?;
        let width = FILLED / self.series.len().max(1) as f64;
        let left = |index: usize, class: usize| class as f64 - FILLED / 2.0 + index as f64 * width;
        for (index, (bars, colour)) in self.series.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let finite = bars.values.iter().enumerate().filter(|(_, value)| value.is_finite());
            chart.draw_series(finite.map(|(class, &value)| {
                let left = left(index, class);
                Rectangle::new([(left, 0.0), (left + width, value)], colour.filled())
            }))?;
            let middle = |class: usize| left(index, class) + 0.5 * width;
            let lines =
                bars.values.iter().zip(&bars.deviations).enumerate().filter(|(_, (value, deviation))| {
                    value.is_finite() && deviation.is_finite() && **deviation > 0.0
                });
            chart.draw_series(lines.map(|(class, (value, deviation))| {
                let points = [(middle(class), value - deviation), (middle(class), value + deviation)];
                PathElement::new(points, BLACK.stroke_width(2))
            }))?;
        }
        Ok(())
    }
}
