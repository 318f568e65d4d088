//! Values of pickles as people's scripts write them: numpy's scalars, `OrderedDict` and tuples beside Python's own. They are
//! interpreted from their description; nothing of Python or numpy is run.

use safe_pickle::{Document, Error, Value};

/// Modules whose classes and functions a refs file may refer to: types of plain values, which fields that nobody reads may hold.
/// No name is resolved, so that this is no question of safety; a file that refers to anything else is no file of refs.
const KNOWN_MODULES: [&str; 10] = [
    "numpy.",
    "collections.",
    "datetime.",
    "pathlib.",
    "decimal.",
    "fractions.",
    "uuid.",
    "array.",
    "zoneinfo.",
    "pandas.",
];

/// Known names of modules that also hold other things.
const KNOWN_NAMES: [&str; 7] = ["_codecs.encode", "dict", "list", "set", "frozenset", "bytearray", "complex"];

fn is_known(name: &str) -> bool {
    let builtin = ["builtins.", "__builtin__."].iter().find_map(|module| name.strip_prefix(module));
    KNOWN_MODULES.iter().any(|module| name.starts_with(module))
        || KNOWN_NAMES.contains(&builtin.unwrap_or(name))
}

/// Reads a pickle that may hold such values.
pub(super) fn parsed(data: &[u8]) -> Result<Document, Error> {
    safe_pickle::parse_objects(data, &is_known)
}

/// A whole number: an int, a whole float, numpy's scalar of either, or the only element of a list or of a numpy array. Text is none:
/// Python keeps the types apart.
pub(super) fn whole(value: Value<'_>) -> Option<i64> {
    if let Some(mut items) = value.items().filter(|items| items.len() == 1) {
        // One level: a list may hold itself.
        return items.next().filter(|item| item.items().is_none()).and_then(whole);
    }
    let of_float = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
    if let Some(number) = value.as_i64() {
        return Some(number);
    }
    if let Some(number) = value.as_f64() {
        return of_float(number);
    }
    match scalar(value)? {
        Scalar::Whole(number) => Some(number),
        Scalar::Float(number) => of_float(number),
        Scalar::Text(_) => None,
    }
}

/// Text: a str, bytes that are UTF-8, Python 2's byte string, or numpy's scalar of text.
pub(super) fn text(value: Value<'_>) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    // `b"train"`, also as protocols before 3 write it.
    if let Some(text) = bytes(value).and_then(|bytes| String::from_utf8(bytes).ok()) {
        return Some(text);
    }
    match scalar(value)? {
        Scalar::Text(text) => Some(text),
        _ => None,
    }
}

enum Scalar {
    Whole(i64),
    Float(f64),
    Text(String),
}

/// `numpy.core.multiarray.scalar(dtype, bytes)`, or `numpy.ndarray` with one element, whose state is (version, shape, dtype, is in
/// Fortran's order, bytes).
fn scalar(value: Value<'_>) -> Option<Scalar> {
    let object = value.object()?;
    if object.class().ends_with("multiarray.scalar") {
        let mut args = object.args().items()?;
        return element(args.next()?, &bytes(args.next()?)?);
    }
    if object.class().ends_with("multiarray._reconstruct") {
        let mut state = object.state()?.items()?;
        let shape = state.nth(1)?.items()?.map(|side| side.as_i64());
        let is_one = shape.into_iter().all(|side| side == Some(1));
        let (dtype, data) = (state.next()?, state.nth(1)?);
        return if is_one { element(dtype, &bytes(data)?) } else { None };
    }
    None
}

/// One element of an array.
fn element(dtype: Value<'_>, bytes: &[u8]) -> Option<Scalar> {
    let dtype = dtype.object().filter(|dtype| dtype.class() == "numpy.dtype")?;
    let kind = dtype.args().items()?.next()?.as_str()?.to_owned();
    // The state's second entry is the byte order.
    let big =
        dtype.state().and_then(|state| state.items()?.nth(1)?.as_str()).is_some_and(|order| order == ">");
    let mut bytes = bytes.to_vec();
    if big && !kind.starts_with('U') {
        bytes.reverse();
    }
    let whole = |signed: bool| {
        let mut wide = [if signed && bytes.last().is_some_and(|top| top & 0x80 != 0) { 0xff } else { 0 }; 8];
        wide.get_mut(..bytes.len())?.copy_from_slice(&bytes);
        let number = i64::from_le_bytes(wide);
        (signed || number >= 0 || bytes.len() < 8).then_some(number)
    };
    match kind.trim_start_matches(['<', '>', '|', '=']).chars().next()? {
        'i' => whole(true).map(Scalar::Whole),
        'u' => whole(false).map(Scalar::Whole),
        'f' => match *bytes.as_slice() {
            [a, b] => Some(Scalar::Float(half(u16::from_le_bytes([a, b])))),
            [a, b, c, d] => Some(Scalar::Float(f64::from(f32::from_le_bytes([a, b, c, d])))),
            _ => Some(Scalar::Float(f64::from_le_bytes(bytes.try_into().ok()?))),
        },
        'U' => {
            let code =
                |unit: &[u8; 4]| if big { u32::from_be_bytes(*unit) } else { u32::from_le_bytes(*unit) };
            let letters = bytes.as_chunks::<4>().0.iter().map(|unit| char::from_u32(code(unit)));
            let text: Option<String> = letters.collect();
            text.map(|text| Scalar::Text(text.trim_end_matches('\0').to_owned()))
        }
        'S' => String::from_utf8(bytes).ok().map(|text| Scalar::Text(text.trim_end_matches('\0').to_owned())),
        _ => None,
    }
}

/// A float of 16 bits (IEEE 754 binary16).
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff) / 1024.0);
    sign * match exponent {
        0 => fraction * (-14_f64).exp2(),
        0x1f if fraction == 0.0 => f64::INFINITY,
        0x1f => f64::NAN,
        _ => (1.0 + fraction) * f64::from(exponent - 15).exp2(),
    }
}

/// Bytes, also as protocols before 3 write them: `_codecs.encode(text, "latin1")`.
fn bytes(value: Value<'_>) -> Option<Vec<u8>> {
    if let Some(bytes) = value.as_bytes() {
        return Some(bytes.to_vec());
    }
    if let Some(text) = value.as_str() {
        // Python 2's byte string that happens to be UTF-8.
        return Some(text.as_bytes().to_vec());
    }
    let object = value.object().filter(|object| object.class() == "_codecs.encode")?;
    let text = object.args().items()?.next()?.as_str()?;
    text.chars().map(|letter| u8::try_from(u32::from(letter)).ok()).collect()
}

/// The value under a key of a dict or `OrderedDict`.
pub(super) fn entry<'a>(item: Value<'a>, key: &str) -> Option<Value<'a>> {
    item.get(key).or_else(|| {
        // Before Python 3.5: OrderedDict([[key, value], ...]).
        let listed = item.object()?.args().items()?.next()?.items()?;
        let mut pairs = listed.filter_map(|pair| {
            let mut pair = pair.items()?;
            Some((pair.next()?, pair.next()?))
        });
        pairs.find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value)
    })
}

/// A value of plain data as JSON: numbers, text and bytes, lists, and dicts with text keys.
pub(super) fn json(value: Value<'_>) -> Option<serde_json::Value> {
    if let Some(pairs) = value.pairs().filter(|_| is_dict(value)) {
        let entries = pairs.map(|(key, value)| Some((text(key)?, json(value)?)));
        return Some(serde_json::Value::Object(entries.collect::<Option<_>>()?));
    }
    if let Some(items) = value.items() {
        return Some(serde_json::Value::Array(items.map(json).collect::<Option<_>>()?));
    }
    if let Some(number) = value.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = value.as_f64() {
        return serde_json::Number::from_f64(number).map(serde_json::Value::Number);
    }
    text(value)
        .or_else(|| String::from_utf8(value.as_bytes()?.to_vec()).ok())
        .map(serde_json::Value::String)
        .or_else(|| whole(value).map(Into::into))
}

/// Whether a value is a dict or like one.
pub(super) fn is_dict(item: Value<'_>) -> bool {
    item.pairs().is_some_and(|pairs| pairs.len() > 0 || item.object().is_none())
        || item.object().is_some_and(|object| object.class().starts_with("collections."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_16_bits() {
        let known =
            [(0x3c00, 1.0), (0xc000, -2.0), (0x5640, 100.0), (0, 0.0), (0x0001, 5.960_464_477_539_063e-8)];
        for (bits, expected) in known {
            assert_eq!(half(bits), expected, "{bits:x}");
        }
        assert!(half(0x7c00).is_infinite() && half(0x7e00).is_nan());
    }

    #[test]
    fn only_types_of_plain_values_are_known() {
        for name in ["numpy.ndarray", "numpy.core.multiarray._reconstruct", "datetime.date", "builtins.set"] {
            assert!(is_known(name), "{name}");
        }
        for name in
            ["os.system", "posix.system", "builtins.eval", "builtins.getattr", "subprocess.Popen", "numpyx.a"]
        {
            assert!(!is_known(name), "{name}");
        }
    }
}
