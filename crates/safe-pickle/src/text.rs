//! Text encodings of protocol 0: Python literals, each on its own line.

/// Decodes the escapes of a Python string literal (without quotes). `None` if an escape is broken.
pub(crate) fn unescape_string_literal(line: &[u8]) -> Option<Vec<u8>> {
    let quote = *line.first()?;
    if line.len() < 2 || (quote != b'\'' && quote != b'"') || *line.last()? != quote {
        return None;
    }
    let body = &line[1..line.len() - 1];
    let mut out = Vec::with_capacity(body.len());
    let mut index = 0;
    while index < body.len() {
        if body[index] != b'\\' {
            out.push(body[index]);
            index += 1;
            continue;
        }
        let escape = *body.get(index + 1)?;
        index += 2;
        match escape {
            b'\\' | b'\'' | b'"' => out.push(escape),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'v' => out.push(11),
            b'x' => {
                out.push(hex(body.get(index..index + 2)?)? as u8);
                index += 2;
            }
            b'0'..=b'7' => {
                let mut value = u32::from(escape - b'0');
                for _ in 0..2 {
                    match body.get(index) {
                        Some(digit @ b'0'..=b'7') => {
                            value = value * 8 + u32::from(digit - b'0');
                            index += 1;
                        }
                        _ => break,
                    }
                }
                out.push(value as u8);
            }
            other => out.extend([b'\\', other]),
        }
    }
    Some(out)
}

/// Decodes Python's raw-unicode-escape to UTF-8: Latin-1 plus `\uXXXX` and `\UXXXXXXXX`, surrogate pairs joined. A surrogate that
/// stands alone takes three bytes that are no UTF-8, as in Python's `surrogatepass`. `None` if an escape is broken.
pub(crate) fn unescape_unicode_line(line: &[u8]) -> Option<Vec<u8>> {
    let mut units: Vec<u32> = Vec::with_capacity(line.len());
    let mut index = 0;
    while index < line.len() {
        let width = match (line[index], line.get(index + 1)) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                units.push(u32::from(line[index]));
                index += 1;
                continue;
            }
        };
        units.push(hex(line.get(index + 2..index + 2 + width)?)?);
        index += 2 + width;
    }
    let mut text = Vec::with_capacity(units.len());
    let mut units = units.into_iter().peekable();
    while let Some(unit) = units.next() {
        let code = match (unit, units.peek()) {
            (0xD800..=0xDBFF, Some(&low @ 0xDC00..=0xDFFF)) => {
                units.next();
                0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
            }
            _ => unit,
        };
        match (char::from_u32(code), code) {
            (Some(letter), _) => text.extend(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            (None, 0xD800..=0xDFFF) => {
                text.extend([
                    0xE0 | (code >> 12) as u8,
                    0x80 | (code >> 6 & 0x3F) as u8,
                    0x80 | (code & 0x3F) as u8,
                ]);
            }
            (None, _) => return None,
        }
    }
    Some(text)
}

fn hex(digits: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(digits).ok()?;
    if text.starts_with('+') {
        return None;
    }
    u32::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_literals() {
        assert_eq!(unescape_string_literal(br"'a\'b\x41\101\n'").unwrap(), b"a'bAA\n");
        assert_eq!(unescape_string_literal(b"'a"), None);
        assert_eq!(unescape_string_literal(br"'\x4'"), None);
    }

    #[test]
    fn unicode_lines() {
        assert_eq!(unescape_unicode_line(b"caf\xe9 \\u20ac \\ud83d\\ude00").unwrap(), "café € 😀".as_bytes());
        assert_eq!(unescape_unicode_line(b"\\ud83d").unwrap(), b"\xed\xa0\xbd");
        assert_eq!(unescape_unicode_line(b"\\U00110000"), None);
    }
}
