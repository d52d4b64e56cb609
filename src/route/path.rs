//! The path of an attempt: another prefix, the version's own query parameters, and none that carries a client's credential.

use crate::credentials;
use crate::plan::{PrefixRewrite, Version};

/// Rewrites the model in the path, the path prefix and the query for this version; `None` if the path stays as it is. A version
/// with a pool loses the parameters that carry a client's key.
pub fn rewritten_path(version: &Version, path: &[u8]) -> Option<Vec<u8>> {
    let named = version.dialect.path(path);
    let prefix = version.rewrite_prefix.as_ref();
    let exchanged =
        prefix.and_then(|prefix| exchange_prefix(prefix, named.as_deref().unwrap_or(path))).or(named);
    let queried = rewrite_query(version, exchanged.as_deref().unwrap_or(path));
    queried.or(exchanged)
}

/// Exchanges the prefix, if the path has it as whole segments: `/v1` is a prefix of `/v1`, `/v1/chat` and `/v1?x`, not of
/// `/v1beta`.
fn exchange_prefix(rewrite: &PrefixRewrite, path: &[u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(rewrite.from.as_bytes())?;
    let whole = rewrite.from.ends_with(['/', ':']) || matches!(rest.first(), None | Some(b'/' | b'?' | b'#'));
    whole.then(|| [rewrite.to.as_bytes(), rest].concat())
}

/// Sets the version's parameters in place of the client's, and removes credentials if the version has a pool. Other parameters
/// keep their order and spelling. Returns `None` if nothing changes.
fn rewrite_query(version: &Version, path: &[u8]) -> Option<Vec<u8>> {
    let (has_pool, own) = (version.pool.is_some(), version.query.as_slice());
    if own.is_empty() && !has_pool {
        return None;
    }
    let question = path.iter().position(|byte| *byte == b'?');
    let (bare, query) = question.and_then(|at| path.split_at_checked(at)).unwrap_or((path, b""));
    let query = query.get(1..).unwrap_or_default();
    if own.is_empty() && query.is_empty() {
        return None;
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut changed = false;
    for part in query.split(|byte| *byte == b'&').filter(|_| !query.is_empty()) {
        let name = part.split(|byte| *byte == b'=').next().unwrap_or_default();
        if let Some(own) = own.iter().find(|own| credentials::is_parameter_named(name, &own.name)) {
            // The client's first one gives the place, further ones are removed.
            if !parts.contains(&own.pair.as_bytes()) {
                parts.push(own.pair.as_bytes());
            }
            changed = true;
        } else if has_pool && credentials::is_parameter(name) {
            changed = true;
        } else {
            parts.push(part);
        }
    }
    for own in own {
        if !parts.contains(&own.pair.as_bytes()) {
            parts.push(own.pair.as_bytes());
            changed = true;
        }
    }
    let separator: &[u8] = if parts.is_empty() { b"" } else { b"?" };
    changed.then(|| [bare, separator, &parts.join(&b'&')].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::QueryParameter;

    fn version(from: Option<&str>, query: &[(&str, &str)], pool: bool) -> Version {
        let mut version = crate::testing::version("v1");
        version.rewrite_prefix =
            from.map(|from| PrefixRewrite { from: from.to_owned(), to: "/compat".to_owned() });
        let own = query.iter().map(|(name, pair)| QueryParameter::new((*name).to_owned(), pair));
        version.query = own.collect();
        version.pool = pool.then_some(0);
        version
    }

    fn rewritten(version: &Version, path: &str) -> Option<String> {
        rewritten_path(version, path.as_bytes()).map(|path| String::from_utf8(path).unwrap())
    }

    #[test]
    fn only_whole_segments_are_exchanged() {
        for (from, path, wanted) in [
            ("/v1", "/v1", Some("/compat")),
            ("/v1", "/v1/chat?x=1", Some("/compat/chat?x=1")),
            ("/v1", "/v1?x=1", Some("/compat?x=1")),
            ("/v1", "/v1beta", None),
            ("/v1", "/v1beta/chat", None),
            ("/v1/", "/v1/chat", Some("/compatchat")),
            ("/v1/", "/v1", None),
            ("/", "/any", Some("/compatany")),
            ("/v1/m:", "/v1/m:generate", Some("/compatgenerate")),
            ("/v1", "/v2/chat", None),
            ("/v1", "", None),
        ] {
            assert_eq!(rewritten(&version(Some(from), &[], false), path).as_deref(), wanted, "{from} {path}");
        }
    }

    #[test]
    fn a_versions_parameters_take_the_place_of_the_clients() {
        let own = version(None, &[("api-version", "2024-10-21")], false);
        for (path, wanted) in [
            ("/chat", Some("/chat?api-version=2024-10-21")),
            ("/chat?", Some("/chat?api-version=2024-10-21")),
            ("/chat?a=1", Some("/chat?a=1&api-version=2024-10-21")),
            ("/chat?api-version=old&a=1", Some("/chat?api-version=2024-10-21&a=1")),
            ("/chat?a=%2F&API%2DVersion=x&b&api-version=y", Some("/chat?a=%2F&api-version=2024-10-21&b")),
            ("/chat?key=mine", Some("/chat?key=mine&api-version=2024-10-21")),
        ] {
            assert_eq!(rewritten(&own, path).as_deref(), wanted, "{path}");
        }
        let both = version(Some("/v1"), &[("a", "x y&z=1"), ("b", "é/:")], false);
        assert_eq!(
            rewritten(&both, "/v1/chat?b=2").as_deref(),
            Some("/compat/chat?b=%C3%A9/:&a=x%20y%26z%3D1")
        );
    }

    #[test]
    fn keys_leave_the_query_of_a_version_with_a_pool_only() {
        let pooled = version(None, &[], true);
        for (path, wanted) in [
            ("/chat?key=mine", Some("/chat")),
            ("/chat?a=1&key=mine&b=2", Some("/chat?a=1&b=2")),
            ("/chat?%6Bey=mine&alt=sse", Some("/chat?alt=sse")),
            ("/chat?api-key=mine&model=x", Some("/chat?model=x")),
            ("/chat?key", Some("/chat")),
            ("/chat?keys=1&monkey=key", None),
            ("/chat?", None),
            ("/chat", None),
            ("/chat?a=1&&b", None),
        ] {
            assert_eq!(rewritten(&pooled, path).as_deref(), wanted, "{path}");
        }
        assert_eq!(rewritten(&version(None, &[], false), "/chat?key=mine"), None);
    }
}
