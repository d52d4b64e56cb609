//! The index of deployments: finds the few that a request may belong to, so that a thousand deployments cost a request no more
//! than one.
//!
//! The index lists each deployment under one necessary condition of its match: the value of a header, else its hosts, else its
//! paths, else its path prefix. A deployment without any of these is a candidate for every request. A look-up returns the candidates with a
//! condition that this request meets; only their matches are then evaluated in full, in configuration order.
//!
//! The tables are sorted vectors: ten comparisons find one entry in a thousand, and the standard hash table would draw a random
//! seed.

use std::borrow::Cow;

use crate::headers::Headers;
use crate::plan::matching;
use crate::plan::matching::{HeaderTest, HostPattern, Match};

/// A sorted table from a condition's value to the deployments with it (indices, ascending).
#[derive(Debug, Default)]
struct Table(Vec<(Vec<u8>, Vec<usize>)>);

impl Table {
    fn add(&mut self, value: &[u8], n: usize) {
        match self.0.binary_search_by(|(held, _)| held.as_slice().cmp(value)) {
            Ok(at) => {
                if let Some((_, listed)) = self.0.get_mut(at)
                    && listed.last() != Some(&n)
                {
                    listed.push(n);
                }
            }
            Err(at) => self.0.insert(at, (value.to_vec(), vec![n])),
        }
    }

    fn get(&self, value: &[u8]) -> Option<&[usize]> {
        let at = self.0.binary_search_by(|(held, _)| held.as_slice().cmp(value)).ok()?;
        self.0.get(at).map(|(_, listed)| listed.as_slice())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Tables from conditions to deployments.
#[derive(Debug, Default)]
pub struct Index {
    /// By the name of a header, then by its value.
    headers: Vec<(String, Table)>,
    /// By host, in lower case, with a port where the pattern has one.
    hosts: Table,
    /// By the end of a host, which begins with a dot.
    suffixes: Table,
    /// By path prefix, and by whole path, which is a prefix too.
    prefixes: Table,
    /// All lengths of path prefixes.
    prefix_lengths: Vec<usize>,
    /// Deployments without such a condition.
    rest: Vec<usize>,
}

impl Index {
    /// Builds the index from the matches of all deployments, in configuration order.
    pub fn new<'a>(matches: impl Iterator<Item = &'a Match>) -> Index {
        let mut index = Index::default();
        for (n, conditions) in matches.enumerate() {
            index.add(n, conditions);
        }
        index
    }

    fn add(&mut self, n: usize, conditions: &Match) {
        let required = conditions.headers.iter().filter(|condition| !condition.invert);
        let mut values = required.filter_map(|condition| match &condition.test {
            HeaderTest::Exact(value) => Some((&condition.name, std::slice::from_ref(value))),
            HeaderTest::OneOf(values) => Some((&condition.name, values.as_slice())),
            _ => None,
        });
        if let Some((name, values)) = values.next() {
            let at = match self.headers.iter().position(|(held, _)| held == name) {
                Some(at) => at,
                None => {
                    self.headers.push((name.clone(), Table::default()));
                    self.headers.len().saturating_sub(1)
                }
            };
            if let Some((_, table)) = self.headers.get_mut(at) {
                values.iter().for_each(|value| table.add(value.as_bytes(), n));
            }
        } else if !conditions.hosts.is_empty() {
            for host in &conditions.hosts {
                match host {
                    HostPattern::Exact(host) => self.hosts.add(host.as_bytes(), n),
                    HostPattern::Suffix(suffix) => self.suffixes.add(suffix.as_bytes(), n),
                }
            }
        } else if !conditions.paths.is_empty() {
            // A path begins with itself.
            conditions.paths.iter().for_each(|path| self.add_prefix(path, n));
        } else if let Some(prefix) = &conditions.path_prefix {
            self.add_prefix(prefix, n);
        } else {
            self.rest.push(n);
        }
    }

    fn add_prefix(&mut self, prefix: &str, n: usize) {
        self.prefixes.add(prefix.as_bytes(), n);
        if !self.prefix_lengths.contains(&prefix.len()) {
            self.prefix_lengths.push(prefix.len());
        }
    }

    /// Returns the first deployment, in configuration order, that is a candidate for this request and that `holds`.
    pub fn first(&self, headers: &Headers, holds: &dyn Fn(usize) -> bool) -> Option<usize> {
        let mut found: Option<usize> = None;
        let mut look = |listed: &[usize]| {
            let earlier = listed.iter().take_while(|n| found.is_none_or(|found| **n < found));
            if let Some(n) = earlier.copied().find(|n| holds(*n)) {
                found = Some(n);
            }
        };
        for (name, table) in &self.headers {
            if let Some(listed) = headers.get(name).and_then(|value| table.get(value.as_ref())) {
                look(listed);
            }
        }
        if !(self.hosts.is_empty() && self.suffixes.is_empty())
            && let Some(authority) = headers.get(":authority")
        {
            self.look_up_host(&lower(&authority), &mut look);
        }
        if !self.prefixes.is_empty()
            && let Some(path) = headers.get(":path")
        {
            let begins = self.prefix_lengths.iter().filter_map(|length| path.get(..*length));
            begins.filter_map(|begin| self.prefixes.get(begin)).for_each(&mut look);
        }
        look(&self.rest);
        found
    }

    /// Calls `look` with the deployments listed under this host and under each of its suffixes, with the port and without.
    fn look_up_host(&self, authority: &[u8], look: &mut dyn FnMut(&[usize])) {
        let bare = matching::without_port(authority);
        for host in [bare, authority] {
            if let Some(listed) = self.hosts.get(host) {
                look(listed);
            }
            if !self.suffixes.is_empty() {
                let dots = host.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'.');
                let ends = dots.filter_map(|(at, _)| self.suffixes.get(host.get(at..)?));
                ends.for_each(&mut *look);
            }
            if bare.len() == authority.len() {
                break;
            }
        }
    }
}

fn lower<'a>(host: &'a Cow<'a, [u8]>) -> Cow<'a, [u8]> {
    if host.iter().any(u8::is_ascii_uppercase) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use crate::headers::Headers;
    use crate::plan::matching::matches;
    use crate::route::{Content, candidates};

    /// Returns a document with every kind of condition and all their combinations: 0…2 of each of hosts, prefix and headers.
    fn document() -> String {
        let hosts = ["", r#""hosts": ["a.example.com"]"#, r#""hosts": ["*.example.com", "A.test:8443"]"#];
        let paths = [
            "",
            r#""path_prefix": "/v1/""#,
            r#""path_prefix": "/v1/chat""#,
            r#""paths": ["/v1/x", "/v1"], "methods": ["GET"]"#,
        ];
        let headers = [
            "",
            r#"{"name": "x-id", "exact": "one"}"#,
            r#"{"name": "x-id", "one_of": ["one", "two"]}"#,
            r#"{"name": "x-id", "exact": "one", "invert": true}"#,
            r#"{"name": "x-other", "present": true}, {"name": "x-id", "exact": "two"}"#,
            r#"{"name": "x-other", "prefix": "o"}"#,
        ];
        let mut deployments = Vec::new();
        // The narrowest ones first, so that each can be the first to match.
        for header in headers.iter().rev() {
            for path in paths.iter().rev() {
                for host in hosts.iter().rev() {
                    let header =
                        if header.is_empty() { String::new() } else { format!(r#""headers": [{header}]"#) };
                    let parts = [host, path, header.as_str()];
                    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                    deployments.push(format!(
                        r#"{{"name": "d{}", "stable": "v1", "match": {{{}}}, "versions": [{{"id": "v1", "weight": 100, "cluster": "a"}}]}}"#,
                        deployments.len(),
                        parts.join(",")
                    ));
                }
            }
        }
        format!(r#"{{"deployments": [{}]}}"#, deployments.join(","))
    }

    #[test]
    fn the_index_finds_the_same_deployment_as_a_search_of_all() {
        let mut plan = crate::testing::plan(&document());
        let mut taken = std::collections::BTreeSet::new();
        // The first deployments are removed one by one, so that each of the others takes requests.
        while !plan.deployments.is_empty() {
            for authority in
                ["a.example.com", "A.EXAMPLE.com:80", "a.test:8443", "b.a.example.com:1", ".", ""]
            {
                for path in ["/v1/chat/completions", "/v1/x", "/v1/x?/v1", "/v1", "/", ""] {
                    for id in [None, Some("one"), Some("two"), Some("three")] {
                        for other in [None, Some("o"), Some("p")] {
                            let pairs = [
                                (":authority", Some(authority)),
                                (":path", Some(path)),
                                (":method", Some("GET")),
                                ("x-id", id),
                            ];
                            let pairs = pairs.into_iter().chain([("x-other", other)]);
                            let pairs =
                                pairs.filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
                            let headers = Headers::new(pairs.collect());
                            let asked = plan.deployments.iter().position(|d| matches(&d.matches, &headers));
                            let found = candidates(&plan, &headers).find(&plan, Content::default());
                            assert_eq!(found, asked, "{headers:?}");
                            taken.extend(asked.map(|n| plan.deployments[n].name.clone()));
                        }
                    }
                }
            }
            plan.deployments.remove(0);
            plan.index = super::Index::new(plan.deployments.iter().map(|d| &d.matches));
        }
        assert_eq!(taken.len(), 72, "every deployment takes some request");
    }
}
