//! The reader of JSON documents that people write. It reports all problems of a document at once.
//!
//! Why the reader is our own: one rejection should be enough to correct a configuration. A derived
//! `Deserialize` or `serde_json::Value` cannot do this, because the reader must report:
//!
//! - all problems, each with its path: a derived type stops at the first wrong field.
//! - duplicate and unknown fields: a `Value` silently keeps the last of two equal keys.
//! - values out of range and rules across fields, with the value as it was written: deserialization loses the text, the order
//!   and the path.
//! - nothing of a secret: the error of a derived type quotes the value, which may be a key.
//!
//! `serde_json` does the parsing. It fills a tree of [`Node`]s that keeps every member in document order, duplicates included.
//! The configuration reads the tree through a [`Cursor`], which knows its path, reports each problem to one [`Sink`], and goes
//! on. A reading function returns [`Read`]: a value, or the proof that a problem has been reported. Only the sink can make
//! that proof, so nothing is rejected silently.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::problems::Problems;

mod cursor; // a place in the tree; its path; fields, elements and values, with the problem of each
mod sink; // the problems of one document, in its order, within a bound

pub use cursor::{Cursor, Items, Member, Object, each};
pub use sink::{PROBLEMS_MAX, Read, Reported, Sink};

/// Largest document, in bytes. A full configuration (1024 deployments) has well under one megabyte. The tree takes up to about
/// twenty times the size of its document, in every worker, and a VM's memory never shrinks.
pub const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Characters of a value that a problem shows.
const SHOWN_CHARS: usize = 60;

/// One JSON value and its position in the document.
#[derive(Debug)]
pub struct Node {
    json: Json,
    /// Ordinal of the value in the document, parents before children. Problems are sorted by it.
    position: u32,
}

/// A JSON value that keeps members in document order, duplicate keys included.
#[derive(Debug)]
enum Json {
    Null,
    Bool(bool),
    Unsigned(Packed),
    Negative(Packed),
    Float(Packed),
    String(Rc<str>),
    Array(Box<[Node]>),
    Object(Box<[(Rc<str>, Node)]>),
}

/// The bytes of a number. A `u64` would align every node to eight bytes and make the tree a third larger; the tree of a large
/// document decides how much memory a VM takes.
type Packed = [u8; 8];

impl Node {
    /// Takes the elements out of the array in the field `name` (the first, of duplicates) and leaves an empty array. Returns
    /// nothing if this is no object or has no such array.
    pub fn take_items(&mut self, name: &str) -> Box<[Node]> {
        let Json::Object(members) = &mut self.json else { return Box::default() };
        match members.iter_mut().find(|(member, _)| **member == *name) {
            Some((_, Node { json: Json::Array(items), .. })) => std::mem::take(items),
            _ => Box::default(),
        }
    }
}

impl Json {
    /// Returns the kind of the value, for values that are not shown.
    fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Unsigned(_) | Json::Negative(_) | Json::Float(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "an array",
            Json::Object(_) => "an object",
        }
    }

    /// Appends the value as JSON. With `numbers_in_strings` a string that is a number with decimals is written as a number.
    /// Returns false if a number cannot be written exactly.
    fn write(&self, numbers_in_strings: bool, out: &mut String) -> bool {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(_) | Json::Unsigned(_) | Json::Negative(_) => out.push_str(&self.shown()),
            Json::Float(value) => {
                let value = f64::from_ne_bytes(*value);
                let text = decimal(value);
                out.push_str(&text);
                return text.ends_with(|c: char| c.is_ascii_digit());
            }
            Json::String(text) => match serde_json::from_str::<f64>(text) {
                Ok(_) if numbers_in_strings && text.contains('.') => out.push_str(text),
                _ => out.push_str(&quoted(text)),
            },
            Json::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { "," });
                    if !item.json.write(numbers_in_strings, out) {
                        return false;
                    }
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (i, (name, member)) in members.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { "," });
                    out.push_str(&quoted(name));
                    out.push(':');
                    if !member.json.write(numbers_in_strings, out) {
                        return false;
                    }
                }
                out.push('}');
            }
        }
        true
    }

    /// Returns the value as JSON, shortened. Arrays and objects are only named: a secret may be anywhere in them.
    fn shown(&self) -> String {
        match self {
            Json::Bool(value) => value.to_string(),
            Json::Unsigned(value) => u64::from_ne_bytes(*value).to_string(),
            Json::Negative(value) => i64::from_ne_bytes(*value).to_string(),
            Json::Float(value) => decimal(f64::from_ne_bytes(*value)),
            Json::String(value) => shortened(value),
            Json::Null | Json::Array(_) | Json::Object(_) => self.kind().to_owned(),
        }
    }
}

/// Writes a number with the fewest decimals, up to nine, that give it back. Any other number is outside every range of the
/// configuration and is only named. (The float formatting of the standard library would be a twentieth of the filter.)
fn decimal(value: f64) -> String {
    let sign = if value < 0.0 { "-" } else { "" };
    let mut scale: u64 = 1;
    for decimals in 0..=9 {
        let factor = scale as f64;
        let scaled = (value.abs() * factor).round();
        if scaled < 1e15 && scaled / factor == value.abs() {
            let digits = scaled as u64;
            let (whole, rest) = (digits.checked_div(scale), digits.checked_rem(scale));
            let (whole, rest) = (whole.unwrap_or(0), rest.unwrap_or(0));
            return match decimals {
                0 => format!("{sign}{whole}"),
                _ => format!("{sign}{whole}.{rest:0decimals$}"),
            };
        }
        scale = scale.saturating_mul(10);
    }
    Json::Float(value.to_ne_bytes()).kind().to_owned()
}

/// Returns a text as a JSON string, in quotes.
pub fn quoted(text: &str) -> String {
    // A string can always be serialized.
    serde_json::to_string(text).unwrap_or_else(|_| "null".to_owned())
}

/// Returns a text as a JSON string for a problem: cut after [`SHOWN_CHARS`] characters, everything but control characters,
/// quotes and backslashes as it is.
fn shortened(text: &str) -> String {
    let mut out = String::from("\"");
    for (i, c) in text.chars().enumerate() {
        if i == SHOWN_CHARS {
            out.push('…');
            break;
        }
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Parses one document. Any bytes give a tree or a problem; `serde_json` bounds the nesting.
///
/// # Errors
/// The document is not JSON: one problem at the root. Its text has line and column and nothing of the content.
pub fn parse(text: &[u8]) -> Result<Node, Problems> {
    let (next, texts) = (Cell::new(0), RefCell::default());
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    Grow { next: &next, texts: &texts }
        .deserialize(&mut deserializer)
        .and_then(|node| deserializer.end().map(|()| node))
        .map_err(|error| Problems::of_document(&format!("JSON syntax error: {error}")))
}

/// Builds the tree from the parser's events and numbers its nodes.
#[derive(Clone, Copy)]
struct Grow<'a> {
    next: &'a Cell<u32>,
    /// Names of members and strings, each held once: a thousand deployments have the same fields and mostly equal values.
    texts: &'a RefCell<BTreeSet<Rc<str>>>,
}

/// Reads a member's name, or a string.
struct Text<'a>(&'a RefCell<BTreeSet<Rc<str>>>);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = Rc<str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Rc<str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = Rc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Rc<str>, E> {
        let Ok(mut texts) = self.0.try_borrow_mut() else { return Ok(text.into()) };
        if let Some(held) = texts.get(text) {
            return Ok(Rc::clone(held));
        }
        let text: Rc<str> = text.into();
        texts.insert(Rc::clone(&text));
        Ok(text)
    }
}

impl<'de> DeserializeSeed<'de> for Grow<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let position = self.next.get();
        self.next.set(position.saturating_add(1));
        Ok(Node { json: deserializer.deserialize_any(self)?, position })
    }
}

impl<'de> Visitor<'de> for Grow<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Unsigned(value.to_ne_bytes()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Negative(value.to_ne_bytes()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value.to_ne_bytes()))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Json, E> {
        Text(self.texts).visit_str(value).map(Json::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Json::Array(items.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key_seed(Text(self.texts))? {
            members.push((name, map.next_value_seed(self)?));
        }
        // A boxed slice has no spare capacity, which would be a third of the tree.
        Ok(Json::Object(members.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Node {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn values_are_shown_as_written() {
        for text in
            ["true", "0", "110", "-3", "12.345", "1.5", "18446744073709551615", r#""a\"b\\c\n\t\u0001é""#]
        {
            assert_eq!(root(text).json.shown(), text);
        }
        for (text, shown) in
            [("1e7", "10000000"), ("100.0", "100"), ("1e300", "a number"), ("1e-300", "a number")]
        {
            assert_eq!(root(text).json.shown(), shown);
        }
        assert_eq!(root("null").json.shown(), "null");
        assert_eq!(root("[1]").json.shown(), "an array");
        assert_eq!(root("{}").json.shown(), "an object");
    }

    #[test]
    fn long_values_are_cut_on_a_character() {
        let shown = root(&format!("\"{}\"", "é".repeat(100))).json.shown();
        assert_eq!(shown, format!("\"{}…\"", "é".repeat(SHOWN_CHARS)));
        let exact = format!("\"{}\"", "é".repeat(SHOWN_CHARS));
        assert_eq!(root(&exact).json.shown(), exact);
    }

    #[test]
    fn syntax_errors_name_the_place_and_quote_nothing() {
        for (text, message) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("{\n  \"sk-key\": sk-key}", "expected value at line 2 column 13"),
            ("{} x", "trailing characters at line 1 column 4"),
            ("{\"sk-key\": 1,}", "trailing comma at line 1 column 14"),
            ("[1e999]", "number out of range at line 1 column 6"),
        ] {
            let problems = parse(text.as_bytes()).unwrap_err();
            assert_eq!(problems.to_string(), format!("configuration: JSON syntax error: {message}"));
        }
        assert!(parse(b"\"\xff\"").is_err(), "not UTF-8");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let problems = parse("[".repeat(1_000_000).as_bytes()).unwrap_err();
        assert_eq!(
            problems.to_string(),
            "configuration: JSON syntax error: recursion limit exceeded at line 1 column 128"
        );
    }

    #[test]
    fn unusual_names_are_quoted_in_paths() {
        let (node, sink) =
            (root(r#"{"a b": 1, "": 2, "x\ny": 3, "fine-1.x": 4, "é": {"z": 5}}"#), Sink::default());
        let _ = Cursor::root(&node, &sink)
            .object(&["é"])
            .map(|object| object.get("é").map(|at| at.object(&[]).map(|_| ())));
        let problems = sink.finish(Ok(())).unwrap_err();
        let paths: Vec<&str> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, [r#"["a b"]"#, r#"[""]"#, r#"["x\ny"]"#, "fine-1.x", r#"["é"].z"#]);
    }

    #[test]
    fn problems_come_in_document_order_even_if_read_in_another() {
        let (node, sink) = (root(r#"{"a": [1, 2], "b": 3, "b": 4}"#), Sink::default());
        let root = Cursor::root(&node, &sink);
        let object = root.object(&["a", "b"]).unwrap();
        object.get("b").unwrap().refuse("late");
        let a = object.get("a").unwrap();
        let items = a.items(&(0..=9)).unwrap();
        items.cursors[1].refuse("third");
        items.cursors[0].refuse("second");
        object.missing("c", "is required");
        let problems = sink.finish(Ok(())).unwrap_err();
        assert_eq!(
            problems.to_string(),
            "c: is required\na[0]: second\na[1]: third\nb: late\nb: duplicate field"
        );
    }

    #[test]
    fn problems_beyond_the_bound_are_counted() {
        let (node, sink) = (root("{}"), Sink::default());
        for _ in 0..PROBLEMS_MAX + 7 {
            Cursor::root(&node, &sink).refuse("no");
        }
        let problems = sink.finish(Ok(())).unwrap_err();
        assert_eq!(problems.0.len(), PROBLEMS_MAX + 1);
        assert_eq!(problems.0.last().unwrap().to_string(), "configuration: 7 more problems are not shown");
    }
}
