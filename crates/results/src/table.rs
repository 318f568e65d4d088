//! A table that is written as text for a terminal, Markdown, LaTeX or HTML. Cells hold plain text; characters that are special
//! in a format are escaped when the table is written.

/// Format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFormat {
    /// Plain text, for a terminal.
    Text,
    /// Markdown.
    Markdown,
    /// LaTeX, with `booktabs`.
    Latex,
}

impl TableFormat {
    /// Escapes text for this format.
    pub fn escape(self, text: &str) -> String {
        // A row is one line, so line breaks become spaces.
        let line = text.replace("\r\n", " ").replace(['\n', '\r'], " ");
        match self {
            Self::Text => line,
            // Brackets alone are plain text, as in an interval; with `(` after `]` they would be a link.
            Self::Markdown => line.chars().map(markdown).collect::<String>().replace("](", "]\\("),
            Self::Latex => {
                let escaped: String = line.chars().map(latex).collect();
                // After the end of the previous row, `[` and `*` would be read as its argument.
                let guard = if escaped.starts_with(['[', '*']) { "{}" } else { "" };
                format!("{guard}{escaped}")
            }
        }
    }
}

fn markdown(letter: char) -> String {
    match letter {
        '\\' | '|' | '*' | '`' | '<' | '&' => format!("\\{letter}"),
        letter => letter.to_string(),
    }
}

fn latex(letter: char) -> String {
    match letter {
        '_' | '%' | '&' | '#' | '$' | '{' | '}' => format!("\\{letter}"),
        '\\' => "\\textbackslash{}".into(),
        '~' => "\\textasciitilde{}".into(),
        '^' => "\\textasciicircum{}".into(),
        '<' => "\\textless{}".into(),
        '>' => "\\textgreater{}".into(),
        '|' => "\\textbar{}".into(),
        '"' => "\\textquotedbl{}".into(),
        '±' => "$\\pm$".into(),
        letter => letter.to_string(),
    }
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    /// Whether it is the best of its column.
    is_best: bool,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_best: false }
    }

    pub(crate) fn marked(text: impl Into<String>, is_best: bool) -> Self {
        Self { text: text.into(), is_best }
    }

    fn format(&self, format: TableFormat) -> String {
        let text = format.escape(&self.text);
        match (self.is_best, format) {
            (false, _) => text,
            (true, TableFormat::Text) => format!("{text}*"),
            (true, TableFormat::Markdown) => format!("**{text}**"),
            (true, TableFormat::Latex) => format!("\\textbf{{{text}}}"),
        }
    }
}

/// A table: the first column is text, the others are numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) headings: Vec<String>,
    pub(crate) rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn format(&self, format: TableFormat) -> String {
        let headings: Vec<String> = self.headings.iter().map(|heading| format.escape(heading)).collect();
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|cell| cell.format(format)).collect()).collect();
        match format {
            TableFormat::Text => text(&headings, &rows),
            TableFormat::Markdown => {
                let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
                let rule = vec!["---".to_owned(); headings.len()];
                let lines = [line(&headings), line(&rule)];
                lines.into_iter().chain(rows.iter().map(|row| line(row))).collect::<Vec<_>>().join("\n")
            }
            TableFormat::Latex => {
                let columns = format!("l{}", "r".repeat(headings.len().saturating_sub(1)));
                let line = |cells: &[String]| format!("{} \\\\", cells.join(" & "));
                let body: Vec<String> = rows.iter().map(|row| line(row)).collect();
                format!(
                    "\\begin{{tabular}}{{{columns}}}\n\\toprule\n{}\n\\midrule\n{}\n\\bottomrule\n\\end{{tabular}}",
                    line(&headings),
                    body.join("\n")
                )
            }
        }
    }

    pub(crate) fn html(&self) -> String {
        let text = |text: &str| htmlize::escape_text(text).into_owned();
        let mut html = String::from("<table><tr>");
        html.extend(self.headings.iter().map(|heading| format!("<th>{}</th>", text(heading))));
        html.push_str("</tr>");
        for row in &self.rows {
            html.push_str("<tr>");
            html.extend(row.iter().map(|cell| match cell.is_best {
                true => format!("<td><b>{}</b></td>", text(&cell.text)),
                false => format!("<td>{}</td>", text(&cell.text)),
            }));
            html.push_str("</tr>");
        }
        html.push_str("</table>");
        html
    }
}

fn text(headings: &[String], rows: &[Vec<String>]) -> String {
    let lines = || std::iter::once(headings).chain(rows.iter().map(Vec::as_slice));
    let width = |column: usize| lines().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name with special characters of every format.
    const NASTY: &str = "[a|b] 50 % \\ ~ ^ _ & # $ {x} <b> | y\nz";

    fn table() -> Table {
        Table {
            headings: vec!["val (%)".into(), "mIoU".into()],
            rows: vec![
                vec![Cell::new(NASTY), Cell::marked("1.00 ± 0.50", true)],
                vec![Cell::new("**plain**"), Cell::new("-0.10 [-0.20, +0.00]")],
            ],
        }
    }

    #[test]
    fn latex_keeps_every_cell_in_its_place() {
        let tex = table().format(TableFormat::Latex);
        assert!(tex.contains("val (\\%) & mIoU \\\\"), "{tex}");
        assert!(
            tex.contains(
                "{}[a\\textbar{}b] 50 \\% \\textbackslash{} \\textasciitilde{} \\textasciicircum{} \\_ \\& \\# \\$ \\{x\\} \
                 \\textless{}b\\textgreater{} \\textbar{} y z & \\textbf{1.00 $\\pm$ 0.50} \\\\"
            ),
            "{tex}"
        );
        // Unescaped, a percent sign would comment out the rest of its line.
        assert!(tex.lines().all(|line| !line.replace("\\%", "").contains('%')), "{tex}");
        assert_eq!(tex.lines().count(), 8);
    }

    #[test]
    fn markdown_and_html_keep_their_columns() {
        let markdown = table().format(TableFormat::Markdown);
        let lines: Vec<&str> = markdown.lines().collect();
        assert_eq!(lines.len(), 4);
        // Bars that separate cells have no backslash before them.
        let bars = |line: &str| line.replace("\\\\", "").replace("\\|", "").matches('|').count();
        assert!(lines.iter().all(|line| bars(line) == 3), "{markdown}");
        assert!(lines[3].starts_with("| \\*\\*plain\\*\\* |"), "{markdown}");
        assert_eq!(TableFormat::Markdown.escape("[x](u) &lt; [-0.2, 0.1]"), "[x]\\(u) \\&lt; [-0.2, 0.1]");
        let html = table().html();
        assert_eq!((html.matches("<tr>").count(), html.matches("<td>").count()), (3, 4));
        assert!(html.contains("&lt;b&gt; | y") && html.contains("<td>**plain**</td>"), "{html}");
        assert!(html.contains("<b>1.00 ± 0.50</b>"), "{html}");
    }

    #[test]
    fn a_terminal_shows_a_line_a_row() {
        let lines = table().format(TableFormat::Text);
        assert_eq!(lines.lines().count(), 3);
        assert!(lines.lines().nth(1).is_some_and(|line| line.ends_with("1.00 ± 0.50*")), "{lines}");
    }
}
