//! Problems of a configuration: the complete list, each with its path, the violated rule and the value.
//!
//! One rejection should be enough to correct a document. So the list is complete, and each problem names the JSON path as
//! the operator would write it (`deployments[0].versions[1].weight`), the rule in words, and the value as it was written.
//! The paths come from [`crate::json::Cursor`].

use std::fmt;

/// One violated rule, written as `path: rule, got value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// JSON path from the document's root; empty for the root itself.
    pub path: String,
    /// The rule, lower case, no full stop.
    pub rule: String,
    /// The value as JSON, shortened. `None` where there is none (a missing field) and where it may be a secret.
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
    /// Returns one problem of the document as a whole.
    pub fn of_document(rule: &str) -> Problems {
        Problems(vec![Problem { path: String::new(), rule: rule.to_owned(), got: None }])
    }

    /// Returns the problem of a `root_id` that names no role.
    pub fn of_root_id(root_id: &[u8]) -> Problems {
        Problems(vec![Problem {
            path: "root_id".to_owned(),
            rule: "must be one of router, keys, admin".to_owned(),
            got: Some(format!("{:?}", String::from_utf8_lossy(root_id))),
        }])
    }
}

impl fmt::Display for Problems {
    /// Writes one problem a line.
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
