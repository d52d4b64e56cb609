//! The envelope: finds the JSON document in the bytes of a plugin configuration.
//!
//! Envoy unwraps a `google.protobuf.StringValue` and passes every other message on as serialized protobuf, a `Struct` too. A
//! `GenericSecret` is worth reading, because it keeps the configuration out of config dumps. So a few dozen lines read the wire
//! format, in place of a protobuf library. `filename` and `environment_variable` of a `DataSource` cannot be read: Envoy does
//! not resolve them for wasm filters, and the filter cannot.

use std::borrow::Cow;

use crate::config::structure;
use crate::config::wire::{take, varint};
use crate::json::DOCUMENT_BYTES_MAX;
use crate::problems::Problems;

/// Field number of `GenericSecret.secret` and of `StringValue.value`.
const CONTENT: u64 = 1;
/// Field number of `DataSource.inline_bytes`.
const INLINE_BYTES: u64 = 2;
/// Field number of `DataSource.inline_string`.
const INLINE_STRING: u64 = 3;

/// Finds the JSON document in a plugin configuration. It is JSON text (Envoy's form of a `StringValue`), or a serialized
/// `StringValue`, `Struct`, or `GenericSecret` with `secret.inline_string` or `secret.inline_bytes`. Any bytes give a document
/// or a problem. The document may still be invalid JSON.
///
/// # Errors
/// One problem of the document as a whole: it is too large, or none of these.
pub fn document(plugin_configuration: &[u8]) -> Result<Cow<'_, [u8]>, Problems> {
    if plugin_configuration.len() > DOCUMENT_BYTES_MAX {
        let rule =
            format!("must not be larger than {DOCUMENT_BYTES_MAX} bytes, has {}", plugin_configuration.len());
        return Err(Problems::of_document(&rule));
    }
    // Protobuf is tried first, because it can look like JSON: its first byte is a line feed, and the second byte of a message
    // of 123 bytes is `{`. JSON text cannot look like protobuf: the tags 12 and 1a are control characters.
    if let Some(document) = string_value(plugin_configuration) {
        return Ok(Cow::Borrowed(document));
    }
    // A Struct has the field numbers of a secret, so it is tried before one. It is read whole or not at all, and each of its
    // entries has a name. In a secret, that field would be a file name, which Envoy does not resolve.
    if plugin_configuration.first() == Some(&b'\n')
        && let Some(document) = structure::to_json(plugin_configuration)
    {
        return Ok(Cow::Owned(document));
    }
    let secret = last(plugin_configuration, &[CONTENT]);
    if let Some(document) = secret.and_then(|source| last(source, &[INLINE_BYTES, INLINE_STRING])) {
        return Ok(Cow::Borrowed(document));
    }
    if begins_object(plugin_configuration) {
        return Ok(Cow::Borrowed(plugin_configuration));
    }
    Err(Problems::of_document(if plugin_configuration.trim_ascii().is_empty() {
        "is empty"
    } else {
        "must be a JSON object, given as StringValue, Struct, or GenericSecret with secret.inline_string"
    }))
}

/// Returns the text of a `StringValue`, if the message is one and the text is an object.
fn string_value(mut message: &[u8]) -> Option<&[u8]> {
    let tag = varint(&mut message)?;
    let length = varint(&mut message)?;
    let text = take(&mut message, length)?;
    (tag == CONTENT << 3 | 2 && message.is_empty() && begins_object(text)).then_some(text)
}

fn begins_object(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'{')
}

/// Returns the last length-delimited field with one of the numbers `wanted`; in protobuf the last one wins. `None` if there is
/// none, or the message is malformed.
fn last<'a>(mut message: &'a [u8], wanted: &[u64]) -> Option<&'a [u8]> {
    let mut found = None;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let payload = match tag & 7 {
            0 => {
                varint(&mut message)?;
                None
            }
            1 => {
                take(&mut message, 8)?;
                None
            }
            2 => {
                let length = varint(&mut message)?;
                Some(take(&mut message, length)?)
            }
            5 => {
                take(&mut message, 4)?;
                None
            }
            _ => return None,
        };
        if payload.is_some() && wanted.contains(&(tag >> 3)) {
            found = payload;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        let mut length = content.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(content);
        out
    }

    /// Returns documents of many lengths. Among them are lengths with a length byte that is white space, and with two length bytes.
    fn documents() -> impl Iterator<Item = Vec<u8>> {
        (0..400).map(|n| format!("{{\"a\": \"{}\"}}", "x".repeat(n)).into_bytes())
    }

    #[test]
    fn json_text_is_returned_unchanged() {
        for json in [&b"{}"[..], b" \n\t{}", b"{\"a\": 1", b"\n{}"] {
            assert_eq!(&*document(json).unwrap(), json);
        }
    }

    #[test]
    fn json_text_that_begins_like_protobuf_is_not_mistaken_for_it() {
        for json in documents() {
            for indent in ["\n", "\n ", "\n\n", "\n\t", "\n\r\n    "] {
                let text = [indent.as_bytes(), &json].concat();
                assert_eq!(document(&text).unwrap().trim_ascii_start(), json);
            }
        }
    }

    #[test]
    fn a_document_that_is_too_large_is_refused() {
        let mut text = b"{}".to_vec();
        text.resize(DOCUMENT_BYTES_MAX, b' ');
        assert!(document(&text).is_ok());
        text.push(b' ');
        assert_eq!(
            document(&text).unwrap_err().to_string(),
            "configuration: must not be larger than 4194304 bytes, has 4194305"
        );
    }

    #[test]
    fn an_empty_configuration_is_reported_as_empty() {
        for empty in [&b""[..], b" \n"] {
            assert_eq!(document(empty).unwrap_err().to_string(), "configuration: is empty");
        }
    }

    #[test]
    fn a_generic_secret_of_any_length_is_unwrapped() {
        for json in documents() {
            assert_eq!(document(&field(0x0a, &field(0x1a, &json))).unwrap(), json, "inline_string");
            assert_eq!(document(&field(0x0a, &field(0x12, &json))).unwrap(), json, "inline_bytes");
        }
    }

    #[test]
    fn a_string_value_of_any_length_is_unwrapped() {
        for json in documents() {
            assert_eq!(document(&field(0x0a, &json)).unwrap(), json);
        }
    }

    #[test]
    fn unknown_fields_of_every_wire_type_are_skipped() {
        let mut source = vec![0x28, 0xff, 0x01]; // field 5: varint
        source.extend(field(0x1a, b"{}"));
        source.extend([0x35, 1, 2, 3, 4]); // field 6: 32 bits
        let mut secret = field(0x12, b"a map entry"); // field 2: bytes
        secret.extend([0x19, 1, 2, 3, 4, 5, 6, 7, 8]); // field 3: 64 bits
        secret.extend(field(0x0a, &source));
        secret.extend([0xf8, 0xff, 0x01, 0x07]); // a high field number: varint
        assert_eq!(&*document(&secret).unwrap(), b"{}");
    }

    #[test]
    fn the_last_of_repeated_fields_wins() {
        let source = [field(0x1a, b"{\"a\":1}"), field(0x12, b"{\"b\":2}")].concat();
        assert_eq!(&*document(&field(0x0a, &source)).unwrap(), b"{\"b\":2}");
    }

    #[test]
    fn a_file_name_or_anything_else_is_refused() {
        for bytes in [
            field(0x0a, &field(0x0a, b"/etc/config.json")),
            field(0x0a, &field(0x22, b"CONFIG")),
            b"[1, 2]".to_vec(),
            b"deployments: []".to_vec(),
            vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            vec![0x0a, 0x05, 0x1a],
            vec![0x0b],
        ] {
            assert_eq!(
                document(&bytes).unwrap_err().to_string(),
                "configuration: must be a JSON object, given as StringValue, Struct, or GenericSecret with \
                 secret.inline_string"
            );
        }
    }
}
