//! What a run hands out: Markdown tables, and bounds that hold or not.

use std::fmt::Write;

/// A table with its heading and what is to know about it.
#[derive(Debug, Clone)]
pub struct Table {
    /// Heading.
    pub title: String,
    /// Below the heading.
    pub note: String,
    /// Column headings.
    pub header: Vec<String>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str, note: &str, header: &[&str]) -> Table {
        Table {
            title: title.to_owned(),
            note: note.to_owned(),
            header: header.iter().map(|h| (*h).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n", self.title);
        if !self.note.is_empty() {
            let _ = write!(text, "{}\n\n", self.note);
        }
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        text.push_str(&line(&self.header));
        text.push_str(&line(&vec!["---".to_owned(); self.header.len()]));
        self.rows.iter().for_each(|row| text.push_str(&line(row)));
        text
    }
}

/// Something that must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// What was measured.
    pub what: String,
    /// The measurement.
    pub measured: String,
    /// What is allowed.
    pub allowed: String,
    /// Whether it holds.
    pub holds: bool,
}

impl Bound {
    /// At most `allowed`; `None` was never reached and is worse than anything.
    pub fn at_most(what: &str, measured: Option<u64>, allowed: u64) -> Bound {
        Bound {
            what: what.to_owned(),
            measured: shown(measured),
            allowed: format!("≤ {allowed}"),
            holds: measured.is_some_and(|measured| measured <= allowed),
        }
    }

    /// At most one in a thousand; with fewer trials than that, none.
    pub fn rare(what: &str, count: u64, trials: u64) -> Bound {
        let allowed = trials / 1000;
        Bound {
            what: what.to_owned(),
            measured: format!("{count} of {trials}"),
            allowed: format!("≤ {allowed}"),
            holds: count <= allowed,
        }
    }
}

/// What a table's code returns.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Tables.
    pub tables: Vec<Table>,
    /// Bounds.
    pub bounds: Vec<Bound>,
}

impl Findings {
    /// Adds others.
    pub fn extend(&mut self, other: Findings) {
        self.tables.extend(other.tables);
        self.bounds.extend(other.bounds);
    }

    /// Whether all bounds hold.
    pub fn hold(&self) -> bool {
        self.bounds.iter().all(|bound| bound.holds)
    }

    /// All of it as Markdown.
    pub fn markdown(&self) -> String {
        let mut text: String = self.tables.iter().map(|table| table.markdown() + "\n").collect();
        let mut bounds = Table::new("Bounds", "", &["What must hold", "Measured", "Allowed", ""]);
        for bound in &self.bounds {
            let verdict = if bound.holds { "holds" } else { "**BROKEN**" };
            let row = [bound.what.clone(), bound.measured.clone(), bound.allowed.clone(), verdict.to_owned()];
            bounds.rows.push(row.to_vec());
        }
        text.push_str(&bounds.markdown());
        text
    }
}

/// A number, or `never`.
pub fn shown(value: Option<u64>) -> String {
    value.map_or_else(|| "never".to_owned(), |value| value.to_string())
}

/// A share of trials in percent, with as many decimals as a thousand trials can tell apart.
pub fn percent(count: u64, trials: u64) -> String {
    match count as f64 / trials.max(1) as f64 * 100.0 {
        0.0 => "0 %".to_owned(),
        p if p < 10.0 => format!("{p:.1} %"),
        p => format!("{p:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_thousand_is_rare_and_two_are_not() {
        assert!(Bound::rare("", 1, 1000).holds && !Bound::rare("", 2, 1000).holds);
        assert!(Bound::rare("", 2, 2500).holds && !Bound::rare("", 3, 2500).holds);
        assert!(Bound::rare("", 0, 60).holds && !Bound::rare("", 1, 60).holds);
    }

    #[test]
    fn what_never_happens_is_above_every_bound() {
        assert!(!Bound::at_most("", None, 8).holds);
        assert!(Bound::at_most("", Some(8), 8).holds);
    }

    #[test]
    fn tables_are_markdown() {
        let mut table = Table::new("T", "note", &["a", "b"]);
        table.rows.push(vec!["1".to_owned(), percent(3, 1000)]);
        assert_eq!(table.markdown(), "### T\n\nnote\n\n| a | b |\n| --- | --- |\n| 1 | 0.3 % |\n");
        assert_eq!([percent(0, 9), percent(9, 9)], ["0 %", "100 %"]);
    }
}
