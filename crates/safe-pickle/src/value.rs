/// A value's position in its document's arena.
pub(crate) type Id = u32;

#[derive(Debug)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// An int beyond 64 bits.
    LongInt,
    Float(f64),
    Str(Box<str>),
    Bytes(Box<[u8]>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// The name of a class or function.
    Global(Box<str>),
    Object(Box<Parts>),
    /// A persistent id, which the file's container resolves.
    Persistent(Id),
}

/// An object as the file describes it.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) class: Id,
    pub(crate) args: Id,
    pub(crate) state: Option<Id>,
    pub(crate) items: Vec<Id>,
    pub(crate) pairs: Vec<(Id, Id)>,
}

/// All values of one pickle. Dropping it takes no recursion, however deep the nesting.
#[derive(Debug)]
pub struct Document {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: Id,
}

impl Document {
    /// The top-level value of the pickle.
    pub fn root(&self) -> Value<'_> {
        Value { document: self, id: self.root }
    }
}

/// One value of a [`Document`]. Accessors return `None` when the value is of another type.
///
/// A pickle may hold a list that contains itself, so recursive code must limit its depth.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    document: &'a Document,
    id: Id,
}

impl<'a> Value<'a> {
    fn node(self) -> &'a Node {
        &self.document.nodes[self.id as usize]
    }

    fn at(self, id: Id) -> Value<'a> {
        Value { document: self.document, id }
    }

    /// The Python name of the value's type, for error messages.
    pub fn type_name(self) -> &'static str {
        match self.node() {
            Node::None => "None",
            Node::Bool(_) => "bool",
            Node::Int(_) => "int",
            Node::LongInt => "int beyond 64 bits",
            Node::Float(_) => "float",
            Node::Str(_) => "str",
            Node::Bytes(_) => "bytes",
            Node::List(_) => "list",
            Node::Tuple(_) => "tuple",
            Node::Set(_) => "set",
            Node::Dict(_) => "dict",
            Node::Global(_) => "class",
            Node::Object(_) => "object",
            Node::Persistent(_) => "persistent id",
        }
    }

    /// An `int` of at most 64 bits; `bool` does not count as one.
    pub fn as_i64(self) -> Option<i64> {
        match self.node() {
            Node::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A `float`.
    pub fn as_f64(self) -> Option<f64> {
        match self.node() {
            Node::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// A `bool`.
    pub fn as_bool(self) -> Option<bool> {
        match self.node() {
            Node::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Text; a Python 2 byte string that is valid UTF-8 counts as text.
    pub fn as_str(self) -> Option<&'a str> {
        match self.node() {
            Node::Str(value) => Some(value),
            _ => None,
        }
    }

    /// Bytes (also a Python 2 byte string, and text with lone surrogates, which are not valid UTF-8).
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        match self.node() {
            Node::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// The full name of a class or function.
    pub fn as_global(self) -> Option<&'a str> {
        match self.node() {
            Node::Global(name) => Some(name),
            _ => None,
        }
    }

    /// An object, as the file describes it.
    pub fn object(self) -> Option<Object<'a>> {
        match self.node() {
            Node::Object(parts) => Some(Object { value: self, parts }),
            _ => None,
        }
    }

    /// The id of a persistent object, which the file's container resolves.
    pub fn persistent_id(self) -> Option<Value<'a>> {
        match self.node() {
            Node::Persistent(id) => Some(self.at(*id)),
            _ => None,
        }
    }

    /// The elements of a list, tuple or set.
    pub fn items(self) -> Option<impl ExactSizeIterator<Item = Value<'a>>> {
        match self.node() {
            Node::List(ids) | Node::Tuple(ids) | Node::Set(ids) => {
                Some(ids.iter().map(move |&id| self.at(id)))
            }
            _ => None,
        }
    }

    /// Whether this is a list (rather than a tuple or set).
    pub fn is_list(self) -> bool {
        matches!(self.node(), Node::List(_))
    }

    /// The pairs of a dictionary, in the order they were set; a later pair overrides an earlier equal key. For an object: the
    /// pairs that were set on it, as on an `OrderedDict`.
    pub fn pairs(self) -> Option<impl ExactSizeIterator<Item = (Value<'a>, Value<'a>)>> {
        let pairs = self.raw_pairs()?;
        Some(pairs.iter().map(move |&(key, value)| (self.at(key), self.at(value))))
    }

    /// The value under a text key of a dictionary.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let mut pairs = self.raw_pairs()?.iter().rev();
        pairs.find(|pair| self.at(pair.0).as_str() == Some(key)).map(|pair| self.at(pair.1))
    }

    fn raw_pairs(self) -> Option<&'a [(Id, Id)]> {
        match self.node() {
            Node::Dict(pairs) => Some(pairs),
            Node::Object(parts) => Some(&parts.pairs),
            _ => None,
        }
    }
}

/// An object as the file describes it: class name, arguments and state. It is never created.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    value: Value<'a>,
    parts: &'a Parts,
}

impl<'a> Object<'a> {
    /// Full name of its class, or of the function that creates it.
    pub fn class(self) -> &'a str {
        self.value.at(self.parts.class).as_global().unwrap_or_default()
    }

    /// Positional arguments of the call, a tuple.
    pub fn args(self) -> Value<'a> {
        self.value.at(self.parts.args)
    }

    /// Its state, usually a dictionary of attributes.
    pub fn state(self) -> Option<Value<'a>> {
        self.parts.state.map(|id| self.value.at(id))
    }
}
