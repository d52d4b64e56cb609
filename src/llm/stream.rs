//! A streamed answer: how far it is, and how it ended.

use crate::llm::answer::{Document, ErrorBody, Finish, Usage};
use crate::llm::api::Api;
use crate::llm::sse::{Event, Events, Receiver};

/// How a stream ended, or would end now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As its API ends one: with a reason, or with its end mark after content.
    Proper,
    /// Without an end mark: the rest is missing.
    Missing,
    /// Without any event but an end mark.
    Empty,
}

/// What a stream has said so far.
#[derive(Debug)]
pub struct Stream {
    api: Api,
    events: Events,
    seen: Seen,
}

/// The facts of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Content has begun.
    pub content: bool,
    /// The first error.
    pub error: Option<ErrorBody>,
    /// Why it ended.
    pub finish: Option<Finish>,
    /// Tokens.
    pub usage: Usage,
    /// The model that answered.
    pub model: Option<String>,
    /// The end mark of its API has come.
    pub end_mark: bool,
    /// An event other than an end mark or a sign of life has come.
    pub any: bool,
    /// Events that could not be read: longer than is kept, or no JSON.
    pub unread: u32,
}

impl Stream {
    /// Begins a stream of this API.
    pub fn new(api: Api) -> Stream {
        Stream { api, events: Events::default(), seen: Seen::default() }
    }

    /// Reads the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> &Seen {
        self.events.feed(piece, &mut Taking { api: self.api, seen: &mut self.seen });
        &self.seen
    }

    /// Ends the stream.
    pub fn end(&mut self) -> &Seen {
        self.events.end(&mut Taking { api: self.api, seen: &mut self.seen });
        &self.seen
    }

    /// What it has said so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

impl Seen {
    /// How the stream ends, if this is all of it. An error is looked for first.
    pub fn end(&self) -> End {
        match (self.finish, self.end_mark, self.content) {
            (Some(_), _, _) => End::Proper,
            (None, true, true) => End::Proper,
            (None, _, false) if !self.any => End::Empty,
            (None, true, false) => End::Empty,
            (None, false, _) => End::Missing,
        }
    }
}

/// Takes events into the facts.
struct Taking<'a> {
    api: Api,
    seen: &'a mut Seen,
}

impl Receiver for Taking<'_> {
    fn event(&mut self, event: Event<'_>) {
        let seen = &mut *self.seen;
        if event.data == b"[DONE]" {
            seen.end_mark = true;
            return;
        }
        if event.kind == b"ping" {
            return;
        }
        let document = if event.whole { Document::read(event.data) } else { None };
        let Some(document) = document else {
            seen.unread = seen.unread.saturating_add(1);
            // An event that is too long to be read is content: no error is 64 KiB long.
            seen.content |= !event.whole;
            seen.any = true;
            return;
        };
        let kind = document.kind.as_deref().unwrap_or_default();
        if kind == "ping" {
            return;
        }
        seen.any = true;
        let failed = event.kind == b"error" || kind == "error" || kind == "response.failed";
        if let Some(error) = document.error.or_else(|| failed.then(ErrorBody::default)) {
            seen.error.get_or_insert(error);
        }
        if document.finish == Some(Finish::Error) {
            seen.error.get_or_insert_default();
        }
        seen.end_mark |= match self.api {
            Api::Responses => matches!(kind, "response.completed" | "response.incomplete"),
            Api::Anthropic => kind == "message_stop",
            _ => false,
        };
        seen.content |= document.content;
        seen.finish = document.finish.or(seen.finish);
        if kind == "response.completed" {
            seen.finish.get_or_insert(Finish::Stop);
        }
        seen.usage.take(document.usage);
        if document.model.is_some() {
            seen.model = document.model;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(api: Api, text: &str) -> Seen {
        let mut whole = Stream::new(api);
        whole.feed(text.as_bytes());
        let whole = whole.end().clone();
        for size in [1, 5, 64] {
            let mut stream = Stream::new(api);
            text.as_bytes().chunks(size).for_each(|piece| _ = stream.feed(piece));
            assert_eq!(*stream.end(), whole, "in pieces of {size}: {text}");
        }
        whole
    }

    const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
    const WORD: &str =
        "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
    const STOP: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    #[test]
    fn chat_ends_with_a_reason_or_with_its_mark_after_content() {
        for (parts, content, end) in [
            (vec![ROLE, WORD, STOP, DONE], true, End::Proper),
            (vec![ROLE, WORD, STOP], true, End::Proper),
            (vec![WORD, DONE], true, End::Proper),
            (vec![ROLE, STOP, DONE], false, End::Proper),
            (vec![ROLE, WORD], true, End::Missing),
            (vec![ROLE], false, End::Missing),
            (vec![DONE], false, End::Empty),
            (vec![": keep alive\n\n", DONE], false, End::Empty),
            (vec![ROLE, DONE], false, End::Empty),
            (vec![""], false, End::Empty),
        ] {
            let seen = read(Api::Chat, &parts.concat());
            assert_eq!((seen.content, seen.end(), seen.error.is_some()), (content, end, false), "{parts:?}");
        }
    }

    #[test]
    fn errors_are_found_in_every_dialect() {
        for (api, text) in [
            (Api::Chat, "data: {\"error\":{\"message\":\"m\"}}\n\ndata: [DONE]\n\n"),
            (Api::Chat, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"error\"}]}\n\n"),
            (
                Api::Anthropic,
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n",
            ),
            (
                Api::Anthropic,
                "event: message_start\ndata: {\"type\":\"message_start\"}\n\nevent: error\ndata: {}\n\n",
            ),
            (
                Api::Responses,
                "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"x\"}}}\n\n",
            ),
            (Api::Responses, "event: error\ndata: {\"type\":\"error\",\"code\":\"x\"}\n\n"),
            (Api::Gemini, "data: {\"error\":{\"code\":503,\"status\":\"UNAVAILABLE\"}}\n\n"),
        ] {
            assert!(read(api, text).error.is_some(), "{text}");
        }
        for text in [
            "data: {\"error\":null,\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
            "data: {\"error\":\"\"}\n\n",
        ] {
            assert_eq!(read(Api::Chat, text).error, None, "{text}");
        }
    }

    #[test]
    fn other_dialects_end_as_they_do() {
        let anthropic = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":3}}}\n\n\
            event: ping\ndata: {\"type\":\"ping\"}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":\
            {\"type\":\"text_delta\",\"text\":\"a\"}}\n\n";
        assert_eq!(read(Api::Anthropic, anthropic).end(), End::Missing);
        let ended = [anthropic, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"].concat();
        assert_eq!(read(Api::Anthropic, &ended).end(), End::Proper);
        let responses = "data: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n";
        assert_eq!(read(Api::Responses, responses).end(), End::Missing);
        let ended = [responses, "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}}\n\n"].concat();
        let seen = read(Api::Responses, &ended);
        assert_eq!((seen.end(), seen.usage.output), (End::Proper, Some(2)));
        let gemini = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\n\n";
        assert_eq!(read(Api::Gemini, gemini).end(), End::Missing);
        let ended = [gemini, "data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}\n\n"].concat();
        assert_eq!(read(Api::Gemini, &ended).end(), End::Proper);
        assert_eq!(read(Api::Anthropic, "event: ping\ndata: {\"type\":\"ping\"}\n\n").end(), End::Empty);
    }

    #[test]
    fn an_event_that_cannot_be_read_is_counted() {
        let long = ["data: {\"x\":\"", &"y".repeat(70_000), "\"}\n\n"].concat();
        let seen = read(Api::Chat, &long);
        assert_eq!((seen.unread, seen.content), (1, true));
        assert_eq!(read(Api::Chat, "data: <html>\n\n").unread, 1);
    }
}
