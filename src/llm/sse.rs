//! Server-sent events, cut from a stream that comes in pieces of any size.
//!
//! The format is that of the HTML standard, section 9.2.6: lines end with LF, CR or CR LF; an empty line ends an event; a line that
//! begins with a colon is a comment; several `data` lines are joined by LF. Two things differ. An event whose bytes exceed
//! [`EVENT_BYTES`] is reported without the bytes beyond, and marked; the next event is read as usual. And an event that the end of
//! the stream cuts short is reported by [`Events::end`], because the clients of LLM APIs read it too.

/// Bytes of an event's data and type that are kept.
pub const EVENT_BYTES: usize = 64 * 1024;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its type; empty if it names none.
    pub kind: &'a [u8],
    /// Its data lines, joined by LF.
    pub data: &'a [u8],
    /// `kind` and `data` are all of it.
    pub whole: bool,
    /// Offset in the stream of the first byte of its first line. Comments before the event belong to it.
    pub start: u64,
    /// Offset in the stream behind the empty line that ends it.
    pub end: u64,
}

/// A receiver of events.
pub trait Receiver {
    /// Takes an event.
    fn event(&mut self, event: Event<'_>);
    /// Takes notice of a comment, as servers send them to keep a connection alive.
    fn comment(&mut self) {}
}

/// A stream under way.
#[derive(Debug, Default)]
pub struct Events {
    /// The line under way, as far as former pieces brought it.
    line: Vec<u8>,
    kind: Vec<u8>,
    data: Vec<u8>,
    /// A data line was seen, perhaps an empty one.
    has_data: bool,
    cut: bool,
    /// The first line was read: no byte order mark can follow.
    begun: bool,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// Offset of the next byte.
    at: u64,
    start: u64,
}

impl Events {
    /// Reads the next piece of the stream.
    pub fn feed(&mut self, piece: &[u8], to: &mut dyn Receiver) {
        let mut rest = piece;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            if let Some(after) = rest.strip_prefix(b"\n") {
                self.at = self.at.saturating_add(1);
                rest = after;
            }
        }
        while let Some(ends) = line_end(rest) {
            let (line, after) = rest.split_at_checked(ends).unwrap_or((rest, &[]));
            let crlf = after.starts_with(b"\r\n");
            let terminator = if crlf { 2 } else { 1 };
            rest = after.get(terminator..).unwrap_or_default();
            self.after_cr = rest.is_empty() && after.starts_with(b"\r") && !crlf;
            self.at = self.at.saturating_add(length(line)).saturating_add(if crlf { 2 } else { 1 });
            self.end_line(line, to);
        }
        self.at = self.at.saturating_add(length(rest));
        self.hold(rest);
    }

    /// Ends the stream. Reports the event under way, if there is one.
    pub fn end(&mut self, to: &mut dyn Receiver) {
        if !self.line.is_empty() {
            self.end_line(&[], to);
        }
        self.dispatch(to);
    }

    /// Adds bytes to the line under way.
    fn hold(&mut self, bytes: &[u8]) {
        let room = EVENT_BYTES.saturating_sub(self.line.len());
        self.cut |= bytes.len() > room;
        self.line.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    /// Takes in a line whose last bytes are these.
    fn end_line(&mut self, last: &[u8], to: &mut dyn Receiver) {
        if self.line.is_empty() {
            return self.take_line(last, to);
        }
        self.hold(last);
        let mut line = std::mem::take(&mut self.line);
        self.take_line(&line, to);
        // The buffer is used again.
        line.clear();
        self.line = line;
    }

    fn take_line(&mut self, line: &[u8], to: &mut dyn Receiver) {
        // A byte order mark may open the stream.
        let begun = std::mem::replace(&mut self.begun, true);
        let line = if begun { line } else { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) };
        if line.is_empty() {
            return self.dispatch(to);
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, rest) = line.split_at_checked(colon).unwrap_or((line, &[]));
        let value = rest.get(1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"" => to.comment(),
            b"event" => {
                self.kind.clear();
                self.kind.extend_from_slice(value);
            }
            b"data" => {
                if self.has_data {
                    self.add(b"\n");
                }
                self.has_data = true;
                self.add(value);
            }
            _ => {}
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = EVENT_BYTES.saturating_sub(self.data.len());
        self.cut |= bytes.len() > room;
        self.data.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    fn dispatch(&mut self, to: &mut dyn Receiver) {
        if self.has_data {
            let (kind, data) = (self.kind.as_slice(), self.data.as_slice());
            to.event(Event { kind, data, whole: !self.cut, start: self.start, end: self.at });
        }
        self.kind.clear();
        self.data.clear();
        (self.has_data, self.cut, self.start) = (false, false, self.at);
    }
}

/// Position of the first CR or LF. Looks at eight bytes at a time.
fn line_end(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut before = 0usize;
    let (words, _) = bytes.as_chunks::<8>();
    for chunk in words {
        let word = u64::from_le_bytes(*chunk);
        // The high bit of a byte that is zero after the exclusive or (Hacker's Delight, section 6-1).
        let has = |byte: u64| {
            let word = word ^ ONES.wrapping_mul(byte);
            word.wrapping_sub(ONES) & !word & HIGHS
        };
        if has(0x0a) | has(0x0d) != 0 {
            break;
        }
        before = before.saturating_add(8);
    }
    let tail = bytes.get(before..).unwrap_or_default();
    tail.iter().position(|byte| matches!(byte, b'\n' | b'\r')).map(|at| before.saturating_add(at))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
