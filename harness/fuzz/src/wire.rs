//! The messages that Envoy wraps a configuration in, as a real protobuf library writes and reads them.

use prost::Message;
use prost_types::{ListValue, Struct, Value, value::Kind};

/// `google.protobuf.StringValue`.
#[derive(Clone, PartialEq, Message)]
pub struct StringValue {
    #[prost(string, tag = "1")]
    pub value: String,
}

/// `envoy.extensions.transport_sockets.tls.v3.GenericSecret`.
#[derive(Clone, PartialEq, Message)]
pub struct GenericSecret {
    #[prost(message, optional, tag = "1")]
    pub secret: Option<DataSource>,
}

/// `envoy.config.core.v3.DataSource`.
#[derive(Clone, PartialEq, Message)]
pub struct DataSource {
    #[prost(oneof = "Specifier", tags = "1, 2, 3, 4")]
    pub specifier: Option<Specifier>,
}

/// Where the data is.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Specifier {
    #[prost(string, tag = "1")]
    Filename(String),
    #[prost(bytes, tag = "2")]
    InlineBytes(Vec<u8>),
    #[prost(string, tag = "3")]
    InlineString(String),
    #[prost(string, tag = "4")]
    EnvironmentVariable(String),
}

pub fn string_value(text: &str) -> Vec<u8> {
    StringValue { value: text.to_owned() }.encode_to_vec()
}

pub fn secret(specifier: Specifier) -> Vec<u8> {
    GenericSecret { secret: Some(DataSource { specifier: Some(specifier) }) }.encode_to_vec()
}

/// A JSON object as a serialized `Struct`.
pub fn structure(json: &serde_json::Value) -> Option<Vec<u8>> {
    match of_json(json).kind {
        Some(Kind::StructValue(fields)) => Some(fields.encode_to_vec()),
        _ => None,
    }
}

fn of_json(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(*flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(0.0)),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(items) => {
            Kind::ListValue(ListValue { values: items.iter().map(of_json).collect() })
        }
        serde_json::Value::Object(members) => Kind::StructValue(Struct {
            fields: members.iter().map(|(name, value)| (name.clone(), of_json(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

/// What a protobuf library makes of bytes that are a `Struct`; `None` if they are none, or hold what JSON cannot.
pub fn as_json(bytes: &[u8]) -> Option<serde_json::Value> {
    let fields = Struct::decode(bytes).ok()?;
    to_json(&Value { kind: Some(Kind::StructValue(fields)) })
}

fn to_json(value: &Value) -> Option<serde_json::Value> {
    Some(match value.kind.as_ref()? {
        Kind::NullValue(_) => serde_json::Value::Null,
        Kind::BoolValue(flag) => serde_json::Value::Bool(*flag),
        Kind::NumberValue(number) => serde_json::Number::from_f64(*number)?.into(),
        Kind::StringValue(text) => text.clone().into(),
        Kind::ListValue(list) => list.values.iter().map(to_json).collect::<Option<Vec<_>>>()?.into(),
        Kind::StructValue(fields) => {
            let members = fields.fields.iter().map(|(name, value)| Some((name.clone(), to_json(value)?)));
            serde_json::Value::Object(members.collect::<Option<_>>()?)
        }
    })
}
