//! Valid documents that the targets start from.

use bellwether::config::compile;
use bellwether::plan::Plan;

/// Every field of the contract.
pub const FULL: &str = include_str!("../documents/full.json");
/// Every limit, probing, a ramp, a sticky pool with a quota group.
pub const LIMITS: &str = include_str!("../documents/limits.json");
/// A copy of the shipped sample.
pub const SAMPLE: &str = include_str!("../documents/sample.json");
/// Nothing but what is required.
pub const SMALL: &str = include_str!("../documents/small.json");
/// All of them.
pub const ALL: [&str; 4] = [FULL, LIMITS, SAMPLE, SMALL];

/// In every key of the samples, and in nothing else.
pub const MARK: &str = "SECRET";

/// The environment that the samples refer to.
pub fn env(name: &str) -> Option<String> {
    match name {
        "OPENAI_KEY_1" => Some("sk-SECRET-env".to_owned()),
        "RELAY_KEY_1" => Some("sk-SECRET-relay-env".to_owned()),
        _ => None,
    }
}

/// The plan of a valid document.
pub fn plan(document: &str) -> Plan {
    compile(document.as_bytes(), &env).unwrap_or_else(|problems| panic!("{problems}"))
}

thread_local! {
    // Leaked once a thread: compiling a plan takes longer than most of what is done with it.
    static PLANS: &'static [Plan] = {
        let second = LIMITS.replace("\"limited\"", "\"limited\", \"release\": \"2\"");
        let hold = LIMITS.replace("\"probe\", \"after\": \"1s\", \"max_after\": \"10s\", \"max_probes_in_flight\": 2, \"successes\": 2", "\"hold\"");
        assert!(second != LIMITS && hold != LIMITS);
        Box::leak(Box::new([plan(LIMITS), plan(FULL), plan(SAMPLE), plan(SMALL), plan(&second), plan(&hold)]))
    };
}

/// The plans of all samples, that of [`LIMITS`] first; last it again with another release, and without probing.
pub fn plans() -> &'static [Plan] {
    PLANS.with(|plans| *plans)
}

/// The plan of [`LIMITS`].
pub fn limits() -> &'static Plan {
    &plans()[0]
}
