//! The headers of a request or a response, as the proxy hands them over.
//!
//! Each request has several look-ups of names that most requests do not have. So a name is compared only where its length
//! agrees, and not at all where no header has a name of that length.

use std::borrow::Cow;
use std::fmt;

/// Prefix of the headers that the roles of the filter send to each other. They are removed from client requests.
pub const OWN_PREFIX: &str = "x-bellwether-";

/// Headers, pseudo headers included, in the proxy's order. Names are in lower case; values may be any bytes.
#[derive(Default)]
pub struct Headers {
    /// All names and values, each followed by one byte without meaning.
    bytes: Vec<u8>,
    fields: Vec<Field>,
    /// A bit for each length, modulo 64, that some name has.
    lengths: u64,
}

/// The place of one header in the bytes.
struct Field {
    name: usize,
    name_length: usize,
    value_length: usize,
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text| String::from_utf8_lossy(text);
        f.debug_map().entries(self.iter().map(|(name, value)| (shown(name), shown(value)))).finish()
    }
}

impl Headers {
    /// Builds headers from pairs of name and value.
    pub fn new(pairs: Vec<(String, Vec<u8>)>) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in &pairs {
            let begin = headers.bytes.len();
            for text in [name.as_bytes(), value] {
                headers.bytes.extend_from_slice(text);
                headers.bytes.push(0);
            }
            headers.add(begin, name.len(), value.len());
        }
        headers
    }

    /// Reads the proxy's form without a copy: the number of headers, the lengths of each name and value (`u32`, little endian),
    /// then each name and value followed by a zero byte. Stops at the first header that is not complete.
    pub fn parse(bytes: Vec<u8>) -> Headers {
        let size = |bytes| usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
        let Some((count, rest)) = bytes.split_first_chunk() else { return Headers::default() };
        let lengths = size(*count).saturating_mul(8);
        let Some(lengths) = rest.get(..lengths) else { return Headers::default() };
        // Reserves no more than the bytes that arrived can fill, whatever the count says.
        let mut headers = Headers { fields: Vec::with_capacity(lengths.len() >> 3), ..Headers::default() };
        let mut begin = lengths.len().saturating_add(4);
        for [a, b, c, d, e, f, g, h] in lengths.as_chunks().0 {
            let (name, value) = (size([*a, *b, *c, *d]), size([*e, *f, *g, *h]));
            let end = begin.saturating_add(name).saturating_add(value).saturating_add(1);
            if end >= bytes.len() {
                break;
            }
            headers.add(begin, name, value);
            begin = end.saturating_add(1);
        }
        Headers { bytes, ..headers }
    }

    fn add(&mut self, name: usize, name_length: usize, value_length: usize) {
        self.fields.push(Field { name, name_length, value_length });
        self.lengths |= bit(name_length);
    }

    /// Returns the value of a header; several of one name are joined by `,` as in HTTP. `name` is in lower case.
    pub fn get<'a>(&'a self, name: &str) -> Option<Cow<'a, [u8]>> {
        let mut values = self.all(name);
        let first = values.next()?;
        let mut joined = Cow::Borrowed(first);
        for value in values {
            let joined = joined.to_mut();
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        Some(joined)
    }

    /// Returns whether there is a header of this name.
    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// Returns all values of one name, in order.
    pub fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let possible = self.lengths & bit(name.len()) != 0;
        let fields = if possible { self.fields.as_slice() } else { &[] };
        let named =
            move |field: &&Field| field.name_length == name.len() && self.name(field) == name.as_bytes();
        fields.iter().filter(named).map(|field| self.value(field))
    }

    /// Returns the names that begin with `prefix`, in order.
    pub fn names_with<'a, 'p>(&'a self, prefix: &'p [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'p> {
        let fields = self.fields.iter().filter(|field| field.name_length >= prefix.len());
        fields.map(|field| self.name(field)).filter(|name| name.starts_with(prefix))
    }

    /// Removes the headers with a name that `selects`, and calls `removed` with the name of each.
    pub fn remove(&mut self, selects: &dyn Fn(&[u8]) -> bool, removed: &mut dyn FnMut(&[u8])) {
        let fields = std::mem::take(&mut self.fields);
        let stays = |field: &Field| {
            let name = self.name(field);
            let selected = selects(name);
            if selected {
                removed(name);
            }
            !selected
        };
        self.fields = fields.into_iter().filter(stays).collect();
    }

    /// Returns all headers in order; a name that was sent twice comes twice.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.fields.iter().map(|field| (self.name(field), self.value(field)))
    }

    fn name(&self, field: &Field) -> &[u8] {
        self.text(field.name, field.name_length)
    }

    fn value(&self, field: &Field) -> &[u8] {
        self.text(field.name.saturating_add(field.name_length).saturating_add(1), field.value_length)
    }

    fn text(&self, begin: usize, length: usize) -> &[u8] {
        self.bytes.get(begin..begin.saturating_add(length)).unwrap_or_default()
    }
}

/// Returns the bit of a length.
fn bit(length: usize) -> u64 {
    1 << (length & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the proxy's form of these headers.
    fn serialized(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let number = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
        let mut bytes = number(pairs.len()).to_vec();
        pairs
            .iter()
            .for_each(|(name, value)| bytes.extend([number(name.len()), number(value.len())].concat()));
        pairs.iter().for_each(|(name, value)| bytes.extend([name, &b"\0"[..], value, b"\0"].concat()));
        bytes
    }

    #[test]
    fn a_cut_or_wrong_form_gives_the_headers_before_the_fault() {
        let pairs: [(&[u8], &[u8]); 4] = [(b":path", b"/a"), (b"x", b""), (b"\xff", b"\xfe\0"), (b"x", b"2")];
        let whole = serialized(&pairs);
        assert!(Headers::parse(whole.clone()).iter().eq(pairs));
        assert_eq!(Headers::parse(whole.clone()).get("x").as_deref(), Some(&b",2"[..]));
        for end in 0..whole.len() {
            let cut = Headers::parse(whole[..end].to_vec());
            assert!(cut.iter().eq(pairs.into_iter().take(cut.iter().count())), "{end}");
            assert!(cut.iter().count() < 4, "{end}");
        }
        let mut many = whole.clone();
        many[..4].fill(0xff);
        assert!(Headers::parse(many).iter().count() <= 16, "the count is larger than the bytes allow");
        let mut long = whole;
        long[4..8].fill(0xff);
        assert_eq!(Headers::parse(long).iter().count(), 0, "the length is larger than the bytes allow");
    }

    #[test]
    fn names_of_any_length_are_found() {
        let name = |length: usize| "n".repeat(length);
        let pairs = (0..200).step_by(3).map(|n| (name(n), n.to_string().into_bytes())).collect();
        let headers = Headers::new(pairs);
        for n in 0..264 {
            let value = headers.get(&name(n)).map(|value| String::from_utf8(value.into_owned()).unwrap());
            assert_eq!(value, (n < 200 && n % 3 == 0).then(|| n.to_string()), "a name of {n} bytes");
        }
        assert!(!headers.has(&"m".repeat(66)), "another name of the same length");
    }

    #[test]
    fn removed_headers_are_reported_and_gone() {
        let pairs = ["x-a", "b", "x-c", "x-a"].map(|name| (name.to_owned(), name.as_bytes().to_vec()));
        let mut headers = Headers::new(pairs.to_vec());
        let mut removed = Vec::new();
        headers.remove(&|name| name == b"x-a", &mut |name| removed.push(name.to_vec()));
        assert_eq!(removed, [b"x-a", b"x-a"]);
        assert!(!headers.has("x-a") && headers.iter().map(|(name, _)| name).eq([&b"b"[..], b"x-c"]));
        assert_eq!(headers.get("x-c").as_deref(), Some(&b"x-c"[..]));
    }

    #[test]
    fn names_with_a_prefix_come_in_order() {
        let pairs = ["x-a", "x-b", "x-", "x", "a-x-a", "x-a"].map(|name| (name.to_owned(), Vec::new()));
        let headers = Headers::new(pairs.to_vec());
        assert!(headers.names_with(b"x-").eq(["x-a", "x-b", "x-", "x-a"].map(str::as_bytes)));
        assert_eq!(headers.names_with(b"").count(), 6);
    }
}
