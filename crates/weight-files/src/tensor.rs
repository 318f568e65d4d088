use std::fmt;

/// Element type (dtype) of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Signed bytes.
    I8,
    /// 16-bit integers.
    I16,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// Bytes.
    U8,
    /// Booleans, one byte each.
    Bool,
}

impl Element {
    const NAMES: [(Self, &'static str, &'static str); 10] = [
        (Self::F16, "F16", "Half"),
        (Self::BF16, "BF16", "BFloat16"),
        (Self::F32, "F32", "Float"),
        (Self::F64, "F64", "Double"),
        (Self::I8, "I8", "Char"),
        (Self::I16, "I16", "Short"),
        (Self::I32, "I32", "Int"),
        (Self::I64, "I64", "Long"),
        (Self::U8, "U8", "Byte"),
        (Self::Bool, "BOOL", "Bool"),
    ];

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    pub(crate) fn from_safetensors(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known, _)| *known == name).map(|&(element, ..)| element)
    }

    /// Parses a storage class, for example `torch.FloatStorage`.
    pub(crate) fn from_storage_class(class: &str) -> Option<Self> {
        let name = class.strip_prefix("torch.")?.strip_suffix("Storage")?;
        Self::NAMES.iter().find(|(_, _, known)| *known == name).map(|&(element, ..)| element)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(element, ..)| element == self).map_or("?", |(_, name, _)| name);
        f.write_str(name)
    }
}

/// Element type and shape of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub element: Element,
    /// Length along each axis; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Bytes of the whole tensor; `None` on overflow.
    pub(crate) fn byte_len(&self) -> Option<usize> {
        self.shape.iter().try_fold(self.element.size(), |product, &n| product.checked_mul(n))
    }
}

/// A value stored beside the tensors, for example an epoch number.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    Text(String),
}

impl Scalar {
    /// The value as a number, where it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Bool(_) | Self::Text(_) => None,
        }
    }

    /// The value as an integer, where it is one.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }
}
