//! How a program begins and ends.

use std::ffi::OsString;

use anyhow::Result;
use clap::Parser;
use cli_kit::errln;

/// A program's arguments. Where they ask for help or are wrong, the program ends here.
pub fn parse<C: Parser>(args: impl IntoIterator<Item = OsString>) -> C {
    C::try_parse_from(args).unwrap_or_else(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        // Arguments are shown, so this goes the way of everything that may hold control characters.
        errln!("{}", error.render().to_string().trim_end());
        std::process::exit(error.exit_code())
    })
}

/// How a program ends: with the code its work gives, or with code 1 after one line on standard error that holds the
/// error and its causes.
pub fn conclude(result: Result<std::process::ExitCode>) -> std::process::ExitCode {
    let finished = result.and_then(|code| Ok(cli_kit::finish_output().map(|()| code)?));
    finished.unwrap_or_else(|error| {
        errln!("error: {}", one_line(&error));
        std::process::ExitCode::FAILURE
    })
}

/// An error and its causes. A cause that a message repeats already is left out.
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
