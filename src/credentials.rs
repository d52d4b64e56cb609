//! The credentials of clients: the one list of headers, query parameters and WebSocket subprotocols that carry them. They are
//! removed from each attempt that goes to a version with a key pool, so that a provider sees the pool's key and nothing of the
//! client's.

/// Headers that carry a client's own credentials, or that bind a request to an organization of the client's.
pub const HEADERS: [&str; 9] = [
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "ocp-apim-subscription-key",
    "x-amz-security-token",
    "openai-organization",
    "openai-project",
    "proxy-authorization",
];

/// The headers among [`HEADERS`] that `set_headers` of a version with a pool cannot set. The others it can: the operator's
/// organization takes the place of the client's.
pub const RESERVED: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// Query parameters that carry a key: Google's `key`, and Azure's `api-key` for WebSockets.
const PARAMETERS: [&str; 2] = ["key", "api-key"];

/// Name of the header with the subprotocols that a WebSocket client offers.
pub const PROTOCOLS_HEADER: &str = "sec-websocket-protocol";

/// Texts at the beginning of a subprotocol that is a credential. A browser cannot set headers on a WebSocket, so OpenAI takes
/// the key and its organization there.
const PROTOCOL_PREFIXES: [&str; 4] =
    ["openai-insecure-api-key.", "openai-organization.", "openai-project.", "sk-"];

/// Subprotocols after which the next one is the credential itself (`token, KEY`).
const PROTOCOLS_BEFORE_A_KEY: [&str; 2] = ["token", "bearer"];

/// Returns whether a query parameter with this name, as it stands in the path, carries a credential.
pub fn is_parameter(raw_name: &[u8]) -> bool {
    PARAMETERS.iter().any(|name| is_parameter_named(raw_name, name))
}

/// Returns whether a name in a query, which may have escapes such as `%6B`, means `name`, in any case.
pub fn is_parameter_named(raw: &[u8], name: &str) -> bool {
    let mut rest = raw;
    for wanted in name.bytes() {
        let Some((byte, after)) = first_decoded(rest) else { return false };
        if !byte.eq_ignore_ascii_case(&wanted) {
            return false;
        }
        rest = after;
    }
    rest.is_empty()
}

/// Decodes the first byte of a part of a query. Returns it and the rest.
fn first_decoded(raw: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if let [b'%', high, low, rest @ ..] = raw
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Some((high << 4 | low, rest));
    }
    let (first, rest) = raw.split_first()?;
    Some((if *first == b'+' { b' ' } else { *first }, rest))
}

/// Returns the offered subprotocols without credentials, empty if none is left; `None` if there is no credential among them.
pub fn without_keys(offered: &[u8]) -> Option<Vec<u8>> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let (mut removed, mut key_follows) = (false, false);
    for protocol in offered.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        let introduces =
            PROTOCOLS_BEFORE_A_KEY.iter().any(|name| protocol.eq_ignore_ascii_case(name.as_bytes()));
        if key_follows || introduces || PROTOCOL_PREFIXES.iter().any(|prefix| begins_with(protocol, prefix)) {
            removed = true;
        } else {
            kept.push(protocol);
        }
        key_follows = introduces && !key_follows;
    }
    removed.then(|| kept.join(&b", "[..]))
}

/// Returns whether a text begins with this prefix, in any case.
fn begins_with(text: &[u8], prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserved_headers_are_credentials() {
        assert!(RESERVED.iter().all(|name| HEADERS.contains(name)));
    }

    #[test]
    fn escaped_and_capital_names_are_the_same_parameter() {
        for name in ["key", "KEY", "%6Bey", "%6b%65%79", "api-key", "api%2Dkey", "API-Key"] {
            assert!(is_parameter(name.as_bytes()), "{name}");
        }
        for name in ["", "ke", "keys", "monkey", "%6", "%6Beyx", "%zzey", "api_key", "key%00", "key+"] {
            assert!(!is_parameter(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn keys_leave_the_subprotocols_and_the_others_stay_in_order() {
        let without =
            |offered: &str| without_keys(offered.as_bytes()).map(|kept| String::from_utf8(kept).unwrap());
        for (offered, kept) in [
            (
                "realtime, openai-insecure-api-key.sk-1, openai-beta.realtime-v1",
                "realtime, openai-beta.realtime-v1",
            ),
            ("realtime,OpenAI-Insecure-API-Key.sk-1", "realtime"),
            ("openai-organization.org-1, realtime, openai-project.proj-1", "realtime"),
            ("sk-1", ""),
            ("token, abc", ""),
            ("graphql-ws, Bearer, abc, v2", "graphql-ws, v2"),
            ("token, token, token", ""),
        ] {
            assert_eq!(without(offered).as_deref(), Some(kept), "{offered}");
        }
        for offered in ["", "realtime", "realtime, openai-beta.realtime-v1", "tokens, abc", "mask-1"] {
            assert_eq!(without(offered), None, "{offered}");
        }
    }
}
