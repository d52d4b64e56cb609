//! Plans and guards, made by the shipping configuration code so that its defaults are the ones measured.

use bellwether::config::compile;
use bellwether::plan::Plan;
use bellwether::plan::guard::{Compare, Guard};

/// A plan with stable `v1` and canary `v2` at `share` basis points; `rest` is inserted into the deployment.
///
/// # Panics
/// The configuration is refused: a mistake in the simulator.
pub fn plan(share: u16, rest: &str) -> Plan {
    let percent = |bps: u16| f64::from(bps) / 100.0;
    let document = format!(
        r#"{{"deployments": [{{"name": "d", "stable": "v1", {rest} "versions": [
            {{"id": "v1", "weight": {}, "cluster": "a"}}, {{"id": "v2", "weight": {}, "cluster": "b"}}]}}]}}"#,
        percent(10_000 - share),
        percent(share),
    );
    match compile(document.as_bytes(), &|_| None) {
        Ok(plan) => plan,
        Err(problems) => panic!("{problems}\n{document}"),
    }
}

/// The guard of a deployment with these members in `guard`.
///
/// # Panics
/// As [`plan`].
pub fn guard(members: &str) -> Guard {
    let mut plan = plan(500, &format!(r#""guard": {{{members}}},"#));
    plan.deployments.remove(0).guard
}

/// The comparison as `guard: {}` has it.
pub fn compare() -> Compare {
    compare_of("")
}

/// The comparison with these members.
///
/// # Panics
/// As [`plan`].
pub fn compare_of(members: &str) -> Compare {
    match guard(&format!(r#""compare": {{{members}}}"#)).compare {
        Some(compare) => compare,
        None => panic!("compare is an object here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let compare = compare();
        assert_eq!((compare.worse_than_stable_milli, compare.confidence), (1500, 1e7));
        assert_eq!((compare.min_difference.get(), compare.floor.get()), (100, 100));
        assert_eq!(compare_of(r#""confidence": 100"#).confidence, 100.0);
    }
}
