//! Printing for command-line programs.
//!
//! [`errln!`] and [`outln!`] replace `eprintln!` and `println!`, which panic when output cannot be written (a full disk, a pipe
//! whose reader has gone, an ssh session that ended). Control characters from file names, keys and expressions do not reach the
//! terminal, see [`escape`]. [`Processors`] says what slows a program down that starts now.

mod escape;
mod print;
mod processors;
mod signals;

pub use escape::escape;
pub use print::{OutputLost, accept_lost_output, finish_output, print_to_stderr, print_to_stdout};
pub use processors::Processors;
pub use signals::is_ignored;

/// Prints a line to standard error, for people and for logs. If the line cannot be written, it is silently lost.
#[macro_export]
macro_rules! errln {
    ($($arg:tt)*) => { $crate::print_to_stderr(format_args!($($arg)*)) };
}

/// Prints a line to standard output: the result of a command. If the line cannot be written, [`finish_output`] reports that
/// when the program ends.
#[macro_export]
macro_rules! outln {
    ($($arg:tt)*) => { $crate::print_to_stdout(format_args!($($arg)*)) };
}
