//! Downloads data sets and pretrained encoders: checked, resumable, from several sources in turn.
//!
//! What there is to fetch stands in a table, [`Table`], whose shipped form is `sources.toml`. A file is downloaded to `NAME.part`, gets its
//! name when its size, checksum and kind are right, and is otherwise thrown away: nothing half-written is ever taken for whole. Checksums
//! that no source publishes are recorded at the first download in a [lock file](LOCK_FILE) and required from then on.
//!
//! - [`fetch`](fetch()) is the command; [`Needs`] is what a config needs
//! - only https is spoken, also after redirects; http is allowed with this machine itself

mod advice;
mod check;
mod client;
mod command;
mod disk;
mod download;
mod error;
mod list;
mod lock;
mod needs;
mod part;
mod place;
mod table;
mod unpack;

pub use advice::advice;
pub use check::sha256;
pub use command::{FetchArgs, fetch};
pub use download::Patience;
pub use error::{Error, Result};
pub use lock::{Entry, LOCK_FILE, Lock};
pub use place::{Fetcher, State};
pub use table::{Item, Needs, Places, Source, Table};
