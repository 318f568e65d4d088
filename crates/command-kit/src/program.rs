//! Start and end of a program.

use std::ffi::OsString;

use anyhow::Result;
use clap::Parser;
use cli_kit::errln;

/// Parses a program's arguments. If they ask for help or are wrong, the program ends here.
pub fn parse<C: Parser>(args: impl IntoIterator<Item = OsString>) -> C {
    C::try_parse_from(args).unwrap_or_else(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        // The message repeats arguments, which may contain control characters, so it is printed with `errln!`.
        errln!("{}", error.render().to_string().trim_end());
        std::process::exit(error.exit_code())
    })
}

/// The exit code that a program ends with: that of `result` or, after an error, 1. An error and its causes are printed as one
/// line on standard error.
pub fn conclude(result: Result<std::process::ExitCode>) -> std::process::ExitCode {
    let finished = result.and_then(|code| Ok(cli_kit::finish_output().map(|()| code)?));
    finished.unwrap_or_else(|error| {
        errln!("error: {}", one_line(&error));
        std::process::ExitCode::FAILURE
    })
}

/// Whether a command that another program runs has succeeded. Its error is printed as [`conclude`] does.
pub fn succeeds(result: Result<()>) -> bool {
    let finished = result.and_then(|()| Ok(cli_kit::finish_output()?));
    finished.inspect_err(|error| errln!("error: {}", one_line(error))).is_ok()
}

/// An error and its causes in one line. A cause that is already part of the line is left out.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.contains(&cause) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&cause);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_error_is_one_line_that_says_everything_once() {
        let cause = anyhow::anyhow!("line 1 column 23");
        let error = cause.context("a.json: line 1 column 23").context("data set `x`");
        assert_eq!(super::one_line(&error), "data set `x`: a.json: line 1 column 23");
    }
}
