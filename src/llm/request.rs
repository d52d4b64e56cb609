//! What a request body asks for: the model, the members that a plan wants to see, and the places where it can be changed.
//!
//! The body is read in pieces and never kept. A body that two parsers could read in different ways is faulty: a member's name that
//! comes twice, in any case of its letters (some parsers ignore case), or that is written with escapes.

use crate::hash::hash;
use crate::llm::scan::{Container, Progress, Scalar, Scan, Token, Visitor};

/// Most members of the body's own object. A request of an LLM API has about twenty.
pub const MEMBERS_MAX: usize = 128;
/// Bytes of a name that are kept. A longer name is faulty.
const NAME_BYTES: usize = 64;
/// Most members one level down that are looked for.
pub const PATHS_MAX: usize = 16;

/// A place in the body, as offsets of its first byte and behind its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// First byte.
    pub start: u64,
    /// Behind the last byte; 0 while the value is not complete.
    pub end: u64,
}

impl Place {
    /// Length in bytes.
    pub const fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// A value, as far as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text; `None` if it is longer than a token may be, or no UTF-8.
    Text(Option<String>),
    /// A number as it is written; `None` if it is longer than a token may be.
    Number(Option<String>),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
    /// An object.
    Object,
    /// An array.
    Array,
}

/// A member of the body's own object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Place of the name, with its quotes.
    pub name_at: Place,
    /// Place of the value.
    pub value_at: Place,
    /// The value.
    pub value: Value,
}

impl Member {
    /// Returns whether the value was read to its end.
    pub const fn is_complete(&self) -> bool {
        self.value_at.end > 0
    }
}

/// What makes a body faulty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is no JSON, or nested too deeply.
    NotJson,
    /// It is JSON, but no object.
    NotAnObject,
    /// This name comes twice, perhaps in another case of its letters.
    Duplicate(String),
    /// A name is written with escapes, or with letters that fold to others.
    EscapedName,
    /// A name is too long, or there are too many members.
    TooLarge,
}

/// What is wanted of a body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Texts one level down, as parent and name.
    pub paths: Vec<(String, String)>,
    /// The conversation that the request belongs to.
    pub conversation: bool,
}

/// A body under way.
#[derive(Debug)]
pub struct Body {
    scan: Scan,
    seen: Seen,
}

/// What was seen of a body so far.
#[derive(Debug)]
pub struct Seen {
    wanted: Wanted,
    /// In the order of the document.
    pub members: Vec<Member>,
    /// For each wanted path the text found there.
    pub texts: Vec<Option<String>>,
    /// The first fault.
    pub fault: Option<Fault>,
    /// Offset behind the opening bracket of the body's object; 0 before it.
    pub inside: u64,
    /// Index of the wanted path whose value comes next.
    next: Option<usize>,
    talk: Conversation,
}

impl Body {
    /// Begins a body of which this is wanted.
    pub fn new(wanted: Wanted) -> Body {
        let texts = vec![None; wanted.paths.len().min(PATHS_MAX)];
        let seen = Seen {
            wanted,
            members: Vec::new(),
            texts,
            fault: None,
            inside: 0,
            next: None,
            talk: Conversation::default(),
        };
        Body { scan: Scan::default(), seen }
    }

    /// Reads the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> Progress {
        let progress = self.scan.feed(piece, &mut self.seen);
        self.look(progress)
    }

    /// Ends the body.
    pub fn end(&mut self) -> Progress {
        let progress = self.scan.end(&mut self.seen);
        self.look(progress)
    }

    fn look(&mut self, progress: Progress) -> Progress {
        if progress == Progress::Bad && self.seen.fault.is_none() {
            self.seen.fault = Some(Fault::NotJson);
        }
        progress
    }

    /// How far it is read.
    pub fn progress(&self) -> Progress {
        self.scan.progress()
    }

    /// Bytes read.
    pub fn read(&self) -> u64 {
        self.scan.read()
    }

    /// What was seen so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Gives away what was seen.
    pub fn into_seen(self) -> Seen {
        self.seen
    }
}

impl Seen {
    /// A member by its name, once its value is complete.
    pub fn get(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name && member.is_complete())
    }

    /// The text of a member.
    pub fn text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.value {
            Value::Text(text) => text.as_deref(),
            _ => None,
        }
    }

    /// The wanted text one level down.
    pub fn inner(&self, parent: &str, name: &str) -> Option<&str> {
        let at = self.wanted.paths.iter().position(|(of, wanted)| of == parent && wanted == name)?;
        self.texts.get(at)?.as_deref()
    }

    /// The truth of a member; `None` unless it is `true` or `false`.
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name)?.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// Hash of the conversation: of its system prompt and its first message of a user. `None` until both are read, and for a body
    /// that has no message of a user.
    pub fn conversation(&self) -> Option<u64> {
        self.talk.hash()
    }

    fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    fn top_name(&mut self, name: Token<'_>) {
        if self.members.len() >= MEMBERS_MAX || !name.whole || name.raw.len() > NAME_BYTES {
            return self.fail(Fault::TooLarge);
        }
        // U+017F folds to `s` and U+212A to `k` where case is ignored by Unicode's rules.
        let folds = |text: &str| text.contains(['\u{17f}', '\u{212a}']);
        let text = match std::str::from_utf8(name.raw) {
            Ok(text) if !name.escaped && !folds(text) => text,
            _ => return self.fail(Fault::EscapedName),
        };
        if self.members.iter().any(|member| member.name.eq_ignore_ascii_case(text)) {
            self.fail(Fault::Duplicate(text.to_owned()));
        }
        let name_at = Place { start: name.start, end: name.end };
        let member =
            Member { name: text.to_owned(), name_at, value_at: Place::default(), value: Value::Null };
        self.members.push(member);
    }

    /// The member whose value is under way.
    fn open_member(&mut self) -> Option<&mut Member> {
        self.members.last_mut().filter(|member| !member.is_complete())
    }
}

impl Visitor for Seen {
    fn name(&mut self, depth: u32, name: Token<'_>) {
        match depth {
            1 => self.top_name(name),
            2 => {
                let parent = self.members.last().map_or("", |member| member.name.as_str());
                let is = |(of, wanted): &(String, String)| of == parent && wanted.as_bytes() == name.raw;
                self.next = self.wanted.paths.iter().take(PATHS_MAX).position(is);
            }
            _ => {}
        }
        self.talk.name(depth, &name);
    }

    fn scalar(&mut self, depth: u32, kind: Scalar, value: Token<'_>) {
        if depth == 0 {
            return self.fail(Fault::NotAnObject);
        }
        if depth == 1
            && let Some(member) = self.open_member()
        {
            member.value_at = Place { start: value.start, end: value.end };
            member.value = match kind {
                Scalar::Text => Value::Text(value.text()),
                Scalar::Number => Value::Number(value.text()),
                Scalar::Bool(value) => Value::Bool(value),
                Scalar::Null => Value::Null,
            };
        }
        if depth == 2
            && kind == Scalar::Text
            && let Some(found) = self.next.take().and_then(|n| self.texts.get_mut(n))
        {
            *found = value.text();
        }
        if self.wanted.conversation {
            self.talk.scalar(depth, kind, &value);
        }
    }

    fn open(&mut self, depth: u32, kind: Container, start: u64) {
        if depth == 0 {
            self.inside = start.saturating_add(1);
            if kind == Container::Array {
                self.fail(Fault::NotAnObject);
            }
        }
        if depth == 1
            && let Some(member) = self.open_member()
        {
            member.value_at.start = start;
            member.value = if kind == Container::Object { Value::Object } else { Value::Array };
        }
        if depth == 2 {
            self.next = None;
        }
        if self.wanted.conversation {
            let member = self.members.last().map_or("", |member| member.name.as_str());
            self.talk.open(depth, kind, member);
        }
    }

    fn close(&mut self, depth: u32, end: u64) {
        if depth == 1
            && let Some(member) = self.open_member()
        {
            member.value_at.end = end;
        }
        if self.wanted.conversation {
            self.talk.close(depth);
        }
    }

    fn text(&mut self, piece: &[u8]) {
        if self.wanted.conversation {
            let member = self.members.last().filter(|member| !member.is_complete());
            self.talk.text(piece, member.map_or("", |member| member.name.as_str()));
        }
    }
}

/// The conversation of a request, in the shapes of OpenAI (chat and responses), Anthropic and Google.
///
/// The texts are hashed as they are written: a client that goes on with a conversation writes it the same way.
#[derive(Debug, Default)]
struct Conversation {
    /// Hash of the system prompts so far.
    system: u64,
    /// Hash of the first message of a user.
    user: Option<u64>,
    /// The list of messages is under way.
    in_messages: bool,
    /// Hash of the texts of the message under way, without its role.
    message: u64,
    role: Role,
    /// The name that was read last, in a message.
    role_next: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Role {
    #[default]
    Unknown,
    System,
    User,
    Other,
}

impl Conversation {
    fn hash(&self) -> Option<u64> {
        self.user.map(|user| hash(&[&self.system.to_le_bytes(), &user.to_le_bytes()]))
    }

    fn name(&mut self, depth: u32, name: &Token<'_>) {
        self.role_next = self.in_messages && depth == 3 && name.raw == b"role";
    }

    fn open(&mut self, depth: u32, kind: Container, member: &str) {
        if depth == 1 && kind == Container::Array && matches!(member, "messages" | "input" | "contents") {
            self.in_messages = true;
        }
        if depth == 2 && self.in_messages {
            (self.message, self.role) = (0, Role::Unknown);
        }
        self.role_next = false;
    }

    fn close(&mut self, depth: u32) {
        match depth {
            1 => self.in_messages = false,
            2 if self.in_messages => match self.role {
                Role::System if self.user.is_none() => self.system = mix(self.system, self.message),
                // Google's API takes a message without a role for one of the user.
                Role::User | Role::Unknown => _ = self.user.get_or_insert(self.message),
                _ => {}
            },
            _ => {}
        }
    }

    fn scalar(&mut self, depth: u32, kind: Scalar, value: &Token<'_>) {
        if std::mem::take(&mut self.role_next) && depth == 3 && kind == Scalar::Text {
            self.role = match value.raw {
                b"system" | b"developer" => Role::System,
                b"user" => Role::User,
                _ => Role::Other,
            };
        }
    }

    fn text(&mut self, piece: &[u8], member: &str) {
        match member {
            _ if self.role_next => {}
            // All that follows the first message of a user belongs to the same conversation.
            _ if self.in_messages && self.user.is_some() => {}
            _ if self.in_messages => self.message = mix_bytes(self.message, piece),
            "system" | "instructions" | "systemInstruction" | "system_instruction" => {
                self.system = mix_bytes(self.system, piece);
            }
            // A prompt that is one text.
            "input" | "prompt" => self.user = Some(mix_bytes(self.user.unwrap_or(0), piece)),
            _ => {}
        }
    }
}

fn mix(state: u64, value: u64) -> u64 {
    hash(&[&state.to_le_bytes(), &value.to_le_bytes()])
}

/// Hashes bytes one by one (FNV-1a), so that pieces of any size give the same.
fn mix_bytes(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests;
