//! Turns panics into errors. tch panics on most errors of libtorch, including a device that is out of memory.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, anyhow};

/// Runs the program; a panic becomes an error with its message. With `RUST_BACKTRACE` set, the panic is also printed as usual.
///
/// # Errors
/// Returns the error of the program, or its panic.
pub fn as_errors<T>(program: impl FnOnce() -> Result<T>) -> Result<T> {
    if std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value == "0") {
        std::panic::set_hook(Box::new(|_| {}));
    }
    catch_unwind(AssertUnwindSafe(program)).unwrap_or_else(|panic| Err(anyhow!("{}", message(&*panic))))
}

/// The message of a panic, without the stack frames that libtorch appends to its errors.
pub fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without message");
    // tch unwraps its results, so the message is inside a debug representation.
    let (_, inner) = text.split_once("Torch(\"").unwrap_or(("", text));
    let end = inner.find("\\n").or_else(|| inner.find('\n')).unwrap_or(inner.len());
    let first = inner[..end].trim_end_matches("\")").replace("\\\"", "\"");
    if first.is_empty() { text.to_owned() } else { first }
}
