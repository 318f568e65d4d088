//! Charts and pictures inside HTML pages that stand alone.

use base64::Engine;

use crate::Error;
use crate::canvas::Canvas;

/// Style of a report: readable tables, light and dark as the reader prefers, charts and pictures as wide as the page allows.
pub const PAGE_STYLE: &str = ":root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1360px;padding:0 1em}\
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25em .6em;border-bottom:1px solid #8884;text-align:right;white-space:nowrap}\
td:first-child,th:first-child{text-align:left}img,svg{max-width:100%;height:auto;display:block;margin:1em 0}figure{margin:0;overflow-x:auto}figure svg{min-width:680px}\
summary{cursor:pointer;margin:.4em 0}\
details table{font-size:13px}details td:nth-child(-n+2){white-space:normal;min-width:9em}";

/// HTML of a chart, with a description for those who cannot see it.
///
/// - svg: a document of [`curves_svg`](crate::curves_svg) or one of its kin
pub fn chart_html(description: &str, svg: &str) -> String {
    // A document of its own names its language by an address; inside a page it needs none.
    let svg = svg.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "");
    format!("<figure role=\"img\" aria-label=\"{}\">{svg}</figure>", htmlize::escape_attribute(description))
}

/// HTML of a picture that the page itself holds, with a description for those who cannot see it.
///
/// # Errors
/// When the encoder fails.
pub fn picture_html(description: &str, picture: &Canvas) -> Result<String, Error> {
    let image = base64::engine::general_purpose::STANDARD.encode(picture.png()?);
    let description = htmlize::escape_attribute(description);
    Ok(format!("<img alt=\"{description}\" src=\"data:image/png;base64,{image}\">"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_from_elsewhere_and_descriptions_are_escaped() {
        let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>";
        let chart = chart_html("\"a\" & b", svg);
        assert!(!chart.contains("http") && chart.contains("&quot;a&quot; &amp; b"), "{chart}");
        let picture = picture_html("a", &Canvas::new(1, 1, [0; 3])).unwrap();
        assert!(picture.starts_with("<img alt=\"a\" src=\"data:image/png;base64,iVBOR"), "{picture}");
    }
}
