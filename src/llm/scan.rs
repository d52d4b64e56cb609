//! An incremental reader of JSON: it takes a body in pieces of any size and reports each token to a [`Visitor`].
//!
//! It holds no part of the body but the token under way, and of that at most [`TOKEN_BYTES`]. It checks the grammar of RFC 8259
//! to the last byte, because a body that a provider's parser reads in another way than this one could show the filter one model
//! and the provider another. Any bytes lead to an end: [`Progress::Done`] or [`Progress::Bad`].
//!
//! `serde_json` cannot stop in the middle of a body and go on with the next piece, so the reader is our own.

/// Bytes of a name or a scalar that a visitor gets to see. A longer token is cut and says so.
pub const TOKEN_BYTES: usize = 256;
/// Deepest nesting. One bit each says whether a level is an object.
pub const DEPTH_MAX: u32 = 64;

/// How far the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The document is not complete.
    Open,
    /// The document is complete. Only white space may follow.
    Done,
    /// The bytes are no JSON, or nested too deeply.
    Bad,
}

/// A name, or a scalar value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// Its bytes as they stand in the document: at most [`TOKEN_BYTES`], without the quotes of a text.
    pub raw: &'a [u8],
    /// `raw` is all of it.
    pub whole: bool,
    /// A text with at least one escape.
    pub escaped: bool,
    /// Offset of its first byte in the document; of a text, that of the opening quote.
    pub start: u64,
    /// Offset behind its last byte; of a text, behind the closing quote.
    pub end: u64,
}

impl Token<'_> {
    /// The text with its escapes resolved. `None` for a text that was cut, or that is no UTF-8.
    pub fn text(&self) -> Option<String> {
        if !self.whole {
            return None;
        }
        if !self.escaped {
            return std::str::from_utf8(self.raw).ok().map(str::to_owned);
        }
        serde_json::from_slice(&[b"\"", self.raw, b"\""].concat()).ok()
    }
}

/// Kinds of scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// A text.
    Text,
    /// A number.
    Number,
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

/// Kinds of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// `{}`
    Object,
    /// `[]`
    Array,
}

/// A receiver of tokens, in document order. `depth` is the number of containers around a token: 0 for the document itself, 1 for
/// the names and values of its members.
pub trait Visitor {
    /// Takes the name of a member.
    fn name(&mut self, depth: u32, name: Token<'_>);
    /// Takes a value that is no container.
    fn scalar(&mut self, depth: u32, kind: Scalar, value: Token<'_>);
    /// Takes the beginning of a container; `start` is the offset of its bracket.
    fn open(&mut self, depth: u32, kind: Container, start: u64);
    /// Takes the end of a container; `end` is the offset behind its bracket.
    fn close(&mut self, depth: u32, end: u64);
    /// Takes the next bytes of a text value, as they stand in the document. It is called before `scalar`, as often as it takes.
    fn text(&mut self, _piece: &[u8]) {}
}

/// Position in the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Value,
    ValueOrEnd,
    NameOrEnd,
    Name,
    Colon,
    CommaOrEnd,
    Text { name: bool },
    Escape { name: bool },
    Hex { name: bool, left: u8 },
    Number(Number),
    Literal { word: &'static [u8], next: u8 },
    Done,
    Bad,
}

/// Position in a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Number {
    /// The position after this byte; `None` if the number ends before it.
    fn step(self, byte: u8) -> Option<Number> {
        use Number::{E, Exponent, Fraction, Minus, Point, Sign, Whole, Zero};
        Some(match (self, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Whole, b'0'..=b'9') => Whole,
            (Zero | Whole, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Whole | Fraction, b'e' | b'E') => E,
            (E, b'+' | b'-') => Sign,
            (E | Sign | Exponent, b'0'..=b'9') => Exponent,
            _ => return None,
        })
    }

    /// Whether a number may end here.
    const fn is_complete(self) -> bool {
        matches!(self, Number::Zero | Number::Whole | Number::Fraction | Number::Exponent)
    }
}

/// A document under way.
#[derive(Debug)]
pub struct Scan {
    state: State,
    /// One bit a level, the innermost lowest: 1 for an object.
    levels: u64,
    depth: u32,
    /// Offset of the next byte.
    at: u64,
    token: Vec<u8>,
    cut: bool,
    escaped: bool,
    start: u64,
}

impl Default for Scan {
    fn default() -> Scan {
        Scan {
            state: State::Value,
            levels: 0,
            depth: 0,
            at: 0,
            token: Vec::new(),
            cut: false,
            escaped: false,
            start: 0,
        }
    }
}

impl Scan {
    /// How far it is. A number at the top level is complete only when [`Scan::end`] says that nothing follows.
    pub fn progress(&self) -> Progress {
        match self.state {
            State::Done => Progress::Done,
            State::Bad => Progress::Bad,
            _ => Progress::Open,
        }
    }

    /// Bytes read so far.
    pub fn read(&self) -> u64 {
        self.at
    }

    /// Reads the next piece of the document.
    pub fn feed(&mut self, piece: &[u8], visitor: &mut dyn Visitor) -> Progress {
        let mut rest = piece;
        while let Some((byte, after)) = rest.split_first() {
            if self.state == State::Bad {
                break;
            }
            if let State::Text { name } = self.state {
                let plain = plain_bytes(rest);
                if plain > 0 {
                    let (text, after) = rest.split_at_checked(plain).unwrap_or((rest, &[]));
                    self.take_text(text, name, visitor);
                    self.at = self.at.saturating_add(len(text));
                    rest = after;
                    continue;
                }
            }
            // A byte that ends a number is read again in the state that follows.
            if self.step(*byte, visitor) {
                self.at = self.at.saturating_add(1);
                rest = after;
            }
        }
        self.progress()
    }

    /// Ends the document.
    pub fn end(&mut self, visitor: &mut dyn Visitor) -> Progress {
        if let State::Number(number) = self.state {
            self.end_number(number, visitor);
        }
        if self.state != State::Done {
            self.state = State::Bad;
        }
        self.progress()
    }

    /// Reads one byte. Returns false if it has to be read once more.
    fn step(&mut self, byte: u8, visitor: &mut dyn Visitor) -> bool {
        let space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.state {
            State::Value if !space => self.value(byte, visitor),
            State::ValueOrEnd if byte == b']' => self.close(Container::Array, visitor),
            State::ValueOrEnd if !space => self.value(byte, visitor),
            State::NameOrEnd if byte == b'}' => self.close(Container::Object, visitor),
            State::NameOrEnd | State::Name if byte == b'"' => self.begin(State::Text { name: true }),
            State::Colon if byte == b':' => self.state = State::Value,
            State::CommaOrEnd if byte == b',' => {
                self.state = if self.in_object() { State::Name } else { State::Value };
            }
            State::CommaOrEnd if byte == b'}' => self.close(Container::Object, visitor),
            State::CommaOrEnd if byte == b']' => self.close(Container::Array, visitor),
            State::Text { name } => self.in_text(byte, name, visitor),
            State::Escape { name } => self.escape(byte, name, visitor),
            State::Hex { name, left } => self.hex(byte, (name, left), visitor),
            State::Number(number) => match number.step(byte) {
                Some(next) => {
                    self.keep(&[byte]);
                    self.state = State::Number(next);
                }
                None => {
                    self.end_number(number, visitor);
                    return false;
                }
            },
            State::Literal { word, next } => self.literal(byte, (word, next), visitor),
            State::Value
            | State::ValueOrEnd
            | State::NameOrEnd
            | State::Name
            | State::Colon
            | State::CommaOrEnd
            | State::Done
                if space => {}
            _ => self.state = State::Bad,
        }
        true
    }

    fn value(&mut self, byte: u8, visitor: &mut dyn Visitor) {
        match byte {
            b'"' => self.begin(State::Text { name: false }),
            b'{' => self.open(Container::Object, visitor),
            b'[' => self.open(Container::Array, visitor),
            b't' => self.begin(State::Literal { word: b"true", next: 1 }),
            b'f' => self.begin(State::Literal { word: b"false", next: 1 }),
            b'n' => self.begin(State::Literal { word: b"null", next: 1 }),
            b'-' | b'0'..=b'9' => {
                self.begin(State::Number(match byte {
                    b'-' => Number::Minus,
                    b'0' => Number::Zero,
                    _ => Number::Whole,
                }));
                self.keep(&[byte]);
            }
            _ => self.state = State::Bad,
        }
    }

    fn begin(&mut self, state: State) {
        self.token.clear();
        (self.cut, self.escaped, self.start, self.state) = (false, false, self.at, state);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = TOKEN_BYTES.saturating_sub(self.token.len());
        self.cut |= bytes.len() > room;
        self.token.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    fn take_text(&mut self, bytes: &[u8], name: bool, visitor: &mut dyn Visitor) {
        self.keep(bytes);
        if !name {
            visitor.text(bytes);
        }
    }

    fn in_text(&mut self, byte: u8, name: bool, visitor: &mut dyn Visitor) {
        match byte {
            b'"' => self.end_text(name, visitor),
            b'\\' => {
                self.escaped = true;
                self.take_text(b"\\", name, visitor);
                self.state = State::Escape { name };
            }
            // A control character must be escaped.
            _ => self.state = State::Bad,
        }
    }

    fn escape(&mut self, byte: u8, name: bool, visitor: &mut dyn Visitor) {
        self.state = match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => State::Text { name },
            b'u' => State::Hex { name, left: 4 },
            _ => State::Bad,
        };
        self.take_text(&[byte], name, visitor);
    }

    fn hex(&mut self, byte: u8, (name, left): (bool, u8), visitor: &mut dyn Visitor) {
        self.state = match (byte.is_ascii_hexdigit(), left.saturating_sub(1)) {
            (false, _) => State::Bad,
            (true, 0) => State::Text { name },
            (true, left) => State::Hex { name, left },
        };
        self.take_text(&[byte], name, visitor);
    }

    fn end_text(&mut self, name: bool, visitor: &mut dyn Visitor) {
        let token = self.token_until(self.at.saturating_add(1));
        if name {
            visitor.name(self.depth, token);
            self.state = State::Colon;
        } else {
            visitor.scalar(self.depth, Scalar::Text, token);
            self.end_value();
        }
    }

    fn end_number(&mut self, number: Number, visitor: &mut dyn Visitor) {
        if number.is_complete() {
            visitor.scalar(self.depth, Scalar::Number, self.token_until(self.at));
            self.end_value();
        } else {
            self.state = State::Bad;
        }
    }

    fn literal(&mut self, byte: u8, (word, next): (&'static [u8], u8), visitor: &mut dyn Visitor) {
        if word.get(usize::from(next)) != Some(&byte) {
            self.state = State::Bad;
            return;
        }
        let next = next.saturating_add(1);
        if usize::from(next) < word.len() {
            self.state = State::Literal { word, next };
            return;
        }
        let kind = match word {
            b"null" => Scalar::Null,
            word => Scalar::Bool(word == b"true"),
        };
        self.keep(word);
        visitor.scalar(self.depth, kind, self.token_until(self.at.saturating_add(1)));
        self.end_value();
    }

    fn token_until(&self, end: u64) -> Token<'_> {
        Token { raw: &self.token, whole: !self.cut, escaped: self.escaped, start: self.start, end }
    }

    fn open(&mut self, kind: Container, visitor: &mut dyn Visitor) {
        if self.depth >= DEPTH_MAX {
            self.state = State::Bad;
            return;
        }
        visitor.open(self.depth, kind, self.at);
        self.depth = self.depth.saturating_add(1);
        self.levels = self.levels << 1 | u64::from(kind == Container::Object);
        self.state = if kind == Container::Object { State::NameOrEnd } else { State::ValueOrEnd };
    }

    fn close(&mut self, kind: Container, visitor: &mut dyn Visitor) {
        if self.depth == 0 || self.in_object() != (kind == Container::Object) {
            self.state = State::Bad;
            return;
        }
        self.depth = self.depth.saturating_sub(1);
        self.levels >>= 1;
        visitor.close(self.depth, self.at.saturating_add(1));
        self.end_value();
    }

    fn end_value(&mut self) {
        self.state = if self.depth == 0 { State::Done } else { State::CommaOrEnd };
    }

    fn in_object(&self) -> bool {
        self.levels & 1 == 1
    }
}

/// How many bytes at the beginning are plain text: neither a quote nor a backslash nor a control character. Eight at a time.
fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Sets the high bit of each byte that is zero, and perhaps of bytes above the first of them (Hacker's Delight, 6-1).
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut plain = 0usize;
    let (words, _) = bytes.as_chunks::<8>();
    for chunk in words {
        let word = u64::from_le_bytes(*chunk);
        let quote = zero(word ^ (ONES.wrapping_mul(0x22)));
        let escape = zero(word ^ (ONES.wrapping_mul(0x5c)));
        // A byte below 0x20 borrows; one of 0x80 and above is masked out by `!word`.
        let control = word.wrapping_sub(ONES.wrapping_mul(0x20)) & !word & HIGHS;
        if quote | escape | control != 0 {
            break;
        }
        plain = plain.saturating_add(8);
    }
    let tail = bytes.get(plain..).unwrap_or_default();
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    plain.saturating_add(tail.iter().position(special).unwrap_or(tail.len()))
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
