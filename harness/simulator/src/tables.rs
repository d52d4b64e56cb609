//! What is measured: one file a table.

mod confidence;
mod limits;
mod nulls;
mod regressions;
mod robust;
mod shared;
mod sticky;
mod validate;
mod workers;

use crate::report::{Findings, Table};
use crate::rules;
use crate::traffic::Curve;
use crate::trials::Effort;

/// Workers, where nothing else is said.
const WORKERS: usize = 8;
/// Error rate that never ends once it has begun.
const fn from(second: u64, base: f64, level: f64) -> Curve {
    Curve::Step { base, level, from: second, until: u64::MAX }
}

/// A table by its name.
pub struct Entry {
    /// For `--table`.
    pub name: &'static str,
    /// Measures it.
    pub measure: fn(&Effort) -> Findings,
}

/// All tables, in the order of the output.
pub const ALL: [Entry; 9] = [
    Entry { name: "nulls", measure: nulls::measure },
    Entry { name: "shared", measure: shared::measure },
    Entry { name: "regressions", measure: regressions::measure },
    Entry { name: "workers", measure: workers::measure },
    Entry { name: "robust", measure: robust::measure },
    Entry { name: "sticky", measure: sticky::measure },
    Entry { name: "confidence", measure: confidence::measure },
    Entry { name: "limits", measure: limits::measure },
    Entry { name: "validate", measure: validate::measure },
];

/// A table whose columns are a first one, the comparison, and the other rules.
fn side_by_side(title: &str, note: &str, first: &[&str]) -> Table {
    let names: Vec<&str> = first.iter().copied().chain(rules::ALL.iter().map(|rule| rule.name)).collect();
    Table::new(title, note, &names)
}

/// The assumptions about the other rules, as a table.
pub fn assumptions() -> Table {
    let mut table = Table::new("The other rules, and what was assumed of them", "", &["Rule", "Assumed"]);
    for rule in &rules::ALL {
        table.rows.push(vec![rule.name.to_owned(), rule.assumed.to_owned()]);
    }
    table
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
