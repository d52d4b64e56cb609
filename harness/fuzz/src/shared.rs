//! A value in shared data, written by whoever holds the same `vm_id`: decoded, worked with, encoded and decoded again.
//!
//! The first byte says which value (`s` stats, `t` standings, `c` comparison, `k` health of a pool, `e` events, `w` warnings, `g` gauges), the second how many
//! operations follow, of eight bytes each; the rest is the value.

use bellwether::judge::comparison::{Comparison, Observed, Pending};
use bellwether::judge::scores::{Arm, Odds};
use bellwether::judge::stats::{Delta, Stats};
use bellwether::judge::{limits, proportion, verdict};
use bellwether::keys::documents::Documents;
use bellwether::keys::health::{Observation, Others, PoolHealth};
use bellwether::outcome::Outcome;
use bellwether::outcome::blame::Event;
use bellwether::outcome::blame::KeyOutcome;
use bellwether::plan::Plan;
use bellwether::plan::guard::Recovery;
use bellwether::report::gauges::Shown;
use bellwether::report::log::EventLog;
use bellwether::rollout::ramp::RampFacts;
use bellwether::rollout::standings::Standings;
use bellwether::rollout::{Cause, Lease, ProbeOutcome, Rules, Signal};
use bellwether::shared::codec::Found;
use bellwether::shared::warnings::{Condition, Holding, WARNINGS_MAX, Warning, Warnings};
use bellwether::time::{Micros, Millis, Span};

use super::exercise::now;
use super::samples::limits;

/// One operation: what to do, and with which number.
#[derive(Clone, Copy)]
struct Step {
    what: u8,
    number: u64,
}

pub fn run(data: &[u8]) {
    let [kind, count, rest @ ..] = data else { return };
    let (steps, value) = rest.split_at(rest.len().min(usize::from(*count) * 8));
    let steps: Vec<Step> = steps
        .chunks_exact(8)
        .map(|eight| {
            let number = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
            // Small numbers are as likely as large ones.
            Step { what: eight[0], number: number.rotate_right(8) >> (eight[0] & 0x38) }
        })
        .collect();
    match kind {
        b's' => stats(value, &steps),
        b't' => standings(value, &steps),
        b'c' => comparison(value, &steps),
        b'k' => pool_health(value, &steps),
        b'e' => events(value, &steps),
        b'w' => warnings(value),
        b'g' => shown(value),
        _ => readable(data),
    }
}

/// Whatever the bytes are, each decoder has an answer. Also the proof that a value written by the engine can be read back: with
/// its key, by [`super::engine`].
fn readable(bytes: &[u8]) {
    Stats::decode(Some(bytes));
    Standings::decode(Some(bytes));
    Comparison::decode(Some(bytes));
    PoolHealth::decode(Some(bytes));
    EventLog::decode(Some(bytes));
    Documents::decode(Some(bytes));
    warnings(bytes);
    shown(bytes);
}

/// The value, which must be the same after a trip through its bytes.
macro_rules! decoded {
    ($kind:ty, $bytes:expr) => {{
        let Found::Value(value) = <$kind>::decode(Some($bytes)) else { return };
        comes_back!($kind, value);
        value
    }};
}

macro_rules! comes_back {
    ($kind:ty, $value:expr) => {
        let Found::Value(back) = <$kind>::decode(Some(&$value.encode())) else {
            panic!("cannot read what was written: {:?}", $value)
        };
        assert!(back == $value, "{back:?} was {:?}", $value);
    };
}

fn event(step: Step) -> Event {
    match step.number % 16 {
        0 | 1 => Event::Broke,
        2 | 3 => Event::Completed,
        n => {
            let outcome = Outcome::ALL[usize::try_from(n).unwrap_or(0) % Outcome::ALL.len()];
            let latency = (step.number & 0x100 == 0).then_some(Span(step.number >> 9));
            Event::Answered { outcome, latency }
        }
    }
}

fn stats(bytes: &[u8], steps: &[Step]) {
    let mut stats = decoded!(Stats, bytes);
    let plan = limits();
    for step in steps {
        let at = Micros(step.number);
        match step.what & 7 {
            0..=3 => {
                let mut delta = Delta::default();
                delta.add(event(*step));
                stats.merge(&delta, at);
            }
            4 => stats.window.resize(Millis(step.number.clamp(1_000, 3_600_000))),
            5 => stats.restart(stats.epoch.saturating_add(1), Millis(30_000)),
            _ => {
                let (mine, other) =
                    (stats.snapshot(at, Millis(1_000)), stats.snapshot(Micros(0), Millis(1_000)));
                for deployment in &plan.deployments {
                    verdict::judge(&deployment.guard, &mine, &other);
                    assert!(limits::evidence(&deployment.guard, &mine) <= 100);
                }
                let (low, high) = proportion::interval(mine.tally.bad, mine.tally.judged);
                assert!((0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high), "{low} {high}");
            }
        }
        comes_back!(Stats, stats);
    }
}

fn cause(at: u64) -> Cause {
    Cause { label: "errors".to_owned(), text: "ä".repeat(300), since: Micros(at), wall: now(0).wall }
}

fn recoveries(plan: &Plan) -> [Recovery; 2] {
    [plan.deployments[0].recovery, plan.deployments[1].recovery]
}

fn standings(bytes: &[u8], steps: &[Step]) {
    let mut standings = decoded!(Standings, bytes);
    let plan = limits();
    let ramp = plan.deployments[1].ramp.as_ref().expect("there is one");
    for step in steps {
        let number = step.number;
        let rules = Rules { recovery: recoveries(plan)[usize::from(step.what >> 6 & 1)], random: number };
        let lease = Lease { id: number & 3, until: Micros(number) };
        let window = Millis(1000);
        let signal = match step.what & 7 {
            0 => Signal::Fail(cause(number)),
            1 => Signal::WouldFail(cause(number)),
            2 => Signal::Shared(cause(number)),
            3 => Signal::Pass { now: Micros(number), window },
            4 => Signal::Time(Micros(number)),
            5 => Signal::Ask(lease, Micros(number)),
            6 => Signal::Probed(
                number & 3,
                if number & 4 == 0 { ProbeOutcome::Passed } else { ProbeOutcome::Inconclusive },
            ),
            _ => Signal::Probed(number & 3, ProbeOutcome::Failed(cause(number))),
        };
        for (_, standing) in &mut standings.versions {
            if let Some(next) = standing.on(&signal, rules) {
                *standing = next;
            }
        }
        if let Some(position) = standings.ramp {
            let facts =
                RampFacts { now: now(number >> 1), outcomes: number, evidence: number & 127, active: true };
            let next = position.advance(ramp, facts);
            assert!(ramp.weight(next.stage).get() <= 10_000);
            standings.ramp = Some(if step.what & 0x80 == 0 { next } else { next.restart(number) });
        }
        let standing = standings.versions.first().map(|(_, standing)| standing.clone());
        standings.put(&format!("v{}", number & 127), standing.unwrap_or(bellwether::rollout::Standing::NEW));
        // A reason is cut where it is too long; what has been cut stays as it is.
        let Found::Value(cut) = Standings::decode(Some(&standings.encode())) else {
            panic!("cannot read what was written: {standings:?}")
        };
        comes_back!(Standings, cut);
        standings = cut;
    }
}

fn comparison(bytes: &[u8], steps: &[Step]) {
    let mut comparison = decoded!(Comparison, bytes);
    let plan = limits();
    let compare = plan.deployments[0].guard.compare.expect("there is one");
    for step in steps {
        let number = step.number;
        let canary = u16::try_from(number % 10_001).unwrap_or(0);
        let mut pending = Pending::default();
        pending.add(Observed {
            arm: if step.what & 1 == 0 { Arm::Canary } else { Arm::Stable },
            odds: Odds { canary, stable: 10_000 - canary },
            identity: (step.what & 2 == 0).then_some(number & 31),
            event: event(Step { what: 0, number: number >> 14 }),
            yardstick: (step.what & 4 == 0).then_some(Span(1000)),
        });
        comparison.merge(&pending, &compare);
        assert!(comparison.percent(&compare) <= 100);
        if let Some((_, evidence)) = comparison.verdict(&compare) {
            assert!(evidence.score.is_finite() && evidence.score >= evidence.limit, "{evidence:?}");
            assert!(evidence.counts.canary_bad <= evidence.counts.canary);
        }
        comparison.is_at_zero();
        comes_back!(Comparison, comparison);
    }
}

fn pool_health(bytes: &[u8], steps: &[Step]) {
    let mut pool = decoded!(PoolHealth, bytes);
    let plan = limits();
    for step in steps {
        let number = step.number;
        // One that is there, or a new one.
        let known =
            usize::try_from(number).unwrap_or(0).checked_rem(pool.0.len()).and_then(|n| pool.0.get(n));
        let fingerprint = known.filter(|_| step.what & 0x80 == 0).map_or(number, |held| held.fingerprint);
        let health = pool.get(fingerprint);
        let outcome = match step.what & 7 {
            0 => KeyOutcome::Completed,
            1 => KeyOutcome::Limited(None),
            2 => KeyOutcome::Limited(Some(Millis(number))),
            3 => KeyOutcome::Rejected,
            4 => KeyOutcome::Failed,
            5 => KeyOutcome::Accepted,
            6 => KeyOutcome::Broke,
            _ => KeyOutcome::Inconclusive,
        };
        let (began, at) = (Micros(number >> 3), Micros(number));
        let holds = step.what & 0x40 == 0;
        let others = Others { active: holds, trusted: holds, work: holds };
        let after =
            health.apply(Observation { outcome, began, now: at, client: number }, others, &plan.pools[0]);
        let succeeded = matches!(outcome, KeyOutcome::Completed | KeyOutcome::Accepted);
        assert!(succeeded || after.until >= health.until, "{health:?} {outcome:?} {after:?}");
        pool.put(fingerprint, if step.what & 0x20 == 0 { after } else { after.start_trial(at) }, at);
        pool.confirm(&[], &[fingerprint], Micros(number.saturating_mul(2)));
        health.returns_at(at);
        comes_back!(PoolHealth, pool);
    }
}

fn events(bytes: &[u8], steps: &[Step]) {
    let mut log = decoded!(EventLog, bytes);
    for step in steps {
        log.push(&"ä".repeat(usize::try_from(step.number % 2100).unwrap_or(0)));
        comes_back!(EventLog, log);
    }
}

/// A list of warnings takes one more, or says that it is full.
fn warnings(bytes: &[u8]) {
    let mut warnings = decoded!(Warnings, bytes);
    let warning = Warning::new(Condition::BreakerOpen, "d", "v2", "text".to_owned());
    let held = warnings.hold(&warning, now(1));
    assert!(held != Holding::NoRoom || warnings.all().len() == WARNINGS_MAX);
    assert!(warnings.all().len() <= WARNINGS_MAX);
    comes_back!(Warnings, warnings);
}

/// Of the gauges that are shown, those that stay are never among those that are gone.
fn shown(bytes: &[u8]) {
    let shown = decoded!(Shown, bytes);
    let gone = shown.gauges.without(&[]);
    assert!(gone.deployments.len() <= shown.gauges.deployments.len());
    let none = shown.gauges.without(std::slice::from_ref(&shown.gauges));
    assert!(none.deployments.is_empty() && none.pools.is_empty());
}
