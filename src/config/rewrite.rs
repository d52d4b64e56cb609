//! `query` and `remove_headers`: changes of a request besides `set_headers`.

use crate::config::{Context, bounds, value};
use crate::headers::OWN_PREFIX;
use crate::json::{Cursor, Member, Read, each};
use crate::plan::QueryParameter;

/// Reads `query`. A value is hidden, because it may be a key.
pub fn query(at: &Cursor<'_>, pooled: bool) -> Read<Vec<QueryParameter>> {
    let mut parameters = Vec::new();
    let mut outcome = Ok(());
    let members = at.members()?;
    if members.len() > bounds::QUERY_MAX {
        let rule = format!("must have at most {} fields", bounds::QUERY_MAX);
        return Err(at.wrong_as(&rule, members.len().to_string()));
    }
    for (i, Member { name, at }) in members.iter().enumerate() {
        if !is_parameter_text(name) || name.is_empty() {
            outcome = Err(
                at.refuse("must be the name of a query parameter: 1 to 255 bytes, no control characters")
            );
        } else if pooled && crate::credentials::is_parameter(name.as_bytes()) {
            outcome = Err(at.refuse("must not be set, Bellwether removes it"));
        } else if let Some(first) =
            members.iter().take(i).find(|earlier| earlier.name.eq_ignore_ascii_case(name))
        {
            outcome = Err(at.refuse(&format!("duplicates {}", first.at.path())));
        }
        match at.string() {
            Ok(text) if is_parameter_text(text) => {
                parameters.push(QueryParameter::new((*name).to_owned(), text));
            }
            Ok(_) => outcome = Err(at.refuse("must have at most 255 bytes and no control characters")),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| parameters)
}

fn is_parameter_text(text: &str) -> bool {
    text.len() <= bounds::QUERY_BYTES_MAX && !text.chars().any(char::is_control)
}

/// Reads `remove_headers`. Bellwether sets the headers in `own` itself.
pub fn remove_headers(at: &Cursor<'_>, own: &[&str], context: &Context<'_>) -> Read<Vec<String>> {
    let items = at.items(&bounds::REMOVE_HEADERS)?;
    let name = |at: &Cursor<'_>| at.as_str().map(str::to_ascii_lowercase);
    each(&items, |at| {
        let lower = value::header_name(at)?;
        if value::is_framing(&lower) {
            return Err(at.wrong("must not be removed, it is a header of the connection"));
        }
        if lower.starts_with(OWN_PREFIX)
            || lower == context.cluster_header
            || own.iter().any(|own| own.eq_ignore_ascii_case(&lower))
        {
            return Err(at.wrong("must not be removed, Bellwether sets it"));
        }
        let first = items.cursors.iter().find(|item| name(item).as_ref() == Some(&lower));
        match first {
            Some(first) if first.path() != at.path() => {
                Err(at.wrong(&format!("duplicates {}", first.path())))
            }
            _ => Ok(lower),
        }
    })
}
