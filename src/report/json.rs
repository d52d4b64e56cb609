//! Writes the types of this room as JSON in one line. A float has two decimals.
//!
//! `serde_json` needs about 160 bytes of code for each field of a struct, this writer about 40: 10 kB of the module. It writes
//! structs, enums, sequences, strings, numbers that are not negative, booleans and options, and refuses other types.

use std::fmt;

use serde::Serialize;
use serde::ser::{Impossible, SerializeSeq, SerializeStruct, SerializeTuple, Serializer};

use crate::json::quoted;
use crate::units::Hundredths;

/// Writes a value as JSON in one line. A value that contains another type than those above becomes `null`.
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> String {
    let mut json = Json::default();
    let written = value.serialize(&mut json);
    json.finish(written)
}

type Written = Result<(), fmt::Error>;

/// JSON text that is being written.
#[derive(Default)]
struct Json(String);

impl Json {
    #[inline(never)]
    fn finish(self, written: Written) -> String {
        if written.is_ok() { self.0 } else { "null".to_owned() }
    }

    #[inline(never)]
    fn text(&mut self, text: &str) -> Written {
        self.0.push_str(&quoted(text));
        Ok(())
    }

    #[inline(never)]
    fn raw(&mut self, text: &str) -> Written {
        self.0.push_str(text);
        Ok(())
    }

    #[inline(never)]
    fn number(&mut self, number: u64) -> Written {
        self.0.push_str(&number.to_string());
        Ok(())
    }

    #[inline(never)]
    fn decimal(&mut self, number: f64) -> Written {
        self.0.push_str(&Hundredths::of(number).to_string());
        Ok(())
    }

    /// Separates the next element from the one before it, if there is one.
    #[inline(never)]
    fn separate(&mut self) {
        if !self.0.ends_with(['{', '[']) {
            self.0.push(',');
        }
    }

    /// Begins a member of an object. The names of fields need no escapes.
    #[inline(never)]
    fn name(&mut self, name: &str) {
        self.separate();
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
    }
}

/// Refuses a type that this room does not have.
const OTHER: fmt::Error = fmt::Error;

impl Serializer for &mut Json {
    type Ok = ();
    type Error = fmt::Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Impossible<(), fmt::Error>;
    type SerializeTupleVariant = Impossible<(), fmt::Error>;
    type SerializeMap = Impossible<(), fmt::Error>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<(), fmt::Error>;

    fn serialize_bool(self, value: bool) -> Written {
        self.raw(if value { "true" } else { "false" })
    }
    fn serialize_u8(self, value: u8) -> Written {
        self.number(value.into())
    }
    fn serialize_u16(self, value: u16) -> Written {
        self.number(value.into())
    }
    fn serialize_u32(self, value: u32) -> Written {
        self.number(value.into())
    }
    fn serialize_u64(self, value: u64) -> Written {
        self.number(value)
    }
    fn serialize_f64(self, value: f64) -> Written {
        self.decimal(value)
    }
    fn serialize_str(self, value: &str) -> Written {
        self.text(value)
    }
    fn serialize_none(self) -> Written {
        self.raw("null")
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        value.serialize(self)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Written {
        self.text(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Written {
        value.serialize(self)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self, fmt::Error> {
        self.raw("[")?;
        Ok(self)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self, fmt::Error> {
        self.raw("[")?;
        Ok(self)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        self.raw("{")?;
        Ok(self)
    }

    fn serialize_i8(self, _: i8) -> Written {
        Err(OTHER)
    }
    fn serialize_i16(self, _: i16) -> Written {
        Err(OTHER)
    }
    fn serialize_i32(self, _: i32) -> Written {
        Err(OTHER)
    }
    fn serialize_i64(self, _: i64) -> Written {
        Err(OTHER)
    }
    fn serialize_f32(self, _: f32) -> Written {
        Err(OTHER)
    }
    fn serialize_char(self, _: char) -> Written {
        Err(OTHER)
    }
    fn serialize_bytes(self, _: &[u8]) -> Written {
        Err(OTHER)
    }
    fn serialize_unit(self) -> Written {
        Err(OTHER)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Written {
        Err(OTHER)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Written {
        Err(OTHER)
    }
    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, fmt::Error> {
        Err(OTHER)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, fmt::Error> {
        Err(OTHER)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, fmt::Error> {
        Err(OTHER)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, fmt::Error> {
        Err(OTHER)
    }
}

impl SerializeStruct for &mut Json {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Written {
        self.name(name);
        value.serialize(&mut **self)
    }
    fn end(self) -> Written {
        self.raw("}")
    }
}

impl SerializeSeq for &mut Json {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.separate();
        value.serialize(&mut **self)
    }
    fn end(self) -> Written {
        self.raw("]")
    }
}

impl SerializeTuple for &mut Json {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.separate();
        value.serialize(&mut **self)
    }
    fn end(self) -> Written {
        self.raw("]")
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Clone, Serialize)]
    struct Sample {
        text: String,
        flags: [bool; 2],
        small: (u8, u16),
        number: u32,
        large: u64,
        decimal: Hundredths,
        option: Option<Kind>,
        #[serde(skip_serializing_if = "Option::is_none")]
        absent: Option<u64>,
        list: Vec<Tagged>,
        wrapped: Wrapped,
    }

    #[derive(Debug, Clone, Copy, Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        One,
        TwoWords,
    }

    #[derive(Debug, Clone, Serialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Empty,
        Inner(Inner),
        Fields { texts: Vec<String> },
    }

    #[derive(Debug, Clone, Serialize)]
    struct Inner {
        first: Option<String>,
        second: u64,
    }

    #[derive(Debug, Clone, Serialize)]
    struct Wrapped(String);

    fn tagged() -> impl Strategy<Value = Tagged> {
        prop_oneof![
            Just(Tagged::Empty),
            (option::of(any::<String>()), any::<u64>())
                .prop_map(|(first, second)| Tagged::Inner(Inner { first, second })),
            vec(any::<String>(), 0..3).prop_map(|texts| Tagged::Fields { texts }),
        ]
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let numbers = (any::<[bool; 2]>(), any::<(u8, u16)>(), any::<u32>(), any::<u64>(), 0..1u64 << 50);
        let kind = option::of(prop_oneof![Just(Kind::One), Just(Kind::TwoWords)]);
        let texts = (any::<String>(), any::<String>().prop_map(Wrapped));
        (numbers, kind, option::of(any::<u64>()), vec(tagged(), 0..4), texts).prop_map(
            |((flags, small, number, large, decimal), option, absent, list, (text, wrapped))| Sample {
                text,
                flags,
                small,
                number,
                large,
                decimal: Hundredths(decimal),
                option,
                absent,
                list,
                wrapped,
            },
        )
    }

    proptest! {
        #[test]
        fn the_writer_agrees_with_serde_json(sample in sample()) {
            let written = to_json(&sample);
            prop_assert!(!written.contains('\n'));
            let read: Value = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(read, serde_json::to_value(&sample).unwrap());
            // But for decimals, byte for byte.
            let whole = Sample { decimal: Hundredths(0), ..sample };
            let other = serde_json::to_string(&whole).unwrap();
            prop_assert_eq!(to_json(&whole), other.replace("\"decimal\":0.0", "\"decimal\":0.00"));
        }
    }

    #[test]
    fn other_types_are_refused() {
        assert_eq!(to_json(&-1i64), "null");
        assert_eq!(to_json(&[Some('c')]), "null");
    }
}
