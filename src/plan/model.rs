//! LLM awareness of a deployment: which parts of a request body decide, and how a version changes them.
//!
//! A body is read only as far as [`Wants`] asks: the deployment's matches, rules, identities and changes are summed up in it when
//! the plan is made.

use crate::llm::LITE;
use crate::llm::api::{Family, gemini_model};
use crate::llm::edit::{Edits, Wishes, quoted};
use crate::llm::request::Seen;

/// LLM awareness, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Llm {
    /// APIs that requests speak.
    pub family: Family,
    /// Largest request body that is held to be read, in bytes.
    pub body_limit: u64,
    /// Treatment of a request whose body cannot be read.
    pub unreadable: Unreadable,
    /// Treatment of a request for a model that no deployment takes.
    pub unknown_model: UnknownModel,
}

/// Treatment of a request whose body is too large, compressed, no JSON object, or without a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Stable serves it unchanged.
    Stable,
    /// It is answered with 400.
    Reject,
}

/// Treatment of a request for a model that no deployment takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownModel {
    /// It passes untouched, like any request that no deployment takes.
    Pass,
    /// It is answered with 404.
    Reject,
}

/// Names of models for a version, in place of the client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelMap {
    /// By the client's name.
    pub names: Vec<(String, String)>,
    /// For all other names; `None` leaves them.
    pub others: Option<String>,
}

impl ModelMap {
    /// Returns the version's name for a model.
    pub fn name<'a>(&'a self, asked: &'a str) -> &'a str {
        let named = self.names.iter().find(|(from, _)| from == asked).map(|(_, to)| to);
        named.or(self.others.as_ref()).map_or(asked, String::as_str)
    }

    /// Returns whether a member of the map gives this name.
    pub fn gives(&self, name: &str) -> bool {
        self.names.iter().map(|(_, to)| to).chain(&self.others).any(|to| to == name)
    }
}

/// Changes of the top-level members of a request body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestChanges {
    /// Values as JSON text, by name.
    pub set: Vec<(String, String)>,
    /// Names of members that go.
    pub drop: Vec<String>,
    /// Names and their replacements.
    pub rename: Vec<(String, String)>,
}

impl RequestChanges {
    /// Returns whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.drop.is_empty() && self.rename.is_empty()
    }
}

/// A version's model and changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dialect {
    /// Names of models; `None` leaves the client's.
    pub model: Option<ModelMap>,
    /// Changes of the body.
    pub request: RequestChanges,
}

impl Dialect {
    /// Returns whether requests stay as they are.
    pub fn is_empty(&self) -> bool {
        self.model.is_none() && self.request.is_empty()
    }

    /// Returns the model that the provider is asked for.
    pub fn sent_model<'a>(&'a self, asked: &'a str) -> &'a str {
        self.model.as_ref().map_or(asked, |map| map.name(asked))
    }

    /// Returns the changes of this body.
    pub fn edits(&self, body: &Seen) -> Edits {
        let mut wishes = Wishes::default();
        if let Some(asked) = body.text("model") {
            let sent = self.sent_model(asked);
            if sent != asked {
                wishes.set.push(("model", quoted(sent)));
            }
        }
        wishes.set.extend(self.request.set.iter().map(|(name, value)| (name.as_str(), value.clone())));
        wishes.drop.extend(self.request.drop.iter().map(String::as_str));
        wishes.rename.extend(self.request.rename.iter().map(|(from, to)| (from.as_str(), to.as_str())));
        if wishes.is_empty() { Edits::default() } else { Edits::new(body, &wishes) }
    }

    /// Returns the path with the version's model in place of the client's; `None` if it stays.
    pub fn path(&self, path: &[u8]) -> Option<Vec<u8>> {
        if LITE {
            return None;
        }
        let map = self.model.as_ref()?;
        let parts = gemini_model(path)?;
        let asked = std::str::from_utf8(parts.name).ok()?;
        let sent = map.name(asked);
        (sent != asked).then(|| [parts.before, sent.as_bytes(), parts.after].concat())
    }
}

/// The parts of a request body that a deployment reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// The model.
    pub model: bool,
    /// Top-level members.
    pub names: Vec<String>,
    /// Texts one level down, as parent and name.
    pub paths: Vec<(String, String)>,
    /// The conversation.
    pub conversation: bool,
    /// The body to its end.
    pub whole: bool,
}

impl Wants {
    /// Returns whether nothing is read.
    pub fn is_empty(&self) -> bool {
        !self.model && self.needs_only_model()
    }

    /// Returns whether at most the model is read.
    pub fn needs_only_model(&self) -> bool {
        self.names.is_empty() && self.paths.is_empty() && !self.conversation && !self.whole
    }

    /// Adds the wants of another deployment.
    pub fn add(&mut self, other: &Wants) {
        self.model |= other.model;
        self.conversation |= other.conversation;
        self.whole |= other.whole;
        for name in &other.names {
            self.add_name(name);
        }
        for path in &other.paths {
            if !self.paths.contains(path) {
                self.paths.push(path.clone());
            }
        }
    }

    /// Adds a top-level member.
    pub fn add_name(&mut self, name: &str) {
        if !self.names.iter().any(|held| held == name) {
            self.names.push(name.to_owned());
        }
    }

    /// Returns whether everything wanted was read. A member that is not there is known only at the end of the body.
    pub fn are_met(&self, seen: &Seen) -> bool {
        let has = |name: &str| seen.get(name).is_some();
        !self.whole
            && !self.conversation
            && (!self.model || has("model"))
            && self.names.iter().all(|name| has(name))
            && self.paths.iter().all(|(parent, _)| has(parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::request::{Body, Wanted};

    fn dialect(names: &[(&str, &str)], others: Option<&str>) -> Dialect {
        let names = names.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        let model = Some(ModelMap { names, others: others.map(str::to_owned) });
        Dialect { model, ..Dialect::default() }
    }

    fn body(text: &str) -> Body {
        let mut body = Body::new(Wanted::default());
        body.feed(text.as_bytes());
        body
    }

    #[test]
    fn a_map_without_a_star_leaves_other_names() {
        let some = dialect(&[("gpt-4o", "gpt-5.5")], None);
        assert_eq!(some.sent_model("gpt-4o"), "gpt-5.5");
        assert_eq!(some.sent_model("gpt-4o-mini"), "gpt-4o-mini");
        let all = dialect(&[("gpt-4o", "gpt-5.5")], Some("gpt-5.5-mini"));
        assert_eq!(all.sent_model("gpt-4o"), "gpt-5.5");
        assert_eq!(all.sent_model("anything"), "gpt-5.5-mini");
        assert_eq!(Dialect::default().sent_model("x"), "x");
    }

    #[test]
    fn the_model_of_a_path_is_replaced() {
        let map = dialect(&[("gemini-2.5-flash", "gemini-3-flash")], None);
        assert_eq!(
            map.path(b"/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse").as_deref(),
            Some(&b"/v1beta/models/gemini-3-flash:streamGenerateContent?alt=sse"[..])
        );
        assert_eq!(map.path(b"/v1beta/models/gemini-2.5-pro:generateContent"), None);
        assert_eq!(map.path(b"/v1/chat/completions"), None);
    }

    #[test]
    fn wants_are_met_by_complete_members() {
        let mut wants = Wants { model: true, ..Wants::default() };
        wants.add(&Wants { names: vec!["user".to_owned()], ..Wants::default() });
        wants.add(&Wants { paths: vec![("metadata".to_owned(), "user_id".to_owned())], ..Wants::default() });
        let met = |wants: &Wants, text: &str| wants.are_met(body(text).seen());
        assert!(!met(&wants, r#"{"model": "m", "user": "u", "metadata": {"user_id": "x""#));
        assert!(met(&wants, r#"{"model": "m", "user": "u", "metadata": {"user_id": "x"}, "messages": ["#));
        assert!(!met(&wants, r#"{"user": "u", "metadata": {"user_id": "x"}}"#), "no model so far");
        wants.whole = true;
        assert!(!met(&wants, r#"{"model": "m", "user": "u", "metadata": {}}"#));
    }
}
