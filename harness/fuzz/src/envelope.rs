//! A protobuf message of any bytes as a configuration, against a real protobuf library.

use std::borrow::Cow;

use bellwether::config::document;
use prost::Message as _;

use super::config::all_sound;
use super::wire::{self, GenericSecret, Specifier, StringValue};

pub fn run(data: &[u8]) {
    let _ = all_sound(data);
    if let Ok(Cow::Owned(text)) = document(data) {
        // Only a Struct is rewritten. A member that comes twice is kept for the JSON reader to complain about; the library
        // keeps the last one, and so does serde_json.
        let json: serde_json::Value = serde_json::from_slice(&text).expect("a Struct becomes JSON");
        // Through text as well: what serde_json reads of many digits is off by the last bit now and then.
        let told = wire::as_json(data).map(|json| serde_json::from_str(&json.to_string()).expect("JSON"));
        assert_eq!(told, Some(json));
    }
    // Whatever the library writes of what it has read is understood as the library means it.
    if let Ok(message) = StringValue::decode(data)
        && message.value.trim_ascii_start().starts_with('{')
    {
        assert_eq!(document(&message.encode_to_vec()).unwrap(), message.value.as_bytes());
    }
    if let Ok(message) = GenericSecret::decode(data)
        && let Some(specifier) = message.secret.and_then(|source| source.specifier)
    {
        let held = match &specifier {
            Specifier::InlineBytes(bytes) => Some(bytes.clone()),
            Specifier::InlineString(text) => Some(text.clone().into_bytes()),
            Specifier::Filename(_) | Specifier::EnvironmentVariable(_) => None,
        };
        let written = wire::secret(specifier);
        // A document, not just any text: see `config`.
        if let Some(held) = held.filter(|held| serde_json::from_slice::<serde_json::Value>(held).is_ok()) {
            assert_eq!(*document(&written).unwrap(), *held);
        }
    }
}
