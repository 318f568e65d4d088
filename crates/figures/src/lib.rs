//! Pictures of runs, charts as SVG and PNG files, others as PNG files: [`curves`], [`bars`], [`dots`], mask [`overlay`]s, [`contact_sheet`]s and
//! [`comparison_sheet`]s.

mod bars;
mod canvas;
mod chart;
mod comparison;
mod curves;
mod dots;
mod fonts;
mod page;
mod raster;
mod sheet;

pub use bars::{BarPanel, Bars, bars, bars_svg};
pub use canvas::{Canvas, overlay, save_mask};
pub use comparison::{Compared, ComparisonRow, comparison_sheet};
pub use curves::{Panel, Series, curves, curves_svg};
pub use dots::{Dot, DotPanel, DotRow, dots, dots_svg};
pub use fonts::{missing_letters, missing_letters_note};
pub use page::{PAGE_STYLE, chart_html, picture_html};
pub use sheet::{SheetRow, SheetVerdict, contact_sheet};

/// Why a picture could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] whole_file::Error),
    /// The picture could not be encoded.
    #[error("{}: {source}", path.display())]
    Encode {
        /// The file.
        path: std::path::PathBuf,
        /// The encoder's reason.
        source: image::ImageError,
    },
    /// The plotting library failed.
    #[error("cannot draw: {0}")]
    Draw(String),
}
