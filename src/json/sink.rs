//! The sink: collects the problems of one document, in its order, within a bound.

use std::cell::Cell;

use crate::problems::{Problem, Problems};

/// Problems that are kept; the rest is only counted. Each becomes a log line, and a generated document may have a million.
pub const PROBLEMS_MAX: usize = 1000;

/// The proof that a problem has been reported. Only the sink can make one.
#[derive(Debug, Clone, Copy)]
pub struct Reported(());

/// The result of reading: a value, or the proof that its problem has been reported.
pub type Read<T> = Result<T, Reported>;

/// Collects the problems of one document.
#[derive(Default)]
pub struct Sink {
    problems: Cell<Vec<(u32, Problem)>>,
    dropped: Cell<usize>,
    /// Strings that are numbers are read as numbers.
    pub(super) numbers_in_strings: bool,
}

impl Sink {
    /// Returns a sink for a document from a YAML file, which may have numbers as strings.
    pub fn numbers_in_strings() -> Sink {
        Sink { numbers_in_strings: true, ..Sink::default() }
    }

    pub(super) fn report(&self, position: u32, problem: Problem) -> Reported {
        let mut problems = self.problems.take();
        // Kept in document order, so that the bound always drops the end of the document.
        let index = problems.partition_point(|(earlier, _)| *earlier <= position);
        problems.insert(index, (position, problem));
        if problems.len() > PROBLEMS_MAX {
            problems.truncate(PROBLEMS_MAX);
            self.dropped.set(self.dropped.get().saturating_add(1));
        }
        self.problems.set(problems);
        Reported(())
    }

    /// Returns the value, if no problem was reported.
    ///
    /// # Errors
    /// All problems, in document order. A missing field has the position of its object.
    pub fn finish<T>(self, read: Read<T>) -> Result<T, Problems> {
        match (read, self.into_problems()) {
            (Ok(value), problems) if problems.0.is_empty() => Ok(value),
            (_, problems) => Err(problems),
        }
    }

    fn into_problems(self) -> Problems {
        let mut problems: Vec<Problem> =
            self.problems.into_inner().into_iter().map(|(_, problem)| problem).collect();
        if self.dropped.get() > 0 {
            let rule = format!("{} more problems are not shown", self.dropped.get());
            problems.push(Problem { path: String::new(), rule, got: None });
        }
        Problems(problems)
    }
}
