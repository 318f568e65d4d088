//! What all charts share: layout, colours, numbers on axes, legends, and writing as SVG and PNG.

use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::Error;
use crate::raster::render;

/// Part of a picture that is being drawn.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// The plotting library's errors.
pub(crate) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Colours that colour-blind people can tell apart (Okabe and Ito, Color universal design, 2008), without their yellow, which is
/// too light for thin lines; then three more for tables of many rows.
pub(crate) const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(110, 110, 110),
    RGBColor(120, 94, 240),
    RGBColor(139, 90, 43),
    RGBColor(150, 160, 20),
];
/// Lines behind the data.
pub(crate) const GRID: RGBColor = RGBColor(230, 230, 230);
/// A line that values are compared with.
pub(crate) const MARK: RGBColor = RGBColor(120, 120, 120);

/// Exchanges black, white and the grid's colour where the reader prefers dark pages. Browsers follow it; the PNG is light.
const DARK: &str = "<style>@media (prefers-color-scheme: dark){\
[fill=\"#FFFFFF\"]{fill:#16181c}[fill=\"#000000\"]{fill:#e6e6e6}[stroke=\"#000000\"]{stroke:#e6e6e6}\
[stroke=\"#E6E6E6\"]{stroke:#33373d}[stroke=\"#787878\"]{stroke:#9a9a9a}}</style>";

/// Size of letters on axes and in legends, in pixels.
pub(crate) const LETTERS: u32 = 14;
/// Size of letters in titles.
pub(crate) const TITLE: u32 = 18;

/// A chart that is drawn beside others.
pub(crate) trait Chart {
    /// Names and colours of the legend; it stands to the right of the chart.
    ///
    /// - is_last: whether this is the rightmost chart
    fn legend(&self, is_last: bool) -> Vec<(String, RGBColor)>;

    /// Width without the legend, and height, in pixels.
    ///
    /// - place: number of charts to the left
    fn size(&self, place: usize) -> (u32, u32);

    /// Draws the chart.
    fn draw(&self, area: &Area<'_>, place: usize) -> Drawn;
}

/// Draws charts side by side as SVG.
pub(crate) fn svg(charts: &[impl Chart]) -> Result<String, Error> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // Fails only if the bytes are not a font.
        let _ = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
    let failed = |error: &dyn std::fmt::Display| Error::Draw(error.to_string());
    let legend = |place: usize| charts[place].legend(place + 1 == charts.len());
    let sizes: Vec<(u32, u32, u32)> = charts
        .iter()
        .enumerate()
        .map(|(place, chart)| {
            let (width, height) = chart.size(place);
            (width, legend_width(&legend(place)), height)
        })
        .collect();
    let width: u32 = sizes.iter().map(|(width, legend, _)| width + legend).sum();
    let height = sizes.iter().map(|(_, _, height)| *height).max().unwrap_or(0);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (width.max(1), height.max(1))).into_drawing_area();
        root.fill(&WHITE).map_err(|error| failed(&error))?;
        let mut left = 0;
        for (place, (chart, &(width, beside, _))) in charts.iter().zip(&sizes).enumerate() {
            let area = root.clone().shrink((left, 0), (width, height));
            chart.draw(&area, place).map_err(|error| failed(&error))?;
            let area = root.clone().shrink((left + width, 0), (beside, height));
            draw_legend(&area, &legend(place)).map_err(|error| failed(&error))?;
            left += width + beside;
        }
        root.present().map_err(|error| failed(&error))?;
    }
    // Behind the opening tag.
    let at = text.find('>').map_or(0, |at| at + 1);
    text.insert_str(at, DARK);
    Ok(text)
}

/// Draws charts side by side into a PNG file, and beside it into an SVG file of the same name.
pub(crate) fn save(path: &Path, charts: &[impl Chart]) -> Result<(), Error> {
    let named = |error| match error {
        Error::Draw(what) => Error::Draw(format!("{}: {what}", path.display())),
        other => other,
    };
    let text = svg(charts).map_err(named)?;
    render(&text).map_err(named)?.save(path)?;
    Ok(whole_file::write(&path.with_extension("svg"), text.as_bytes())?)
}

/// Approximate width of a text in pixels.
pub(crate) fn text_width(text: &str, size: u32) -> u32 {
    (text.chars().count() as f32 * size as f32 * 0.53).ceil() as u32
}

const LEGEND_LINE: u32 = 22;

fn legend_width(entries: &[(String, RGBColor)]) -> u32 {
    let longest = entries.iter().map(|(name, _)| text_width(name, LETTERS)).max();
    longest.map_or(0, |width| (width + 44).min(360))
}

fn draw_legend(area: &Area<'_>, entries: &[(String, RGBColor)]) -> Drawn {
    let style = ("sans-serif", LETTERS).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
    for (line, (name, colour)) in entries.iter().enumerate() {
        let y = (46 + LEGEND_LINE * line as u32) as i32;
        area.draw(&Rectangle::new([(6, y - 5), (22, y + 5)], colour.filled()))?;
        area.draw(&Text::new(name.clone(), (29, y), style.clone()))?;
    }
    Ok(())
}

/// A number as people write it: no zeros behind the decimal point, `2k` for thousands on long axes.
pub(crate) fn number(value: f64) -> String {
    let value = if value == 0.0 { 0.0 } else { value };
    let size = value.abs();
    if size >= 10_000.0 {
        return format!("{}k", number((value / 100.0).round() / 10.0));
    }
    if size > 0.0 && size < 1e-3 {
        return format!("{value:.0e}");
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// [`number`] for the ticks of an axis: as many digits as tell its ticks apart, and 0 where a sum of steps misses it by rounding. An
/// axis that counts, such as training steps, has no ticks between whole numbers.
pub(crate) fn tick(value: f64, axis: &std::ops::Range<f64>, counts: bool) -> String {
    let span = (axis.end - axis.start).abs();
    if value.abs() < 1e-6 * span {
        return "0".to_owned();
    }
    if counts && (value - value.round()).abs() > 1e-6 * span {
        return String::new();
    }
    // A few ticks stand in the span.
    let digits = (2.0 - span.log10().floor()).clamp(0.0, 9.0) as usize;
    if digits > 3 && value.abs() >= 1e-3 && value.abs() < 10_000.0 {
        let text = format!("{value:.digits$}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    number(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_can_be_told_apart() {
        assert_eq!(tick(-3e-17, &(-0.2..0.1), false), "0");
        let close = [4.431, 4.4312, 4.4314].map(|value| tick(value, &(4.431..4.4315), false));
        assert_eq!(close, ["4.431", "4.4312", "4.4314"]);
        let steps = [0.0, 0.5, 1.0].map(|value| tick(value, &(0.0..1.05), true));
        assert_eq!(steps, ["0", "", "1"]);
        assert_eq!(tick(12500.0, &(0.0..20000.0), true), "12.5k");
    }

    #[test]
    fn numbers_have_no_zeros_behind_the_point() {
        let written = [0.0, -0.0, 40.0, 2.5, -0.25, 1848.0, 12000.0, 12500.0, 1e-5].map(number);
        assert_eq!(written, ["0", "0", "40", "2.5", "-0.25", "1848", "12k", "12.5k", "1e-5"]);
    }
}
