//! A cursor: a place in the tree, with its path. It reads the value there, and reports a problem if the value is wrong.

use std::ops::RangeInclusive;
use std::rc::Rc;

use super::{Json, Node, Read, Reported, SHOWN_CHARS, Sink, shortened};
use crate::problems::Problem;

/// The step from a cursor's parent to the cursor.
#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a Cursor<'a>, &'a str),
    Index(&'a Cursor<'a>, usize),
}

/// A place in the document: a value, its path, and the sink for problems.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    node: &'a Node,
    step: Step<'a>,
    sink: &'a Sink,
    hidden: bool,
}

impl<'a> Cursor<'a> {
    /// Returns the cursor of the whole document.
    pub fn root(node: &'a Node, sink: &'a Sink) -> Cursor<'a> {
        Cursor { node, step: Step::Root, sink, hidden: false }
    }

    /// Returns the same place, with problems that show only the kind of the value: it may be a secret. Elements of a hidden
    /// array are hidden as well; fields of a hidden object are not.
    #[must_use]
    pub fn hidden(self) -> Cursor<'a> {
        Cursor { hidden: true, ..self }
    }

    /// Returns the same place, with problems that show the value, also below an object with names of the user's choice.
    #[must_use]
    pub fn shown_values(self) -> Cursor<'a> {
        Cursor { hidden: false, ..self }
    }

    /// Returns the path from the root as the user would write it; empty for the root.
    pub fn path(&self) -> String {
        match self.step {
            Step::Root => String::new(),
            Step::Field(parent, name) => field_path(parent.path(), name),
            Step::Index(parent, index) => format!("{}[{index}]", parent.path()),
        }
    }

    /// Reports that this value breaks `rule`, and shows it.
    pub fn wrong(&self, rule: &str) -> Reported {
        self.wrong_as(rule, self.shown())
    }

    /// Returns the value as a problem shows it.
    pub fn shown(&self) -> String {
        if self.hidden { self.node.json.kind().to_owned() } else { self.node.json.shown() }
    }

    /// Reports that this value breaks `rule`; `got` stands for the value.
    pub fn wrong_as(&self, rule: &str, got: String) -> Reported {
        self.report(self.path(), rule, Some(got))
    }

    /// Reports that this value breaks `rule`, and does not show it.
    pub fn refuse(&self, rule: &str) -> Reported {
        self.report(self.path(), rule, None)
    }

    fn report(&self, path: String, rule: &str, got: Option<String>) -> Reported {
        self.sink.report(self.node.position, Problem { path, rule: rule.to_owned(), got })
    }

    /// Reads a string.
    ///
    /// # Errors
    /// It is not a string.
    pub fn string(&self) -> Read<&'a str> {
        self.as_str().ok_or_else(|| self.wrong("must be a string"))
    }

    /// Returns the string here, if it is one. Reports nothing.
    pub fn as_str(&self) -> Option<&'a str> {
        match &self.node.json {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the number here, if it is one. Reports nothing.
    pub fn as_number(&self) -> Option<f64> {
        // A double rounds beyond 2^53; every range of the configuration ends far below.
        match &self.node.json {
            Json::Unsigned(value) => Some(u64::from_ne_bytes(*value) as f64),
            Json::Negative(value) => Some(i64::from_ne_bytes(*value) as f64),
            Json::Float(value) => Some(f64::from_ne_bytes(*value)),
            Json::String(text) if self.sink.numbers_in_strings => {
                // The number parser of `serde_json` is linked already; `str::parse` would add 20 kB.
                serde_json::from_str(text).ok()
            }
            _ => None,
        }
    }

    /// Returns the integer here, if it is one and 32 bits hold it. Reports nothing. `20.0` is the integer 20: JSON has only one
    /// kind of number, and every number of a protobuf `Struct` is a double.
    pub fn as_integer(&self) -> Option<u32> {
        let value = self.as_number()?;
        let fits = value.fract() == 0.0 && value >= 0.0 && value <= f64::from(u32::MAX);
        fits.then_some(value as u32)
    }

    /// Returns the boolean here, if it is one. Reports nothing.
    pub fn as_bool(&self) -> Option<bool> {
        match self.node.json {
            Json::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// Returns whether an object is here. Reports nothing.
    pub fn is_object(&self) -> bool {
        matches!(self.node.json, Json::Object(_))
    }

    /// Reads a boolean.
    ///
    /// # Errors
    /// It is not a boolean.
    pub fn boolean(&self) -> Read<bool> {
        self.as_bool().ok_or_else(|| self.wrong("must be true or false"))
    }

    /// Reads an integer.
    ///
    /// # Errors
    /// It is not an integer, or not in `range`.
    pub fn integer(&self, range: &RangeInclusive<u32>) -> Read<u32> {
        self.as_integer()
            .filter(|value| range.contains(value))
            .ok_or_else(|| self.wrong(&format!("must be an integer in {}..={}", range.start(), range.end())))
    }

    /// Reads one of `words`, as its index.
    ///
    /// # Errors
    /// It is another word, or no string.
    pub fn choice(&self, words: &[&str]) -> Read<usize> {
        self.as_str()
            .and_then(|text| words.iter().position(|word| *word == text))
            .ok_or_else(|| self.wrong(&format!("must be one of {}", words.join(", "))))
    }

    /// Reads an array, as the cursors of its elements.
    ///
    /// # Errors
    /// It is not an array, or has too few elements. If it has too many, that is reported, and those within the bound are
    /// returned.
    pub fn items(&self, count: &RangeInclusive<usize>) -> Read<Items<'_>> {
        let Json::Array(items) = &self.node.json else { return Err(self.wrong("must be an array")) };
        let mut complete = Ok(());
        if !count.contains(&items.len()) {
            let reported = match (*count.start(), *count.end()) {
                (1, usize::MAX) => self.refuse("must not be empty"),
                (min, max) => {
                    self.wrong_as(&format!("must have {min} to {max} elements"), items.len().to_string())
                }
            };
            if items.len() < *count.start() {
                return Err(reported);
            }
            complete = Err(reported);
        }
        let cursor = |(i, node)| Cursor { node, step: Step::Index(self, i), ..*self };
        Ok(Items { cursors: items.iter().take(*count.end()).enumerate().map(cursor).collect(), complete })
    }

    /// Returns the elements of an array; none if no array is here. Reports nothing.
    pub fn elements(&self) -> Vec<Cursor<'_>> {
        let Json::Array(items) = &self.node.json else { return Vec::new() };
        items.iter().enumerate().map(|(i, node)| self.element(i, node)).collect()
    }

    /// Reads any value, as JSON text of at most `max` bytes.
    ///
    /// # Errors
    /// It is longer, or has a number with more than nine decimals.
    pub fn json(&self, max: usize) -> Read<String> {
        let mut text = String::new();
        if !self.node.json.write(self.sink.numbers_in_strings, &mut text) {
            return Err(self.refuse("must have no number with more than nine decimals"));
        }
        if text.len() > max {
            return Err(
                self.wrong_as(&format!("must be at most {max} bytes of JSON"), text.len().to_string())
            );
        }
        Ok(text)
    }

    /// Returns the cursor of an element that was taken out of the array here.
    pub fn element<'e>(&'e self, index: usize, node: &'e Node) -> Cursor<'e> {
        Cursor { node, step: Step::Index(self, index), ..*self }
    }

    /// Reads an object with the fields `known`. Unknown and duplicate fields are reported, but do not fail.
    ///
    /// # Errors
    /// It is not an object.
    pub fn object(&self, known: &[&str]) -> Read<Object<'_>> {
        let object = self.as_object()?;
        let mut seen: u64 = 0;
        for (name, node) in object.members {
            let at = Cursor { node, step: Step::Field(self, name), ..*self };
            let Some(index) = known.iter().position(|field| **field == **name) else {
                at.refuse(&match known {
                    [] => "unknown field, expected none".to_owned(),
                    [one] => format!("unknown field, expected {one}"),
                    _ => format!("unknown field, expected one of {}", known.join(", ")),
                });
                continue;
            };
            let bit = u32::try_from(index).ok().and_then(|index| 1u64.checked_shl(index)).unwrap_or(0);
            if seen & bit != 0 {
                at.refuse("duplicate field");
            }
            seen |= bit;
        }
        Ok(object)
    }

    fn as_object(&self) -> Read<Object<'_>> {
        match &self.node.json {
            Json::Object(members) => Ok(Object { at: self, members }),
            _ => Err(self.wrong("must be an object")),
        }
    }

    /// Reads an object with field names of the user's choice. The members are hidden; names may repeat.
    ///
    /// # Errors
    /// It is not an object.
    pub fn members(&self) -> Read<Vec<Member<'_>>> {
        let member = |(name, node): &'a (Rc<str>, Node)| -> Member<'_> {
            let at = Cursor { node, step: Step::Field(self, name), sink: self.sink, hidden: true };
            Member { name, at }
        };
        match &self.node.json {
            Json::Object(members) => Ok(members.iter().map(member).collect()),
            _ => Err(self.wrong("must be an object")),
        }
    }

    /// Returns the field `name`, if an object is here and has it. Reports nothing.
    pub fn peek(&self, name: &'static str) -> Option<Cursor<'_>> {
        match &self.node.json {
            Json::Object(members) => Object { at: self, members }.get(name),
            _ => None,
        }
    }
}

/// A member of an object with field names of the user's choice.
pub struct Member<'a> {
    /// Name of the field.
    pub name: &'a str,
    /// Cursor of the value, hidden.
    pub at: Cursor<'a>,
}

/// An object, after its unknown and duplicate fields were reported.
pub struct Object<'a> {
    at: &'a Cursor<'a>,
    members: &'a [(Rc<str>, Node)],
}

impl<'a> Object<'a> {
    /// Returns the field `name` (the first, of duplicates), if it is there.
    pub fn get(&self, name: &'static str) -> Option<Cursor<'a>> {
        let (_, node) = self.members.iter().find(|(member, _)| **member == *name)?;
        Some(Cursor { node, step: Step::Field(self.at, name), sink: self.at.sink, hidden: false })
    }

    /// Returns the field `name`.
    ///
    /// # Errors
    /// It is missing.
    pub fn need(&self, name: &'static str) -> Read<Cursor<'a>> {
        self.get(name).ok_or_else(|| self.missing(name, "is required"))
    }

    /// Reports `rule` about the field `name`, which is missing.
    pub fn missing(&self, name: &str, rule: &str) -> Reported {
        self.at.report(field_path(self.at.path(), name), rule, None)
    }
}

/// The elements of an array.
pub struct Items<'a> {
    /// The elements within the bound.
    pub cursors: Vec<Cursor<'a>>,
    /// `Ok` if these are all of them.
    pub complete: Read<()>,
}

impl Default for Items<'_> {
    /// Returns the elements of an array that is absent.
    fn default() -> Self {
        Items { cursors: Vec::new(), complete: Ok(()) }
    }
}

/// Reads every item, so that the problems of all are reported.
///
/// # Errors
/// An item could not be read, or there were too many.
pub fn each<T>(items: &Items<'_>, mut read: impl FnMut(&Cursor<'_>) -> Read<T>) -> Read<Vec<T>> {
    let mut values = Vec::with_capacity(items.cursors.len());
    let mut outcome = items.complete;
    for item in &items.cursors {
        match read(item) {
            Ok(value) => values.push(value),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| values)
}

/// Returns `parent.name`, or `parent["a b"]` where the name has other than plain characters.
fn field_path(mut path: String, name: &str) -> String {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'[' | b']' | b'\\');
    if name.is_empty() || name.len() > SHOWN_CHARS || !name.bytes().all(plain) {
        path.push('[');
        path.push_str(&shortened(name));
        path.push(']');
    } else {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
    }
    path
}
