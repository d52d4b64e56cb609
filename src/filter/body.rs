//! Request bodies: which ones are held to be read, reading them, and applying a version's changes.

use super::reply::Invalid;
use crate::headers::Headers;
use crate::host;
use crate::llm::LITE;
use crate::llm::api::gemini_model;
use crate::llm::edit::{Editor, Edits};
use crate::llm::request::{Body, Fault, Seen, Wanted};
use crate::llm::scan::Progress;
use crate::plan::matching::ModelPattern;
use crate::plan::model::{Llm, UnknownModel, Wants};
use crate::plan::{Deployment, Plan};
use crate::route::{Candidates, Content};

/// Bytes of the first piece that is read. Most bodies of a chat begin with the model.
const FIRST_PIECE: usize = 1024;
/// Bytes of each further piece.
const PIECE: usize = 16_384;

/// The form of a request's body, by its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// There is none that could be JSON: it is empty, of another type, or a stream of an upgraded connection.
    Other,
    /// JSON.
    Json,
    /// JSON, but compressed.
    Compressed,
}

/// Returns the form of a request's body. Nothing else may be held: an upgraded connection, for one, sends nothing before it is
/// answered.
pub fn form(headers: &Headers, ended: bool) -> Form {
    let method = headers.get(":method");
    let has_body = matches!(method.as_deref(), Some(b"POST" | b"PUT" | b"PATCH"));
    if ended || !has_body || headers.has("upgrade") || headers.has(":protocol") {
        return Form::Other;
    }
    if !headers.get("content-type").is_some_and(|value| is_json(&value)) {
        return Form::Other;
    }
    match headers.get("content-encoding") {
        Some(coding) if !coding.trim_ascii().eq_ignore_ascii_case(b"identity") && !coding.is_empty() => {
            Form::Compressed
        }
        _ => Form::Json,
    }
}

/// Returns whether a content type is JSON: `application/json`, or any type with the suffix `+json` but gRPC's.
fn is_json(value: &[u8]) -> bool {
    let kind = value.split(|byte| *byte == b';').next().unwrap_or(value).trim_ascii().to_ascii_lowercase();
    kind == b"application/json" || (kind.ends_with(b"+json") && !kind.starts_with(b"application/grpc"))
}

/// The parts of the body that the candidates read, and the first candidate that reads any.
pub struct Reading {
    /// Everything that one of them reads.
    pub wants: Wants,
    /// Index of the first one.
    pub first: usize,
    /// Its `body_limit`.
    pub limit: u64,
}

/// Returns what the candidates read of the body; `None` if nothing. `path_model`: the model of the path.
pub fn reading(plan: &Plan, candidates: &Candidates, path_model: Option<&str>) -> Option<Reading> {
    let mut reading: Option<Reading> = None;
    for n in candidates.all() {
        let Some(deployment) = plan.deployments.get(n) else { continue };
        let Some(llm) = &deployment.llm else { continue };
        let wants = &deployment.wants;
        let in_path = path_model.is_some() && llm.family.reads_path();
        if wants.is_empty() || (in_path && wants.needs_only_model()) {
            continue;
        }
        let reading = reading.get_or_insert_with(|| Reading {
            wants: Wants::default(),
            first: n,
            limit: llm.body_limit,
        });
        reading.wants.add(wants);
        reading.wants.model &= !in_path;
    }
    reading
}

/// Returns the model of a path.
pub fn path_model(headers: &Headers) -> Option<String> {
    let path = headers.get(":path")?;
    let model = gemini_model(&path)?;
    String::from_utf8(model.name.to_vec()).ok()
}

/// A request that the headers alone do not decide.
pub struct Taken {
    /// Its headers.
    pub headers: Headers,
    /// Deployments that may take it.
    pub candidates: Candidates,
    /// Model of the path.
    pub path_model: Option<String>,
}

/// Returns the refusal of a model that no deployment takes, where one of the candidates wants it refused.
pub fn unknown_model(plan: &Plan, taken: &Taken, content: Content<'_>) -> Option<Invalid> {
    let mut known = Vec::new();
    let mut asked = None;
    for deployment in taken.candidates.asking.iter().filter_map(|n| plan.deployments.get(*n)) {
        let rejects = |llm: &Llm| llm.unknown_model == UnknownModel::Reject;
        if deployment.llm.as_ref().is_some_and(rejects) {
            asked = asked.or(content.asked(deployment).model);
            known.extend(deployment.matches.models.iter().map(ModelPattern::shown));
        }
    }
    let model = asked?.to_owned();
    Some(Invalid::UnknownModel { model, known })
}

/// A body that is held until enough of it was read.
pub struct Held {
    body: Body,
    wants: Wants,
    /// Bytes that were read.
    read: usize,
    limit: u64,
}

/// The result of a look at a held body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// More is needed.
    More,
    /// Everything wanted was read.
    Enough,
    /// It is too large, or no JSON object.
    Unreadable,
    /// Two parsers could read it in different ways.
    Ambiguous,
}

impl Held {
    /// Begins a body of which this is wanted, of at most `limit` bytes.
    pub fn new(wants: Wants, limit: u64) -> Held {
        let wanted = Wanted { paths: wants.paths.clone(), conversation: wants.conversation };
        Held { body: Body::new(wanted), wants, read: 0, limit }
    }

    /// Reads the bytes that came since the last look. `size`: bytes that Envoy holds; `ended`: they are all.
    pub fn look(&mut self, size: usize, ended: bool) -> Look {
        while self.read < size {
            let most = if self.read == 0 { FIRST_PIECE } else { PIECE };
            let length = size.saturating_sub(self.read).min(most);
            let Some(piece) = host::request_body(self.read, length).filter(|piece| !piece.is_empty()) else {
                return Look::Unreadable;
            };
            self.read = self.read.saturating_add(piece.len());
            self.body.feed(&piece);
            match self.state() {
                Look::More => {}
                look => return look,
            }
        }
        if !ended {
            return Look::More;
        }
        self.body.end();
        match self.state() {
            Look::More => Look::Enough,
            look => look,
        }
    }

    fn state(&self) -> Look {
        let seen = self.body.seen();
        match &seen.fault {
            Some(Fault::Duplicate(_) | Fault::EscapedName) => return Look::Ambiguous,
            Some(Fault::NotJson | Fault::NotAnObject | Fault::TooLarge) => return Look::Unreadable,
            None => {}
        }
        if self.wants.are_met(seen) || self.body.progress() == Progress::Done {
            return Look::Enough;
        }
        let too_large = u64::try_from(self.read).is_ok_and(|read| read >= self.limit);
        if too_large { Look::Unreadable } else { Look::More }
    }

    /// Returns the number of bytes that were read.
    pub fn read(&self) -> usize {
        self.read
    }

    /// Returns whether a model is wanted and the body names none.
    pub fn lacks_model(&self) -> bool {
        self.wants.model && self.body.seen().text("model").is_none()
    }
}

/// A request's body when its version is chosen.
pub enum Read {
    /// Nothing of it was read.
    Nothing,
    /// It cannot be read.
    Unreadable,
    /// It was read as far as it is wanted.
    Body {
        /// The body.
        body: Box<Held>,
        /// Bytes that Envoy holds.
        size: usize,
    },
}

impl Read {
    /// Returns what the body tells. `path_model`: the model of the path.
    pub fn content<'a>(&'a self, path_model: Option<&'a str>) -> Content<'a> {
        let body = match self {
            Read::Body { body, .. } => Some(body.body.seen()),
            Read::Nothing | Read::Unreadable => None,
        };
        Content { path_model, body }
    }

    /// Returns the number of bytes that Envoy holds.
    pub fn size(&self) -> usize {
        if let Read::Body { size, .. } = self { *size } else { 0 }
    }

    /// Keeps the body, if a version of the deployment changes it.
    pub fn into_request_body(self, deployment: &Deployment, headers: &Headers) -> Option<RequestBody> {
        let Read::Body { body, .. } = self else { return None };
        let changes = !LITE && deployment.versions.iter().any(|version| !version.dialect.is_empty());
        changes.then(|| RequestBody { seen: body.body.into_seen(), length: length(headers) })
    }
}

/// The body of a request that was read, for the changes of its versions.
pub struct RequestBody {
    /// The members, as far as it was read.
    pub seen: Seen,
    /// The client's `content-length`; `None` for a body in chunks.
    length: Option<u64>,
}

impl RequestBody {
    /// Announces the length of the changed body. Envoy corrects nothing: with another length the provider would take the rest for
    /// the next request on the connection.
    pub fn announce(&self, edits: &Edits) {
        if let Some(length) = self.length {
            host::set_request_header("content-length", edits.length_of(length).to_string().as_bytes());
        }
    }
}

/// Returns the length that the headers announce.
pub fn length(headers: &Headers) -> Option<u64> {
    let value = headers.get("content-length")?;
    std::str::from_utf8(&value).ok()?.parse().ok()
}

/// Applies changes to the body that Envoy holds. `size`: its bytes. Returns false if the changes lie behind them, or Envoy refuses.
pub fn apply(edits: &Edits, size: usize) -> bool {
    let Ok(end) = usize::try_from(edits.end()) else { return false };
    if end > size {
        return false;
    }
    let mut editor = Editor::new(edits);
    // With one byte more, because an insertion comes with the byte behind it.
    let end = end.saturating_add(1).min(size);
    host::change_request_body(size, end, &mut |piece, out| editor.pass(piece, out))
}
