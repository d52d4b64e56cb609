//! The APIs that the filter can read, told apart by the path of a request.

/// An API, as far as bodies and answers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's completions, the older ones.
    Completions,
    /// OpenAI's responses.
    Responses,
    /// OpenAI's embeddings.
    Embeddings,
    /// Anthropic's messages.
    Anthropic,
    /// Google's `generateContent` and `streamGenerateContent`. The model is in the path.
    Gemini,
}

/// The family of APIs that a deployment is configured for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// By the path of each request.
    #[default]
    Auto,
    /// OpenAI's.
    OpenAi,
    /// Anthropic's.
    Anthropic,
    /// Google's.
    Gemini,
}

impl Family {
    /// Returns whether the model may stand in the path.
    pub fn reads_path(self) -> bool {
        matches!(self, Family::Auto | Family::Gemini)
    }
}

impl Api {
    /// Returns the API of a path, with a query or without; `None` for a path that belongs to none of them.
    pub fn of_path(path: &[u8]) -> Option<Api> {
        let path = without_query(path);
        let path = path.strip_suffix(b"/").unwrap_or(path);
        if gemini_model(path).is_some() {
            return Some(Api::Gemini);
        }
        let ends = |end: &[u8]| path.ends_with(end);
        // The longer name first: both end with `/completions`.
        Some(match () {
            () if ends(b"/chat/completions") => Api::Chat,
            () if ends(b"/completions") => Api::Completions,
            () if ends(b"/responses") => Api::Responses,
            () if ends(b"/embeddings") => Api::Embeddings,
            () if ends(b"/messages") => Api::Anthropic,
            () => return None,
        })
    }

    /// Returns whether the API belongs to a family.
    pub fn is_of(self, family: Family) -> bool {
        match family {
            Family::Auto => true,
            Family::Anthropic => self == Api::Anthropic,
            Family::Gemini => self == Api::Gemini,
            Family::OpenAi => !matches!(self, Api::Anthropic | Api::Gemini),
        }
    }
}

/// The place of the model's name in a path of Google's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathModel<'a> {
    /// The path up to the name.
    pub before: &'a [u8],
    /// The name.
    pub name: &'a [u8],
    /// The rest: a colon, the method, the query.
    pub after: &'a [u8],
}

/// Finds the model in a path such as `/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse`.
pub fn gemini_model(path: &[u8]) -> Option<PathModel<'_>> {
    const MODELS: &[u8] = b"/models/";
    let bare = without_query(path);
    let at = bare.windows(MODELS.len()).rposition(|window| window == MODELS)?;
    let name_at = at.checked_add(MODELS.len())?;
    let tail = bare.get(name_at..)?;
    let colon = tail.iter().position(|byte| *byte == b':')?;
    let (name, method) = tail.split_at_checked(colon)?;
    let known = matches!(
        method,
        b":generateContent"
            | b":streamGenerateContent"
            | b":embedContent"
            | b":batchEmbedContents"
            | b":countTokens"
    );
    if !known || name.is_empty() || name.contains(&b'/') {
        return None;
    }
    let name_ends = name_at.checked_add(colon)?;
    Some(PathModel { before: path.get(..name_at)?, name, after: path.get(name_ends..)? })
}

fn without_query(path: &[u8]) -> &[u8] {
    path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_tells_the_api() {
        for (path, api) in [
            ("/v1/chat/completions", Some(Api::Chat)),
            ("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", Some(Api::Chat)),
            ("/v1/completions/", Some(Api::Completions)),
            ("/v1/responses", Some(Api::Responses)),
            ("/v1/embeddings", Some(Api::Embeddings)),
            ("/anthropic/v1/messages", Some(Api::Anthropic)),
            ("/v1beta/models/gemini-2.5-flash:generateContent?key=x", Some(Api::Gemini)),
            (
                "/v1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent",
                Some(Api::Gemini),
            ),
            ("/v1/models", None),
            ("/v1beta/models/gemini:unknown", None),
            ("/v1beta/models/:generateContent", None),
            ("/v1/messages/count", None),
            ("/v1/files?x=/chat/completions", None),
            ("", None),
        ] {
            assert_eq!(Api::of_path(path.as_bytes()), api, "{path}");
        }
    }

    #[test]
    fn a_path_is_its_three_parts() {
        let path = b"/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse";
        let parts = gemini_model(path).unwrap();
        assert_eq!(parts.name, b"gemini-2.5-flash");
        assert_eq!([parts.before, parts.name, parts.after].concat(), path);
    }
}
