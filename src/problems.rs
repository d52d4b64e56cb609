//! Problems of a configuration: every one at once, each with its path, the rule and the offending value.
//!
//! A person who pushes a configuration at three in the morning gets one chance to read the rejection. So a problem names
//! the JSON path as the user would write it (`deployments[0].versions[1].weight`), the rule in words, and the value as
//! the user wrote it; and the list is complete, so that one push mends all.

use std::fmt;

/// One violated rule: `path: rule, got value`.
///
/// `got` is absent where there is no value to show (a missing field) or where showing it would show a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// JSON path from the document's root; the empty string is the root itself.
    pub path: String,
    /// The rule, lower case, no full stop.
    pub rule: String,
    /// The offending value, as JSON, shortened to a readable length; never a secret.
    pub got: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "configuration" } else { &self.path };
        write!(f, "{path}: {}", self.rule)?;
        match &self.got {
            Some(got) => write!(f, ", got {got}"),
            None => Ok(()),
        }
    }
}

/// All problems of one document, in document order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// One problem of the document as a whole.
    pub fn of_document(rule: &str) -> Problems {
        Problems(vec![Problem { path: String::new(), rule: rule.to_owned(), got: None }])
    }
}

impl Problems {
    /// A `root_id` that names no role.
    pub fn of_root_id(root_id: &[u8]) -> Problems {
        Problems(vec![Problem {
            path: "root_id".to_owned(),
            rule: "must be one of router, keys, admin".to_owned(),
            got: Some(format!("{:?}", String::from_utf8_lossy(root_id))),
        }])
    }
}

impl fmt::Display for Problems {
    /// One problem a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
