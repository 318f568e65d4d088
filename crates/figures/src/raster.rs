//! Renders SVG, and text with the kerning and the ligatures of its font, in the writing direction of its script.

use std::sync::{Arc, OnceLock};

use resvg::{tiny_skia, usvg};

use crate::Error;
use crate::canvas::Canvas;
use crate::fonts::{BUILT_IN, has_built_in, has_letter};

/// Options with the compiled-in fonts alone, or also with those of the machine, whose search takes a moment.
fn options(with_machine: bool) -> &'static usvg::Options<'static> {
    static OPTIONS: [OnceLock<usvg::Options<'static>>; 2] = [OnceLock::new(), OnceLock::new()];
    OPTIONS[usize::from(with_machine)].get_or_init(|| {
        let mut fonts = usvg::fontdb::Database::new();
        for bytes in BUILT_IN {
            fonts.load_font_data(bytes.to_vec());
        }
        let name = fonts.faces().next().and_then(|face| Some(face.families.first()?.0.clone()));
        if with_machine {
            fonts.load_system_fonts();
        }
        // Afterwards, since fontconfig also names a family.
        if let Some(name) = name {
            fonts.set_sans_serif_family(name);
        }
        usvg::Options { fontdb: Arc::new(fonts), ..usvg::Options::default() }
    })
}

/// The fonts of the machine and the compiled-in ones.
pub(crate) fn machine_fonts() -> &'static usvg::fontdb::Database {
    &options(true).fontdb
}

fn options_for(text: &str) -> &'static usvg::Options<'static> {
    options(!text.chars().all(has_built_in))
}

fn pixels(svg: &str, width_limit: u32) -> Result<tiny_skia::Pixmap, Error> {
    let tree = usvg::Tree::from_str(svg, options_for(svg)).map_err(|error| Error::Draw(error.to_string()))?;
    let size = tree.size().to_int_size();
    let mut pixmap = tiny_skia::Pixmap::new(size.width().min(width_limit), size.height())
        .ok_or_else(|| Error::Draw("the picture has no size".into()))?;
    resvg::render(&tree, tiny_skia::Transform::identity(), &mut pixmap.as_mut());
    Ok(pixmap)
}

/// Renders an SVG document on white.
pub(crate) fn render(svg: &str) -> Result<Canvas, Error> {
    let pixmap = pixels(svg, u32::MAX)?;
    let rgb = pixmap.pixels().iter().flat_map(|pixel| {
        let white = 255 - pixel.alpha();
        // Colours are premultiplied by alpha.
        [pixel.red() + white, pixel.green() + white, pixel.blue() + white]
    });
    Ok(Canvas::from_rgb(pixmap.width() as usize, pixmap.height() as usize, rgb.collect()))
}

/// One line of text: how much of each pixel it covers, 0 to 255.
pub(crate) struct Line {
    pub(crate) width: usize,
    /// `width` bytes a row.
    pub(crate) coverage: Vec<u8>,
}

/// Draws a line of text with letters of a size. A text that is wider than `width` ends in an ellipsis. A letter that no font has is
/// written as `\u{...}`. `None` where nothing can be drawn.
pub(crate) fn line_of_text(text: &str, size: f32, width: usize) -> Option<Line> {
    // No letter of a readable text is narrower than a sixth of its size; more of them cannot fit.
    let most = (6.0 * width as f32 / size) as usize + 2;
    let letters: Vec<char> = text.chars().take(most).collect();
    let whole = drawn(&letters.iter().collect::<String>(), size, width + ROOM)?;
    if letters.len() < most && end_of(&whole) <= width {
        return Some(whole.narrowed(width));
    }
    let cut = |n: usize| -> Option<Line> {
        let shown: String = letters[..n].iter().collect();
        drawn(&format!("{}\u{2026}", shown.trim_end()), size, width + ROOM)
    };
    let (mut fits, mut too_wide) = (0, letters.len());
    while too_wide - fits > 1 {
        let middle = (fits + too_wide) / 2;
        match cut(middle).is_some_and(|line| end_of(&line) <= width) {
            true => fits = middle,
            false => too_wide = middle,
        }
    }
    cut(fits).map(|line| line.narrowed(width))
}

/// Pixels beyond the width in which a text that is too wide shows.
const ROOM: usize = 8;

/// Column behind the last that a line covers.
fn end_of(line: &Line) -> usize {
    let covers = |x: &usize| line.coverage.iter().skip(*x).step_by(line.width).any(|&share| share > 0);
    (0..line.width).rev().find(covers).map_or(0, |x| x + 1)
}

impl Line {
    /// The left part of the line.
    fn narrowed(self, width: usize) -> Self {
        let rows = self.coverage.chunks_exact(self.width);
        Self {
            coverage: rows.flat_map(|row| row[..width.min(row.len())].iter().copied()).collect(),
            width: width.min(self.width),
        }
    }
}

/// Draws a line of text, cut off at a width.
fn drawn(text: &str, size: f32, width: usize) -> Option<Line> {
    let shown: String = text
        .chars()
        .flat_map(|letter| match has_letter(letter) {
            true => vec![if letter.is_control() { ' ' } else { letter }],
            false => letter.escape_unicode().collect(),
        })
        .collect();
    let height = (size * 1.4).ceil() as usize;
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\"><text x=\"0\" y=\"{}\" \
         font-family=\"sans-serif\" font-size=\"{size}\" xml:space=\"preserve\">{}</text></svg>",
        size * 0.95,
        escape(&shown)
    );
    let pixmap = pixels(&svg, width as u32).ok()?;
    let coverage = pixmap.pixels().iter().map(|pixel| pixel.alpha()).collect();
    Some(Line { width: pixmap.width() as usize, coverage })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Column behind the last that text covers.
    fn end(text: &str) -> usize {
        end_of(&line_of_text(text, 40.0, 400).unwrap())
    }

    #[test]
    fn text_that_is_too_wide_ends_in_an_ellipsis() {
        let long = line_of_text("the small red square to the right", 40.0, 200).unwrap();
        assert_eq!(long.width, 200);
        // Three dots at the foot of the line: the last columns are empty above.
        let (end, height) = (end_of(&long), long.coverage.len() / long.width);
        let top = (0..height / 2).any(|y| long.coverage[y * long.width + end - 3] > 0);
        assert!(end > 120 && !top, "{end}");
        assert!(line_of_text(&"wide ".repeat(5000), 40.0, 100).is_some());
    }

    #[test]
    fn letters_are_kerned() {
        // Beside each other, A and V overlap.
        assert!(end("AVAVAV") + 6 < end("AAA") + end("VVV"), "{} {}", end("AVAVAV"), end("AAA") + end("VVV"));
        assert_eq!(end(""), 0);
        assert!(end("<&>") > 20);
        // Control characters would make the document invalid.
        assert!(end("a\u{1}b") > 10);
    }

    #[test]
    fn text_with_a_missing_letter_is_drawn_all_the_same() {
        // Looks for the letter in the fonts of the machine.
        assert!(end("ab\u{10fffd}") > end("ab") + 40);
    }

    #[test]
    fn pictures_are_rendered_on_white() {
        let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"2\" height=\"1\"><rect width=\"1\" height=\"1\" \
                   fill=\"#ff0000\"/></svg>";
        assert_eq!(render(svg).unwrap().rgb(), [255, 0, 0, 255, 255, 255]);
        assert!(render("<svg").is_err());
    }
}
