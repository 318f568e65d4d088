/// Why a pickle could not be read. Offsets are bytes from the start of the data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The data is empty.
    #[error("the pickle is empty")]
    Empty,
    /// The data ends inside an opcode's argument, or before the STOP opcode.
    #[error("unexpected end of data at byte {offset}")]
    UnexpectedEnd {
        /// Position where more data was needed.
        offset: usize,
    },
    /// The pickle names a class or function that was not allowed. This reader never resolves names.
    #[error("refused: the pickle refers to `{name}` at byte {offset}; only plain data is read")]
    Forbidden {
        /// `module.name` where the file gives it, otherwise the opcode's name.
        name: String,
        /// Position of the opcode.
        offset: usize,
    },
    /// A byte that is not an opcode of protocols 0 to 5.
    #[error("unknown opcode 0x{opcode:02x} at byte {offset}")]
    UnknownOpcode {
        /// The byte.
        opcode: u8,
        /// Its position.
        offset: usize,
    },
    /// A protocol newer than 5.
    #[error("unsupported pickle protocol {0}")]
    UnsupportedProtocol(u8),
    /// An opcode is invalid in its place, for example pops an empty stack.
    #[error("malformed pickle at byte {offset}: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Position of the opcode.
        offset: usize,
    },
}
