//! What command-line programs print.
//!
//! [`errln!`] and [`outln!`] stand in the place of `eprintln!` and `println!`, which panic where nobody can read them any more
//! (a full disk, a pipe whose reader has gone, an ssh session that ended). Control characters from file names, keys and
//! expressions do not reach the terminal, see [`escape`].

mod escape;
mod print;
mod signals;

pub use escape::escape;
pub use print::{OutputLost, accept_lost_output, finish_output, print_to_stderr, print_to_stdout};
pub use signals::is_ignored;

/// A line on standard error: for people, and for logs. Where it cannot be written it is lost, and nothing else happens.
#[macro_export]
macro_rules! errln {
    ($($arg:tt)*) => { $crate::print_to_stderr(format_args!($($arg)*)) };
}

/// A line on standard output: what a command is asked for. A line that cannot be written is remembered, and
/// [`finish_output`] reports it when the program ends.
#[macro_export]
macro_rules! outln {
    ($($arg:tt)*) => { $crate::print_to_stdout(format_args!($($arg)*)) };
}
