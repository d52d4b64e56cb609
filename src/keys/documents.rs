//! The secrets documents that the `keys` roles of one worker hold.
//!
//! Each filter has one document in force: its newest. A new document is in force at once, even while a context still holds the
//! former one, so a secret that the new document lacks is out of use. If the newest document goes before a former one, the former
//! one is in force again: Envoy makes contexts that it never uses. Documents of different filters do not replace each other: two
//! listeners may have one each, and the pools of both find the secrets of both.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::config;
use crate::plan::pool::Secret;
use crate::shared::codec::{Found, Reader, Writer};

/// Most documents that are restored. Each filter has one.
const DOCUMENTS: usize = 64;
/// Longest document that is restored, in bytes: by default Envoy accepts no longer resource over gRPC.
const BYTES: usize = 4 << 20;
/// Longest name of a filter that is restored, in bytes.
const NAME_BYTES: usize = 4096;

/// A secrets document.
struct Document {
    /// Name of the filter of its role.
    filter: String,
    /// Bytes of the document, shared with its role: the address identifies the copy.
    bytes: Rc<[u8]>,
    secrets: BTreeMap<String, Secret>,
    /// Restored from shared data: no role has this copy.
    restored: bool,
}

/// The documents of a worker, the newest last. Holds secrets: no `Debug`.
#[derive(Default)]
pub struct Documents(Vec<Document>);

impl Documents {
    /// Returns whether this copy of a document is in force.
    pub fn is_in_force(&self, bytes: &Rc<[u8]>) -> bool {
        self.in_force().any(|held| Rc::ptr_eq(&held.bytes, bytes))
    }

    /// Returns the documents in force, the oldest first.
    fn in_force(&self) -> impl Iterator<Item = &Document> {
        let is_newest = |n: usize, held: &Document| {
            self.0.iter().skip(n.saturating_add(1)).all(|newer| newer.filter != held.filter)
        };
        self.0.iter().enumerate().filter(move |(n, held)| is_newest(*n, held)).map(|(_, held)| held)
    }

    /// Puts a document in force, in place of the former one of its filter.
    pub fn insert(&mut self, filter: &str, bytes: &Rc<[u8]>, secrets: BTreeMap<String, Secret>) {
        self.0.retain(|held| !(Rc::ptr_eq(&held.bytes, bytes) || held.restored && held.filter == filter));
        self.0.push(Document {
            filter: filter.to_owned(),
            bytes: Rc::clone(bytes),
            secrets,
            restored: false,
        });
    }

    /// Removes this copy of a document. Returns whether it was in force.
    pub fn remove(&mut self, bytes: &Rc<[u8]>) -> bool {
        let changes = self.is_in_force(bytes);
        self.0.retain(|held| !Rc::ptr_eq(&held.bytes, bytes));
        changes
    }

    /// Returns the secrets of all documents in force. If two have one name, the newer document decides.
    pub fn secrets(&self) -> BTreeMap<String, Secret> {
        let mut all = BTreeMap::new();
        for held in self.in_force() {
            for (name, secret) in &held.secrets {
                all.insert(name.clone(), secret.clone());
            }
        }
        all
    }

    /// Writes the documents in force as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        // A document that is not UTF-8 was refused before.
        let texts: Vec<(&str, &str)> = self
            .in_force()
            .filter_map(|held| Some((held.filter.as_str(), std::str::from_utf8(&held.bytes).ok()?)))
            .collect();
        w.number(u64::try_from(texts.len()).unwrap_or(0));
        for (filter, document) in texts {
            w.text(filter);
            w.text(document);
        }
        w.finish()
    }

    /// Restores documents from bytes; total. Leaves out a document that cannot be read.
    pub fn decode(bytes: Option<&[u8]>) -> Found<Documents> {
        Found::read(bytes, read)
    }
}

fn read(bytes: &[u8]) -> Option<Documents> {
    let mut r = Reader::new(bytes)?;
    let mut documents = Documents::default();
    for _ in 0..r.count(DOCUMENTS)? {
        let (filter, document) = (r.text(NAME_BYTES)?, r.text(BYTES)?);
        if let Ok(secrets) = config::secrets(document.as_bytes()) {
            documents.0.push(Document {
                filter,
                bytes: document.into_bytes().into(),
                secrets,
                restored: true,
            });
        }
    }
    r.end()?;
    Some(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(documents: &mut Documents, filter: &str, text: &str) -> Rc<[u8]> {
        let bytes: Rc<[u8]> = text.as_bytes().into();
        documents.insert(filter, &bytes, config::secrets(&bytes).unwrap());
        bytes
    }

    fn known(documents: &Documents) -> Vec<(String, String)> {
        let secrets = documents.secrets();
        secrets.iter().map(|(name, secret)| (name.clone(), secret.expose().to_owned())).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_filter_has_one_document_and_others_keep_theirs() {
        let mut documents = Documents::default();
        let first = taken(&mut documents, "one", r#"{"secrets": {"a": "sk-1", "b": "sk-2"}}"#);
        taken(&mut documents, "two", r#"{"secrets": {"b": "sk-3", "c": "sk-4"}}"#);
        assert_eq!(
            known(&documents),
            pairs(&[("a", "sk-1"), ("b", "sk-3"), ("c", "sk-4")]),
            "the newer document decides"
        );
        let second = taken(&mut documents, "one", r#"{"secrets": {"b": "sk-5"}}"#);
        assert_eq!(
            known(&documents),
            pairs(&[("b", "sk-5"), ("c", "sk-4")]),
            "a missing secret is out of use"
        );
        assert!(documents.is_in_force(&second) && !documents.is_in_force(&first));
        assert!(!documents.remove(&first), "the former role ends later and changes nothing");
        assert!(documents.remove(&second) && !documents.is_in_force(&second));
        assert_eq!(known(&documents), pairs(&[("b", "sk-3"), ("c", "sk-4")]));
    }

    #[test]
    fn a_document_that_was_replaced_is_in_force_again_when_the_newer_one_goes_first() {
        let mut documents = Documents::default();
        let first = taken(&mut documents, "one", r#"{"secrets": {"a": "sk-1"}}"#);
        let second = taken(&mut documents, "one", r#"{"secrets": {"a": "sk-2"}}"#);
        assert!(documents.remove(&second) && documents.is_in_force(&first));
        assert_eq!(known(&documents), pairs(&[("a", "sk-1")]));
        let third = taken(&mut documents, "one", r#"{"secrets": {"a": "sk-3"}}"#);
        documents.insert("one", &first, config::secrets(&first).unwrap());
        assert!(documents.is_in_force(&first) && !documents.is_in_force(&third), "it has come back");
        assert_eq!(known(&documents), pairs(&[("a", "sk-1")]));
    }

    #[test]
    fn a_restored_document_serves_until_its_filter_has_one() {
        let mut documents = Documents::default();
        for filter in ["one", "two"] {
            taken(&mut documents, filter, &format!(r#"{{"secrets": {{"{filter}": "sk"}}}}"#));
        }
        let Found::Value(mut back) = Documents::decode(Some(&documents.encode())) else {
            panic!("undecodable")
        };
        assert_eq!(known(&back), known(&documents));
        let bytes = taken(&mut back, "one", r#"{"secrets": {"b": "sk-2"}}"#);
        assert_eq!(known(&back), pairs(&[("b", "sk-2"), ("two", "sk")]));
        back.remove(&bytes);
        assert_eq!(known(&back), pairs(&[("two", "sk")]));
    }

    #[test]
    fn documents_come_back_from_bytes_and_bad_bytes_do_not() {
        let mut documents = Documents::default();
        taken(&mut documents, "one", r#"{"secrets": {"a": "sk-1"}}"#);
        taken(&mut documents, "two", "");
        let bytes = documents.encode();
        let Found::Value(back) = Documents::decode(Some(&bytes)) else { panic!("undecodable") };
        assert_eq!(known(&back), known(&documents));
        for end in 0..bytes.len() {
            assert!(!matches!(Documents::decode(Some(&bytes[..end])), Found::Value(_)), "{end}");
        }
        let mut w = Writer::new();
        w.number(1);
        w.text("one");
        w.text("{");
        let Found::Value(back) = Documents::decode(Some(&w.finish())) else { panic!("undecodable") };
        assert!(known(&back).is_empty(), "no document");
    }
}
