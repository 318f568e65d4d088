//! Numbers and flags as people's tools write them, for serde's `deserialize_with`.

use std::fmt::{self, Formatter};

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Largest float whose whole-number neighbours are all floats, too.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// A whole number: `64`, `64.0` or `"64"`; `None` for null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Whole(Option<i64>);

struct WholeVisitor;

impl<'de> Visitor<'de> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Whole, E> {
        Ok(Whole(Some(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Whole, E> {
        i64::try_from(value).map(|value| Whole(Some(value))).map_err(|_| E::custom("a number beyond 2^63"))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Whole, E> {
        match value.fract() == 0.0 && value.abs() <= MAX_EXACT {
            true => Ok(Whole(Some(value as i64))),
            false => Err(E::custom(format_args!("{value} is no whole number"))),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Whole, E> {
        let text = text.trim();
        if let Ok(value) = text.parse() {
            return Ok(Whole(Some(value)));
        }
        let float = text.parse::<f64>().ok();
        float.map_or_else(
            || Err(E::custom(format_args!("{text:?} is no whole number"))),
            |v| self.visit_f64(v),
        )
    }

    fn visit_unit<E: Error>(self) -> Result<Whole, E> {
        Ok(Whole(None))
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor)
    }
}

/// A whole number, also as a float or as text; not null.
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Whole::deserialize(deserializer)?.0.ok_or_else(|| D::Error::custom("null in place of a whole number"))
}

/// A whole number in a JSON value, also as a float or as text; `None` for anything else.
///
/// ```
/// use serde_json::json;
///
/// assert_eq!(refcoco::whole_number(&json!("64.0")), Some(64));
/// assert_eq!(refcoco::whole_number(&json!(64.5)), None);
/// ```
pub fn whole_number(value: &serde_json::Value) -> Option<i64> {
    Whole::deserialize(value).ok()?.0
}

/// As [`whole`], or null.
pub(super) fn whole_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(Whole::deserialize(deserializer)?.0)
}

/// A list of whole numbers, or null.
pub(super) fn whole_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<i64>>, D::Error> {
    let list = Option::<Vec<Whole>>::deserialize(deserializer)?;
    let number = |Whole(number)| number.ok_or_else(|| D::Error::custom("null in place of a whole number"));
    list.map(|list| list.into_iter().map(number).collect()).transpose()
}

/// A list of texts, or one text.
pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(vec![text]),
        list @ serde_json::Value::Array(_) => Vec::<String>::deserialize(list).map_err(D::Error::custom),
        other => Err(D::Error::custom(format_args!("`expressions` must be a list of texts, not {other}"))),
    }
}

/// Text, a number for its digits, or null.
pub(super) fn text_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Null => Ok(None),
        serde_json::Value::String(text) => Ok(Some(text)),
        serde_json::Value::Number(number) => Ok(Some(number.to_string())),
        other => Err(D::Error::custom(format_args!("{other} is no text"))),
    }
}

/// A flag: true, false, 0, 1, the same as float or text, or null for false.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    deserializer.deserialize_any(FlagVisitor)
}

/// As [`flag`], but null says nothing.
pub(super) fn flag_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    struct Flag(bool);
    impl<'de> Deserialize<'de> for Flag {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            flag(deserializer).map(Flag)
        }
    }
    Ok(Option::<Flag>::deserialize(deserializer)?.map(|Flag(is_set)| is_set))
}

struct FlagVisitor;

impl<'de> Visitor<'de> for FlagVisitor {
    type Value = bool;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("true or false, 1 or 0")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        Ok(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        match value {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(E::custom(format_args!("{other} is neither 1 nor 0, true nor false"))),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        match value.fract() == 0.0 {
            true => self.visit_i64(value as i64),
            false => Err(E::custom(format_args!("{value} is neither 1 nor 0, true nor false"))),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Ok(true),
            "false" | "0" | "no" | "" => Ok(false),
            other => Err(E::custom(format_args!("{other:?} is neither true nor false"))),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }
}

/// A whole number, a list of them, or null for none. Null and -1 inside a list stand for "no object" and are left out, as does
/// empty text. Lists inside the list are joined.
///
/// Written by hand: an untagged enum keeps a copy of the list that takes eight times the memory.
pub(super) fn wholes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    deserializer.deserialize_any(WholesVisitor)
}

struct WholesVisitor;

/// An element of such a list.
struct NumberOrList(Vec<i64>);

impl<'de> Deserialize<'de> for NumberOrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wholes(deserializer).map(Self)
    }
}

impl<'de> Visitor<'de> for WholesVisitor {
    type Value = Vec<i64>;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, a list of them, or null")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Vec<i64>, E> {
        Ok(objects([value]))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Vec<i64>, E> {
        Ok(objects(WholeVisitor.visit_u64(value)?.0))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Vec<i64>, E> {
        Ok(objects(WholeVisitor.visit_f64(value)?.0))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<i64>, E> {
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        Ok(objects(WholeVisitor.visit_str(text)?.0))
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<i64>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<i64>, A::Error> {
        let mut ids = Vec::new();
        while let Some(NumberOrList(more)) = list.next_element()? {
            ids.extend(more);
        }
        Ok(ids)
    }
}

fn objects(ids: impl IntoIterator<Item = i64>) -> Vec<i64> {
    ids.into_iter().filter(|&id| id != -1).collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct All {
        #[serde(deserialize_with = "whole")]
        id: i64,
        #[serde(default, deserialize_with = "whole_or_null")]
        width: Option<i64>,
        #[serde(default, deserialize_with = "flag")]
        crowd: bool,
        #[serde(default, deserialize_with = "wholes")]
        ids: Vec<i64>,
    }

    fn parsed(text: &str) -> Result<All, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_in_every_form() {
        for id in ["7", "7.0", "\"7\"", "\" 7 \"", "\"7.0\"", "7e0"] {
            assert_eq!(parsed(&format!("{{\"id\":{id}}}")).unwrap().id, 7, "{id}");
        }
        for id in ["7.5", "\"seven\"", "null", "true", "[7]", "1e300", "9223372036854775808"] {
            assert!(parsed(&format!("{{\"id\":{id}}}")).is_err(), "{id}");
        }
        assert_eq!(parsed("{\"id\":1,\"width\":null}").unwrap().width, None);
    }

    #[test]
    fn flags_in_every_form() {
        for (text, expected) in [
            ("false", false),
            ("true", true),
            ("0", false),
            ("1", true),
            ("1.0", true),
            ("\"True\"", true),
            ("null", false),
        ] {
            assert_eq!(parsed(&format!("{{\"id\":1,\"crowd\":{text}}}")).unwrap().crowd, expected, "{text}");
        }
        assert!(parsed("{\"id\":1,\"crowd\":2}").unwrap_err().contains("2 is neither"));
    }

    #[test]
    fn objects_in_every_form() {
        for (text, expected) in [
            ("5", vec![5]),
            ("[5, 6.0, \"7\"]", vec![5, 6, 7]),
            ("null", vec![]),
            ("[]", vec![]),
            ("-1", vec![]),
            ("[-1]", vec![]),
            ("[null]", vec![]),
            ("\"5\"", vec![5]),
            ("\"\"", vec![]),
            ("[[5], 6, [-1]]", vec![5, 6]),
        ] {
            assert_eq!(parsed(&format!("{{\"id\":1,\"ids\":{text}}}")).unwrap().ids, expected, "{text}");
        }
        assert!(parsed("{\"id\":1,\"ids\":[\"five\"]}").is_err());
    }
}
