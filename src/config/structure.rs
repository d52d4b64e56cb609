//! Turns a serialized `google.protobuf.Struct` into JSON text.
//!
//! Envoy passes a `Struct` on in its wire form. The reader of configurations reads JSON, and its problems name JSON paths, so
//! the few shapes of a `Struct` are turned into text here. Members keep the order of the wire. Duplicate members stay in the
//! text; the JSON reader reports them.

use crate::config::wire::{Content, Field, field};
use crate::json::quoted;

/// Field number of `Struct.fields`, of `ListValue.values`, and of a map entry's key.
const FIRST: u64 = 1;
/// Field number of a map entry's value.
const SECOND: u64 = 2;
/// Greatest depth: more than any configuration has, and little enough for the stack.
const DEPTH_MAX: u32 = 64;

/// Returns the JSON text of a serialized `Struct`; `None` unless the whole message is one.
pub fn to_json(message: &[u8]) -> Option<Vec<u8>> {
    let mut out = String::with_capacity(message.len().saturating_mul(2));
    object(message, DEPTH_MAX, &mut out)?;
    Some(out.into_bytes())
}

fn object(mut message: &[u8], depth: u32, out: &mut String) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    out.push('{');
    let mut first = true;
    while !message.is_empty() {
        let Field { number: FIRST, content: Content::Bytes(mut entry) } = field(&mut message)? else {
            return None;
        };
        let (mut name, mut held) = (None, None);
        while !entry.is_empty() {
            // Protobuf would take the last of two names and merge two values. No library writes either, so both are refused.
            let Field { number, content } = field(&mut entry)?;
            match (number, content) {
                (FIRST, Content::Bytes(bytes)) if name.is_none() => {
                    name = Some(std::str::from_utf8(bytes).ok()?)
                }
                (SECOND, Content::Bytes(bytes)) if held.is_none() => held = Some(bytes),
                _ => return None,
            }
        }
        comma(&mut first, out);
        out.push_str(&quoted(name.unwrap_or("")));
        out.push(':');
        value(held?, depth, out)?;
    }
    out.push('}');
    Some(())
}

fn list(mut message: &[u8], depth: u32, out: &mut String) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    out.push('[');
    let mut first = true;
    while !message.is_empty() {
        let Field { number: FIRST, content: Content::Bytes(element) } = field(&mut message)? else {
            return None;
        };
        comma(&mut first, out);
        value(element, depth, out)?;
    }
    out.push(']');
    Some(())
}

/// Writes one `Value`, which has exactly one kind.
fn value(mut message: &[u8], depth: u32, out: &mut String) -> Option<()> {
    let Field { number, content } = field(&mut message)?;
    match (number, content) {
        (1, Content::Varint(0)) => out.push_str("null"),
        (2, Content::Double(number)) => out.push_str(&serde_json::Number::from_f64(number)?.to_string()),
        (3, Content::Bytes(text)) => out.push_str(&quoted(std::str::from_utf8(text).ok()?)),
        (4, Content::Varint(flag)) => out.push_str(if flag == 0 { "false" } else { "true" }),
        (5, Content::Bytes(fields)) => object(fields, depth, out)?,
        (6, Content::Bytes(values)) => list(values, depth, out)?,
        _ => return None,
    }
    message.is_empty().then_some(())
}

fn comma(first: &mut bool, out: &mut String) {
    if !std::mem::replace(first, false) {
        out.push(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Serializes a value as protobuf does.
    fn encode(value: &Value) -> Vec<u8> {
        match value {
            Value::Null => vec![0x08, 0],
            Value::Bool(flag) => vec![0x20, u8::from(*flag)],
            Value::Number(n) => [vec![0x11], n.as_f64().unwrap().to_le_bytes().to_vec()].concat(),
            Value::String(text) => delimited(0x1a, text.as_bytes()),
            Value::Object(_) => delimited(0x2a, &fields(value)),
            Value::Array(values) => {
                let values: Vec<u8> = values.iter().flat_map(|v| delimited(0x0a, &encode(v))).collect();
                delimited(0x32, &values)
            }
        }
    }

    fn fields(value: &Value) -> Vec<u8> {
        let entry = |(name, v): (&String, &Value)| {
            delimited(0x0a, &[delimited(0x0a, name.as_bytes()), delimited(0x12, &encode(v))].concat())
        };
        value.as_object().unwrap().iter().flat_map(entry).collect()
    }

    fn delimited(tag: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        out.push(u8::try_from(length).unwrap());
        [out, bytes.to_vec()].concat()
    }

    #[test]
    fn every_kind_of_value_is_converted() {
        let value = json!({"a": 90.0, "b": [true, false, null, "x\"y"], "c": {"d": {}, "e": []}, "f": 0.01});
        let text = to_json(&fields(&value)).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), value);
        assert_eq!(to_json(b"").unwrap(), b"{}");
    }

    #[test]
    fn an_entry_with_two_names_or_two_values_is_refused() {
        let (name, value) = (delimited(0x0a, b"a"), delimited(0x12, &encode(&json!(true))));
        let entry = |parts: &[&[u8]]| to_json(&delimited(0x0a, &parts.concat()));
        assert_eq!(entry(&[&name, &value]).as_deref(), Some(&b"{\"a\":true}"[..]));
        assert!(entry(&[&name, &name, &value]).is_none());
        // Found by fuzzing: the first value was skipped, whatever it was.
        assert!(entry(&[&name, &delimited(0x12, b"id"), &value]).is_none());
    }

    #[test]
    fn deep_nesting_is_refused() {
        let mut value = json!({});
        for _ in 0..200 {
            value = json!({"a": value});
        }
        assert!(to_json(&fields(&value)).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_give_json_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(text) = to_json(&bytes) {
                prop_assert!(serde_json::from_slice::<Value>(&text).is_ok());
            }
        }

        #[test]
        fn damaged_messages_give_json_or_none(at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = fields(&json!({"deployments": [{"name": "d", "weight": 5.0}], "x": {"y": [true]}}));
            let at = at.index(bytes.len());
            bytes[at] = with;
            if let Some(text) = to_json(&bytes) {
                prop_assert!(serde_json::from_slice::<Value>(&text).is_ok());
            }
        }
    }
}
