//! Changes of a request body: members set, dropped and renamed, without a copy of the body.
//!
//! The changes are worked out from the places that the reader has found. They are applied to the bytes as these pass, in pieces of
//! any size, and the length of the changed body is known before its first byte is sent: an attempt must announce it.

use crate::llm::request::{Member, Place, Seen};

/// The bytes at a place, and what stands there instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The place. An empty one is an insertion before its first byte.
    pub at: Place,
    /// The new bytes.
    pub with: Vec<u8>,
}

/// What a version wants of the members of a body. Names in `set` come once, and so do sources in `rename`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes<'a> {
    /// Values as JSON text, by name. A member that is not there is added.
    pub set: Vec<(&'a str, String)>,
    /// Names of members that go.
    pub drop: Vec<&'a str>,
    /// Names and their replacements. A source whose target is there, or is set, goes.
    pub rename: Vec<(&'a str, &'a str)>,
}

impl Wishes<'_> {
    /// Returns whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.drop.is_empty() && self.rename.is_empty()
    }
}

/// The changes of one body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// In the order of the body; they do not overlap.
    edits: Vec<Edit>,
}

impl Edits {
    /// Works out the changes. Everything that `wishes` name must have been read: a member that stands in the unread part of the body
    /// would come twice.
    pub fn new(seen: &Seen, wishes: &Wishes<'_>) -> Edits {
        let has = |name: &str| seen.members.iter().any(|member| member.name.eq_ignore_ascii_case(name));
        let is_set = |name: &str| wishes.set.iter().any(|(set, _)| *set == name);
        // The name under which a member stays, and whether it stays.
        let stays = |member: &Member| -> Option<String> {
            if wishes.drop.contains(&member.name.as_str()) {
                return None;
            }
            match wishes.rename.iter().find(|(from, _)| *from == member.name) {
                Some((_, to)) if has(to) || is_set(to) => None,
                Some((_, to)) => Some((*to).to_owned()),
                None => Some(member.name.clone()),
            }
        };
        let names: Vec<Option<String>> = seen.members.iter().map(stays).collect();
        let mut edits = Vec::new();
        let any_stays = names.iter().any(Option::is_some);
        let added: Vec<String> = wishes
            .set
            .iter()
            .filter(|(name, _)| !names.iter().flatten().any(|held| held == name))
            .map(|(name, value)| [&quoted(name), ":", value].concat())
            .collect();
        if !added.is_empty() {
            let mut with = added.join(",").into_bytes();
            if any_stays {
                with.push(b',');
            }
            edits.push(Edit { at: Place { start: seen.inside, end: seen.inside }, with });
        }
        let mut stayed = false;
        for (n, (member, name)) in seen.members.iter().zip(&names).enumerate() {
            let Some(name) = name else {
                let before = n.checked_sub(1).and_then(|n| seen.members.get(n)).filter(|_| stayed);
                let after = n.checked_add(1).and_then(|n| seen.members.get(n));
                // With the comma before it, or if nothing stays before it with the comma behind it.
                let at = match (before, after) {
                    (Some(before), _) => Place { start: before.value_at.end, end: member.value_at.end },
                    (None, Some(after)) => Place { start: member.name_at.start, end: after.name_at.start },
                    (None, None) => Place { start: member.name_at.start, end: member.value_at.end },
                };
                edits.push(Edit { at, with: Vec::new() });
                continue;
            };
            stayed = true;
            if *name != member.name {
                edits.push(Edit { at: member.name_at, with: quoted(name).into_bytes() });
            }
            if let Some((_, value)) = wishes.set.iter().find(|(set, _)| set == name) {
                edits.push(Edit { at: member.value_at, with: value.clone().into_bytes() });
            }
        }
        Edits { edits }
    }

    /// Returns whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Length of a changed body whose original has this length.
    pub fn length_of(&self, original: u64) -> u64 {
        self.edits.iter().fold(original, |length, edit| {
            let with = u64::try_from(edit.with.len()).unwrap_or(u64::MAX);
            length.saturating_sub(edit.at.len()).saturating_add(with)
        })
    }

    /// Offset behind the last changed byte of the original; 0 without changes.
    pub fn end(&self) -> u64 {
        self.edits.last().map_or(0, |edit| edit.at.end)
    }
}

/// Changes applied to a body as it passes.
#[derive(Debug)]
pub struct Editor<'a> {
    edits: &'a [Edit],
    /// Index of the next change.
    next: usize,
    /// Offset of the next byte of the original.
    at: u64,
}

impl<'a> Editor<'a> {
    /// Begins at the first byte of a body.
    pub fn new(edits: &'a Edits) -> Editor<'a> {
        Editor { edits: &edits.edits, next: 0, at: 0 }
    }

    /// Appends the changed form of the next piece.
    pub fn pass(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while !rest.is_empty() {
            let Some(edit) = self.edits.get(self.next) else {
                out.extend_from_slice(rest);
                self.at = self.at.saturating_add(length(rest));
                return;
            };
            // Bytes before the change stay.
            let (head, tail) = split(rest, edit.at.start.saturating_sub(self.at));
            out.extend_from_slice(head);
            self.at = self.at.saturating_add(length(head));
            rest = tail;
            if self.at < edit.at.start {
                return;
            }
            // The new bytes come in place of the first old one; of an insertion, before the byte that follows.
            if rest.is_empty() {
                return;
            }
            if self.at == edit.at.start {
                out.extend_from_slice(&edit.with);
            }
            let (gone, tail) = split(rest, edit.at.end.saturating_sub(self.at));
            self.at = self.at.saturating_add(length(gone));
            rest = tail;
            if self.at < edit.at.end {
                return;
            }
            self.next = self.next.saturating_add(1);
        }
    }
}

fn split(bytes: &[u8], at: u64) -> (&[u8], &[u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// A text as a JSON string. A string can always be written.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "null".to_owned())
}

#[cfg(test)]
mod tests;
