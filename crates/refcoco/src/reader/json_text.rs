//! JSON text as people's tools write it: with a byte order mark, or with NaN, which JSON does not have.

use std::io::{self, Read};

/// Passes JSON text on, with a byte order mark removed and with `NaN`, `Infinity` and `-Infinity` outside of strings replaced by
/// `null`, as Python's `json` module writes them.
pub(crate) struct JsonText<R> {
    inner: R,
    /// Text that is read and not yet looked at.
    input: Vec<u8>,
    at: usize,
    /// Text to pass on.
    output: Vec<u8>,
    given: usize,
    in_string: bool,
    escaped: bool,
    at_start: bool,
    at_end: bool,
}

const CHUNK: usize = 1 << 20;
/// The longest word that is replaced.
const LONGEST: usize = "-Infinity".len();

impl<R: Read> JsonText<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            input: Vec::new(),
            at: 0,
            output: Vec::new(),
            given: 0,
            in_string: false,
            escaped: false,
            at_start: true,
            at_end: false,
        }
    }

    /// Reads a chunk and translates all of it but a possible beginning of a word.
    fn refill(&mut self) -> io::Result<()> {
        self.input.drain(..self.at);
        self.at = 0;
        let held = self.input.len();
        self.input.resize(held + CHUNK, 0);
        let mut n = 0;
        // A mark of three bytes must not be split.
        while n < 3 {
            match self.inner.read(&mut self.input[held + n..])? {
                0 => {
                    self.at_end = true;
                    break;
                }
                more => n += more,
            }
        }
        self.input.truncate(held + n);
        if std::mem::take(&mut self.at_start) && self.input.starts_with(file_kind::BYTE_ORDER_MARK) {
            self.at = file_kind::BYTE_ORDER_MARK.len();
        }
        self.output.clear();
        self.given = 0;
        while self.at < self.input.len() {
            let rest = &self.input[self.at..];
            if !self.at_end && rest.len() < LONGEST {
                break;
            }
            let (taken, replaced) = self.step(rest);
            match replaced {
                true => self.output.extend(b"null"),
                false => self.output.push(self.input[self.at]),
            }
            let byte = self.input[self.at];
            self.follow(byte);
            self.at += taken;
        }
        Ok(())
    }

    /// Bytes that the next token takes, and whether it is replaced.
    fn step(&self, rest: &[u8]) -> (usize, bool) {
        let words: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
        let word = words.into_iter().find(|word| !self.in_string && rest.starts_with(word));
        word.map_or((1, false), |word| (word.len(), true))
    }

    /// Keeps track of strings.
    fn follow(&mut self, byte: u8) {
        match (self.in_string, self.escaped, byte) {
            (true, true, _) => self.escaped = false,
            (true, false, b'\\') => self.escaped = true,
            (true, false, b'"') => self.in_string = false,
            (false, _, b'"') => self.in_string = true,
            _ => {}
        }
    }
}

impl<R: Read> Read for JsonText<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.output.len() {
            if self.at_end && self.at == self.input.len() {
                return Ok(0);
            }
            self.refill()?;
        }
        let n = out.len().min(self.output.len() - self.given);
        out[..n].copy_from_slice(&self.output[self.given..self.given + n]);
        self.given += n;
        Ok(n)
    }
}

/// [`JsonText`] of text that is in memory.
pub(crate) fn json_text(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len());
    // Reading from memory does not fail.
    let _ = JsonText::new(bytes).read_to_end(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that gives one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = usize::from(!self.0.is_empty() && !out.is_empty());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn words_outside_of_strings_become_null() {
        let text = "\u{feff}{\"NaN\\\"\": NaN, \"a\\\\\": [-Infinity,Infinity, \"NaN\"], \"-Infinity\":-1.5}";
        let expected = "{\"NaN\\\"\": null, \"a\\\\\": [null,null, \"NaN\"], \"-Infinity\":-1.5}";
        assert_eq!(String::from_utf8(json_text(text.as_bytes())).unwrap(), expected);
        let mut slow = String::new();
        JsonText::new(Slow(text.as_bytes())).read_to_string(&mut slow).unwrap();
        assert_eq!(slow, expected);
    }

    #[test]
    fn other_text_is_left_alone() {
        for text in ["", "[1]", "Na", "{\"a\": \"\u{feff}\"}", "nul"] {
            assert_eq!(json_text(text.as_bytes()), text.as_bytes());
        }
    }
}
