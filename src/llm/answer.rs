//! What one JSON document of an answer says: a whole answer, an error body, or the data of one event of a stream.
//!
//! The names of all dialects are read at once: no two of them mean different things at the same place. Nothing is kept but numbers
//! and a few short texts.

use crate::llm::scan::{Container, Progress, Scalar, Scan, Token, Visitor};

/// Deepest place that is looked at: `candidates`, item, `content`, `parts`, item, `functionCall`, and one to spare.
const DEPTH: usize = 8;

/// Why an answer ended, in the words that the dialects share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It came to its own end, or to a tool call.
    Stop,
    /// A limit on its length cut it.
    Length,
    /// A filter cut it, or the model refused.
    Refused,
    /// The provider names an error as the reason.
    Error,
}

/// Tokens as a provider counts them; `None` where it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input as stated: with cached input in OpenAI's and Google's counting, without it in Anthropic's.
    pub input: Option<u64>,
    /// Input read from the provider's cache.
    pub cached: Option<u64>,
    /// Input written to the provider's cache.
    pub cache_write: Option<u64>,
    /// Output as stated: with reasoning in OpenAI's counting, without it in Google's.
    pub output: Option<u64>,
    /// Output spent on reasoning.
    pub reasoning: Option<u64>,
    /// Anthropic's counting was met: `input` is without cached input.
    pub input_excludes_cache: bool,
    /// Google's counting was met: `output` is without reasoning.
    pub output_excludes_reasoning: bool,
}

impl Usage {
    /// Returns whether anything was stated.
    pub const fn is_stated(&self) -> bool {
        self.input.is_some() || self.output.is_some()
    }

    /// Takes over what a later document of the same answer states: each number is the last one stated.
    pub fn take(&mut self, later: Usage) {
        self.input = later.input.or(self.input);
        self.cached = later.cached.or(self.cached);
        self.cache_write = later.cache_write.or(self.cache_write);
        self.output = later.output.or(self.output);
        self.reasoning = later.reasoning.or(self.reasoning);
        self.input_excludes_cache |= later.input_excludes_cache;
        self.output_excludes_reasoning |= later.output_excludes_reasoning;
    }
}

/// An error that a document states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// `code`, also where it is a number.
    pub code: Option<String>,
    /// `type`.
    pub kind: Option<String>,
    /// `status`.
    pub status: Option<String>,
    /// The beginning of `message`, or the text that stands in place of an object.
    pub message: Option<String>,
    /// `retryDelay` of Google's RetryInfo.
    pub retry_delay: Option<String>,
}

/// What one document says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// `type` of the document itself, as events of Anthropic and of the Responses API have it.
    pub kind: Option<String>,
    /// It has content for a reader: text, reasoning, a tool call, a refusal, audio, or an item of another API's.
    pub content: bool,
    /// It states why the answer ended.
    pub finish: Option<Finish>,
    /// An error, if it states one that is not empty.
    pub error: Option<ErrorBody>,
    /// Tokens.
    pub usage: Usage,
    /// The model that answered.
    pub model: Option<String>,
    /// A list of choices, candidates or outputs is there, perhaps an empty one.
    pub has_choices: bool,
    /// The list of choices has no item.
    pub choices_empty: bool,
}

impl Document {
    /// Reads a whole document; `None` if it is no JSON.
    pub fn read(bytes: &[u8]) -> Option<Document> {
        let (mut scan, mut reader) = (Scan::default(), Reader::default());
        scan.feed(bytes, &mut reader);
        (scan.end(&mut reader) == Progress::Done).then_some(reader.document)
    }
}

/// Names that mean something, by place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Name {
    #[default]
    Other,
    /// An item of a list.
    Item,
    Type,
    Model,
    Choices,
    Delta,
    Message,
    Content,
    Text,
    Reasoning,
    ToolCalls,
    Refusal,
    FinishReason,
    Usage,
    Input,
    Output,
    Cached,
    CacheWrite,
    ReasoningTokens,
    InputDetails,
    OutputDetails,
    Error,
    Code,
    Status,
    Details,
    RetryDelay,
    Response,
    Incomplete,
    Reason,
    Parts,
    FunctionCall,
    PartialJson,
    Thinking,
    ContentBlock,
    Data,
    AnthropicCached,
    AnthropicWrite,
    GoogleInput,
    GoogleOutput,
    GoogleCached,
    GoogleReasoning,
    Feedback,
}

fn name_of(raw: &[u8]) -> Name {
    match raw {
        b"type" => Name::Type,
        b"model" | b"modelVersion" => Name::Model,
        b"choices" | b"candidates" | b"output" => Name::Choices,
        b"delta" => Name::Delta,
        b"message" => Name::Message,
        b"content" => Name::Content,
        b"text" => Name::Text,
        b"reasoning_content" | b"reasoning" => Name::Reasoning,
        b"tool_calls" | b"function_call" | b"audio" => Name::ToolCalls,
        b"refusal" => Name::Refusal,
        b"finish_reason" | b"stop_reason" | b"finishReason" => Name::FinishReason,
        b"usage" | b"usageMetadata" => Name::Usage,
        b"prompt_tokens" | b"input_tokens" => Name::Input,
        b"completion_tokens" | b"output_tokens" => Name::Output,
        b"cached_tokens" => Name::Cached,
        b"cache_write_tokens" => Name::CacheWrite,
        b"reasoning_tokens" => Name::ReasoningTokens,
        b"prompt_tokens_details" | b"input_tokens_details" => Name::InputDetails,
        b"completion_tokens_details" | b"output_tokens_details" => Name::OutputDetails,
        b"cache_read_input_tokens" => Name::AnthropicCached,
        b"cache_creation_input_tokens" => Name::AnthropicWrite,
        b"promptTokenCount" => Name::GoogleInput,
        b"candidatesTokenCount" => Name::GoogleOutput,
        b"cachedContentTokenCount" => Name::GoogleCached,
        b"thoughtsTokenCount" => Name::GoogleReasoning,
        b"error" => Name::Error,
        b"code" => Name::Code,
        b"status" => Name::Status,
        b"details" => Name::Details,
        b"retryDelay" => Name::RetryDelay,
        b"response" => Name::Response,
        b"incomplete_details" => Name::Incomplete,
        b"reason" | b"blockReason" => Name::Reason,
        b"promptFeedback" => Name::Feedback,
        b"parts" => Name::Parts,
        b"functionCall" => Name::FunctionCall,
        b"partial_json" => Name::PartialJson,
        b"thinking" => Name::Thinking,
        b"content_block" => Name::ContentBlock,
        b"data" => Name::Data,
        _ => Name::Other,
    }
}

/// A document under way.
#[derive(Debug, Default)]
pub struct Reader {
    /// The names on the way to the value under way; a level of a list is an item.
    path: [Name; DEPTH],
    document: Document,
}

impl Reader {
    /// What was read so far.
    pub fn document(&self) -> &Document {
        &self.document
    }

    fn set(&mut self, level: u32, name: Name) {
        let level = usize::try_from(level).ok().and_then(|level| level.checked_sub(1));
        if let Some(place) = level.and_then(|level| self.path.get_mut(level)) {
            *place = name;
        }
    }

    /// The names on the way to a value at this depth; empty for one that lies too deep.
    fn way(&self, depth: u32) -> [Name; DEPTH] {
        let depth = usize::try_from(depth).unwrap_or(usize::MAX);
        let mut way = [Name::Other; DEPTH];
        if depth <= DEPTH {
            for (to, from) in way.iter_mut().zip(self.path).take(depth) {
                *to = from;
            }
        }
        way
    }

    fn number(&mut self, way: &[Name], value: u64) {
        let usage = &mut self.document.usage;
        match way {
            [Name::Input] => usage.input = Some(value),
            [Name::Output] => usage.output = Some(value),
            [Name::InputDetails, Name::Cached] => usage.cached = Some(value),
            [Name::InputDetails, Name::CacheWrite] => usage.cache_write = Some(value),
            [Name::OutputDetails, Name::ReasoningTokens] => usage.reasoning = Some(value),
            [Name::AnthropicCached] => {
                (usage.cached, usage.input_excludes_cache) = (Some(value), true);
            }
            [Name::AnthropicWrite] => {
                (usage.cache_write, usage.input_excludes_cache) = (Some(value), true);
            }
            [Name::GoogleInput] => usage.input = Some(value),
            [Name::GoogleCached] => usage.cached = Some(value),
            [Name::GoogleOutput] => {
                (usage.output, usage.output_excludes_reasoning) = (Some(value), true);
            }
            [Name::GoogleReasoning] => {
                (usage.reasoning, usage.output_excludes_reasoning) = (Some(value), true);
            }
            _ => {}
        }
    }

    fn error_part(&mut self, way: &[Name], kind: Scalar, value: &Token<'_>) {
        let text = || beginning(value);
        let error = self.document.error.get_or_insert_default();
        match (way, kind) {
            ([Name::Code], Scalar::Text | Scalar::Number) => error.code = text(),
            ([Name::Type], Scalar::Text) => error.kind = text(),
            ([Name::Status], Scalar::Text) => error.status = text(),
            ([Name::Message], Scalar::Text) => error.message = text(),
            ([Name::Details, Name::Item, Name::RetryDelay], Scalar::Text) => error.retry_delay = text(),
            _ => {}
        }
    }
}

/// The beginning of a token as text.
fn beginning(value: &Token<'_>) -> Option<String> {
    value.text().or_else(|| Some(String::from_utf8_lossy(value.raw).into_owned()))
}

fn finish_of(raw: &[u8]) -> Option<Finish> {
    Some(match raw {
        b"" => return None,
        b"length"
        | b"max_tokens"
        | b"MAX_TOKENS"
        | b"max_output_tokens"
        | b"model_context_window_exceeded" => Finish::Length,
        b"content_filter"
        | b"refusal"
        | b"SAFETY"
        | b"RECITATION"
        | b"BLOCKLIST"
        | b"PROHIBITED_CONTENT"
        | b"SPII" => Finish::Refused,
        b"error" | b"MALFORMED_FUNCTION_CALL" | b"OTHER" => Finish::Error,
        _ => Finish::Stop,
    })
}

impl Visitor for Reader {
    fn name(&mut self, depth: u32, name: Token<'_>) {
        self.set(depth, name_of(name.raw));
    }

    fn open(&mut self, depth: u32, kind: Container, _start: u64) {
        use Name::{Choices, Error, Item, Response};
        if kind == Container::Array {
            self.set(depth.saturating_add(1), Item);
        }
        let way = self.way(depth);
        match (depth, &way, kind) {
            (1, [Choices, ..], Container::Array) => {
                (self.document.has_choices, self.document.choices_empty) = (true, true);
            }
            (2, [Choices, Item, ..], _) => self.document.choices_empty = false,
            // An error that is an object is one, whatever it holds.
            (1, [Error, ..], Container::Object) | (2, [Response, Error, ..], Container::Object) => {
                self.document.error.get_or_insert_default();
            }
            _ => {}
        }
        self.document.content |= is_call(&way, depth);
    }

    fn scalar(&mut self, depth: u32, kind: Scalar, value: Token<'_>) {
        let whole = self.way(depth);
        let way = whole.get(..usize::try_from(depth).unwrap_or(0).min(DEPTH)).unwrap_or_default();
        match (way, kind) {
            ([Name::Type], Scalar::Text) => self.document.kind = value.text(),
            (
                [Name::ContentBlock, Name::Type] | [Name::Content | Name::Choices, Name::Item, Name::Type],
                Scalar::Text,
            ) => {
                self.document.content |=
                    matches!(value.raw, b"tool_use" | b"server_tool_use" | b"function_call");
            }
            ([Name::Model] | [Name::Message | Name::Response, Name::Model], Scalar::Text) => {
                self.document.model = value.text();
            }
            // A text in place of an object; an empty one says that all is well.
            ([Name::Error], Scalar::Text) if !value.raw.is_empty() => {
                self.document.error = Some(ErrorBody { message: beginning(&value), ..ErrorBody::default() });
            }
            ([Name::Error, rest @ ..] | [Name::Response, Name::Error, rest @ ..], _) if !rest.is_empty() => {
                self.error_part(rest, kind, &value);
            }
            (
                [Name::Usage, rest @ ..] | [Name::Message | Name::Response, Name::Usage, rest @ ..],
                Scalar::Number,
            ) => {
                if let Some(number) = value.text().and_then(|text| text.parse().ok()) {
                    self.number(rest, number);
                }
            }
            (
                [Name::Choices, Name::Item, Name::FinishReason]
                | [Name::FinishReason]
                | [Name::Delta, Name::FinishReason]
                | [Name::Incomplete, Name::Reason]
                | [Name::Response, Name::Incomplete, Name::Reason],
                Scalar::Text,
            ) => self.document.finish = finish_of(value.raw).or(self.document.finish),
            ([Name::Feedback, Name::Reason], Scalar::Text) => self.document.finish = Some(Finish::Refused),
            (_, Scalar::Text) if !value.raw.is_empty() && is_content(way, &self.document) => {
                self.document.content = true;
                if way.last() == Some(&Name::Refusal) {
                    self.document.finish = Some(Finish::Refused);
                }
            }
            _ => {}
        }
    }

    fn close(&mut self, _depth: u32, _end: u64) {}
}

/// Whether a text at this place is for a reader.
fn is_content(way: &[Name], document: &Document) -> bool {
    use Name::{
        Choices, Content, ContentBlock, Delta, FunctionCall, Item, Message, PartialJson, Parts, Reasoning,
        Refusal, Text, Thinking, ToolCalls,
    };
    match way {
        // OpenAI: chat, whole and streamed; completions.
        [Choices, Item, Delta | Message, Content | Reasoning | Refusal] | [Choices, Item, Text] => true,
        [Choices, Item, Delta | Message, Content, Item, ..] => way.last() == Some(&Text),
        [Choices, Item, Delta | Message, ToolCalls, ..] => true,
        // The Responses API: whole, and the text deltas of its events.
        [Choices, Item, Content, Item, Text | Refusal] => true,
        [Delta | Text | Refusal] => is_delta(document.kind.as_deref()),
        // Anthropic: whole, and its events.
        [Content, Item, Text | Thinking] => true,
        [Delta, Text | Thinking | PartialJson] | [ContentBlock, Text | Thinking] => true,
        // Google.
        [Choices, Item, Content, Parts, Item, Text]
        | [Choices, Item, Content, Parts, Item, FunctionCall, ..] => true,
        _ => false,
    }
}

/// Whether a container at this place is content by being there: a tool call.
fn is_call(way: &[Name; DEPTH], depth: u32) -> bool {
    use Name::{Choices, Content, Delta, FunctionCall, Item, Message, Parts, ToolCalls};
    match depth {
        5 => {
            way.starts_with(&[Choices, Item, Delta, ToolCalls, Item])
                || way.starts_with(&[Choices, Item, Message, ToolCalls, Item])
        }
        6 => way.starts_with(&[Choices, Item, Content, Parts, Item, FunctionCall]),
        _ => false,
    }
}

/// Whether an event of the Responses API brings content.
fn is_delta(kind: Option<&str>) -> bool {
    kind.is_some_and(|kind| kind.starts_with("response.") && kind.ends_with(".delta"))
}

#[cfg(test)]
mod tests;
