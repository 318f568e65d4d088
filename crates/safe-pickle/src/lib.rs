//! A reader for Python pickles (protocols 0 to 5, Python 2 and 3) that yields plain data: numbers, text,
//! bytes, lists, tuples, sets and dictionaries.
//!
//! A pickle is a program for a stack machine, and Python's own reader lets it call any function. This reader calls none. An
//! opcode that names a class or callable ends the reading with [`Error::Forbidden`]; for names that the caller allows
//! ([`parse_objects`]), it leaves an inert description instead. Values live in one flat arena and refer to each other by index.
//! There is no recursion, so neither deep nesting nor a value that contains itself can exhaust the stack. Memory stays in
//! proportion to the file, whatever lengths the file claims.
//!
//! ```
//! let document = safe_pickle::parse(b"\x80\x02]q\x00(K\x01X\x02\x00\x00\x00hie.").unwrap();
//! let items: Vec<_> = document.root().items().unwrap().collect();
//! assert_eq!(items[0].as_i64(), Some(1));
//! assert_eq!(items[1].as_str(), Some("hi"));
//! ```

mod error;
mod machine;
mod text;
mod value;
mod writer;

pub use error::Error;
pub use machine::{parse, parse_objects};
pub use value::{Document, Object, Value};
pub use writer::Writer;

/// The README's example is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
