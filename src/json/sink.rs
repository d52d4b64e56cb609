//! Where problems go: all of one document, in its order, within a bound.

use std::cell::Cell;

use crate::problems::{Problem, Problems};

/// Problems that are kept; the rest is counted. Each becomes a log line, and a generated document may be wrong a million
/// times over.
pub const PROBLEMS_MAX: usize = 1000;

/// Proof that a problem has been reported: the sink makes it, nobody else can.
#[derive(Debug, Clone, Copy)]
pub struct Reported(());

/// What was read, or the proof that its problem has been reported.
pub type Read<T> = Result<T, Reported>;

/// Collects the problems of one document.
#[derive(Default)]
pub struct Sink {
    problems: Cell<Vec<(u32, Problem)>>,
    dropped: Cell<usize>,
    /// A string that is a number passes for one.
    pub(super) numbers_in_strings: bool,
}

impl Sink {
    /// For a document whose way here may have turned numbers into strings.
    pub fn numbers_in_strings() -> Sink {
        Sink { numbers_in_strings: true, ..Sink::default() }
    }

    pub(super) fn report(&self, position: u32, problem: Problem) -> Reported {
        let mut problems = self.problems.take();
        // In order from the beginning, so that what the bound drops is the end of the document, however it was read.
        let index = problems.partition_point(|(earlier, _)| *earlier <= position);
        problems.insert(index, (position, problem));
        if problems.len() > PROBLEMS_MAX {
            problems.truncate(PROBLEMS_MAX);
            self.dropped.set(self.dropped.get().saturating_add(1));
        }
        self.problems.set(problems);
        Reported(())
    }

    /// The outcome of reading: the value if nothing at all was reported.
    ///
    /// # Errors
    /// Every problem, in document order. A problem of something missing stands where the object that lacks it begins.
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
