//! One trial in bulk: the shipping comparison and the other rules on the same traffic, until all have decided.

use bellwether::judge::comparison::Measure;
use bellwether::judge::scores::Arm;
use bellwether::plan::guard::Compare;

use crate::bulk::Bulk;
use crate::rng::Rng;
use crate::rules::{self, Event, Rule};
use crate::traffic::{Item, Kind, Traffic, generate};

/// When a canary was given up, and what it had cost since the trouble began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// Microseconds since the beginning.
    pub at: u64,
    /// Failures of the canary since the trouble began.
    pub errors: u64,
    /// Slow answers of it.
    pub slow: u64,
    /// All its requests.
    pub requests: u64,
}

/// What a race is run with.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    /// The traffic.
    pub traffic: Traffic,
    /// Its length in seconds.
    pub seconds: u64,
    /// When the trouble begins: what is given up before that is a false alarm.
    pub from: u64,
    /// Parameters of the comparison.
    pub compare: Compare,
    /// Workers; 0 for one that merges each time.
    pub workers: usize,
    /// Whether the other rules run too.
    pub rules: bool,
}

/// When each gave up.
#[derive(Debug, Clone)]
pub struct Results {
    /// The comparison, by its signal.
    pub share: Option<(Measure, Mark)>,
    /// The rules, in the order of [`rules::ALL`].
    pub rules: Vec<Option<Mark>>,
}

/// Runs a race.
pub fn run(course: &Course, rng: &mut Rng) -> Results {
    // Which worker a request goes to comes from a stream of its own: the traffic is the same with any number of workers.
    let mut dice = Rng::of(rng.bits(), "workers", 0);
    let mut bulk = Bulk::new(course.compare, course.traffic.share, course.workers);
    let mut field: Vec<Box<dyn Rule>> =
        rules::ALL.iter().filter(|_| course.rules).map(|rule| (rule.fresh)()).collect();
    let mut results = Results { share: None, rules: vec![None; field.len()] };
    let mut running = field.len() + 1;
    let (mut mark, mut good) = (Mark::default(), 0);
    generate(&course.traffic, course.seconds, rng, &mut |item| {
        count(&mut mark, item, course.from * 1_000_000);
        if results.share.is_none()
            && let Some(signal) = bulk.observe(item, &mut dice)
        {
            results.share = Some((signal, mark));
            running -= 1;
        }
        good += item.calm[0] + u64::from(item.event == Some((Arm::Canary, Kind::Slow)));
        let bad = item.event == Some((Arm::Canary, Kind::Failed));
        if bad || item.event.is_none() {
            let event = Event { at: item.at, good, bad };
            good = 0;
            for (rule, result) in field.iter_mut().zip(&mut results.rules) {
                if result.is_none() && rule.observe(event) {
                    *result = Some(mark);
                    running -= 1;
                }
            }
        }
        running > 0
    });
    results
}

fn count(mark: &mut Mark, item: &Item, from: u64) {
    mark.at = item.at;
    if item.at < from {
        return;
    }
    mark.requests += item.calm[0];
    match item.event {
        Some((Arm::Canary, Kind::Failed)) => {
            mark.errors += 1;
            mark.requests += 1;
        }
        Some((Arm::Canary, Kind::Slow)) => {
            mark.slow += 1;
            mark.requests += 1;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup;
    use crate::traffic::Curve;

    #[test]
    fn in_an_outage_of_both_the_impatient_rules_blame_the_canary_and_the_comparison_does_not() {
        let outage = Curve::Step { base: 0.005, level: 0.5, from: 600, until: 660 };
        let course = Course {
            traffic: Traffic::alike(100.0, 500, outage),
            seconds: 700,
            from: 600,
            compare: setup::compare(),
            workers: 8,
            rules: true,
        };
        let results = run(&course, &mut Rng::of(1, "outage", 0));
        assert_eq!(results.share, None);
        let by = |name: &str| {
            let at = rules::ALL.iter().position(|rule| rule.name == name).expect("a rule");
            results.rules[at]
        };
        assert!(by("> 5 % of ≥ 20").is_some() && by("5 in a row").is_some());
        assert_eq!(by("Flagger example"), None, "slower than the outage");
    }

    #[test]
    fn a_dead_canary_is_given_up_by_the_comparison_first() {
        let dead = Curve::Step { base: 0.005, level: 1.0, from: 60, until: u64::MAX };
        let traffic = Traffic { canary: dead, ..Traffic::alike(100.0, 500, Curve::Flat(0.005)) };
        let course =
            Course { traffic, seconds: 1800, from: 60, compare: setup::compare(), workers: 8, rules: true };
        let results = run(&course, &mut Rng::of(2, "dead", 0));
        let errors = results.share.map(|(_, mark)| mark.errors);
        assert!(errors.is_some_and(|errors| (5..=9).contains(&errors)), "{errors:?}");
        let flagger = results.rules[0].map(|mark| mark.errors);
        assert!(flagger.is_some_and(|errors| errors > 2_500), "{flagger:?}");
    }
}
