use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::escape::escape;

/// Standard output could not be written.
#[derive(Debug)]
pub struct OutputLost(pub std::io::Error);

impl std::fmt::Display for OutputLost {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "standard output: {}", self.0)
    }
}

impl std::error::Error for OutputLost {}

static LOST: Mutex<Option<std::io::Error>> = Mutex::new(None);
static ACCEPTED: AtomicBool = AtomicBool::new(false);

/// Implements [`errln!`](crate::errln).
pub fn print_to_stderr(line: Arguments<'_>) {
    let text = format!("{line}\n");
    let _ = std::io::stderr().lock().write_all(escape(&text).as_bytes());
}

/// Implements [`outln!`](crate::outln).
pub fn print_to_stdout(line: Arguments<'_>) {
    let text = format!("{line}\n");
    note_failure(std::io::stdout().lock().write_all(escape(&text).as_bytes()));
}

fn note_failure(result: std::io::Result<()>) {
    if let (Err(error), Ok(mut lost)) = (result, LOST.lock()) {
        lost.get_or_insert(error);
    }
}

/// Allows standard output to be lost, for a command whose results are also in files.
pub fn accept_lost_output() {
    ACCEPTED.store(true, Ordering::Relaxed);
}

/// Flushes standard output and reports lost lines; call this when a program ends.
///
/// # Errors
/// When a line on standard output was lost. A closed pipe (`| head`) is not an error.
pub fn finish_output() -> Result<(), OutputLost> {
    note_failure(std::io::stdout().lock().flush());
    let lost = LOST.lock().ok().and_then(|mut lost| lost.take());
    match lost {
        Some(error) if error.kind() != ErrorKind::BrokenPipe && !ACCEPTED.load(Ordering::Relaxed) => {
            Err(OutputLost(error))
        }
        _ => Ok(()),
    }
}
