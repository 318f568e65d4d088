use std::collections::HashMap;

use crate::error::Error;
use crate::text::{unescape_string_literal, unescape_unicode_line};
use crate::value::{Document, Id, Node, Parts};

/// Reads one pickle of plain data. Bytes after its STOP opcode are ignored, as in Python.
///
/// # Errors
/// See [`Error`]: anything but plain data, truncated data, an unknown opcode or protocol, an invalid stack operation.
pub fn parse(data: &[u8]) -> Result<Document, Error> {
    parse_with(data, None)
}

/// Reads one pickle that may also hold persistent ids, and objects of the classes (or results of the functions) whose full
/// names `accept` allows. Nothing is called or looked up: an object is kept as the name and arguments that the file gives
/// ([`Value::object`](crate::Value::object)), for the caller to interpret.
///
/// # Errors
/// As [`parse`]; a name that is not allowed is [`Error::Forbidden`].
///
/// ```
/// // collections.OrderedDict()
/// let pickle = b"\x80\x02ccollections\nOrderedDict\n)R.";
/// assert!(safe_pickle::parse(pickle).is_err());
/// let document = safe_pickle::parse_objects(pickle, &|name| name == "collections.OrderedDict").unwrap();
/// assert_eq!(document.root().object().unwrap().class(), "collections.OrderedDict");
/// ```
pub fn parse_objects(data: &[u8], accept: &dyn Fn(&str) -> bool) -> Result<Document, Error> {
    parse_with(data, Some(accept))
}

/// Memory that a pickle's values may take, in addition to twice its own size, in bytes.
const EXTRA_MEMORY: usize = 512 << 20;

fn parse_with(data: &[u8], accept: Option<&dyn Fn(&str) -> bool>) -> Result<Document, Error> {
    if data.is_empty() {
        return Err(Error::Empty);
    }
    Machine {
        data,
        accept,
        position: 0,
        opcode_at: 0,
        max_nodes: (EXTRA_MEMORY + 2 * data.len()) / size_of::<Node>(),
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    }
    .run()
}

struct Machine<'a> {
    data: &'a [u8],
    /// Whether an object may have this name; `None` refuses all objects.
    accept: Option<&'a dyn Fn(&str) -> bool>,
    position: usize,
    opcode_at: usize,
    nodes: Vec<Node>,
    /// Maximum number of nodes, so that values of one byte each do not take many times the file's size.
    max_nodes: usize,
    stack: Vec<Id>,
    /// Heights of the stack at the open MARKs, innermost last.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<Document, Error> {
        loop {
            self.opcode_at = self.position;
            let opcode = self.byte()?;
            match opcode {
                b'.' => {
                    let root = self.pop()?;
                    return Ok(Document { nodes: self.nodes, root });
                }
                0x80 => {
                    let protocol = self.byte()?;
                    if protocol > 5 {
                        return Err(Error::UnsupportedProtocol(protocol));
                    }
                }
                0x95 => {
                    self.take(8)?;
                }
                b'(' => {
                    self.check_limit(self.marks.len())?;
                    self.marks.push(self.stack.len());
                }
                b'0' => {
                    self.pop()?;
                }
                b'1' => {
                    self.pop_mark()?;
                }
                b'2' => {
                    let top = self.top()?;
                    self.check_limit(self.stack.len() / 4)?;
                    self.stack.push(top);
                }
                b'N' => self.push(Node::None)?,
                0x88 => self.push(Node::Bool(true))?,
                0x89 => self.push(Node::Bool(false))?,
                b'I' | b'L' => self.text_int(opcode)?,
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Node::Int(i64::from(value)))?;
                }
                b'K' => {
                    let value = self.byte()?;
                    self.push(Node::Int(i64::from(value)))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.push(Node::Int(i64::from(value)))?;
                }
                0x8a => {
                    let n = u64::from(self.byte()?);
                    self.long(n)?;
                }
                0x8b => {
                    let n = self.length4()?;
                    self.long(n)?;
                }
                b'F' => {
                    let line = self.line()?;
                    let value = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
                    let value = value.ok_or_else(|| self.malformed("not a float"))?;
                    self.push(Node::Float(value))?;
                }
                b'G' => {
                    let value = f64::from_be_bytes(self.array()?);
                    self.push(Node::Float(value))?;
                }
                b'S' => {
                    let line = self.line()?;
                    let bytes =
                        unescape_string_literal(line).ok_or_else(|| self.malformed("bad string literal"))?;
                    self.text(&bytes)?;
                }
                b'T' => {
                    let n = self.length4()?;
                    let bytes = self.take(n)?;
                    self.text(bytes)?;
                }
                b'U' => {
                    let n = self.byte()?;
                    let bytes = self.take(u64::from(n))?;
                    self.text(bytes)?;
                }
                b'V' => {
                    let line = self.line()?;
                    let text =
                        unescape_unicode_line(line).ok_or_else(|| self.malformed("bad unicode escape"))?;
                    self.text(&text)?;
                }
                b'X' => {
                    let n = self.length4()?;
                    self.unicode(n)?;
                }
                0x8c => {
                    let n = u64::from(self.byte()?);
                    self.unicode(n)?;
                }
                0x8d => {
                    let n = u64::from_le_bytes(self.array()?);
                    self.unicode(n)?;
                }
                b'B' => {
                    let n = self.length4()?;
                    self.bytes(n)?;
                }
                b'C' => {
                    let n = u64::from(self.byte()?);
                    self.bytes(n)?;
                }
                0x8e | 0x96 => {
                    let n = u64::from_le_bytes(self.array()?);
                    self.bytes(n)?;
                }
                b']' => self.push(Node::List(Vec::new()))?,
                b')' => self.push(Node::Tuple(Vec::new()))?,
                b'}' => self.push(Node::Dict(Vec::new()))?,
                0x8f => self.push(Node::Set(Vec::new()))?,
                b'l' => {
                    let items = self.pop_mark()?;
                    self.push(Node::List(items))?;
                }
                b't' => {
                    let items = self.pop_mark()?;
                    self.push(Node::Tuple(items))?;
                }
                0x91 => {
                    let items = self.pop_mark()?;
                    self.push(Node::Set(items))?;
                }
                b'd' => {
                    let items = self.pop_mark()?;
                    let pairs = self.pairs(&items)?;
                    self.push(Node::Dict(pairs))?;
                }
                0x85..=0x87 => {
                    let n = usize::from(opcode - 0x84);
                    let floor = self.floor();
                    if self.stack.len() < floor + n {
                        return Err(self.malformed("stack underflow"));
                    }
                    let items = self.stack.split_off(self.stack.len() - n);
                    self.push(Node::Tuple(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_mark()?;
                    self.extend(items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(vec![(key, value)])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    let pairs = self.pairs(&items)?;
                    self.set_items(pairs)?;
                }
                b'p' | b'g' => {
                    let line = self.line()?;
                    let index = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
                    let index = index.ok_or_else(|| self.malformed("bad memo index"))?;
                    if opcode == b'p' { self.memo_put(index)? } else { self.memo_get(index)? }
                }
                b'q' | b'h' => {
                    let index = u64::from(self.byte()?);
                    if opcode == b'q' { self.memo_put(index)? } else { self.memo_get(index)? }
                }
                b'r' | b'j' => {
                    let index = u64::from(u32::from_le_bytes(self.array()?));
                    if opcode == b'r' { self.memo_put(index)? } else { self.memo_get(index)? }
                }
                0x94 => self.memo_put(self.memo.len() as u64)?,
                b'c' => {
                    let name = self.dotted_line_name()?;
                    self.global(name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let name = [module, name].map(|id| match &self.nodes[id as usize] {
                        Node::Str(text) => text.to_string(),
                        _ => "?".to_owned(),
                    });
                    self.global(name.join("."))?;
                }
                b'R' | 0x81 => {
                    let args = self.pop()?;
                    let class = self.pop()?;
                    if !matches!(self.nodes[class as usize], Node::Global(_)) {
                        return Err(self.forbidden("a call of something unnamed".to_owned()));
                    }
                    self.push(Node::Object(Box::new(Parts { class, args, ..Parts::default() })))?;
                }
                b'b' => {
                    let state = self.pop()?;
                    let target = self.top()?;
                    match &mut self.nodes[target as usize] {
                        Node::Object(parts) => parts.state = Some(state),
                        _ => return Err(self.forbidden("state for something that is no object".to_owned())),
                    }
                }
                b'i' => {
                    let name = self.dotted_line_name()?;
                    return Err(self.forbidden(name));
                }
                b'o' | 0x92 => return Err(self.forbidden("a new object".to_owned())),
                b'Q' if self.accept.is_some() => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id))?;
                }
                b'P' | b'Q' => return Err(self.forbidden("a persistent id".to_owned())),
                0x82..=0x84 => return Err(self.forbidden("an extension registry entry".to_owned())),
                0x97 | 0x98 => return Err(self.forbidden("an out-of-band buffer".to_owned())),
                _ => return Err(Error::UnknownOpcode { opcode, offset: self.opcode_at }),
            }
        }
    }

    /// Reads two lines, module and name, as `module.name`.
    fn dotted_line_name(&mut self) -> Result<String, Error> {
        let module = String::from_utf8_lossy(self.line()?).into_owned();
        let name = String::from_utf8_lossy(self.line()?).into_owned();
        Ok(format!("{module}.{name}"))
    }

    fn global(&mut self, name: String) -> Result<(), Error> {
        if self.accept.is_some_and(|accept| accept(&name)) {
            self.push(Node::Global(name.into()))
        } else {
            Err(self.forbidden(name))
        }
    }

    fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed { what, offset: self.opcode_at }
    }

    fn forbidden(&self, name: String) -> Error {
        Error::Forbidden { name, offset: self.opcode_at }
    }

    /// Takes the next `n` bytes. A length beyond the data fails before anything is allocated for it.
    fn take(&mut self, n: u64) -> Result<&'a [u8], Error> {
        let end = usize::try_from(n).ok().and_then(|n| self.position.checked_add(n));
        match end.and_then(|end| self.data.get(self.position..end)) {
            Some(bytes) => {
                self.position += bytes.len();
                Ok(bytes)
            }
            None => Err(Error::UnexpectedEnd { offset: self.data.len() }),
        }
    }

    fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn length4(&mut self) -> Result<u64, Error> {
        Ok(u64::from(u32::from_le_bytes(self.array()?)))
    }

    /// Takes the rest of the line, without its newline.
    fn line(&mut self) -> Result<&'a [u8], Error> {
        let rest = &self.data[self.position..];
        let n = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or(Error::UnexpectedEnd { offset: self.data.len() })?;
        self.position += n + 1;
        Ok(rest[..n].strip_suffix(b"\r").unwrap_or(&rest[..n]))
    }

    /// Checks that one more value, MARK or memo entry is allowed when there are already `n`.
    fn check_limit(&self, n: usize) -> Result<(), Error> {
        match n < self.max_nodes {
            true => Ok(()),
            false => Err(self.malformed("its values would take far more memory than the file's size")),
        }
    }

    fn push(&mut self, node: Node) -> Result<(), Error> {
        let id = Id::try_from(self.nodes.len()).map_err(|_| self.malformed("more than 2^32 values"))?;
        self.check_limit(self.nodes.len())?;
        self.nodes.push(node);
        self.stack.push(id);
        Ok(())
    }

    /// Stack height at the innermost MARK; values below it must not be popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, Error> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => Err(self.malformed("stack underflow")),
        }
    }

    fn pop(&mut self) -> Result<Id, Error> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Error> {
        let height = self.marks.pop().ok_or_else(|| self.malformed("no open mark"))?;
        Ok(self.stack.split_off(height))
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>, Error> {
        if !items.len().is_multiple_of(2) {
            return Err(self.malformed("a dictionary key without a value"));
        }
        Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), Error> {
        let target = self.top()?;
        match &mut self.nodes[target as usize] {
            Node::List(list) | Node::Set(list) => list.extend(items),
            Node::Object(parts) => parts.items.extend(items),
            _ => return Err(self.malformed("items appended to something that is no list or set")),
        }
        Ok(())
    }

    fn set_items(&mut self, pairs: Vec<(Id, Id)>) -> Result<(), Error> {
        let target = self.top()?;
        match &mut self.nodes[target as usize] {
            Node::Dict(dict) => dict.extend(pairs),
            Node::Object(parts) => parts.pairs.extend(pairs),
            _ => return Err(self.malformed("items set on something that is no dictionary")),
        }
        Ok(())
    }

    fn memo_put(&mut self, index: u64) -> Result<(), Error> {
        let top = self.top()?;
        self.check_limit(self.memo.len())?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn memo_get(&mut self, index: u64) -> Result<(), Error> {
        let id = *self.memo.get(&index).ok_or_else(|| self.malformed("memo entry that was never stored"))?;
        self.stack.push(id);
        Ok(())
    }

    fn text_int(&mut self, opcode: u8) -> Result<(), Error> {
        let line = self.line()?;
        let text = std::str::from_utf8(line).map_err(|_| self.malformed("not an integer"))?.trim();
        let node = match (opcode, text) {
            (b'I', "01") => Node::Bool(true),
            (b'I', "00") => Node::Bool(false),
            _ => {
                let digits = text.strip_suffix('L').unwrap_or(text);
                let is_number = !digits.is_empty()
                    && digits.strip_prefix('-').unwrap_or(digits).bytes().all(|digit| digit.is_ascii_digit());
                match digits.parse() {
                    Ok(value) => Node::Int(value),
                    Err(_) if is_number => Node::LongInt,
                    Err(_) => return Err(self.malformed("not an integer")),
                }
            }
        };
        self.push(node)
    }

    /// Reads a little-endian two's-complement integer of `n` bytes. One beyond 64 bits is kept without its value.
    fn long(&mut self, n: u64) -> Result<(), Error> {
        let bytes = self.take(n)?;
        let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let significant = bytes.len().min(8);
        let mut wide = [fill; 8];
        wide[..significant].copy_from_slice(&bytes[..significant]);
        let value = i64::from_le_bytes(wide);
        let fits = bytes[significant..].iter().all(|&byte| byte == fill) && (value < 0) == (fill == 0xff);
        self.push(if fits { Node::Int(value) } else { Node::LongInt })
    }

    fn unicode(&mut self, n: u64) -> Result<(), Error> {
        let bytes = self.take(n)?;
        self.text(bytes)
    }

    fn bytes(&mut self, n: u64) -> Result<(), Error> {
        let bytes = self.take(n)?;
        self.push(Node::Bytes(bytes.into()))
    }

    /// Pushes text if it is UTF-8, otherwise bytes: a Python 2 `str` may be any, and Python 3's text may hold lone surrogates.
    fn text(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.push(match std::str::from_utf8(bytes) {
            Ok(text) => Node::Str(text.into()),
            Err(_) => Node::Bytes(bytes.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(data: &[u8]) -> Error {
        parse(data).map(|_| ()).unwrap_err()
    }

    #[test]
    fn protocols_zero_and_two_agree() {
        for data in [
            &b"(lp0\n(dp1\nS'id'\np2\nI7\nsS'text'\nVcaf\xe9\nsa."[..],
            b"\x80\x02]}(U\x02idK\x07U\x04textX\x05\0\0\0caf\xc3\xa9ua.",
        ] {
            let document = parse(data).unwrap();
            let entry = document.root().items().unwrap().next().unwrap();
            assert_eq!(entry.get("id").unwrap().as_i64(), Some(7));
            assert_eq!(entry.get("text").unwrap().as_str(), Some("café"));
        }
    }

    #[test]
    fn integers_of_every_width() {
        let int = |data: &[u8]| parse(data).unwrap().root().as_i64();
        assert_eq!(int(b"J\xff\xff\xff\xff."), Some(-1));
        assert_eq!(int(b"\x8a\x05\x00\x00\x00\x80\x00."), Some(1 << 31));
        assert_eq!(int(b"\x8a\x00."), Some(0));
        assert_eq!(int(b"\x8a\x01\x80."), Some(-128));
        assert_eq!(int(b"L12L\n."), Some(12));
        // Beyond 64 bits.
        for long in
            [&b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00."[..], b"L123456789012345678901234567890L\n."]
        {
            let document = parse(long).unwrap();
            assert_eq!((document.root().as_i64(), document.root().type_name()), (None, "int beyond 64 bits"));
        }
        assert!(matches!(fails(b"I1x\n."), Error::Malformed { .. }));
    }

    #[test]
    fn callables_are_refused_by_name() {
        assert_eq!(
            fails(b"cos\nsystem\n(S'true'\ntR."),
            Error::Forbidden { name: "os.system".into(), offset: 0 }
        );
        assert!(
            matches!(fails(b"\x80\x04\x8c\x02os\x8c\x06system\x93."), Error::Forbidden { name, .. } if name == "os.system")
        );
        assert!(matches!(fails(b"P1\n."), Error::Forbidden { .. }));
    }

    #[test]
    fn admitted_objects_stay_inert() {
        let data = b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\0\0\0aK\x01u}X\x01\0\0\0mK\x02sb.";
        assert!(matches!(fails(data), Error::Forbidden { name, .. } if name == "collections.OrderedDict"));
        let document = parse_objects(data, &|name| name == "collections.OrderedDict").unwrap();
        let root = document.root();
        let object = root.object().unwrap();
        assert_eq!(object.class(), "collections.OrderedDict");
        assert_eq!(object.args().items().unwrap().len(), 0);
        assert_eq!(root.get("a").unwrap().as_i64(), Some(1));
        assert_eq!(object.state().unwrap().get("m").unwrap().as_i64(), Some(2));
        let refused = parse_objects(b"cos\nsystem\n(S'true'\ntR.", &|name| name.starts_with("torch."));
        assert!(matches!(refused, Err(Error::Forbidden { name, .. }) if name == "os.system"));
    }

    #[test]
    fn broken_data_is_an_error_not_a_panic() {
        assert_eq!(fails(b""), Error::Empty);
        assert_eq!(fails(b"\x80\x09."), Error::UnsupportedProtocol(9));
        assert!(matches!(fails(b"X\xff\xff\xff\x7fab"), Error::UnexpectedEnd { .. }));
        assert!(matches!(fails(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab"), Error::UnexpectedEnd { .. }));
        assert!(matches!(fails(b"a."), Error::Malformed { .. }));
        assert!(matches!(fails(b"h\x05."), Error::Malformed { .. }));
        assert!(matches!(fails(b"t."), Error::Malformed { .. }));
        assert!(matches!(fails(b"K\x01"), Error::UnexpectedEnd { .. }));
        assert!(matches!(fails(b"\xfe"), Error::UnknownOpcode { opcode: 0xfe, .. }));
    }

    #[test]
    fn deep_nesting_and_cycles_are_flat() {
        let mut deep = vec![b']'; 200_000];
        deep.extend(vec![b'a'; 199_999]);
        deep.push(b'.');
        assert!(parse(&deep).unwrap().root().is_list());
        let cycle = parse(b"]q\x00h\x00a.").unwrap();
        let inner = cycle.root().items().unwrap().next().unwrap();
        assert!(inner.is_list());
    }
}
