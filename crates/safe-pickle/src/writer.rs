/// Writes plain data as a protocol 2 pickle, which Python 2 and 3 both read.
///
/// ```
/// let mut writer = safe_pickle::Writer::new();
/// writer.list(|list| {
///     list.dict(|dict| {
///         dict.key("id").int(7);
///     });
/// });
/// let bytes = writer.finish();
/// assert!(safe_pickle::parse(&bytes).is_ok());
/// ```
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// Starts an empty pickle.
    pub fn new() -> Self {
        Self { bytes: vec![0x80, 2] }
    }

    /// Writes a list; `fill` writes its items.
    pub fn list(&mut self, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.bytes.extend(b"](");
        fill(self);
        self.bytes.push(b'e');
        self
    }

    /// Writes a dictionary; `fill` writes [`key`](Self::key)s, each followed by its value.
    pub fn dict(&mut self, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.bytes.extend(b"}(");
        fill(self);
        self.bytes.push(b'u');
        self
    }

    /// Writes the next key of a dictionary.
    pub fn key(&mut self, key: &str) -> &mut Self {
        self.text(key)
    }

    /// Writes a text value.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes.push(b'X');
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
        self
    }

    /// Writes an integer value.
    pub fn int(&mut self, value: i64) -> &mut Self {
        match i32::try_from(value) {
            Ok(value) => {
                self.bytes.push(b'J');
                self.bytes.extend(value.to_le_bytes());
            }
            Err(_) => {
                self.bytes.extend([0x8a, 8]);
                self.bytes.extend(value.to_le_bytes());
            }
        }
        self
    }

    /// Returns the finished pickle.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(b'.');
        self.bytes
    }
}
