//! The rules people use today, each as its documentation describes it, on the canary's outcomes.
//!
//! None of them looks at stable: that is what they have in common, and what the tables show. Where documentation leaves
//! something open, the rule's file says what was assumed, in the rule's favour.

mod argo;
mod consecutive;
mod envoy;
mod flagger;
mod lifetime;
mod rate;
mod resilience4j;
mod window;

pub use argo::Argo;
pub use consecutive::Consecutive;
pub use envoy::Envoy;
pub use flagger::Flagger;
pub use lifetime::Lifetime;
pub use rate::Rate;
pub use resilience4j::Resilience4j;

/// One second in microseconds.
const SECOND: u64 = 1_000_000;

/// Outcomes of the canary: so many good ones since the event before, and then a failure if `bad`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Microseconds since the beginning.
    pub at: u64,
    /// Good outcomes before this moment.
    pub good: u64,
    /// The canary failed now.
    pub bad: bool,
}

/// A rule that may give a canary up.
pub trait Rule {
    /// Takes an event in; true from the moment the canary is given up.
    fn observe(&mut self, event: Event) -> bool;
}

/// A rule with its name and the assumptions made about it.
pub struct Named {
    /// Column heading.
    pub name: &'static str,
    /// What was assumed.
    pub assumed: &'static str,
    /// A fresh instance.
    pub fresh: fn() -> Box<dyn Rule>,
}

/// All of them, in the order of the tables.
pub const ALL: [Named; 7] = [
    Named {
        name: "Flagger example",
        assumed: "checks each 60 s, success rate at least 99 %, given up at the 10th failed check in all \
                  (`FailedChecks` is never reset); a minute without requests is not held against it",
        fresh: || Box::new(Flagger::default()),
    },
    Named {
        name: "Argo example",
        assumed: "measures each 5 min, success rate at least 95 % of those 5 min, `failureLimit: 3` so given up at the \
                  4th failed measurement; five minutes without requests are not held against it",
        fresh: || Box::new(Argo::default()),
    },
    Named {
        name: "resilience4j default",
        assumed: "last 100 calls, at least 100, failure rate at least 50 %; slow calls (60 s) do not occur",
        fresh: || Box::new(Resilience4j::default()),
    },
    Named {
        name: "> 5 % of ≥ 20",
        assumed: "more than 5 % of at least 20 requests failed in a sliding window of 60 s",
        fresh: || Box::new(Rate::default()),
    },
    Named {
        name: "5 in a row",
        assumed: "five failures one after the other",
        fresh: || Box::new(Consecutive::default()),
    },
    Named {
        name: "Envoy outlier",
        assumed: "outlier detection by default (`consecutive_5xx: 5` a host; success rate needs 5 hosts), a canary of 4 \
                  hosts in turn; counted when the first host is ejected, though that takes only this one host out, \
                  for 30 s",
        fresh: || Box::new(Envoy::default()),
    },
    Named {
        name: "Lifetime ratio",
        assumed: "more than 5 % of all requests since the beginning failed, at least 20",
        fresh: || Box::new(Lifetime::default()),
    },
];
