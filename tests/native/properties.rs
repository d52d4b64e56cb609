//! Properties that hold for every input: decoders are total, counting loses nothing, routing keeps its promises.

use std::collections::BTreeMap;

use bellwether::admin;
use bellwether::config::compile;
use bellwether::headers::Headers;
use bellwether::judge::comparison::Comparison;
use bellwether::judge::histogram::Histogram;
use bellwether::judge::scores::{Arm, Odds, Scores, ScoresDelta};
use bellwether::judge::stats::{Delta, Stats};
use bellwether::judge::window::{Tally, Window};
use bellwether::keys::health::{Health, Observation, Others, PoolHealth};
use bellwether::keys::key_set::KeySet;
use bellwether::keys::usage::PoolUsage;
use bellwether::outcome::attempts::{AnswerHeaders, Attempts, RequestEnd};
use bellwether::outcome::blame::{Event, KeyAnswer, KeyOutcome, Unproven};
use bellwether::outcome::judgement::{Carried, Judgement};
use bellwether::outcome::{Ending, Outcome, classify, ending};
use bellwether::plan::Plan;
use bellwether::plan::guard::BadOutcomes;
use bellwether::plan::guard::Recovery;
use bellwether::plan::matching::Asked;
use bellwether::plan::matching::address_without_port;
use bellwether::plan::pool::{KeyRef, Refusal, Secret};
use bellwether::plan::split::Split;
use bellwether::report::gauges::Shown;
use bellwether::report::log::EventLog;
use bellwether::rollout::ramp::{Position, RampFacts};
use bellwether::rollout::standings::Standings;
use bellwether::rollout::{Cause, Lease, Phase, ProbeOutcome, Rules, Signal, Standing};
use bellwether::route::{Access, Content, RequestFacts, candidates, choose, rewritten_path};
use bellwether::shared::census::Census;
use bellwether::shared::codec::Found;
use bellwether::shared::warnings::Warnings;
use bellwether::time::{Micros, Millis, Now, Span, UnixMillis};
use bellwether::units::{Bps, Point};
use proptest::collection::vec;
use proptest::prelude::*;

/// The other keys of a pool, which work.
const OTHERS: Others = Others { active: true, trusted: true, work: true };

fn plan(document: &str) -> Plan {
    compile(document.as_bytes(), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

const FULL: &str = r#"{"deployments": [{"name": "d", "stable": "v1",
    "match": {"hosts": ["api.example.com", "*.example.org"], "path_prefix": "/v1/",
              "headers": [{"name": "x-tenant", "contains": "a", "invert": true}]},
    "rules": [{"headers": [{"name": "x-group", "prefix": "t"}], "version": "v3", "percent": 30},
              {"headers": [{"name": "x-force", "one_of": ["v2", "two"]}], "version": "v2"}],
    "sticky": {"on": [{"header": "x-user-id"}, {"cookie": "uid"}, {"client_address": true}]},
    "versions": [{"id": "v1", "weight": 79.99, "cluster": "a"},
                 {"id": "v2", "weight": 20, "cluster": "b", "rewrite_prefix": {"from": "/v1/", "to": "/x/"}},
                 {"id": "v3", "weight": 0.01, "cluster": "c"}]},
    {"name": "rest", "stable": "v1", "versions": [{"id": "v1", "weight": 100, "cluster": "a"}]}]}"#;

fn event() -> impl Strategy<Value = Event> {
    let answered = (0usize..7, proptest::option::of(0u64..10_000_000)).prop_map(|(outcome, latency)| {
        Event::Answered { outcome: Outcome::ALL[outcome], latency: latency.map(Span) }
    });
    prop_oneof![6 => answered, 1 => Just(Event::Broke), 1 => Just(Event::Completed)]
}

fn bad_outcomes() -> impl Strategy<Value = BadOutcomes> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (flags, proptest::collection::btree_set(100u16..600, 0..4)).prop_map(|((s, c, r, t), statuses)| {
        BadOutcomes {
            server_errors: s,
            client_errors: c,
            statuses: statuses.into_iter().collect(),
            reset: r,
            timeout: t,
        }
    })
}

/// Header names that matter, and any others; values of any bytes.
fn headers() -> impl Strategy<Value = Headers> {
    let name = prop_oneof![
        Just(":authority".to_owned()),
        Just(":path".to_owned()),
        Just("cookie".to_owned()),
        Just("x-user-id".to_owned()),
        Just("x-group".to_owned()),
        Just("x-tenant".to_owned()),
        Just("x-force".to_owned()),
        "[a-z:-]{0,12}",
    ];
    let value = prop_oneof![
        vec(any::<u8>(), 0..40),
        Just(b"api.example.com:443".to_vec()),
        Just(b"a.example.org".to_vec()),
        Just(b"/v1/chat".to_vec()),
        Just(b"treatment".to_vec()),
        Just(b"uid=7; uid".to_vec()),
    ];
    vec((name, value), 0..12).prop_map(Headers::new)
}

fn cause() -> impl Strategy<Value = Cause> {
    ("[a-z_]{0,20}", ".{0,600}", any::<u64>(), any::<u64>()).prop_map(|(label, text, since, wall)| Cause {
        label,
        text,
        since: Micros(since),
        wall: UnixMillis(wall),
    })
}

fn standing() -> impl Strategy<Value = Standing> {
    let out =
        (cause(), any::<u32>(), proptest::option::of(any::<u64>())).prop_map(|(cause, failed_rounds, at)| {
            Phase::RolledBack { cause, failed_rounds, probe_at: at.map(Micros) }
        });
    let leases = vec((any::<u64>(), any::<u64>()), 0..5);
    let probing =
        (cause(), any::<u32>(), any::<u32>(), leases).prop_map(|(cause, failed_rounds, passed, leases)| {
            let leases = leases.into_iter().map(|(id, until)| Lease { id, until: Micros(until) }).collect();
            Phase::Probing { cause, failed_rounds, passed, leases }
        });
    let phase = prop_oneof![Just(Phase::Active), cause().prop_map(Phase::Holding), out, probing];
    (any::<u32>(), phase, any::<[bool; 2]>()).prop_map(|(epoch, phase, [observed, observed_hold])| Standing {
        epoch,
        phase,
        observed,
        observed_hold,
    })
}

/// Both ways to recover, with any chance.
fn rules() -> impl Strategy<Value = Rules> {
    let probe = r#"{"deployments": [{"name": "d", "stable": "v", "versions": [{"id": "v", "weight": 100, "cluster": "c"}],
        "recovery": {"mode": "probe"}}]}"#;
    let recovery = plan(probe).deployments[0].recovery;
    (any::<bool>(), any::<u64>()).prop_map(move |(hold, random)| Rules {
        recovery: if hold { Recovery::Hold } else { recovery },
        random,
    })
}

proptest! {
    #[test]
    fn decoders_never_panic_with_any_bytes(bytes in vec(any::<u8>(), 0..300), schema in any::<bool>()) {
        let mut bytes = bytes;
        if schema && let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        let _ = Stats::decode(Some(&bytes));
        let _ = Standings::decode(Some(&bytes));
        let _ = Comparison::decode(Some(&bytes));
        let _ = PoolHealth::decode(Some(&bytes));
        let _ = EventLog::decode(Some(&bytes));
        let _ = PoolUsage::decode(Some(&bytes));
        let _ = Census::decode(Some(&bytes));
        let _ = Warnings::decode(Some(&bytes));
        let _ = Shown::decode(Some(&bytes));
    }

    #[test]
    fn the_admin_role_answers_any_request(
        host in "(127\\.0\\.0\\.1|.{0,20})", path in "/?(status|deployments/.{0,9}/(rollback|resume)|.{0,30})",
        method in "(GET|POST|.{0,5})", body in vec(any::<u8>(), 0..60),
    ) {
        let pairs = [(":authority", host), (":path", path.clone()), (":method", method.clone())];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.into_bytes())).to_vec();
        // Without `x-requested-with` nothing is ever ordered.
        if let Ok(request) = admin::request(&Headers::new(pairs), &[]) {
            prop_assert!(!matches!(request, admin::Request::Order(..)), "{method} {path}");
        }
        let now = Now { mono: Micros(0), wall: UnixMillis(0) };
        if let Ok(cause) = admin::cause(&admin::Body::Read(body), now) {
            prop_assert!(cause.text.len() <= 300 && !cause.text.is_empty());
            prop_assert!(!cause.text.chars().any(char::is_control));
        }
    }

    #[test]
    fn a_reason_is_shown_without_control_characters(reason in ".{0,200}") {
        let body = serde_json::json!({"reason": reason}).to_string().into_bytes();
        let now = Now { mono: Micros(0), wall: UnixMillis(0) };
        let Ok(cause) = admin::cause(&admin::Body::Read(body), now) else { panic!("{reason:?} is refused") };
        let odd = cause.text.chars().find(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(c));
        prop_assert_eq!(odd, None);
    }

    #[test]
    fn a_damaged_value_is_undecodable_or_another_value_but_never_a_trap(
        events in vec(event(), 1..50), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut stats = Stats::new(3, Millis(30_000));
        let mut delta = Delta::default();
        events.iter().for_each(|e| delta.add(*e));
        stats.merge(&delta, Micros(77_000_000));
        let mut bytes = stats.encode();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = with }
        if let Found::Value(mut other) = Stats::decode(Some(&bytes)) {
            // Whatever it says now, it can be worked with.
            other.window.resize(Millis(1000));
            other.merge(&delta, Micros(80_000_000));
            other.snapshot(Micros(80_000_000), Millis(1000));
            other.encode();
        }
    }

    #[test]
    fn statistics_come_back_from_their_bytes(batches in vec((vec(event(), 0..20), 0u64..90_000_000), 0..8), epoch in any::<u32>()) {
        let mut stats = Stats::new(epoch, Millis(30_000));
        for (events, at) in batches {
            let mut delta = Delta::default();
            events.iter().for_each(|e| delta.add(*e));
            stats.merge(&delta, Micros(at));
        }
        let bytes = stats.encode();
        prop_assert!(matches!(Stats::decode(Some(&bytes)), Found::Value(back) if back == stats));
    }

    #[test]
    fn standings_come_back_from_their_bytes(list in vec(("[A-Za-z0-9._-]{1,63}", standing()), 0..16)) {
        let mut all = Standings::default();
        for (id, standing) in list {
            prop_assert!(all.put(&id, standing));
        }
        let Found::Value(back) = Standings::decode(Some(&all.encode())) else { panic!("undecodable") };
        for ((id, wrote), (back_id, read)) in all.versions.iter().zip(&back.versions) {
            prop_assert_eq!(id, back_id);
            prop_assert_eq!(wrote.epoch, read.epoch);
            prop_assert_eq!(wrote.phase.kind(), read.phase.kind());
        }
    }

    #[test]
    fn a_fail_signal_always_ends_the_right_to_traffic(start in standing(), cause in cause(), rules in rules()) {
        let out = |s: &Standing| matches!(s.phase, Phase::RolledBack { .. });
        match start.on(&Signal::Fail(cause.clone()), rules) {
            Some(next) => {
                prop_assert!(!out(&start) && out(&next));
                prop_assert!(next.epoch > start.epoch || start.epoch == u32::MAX);
                prop_assert_eq!(next.on(&Signal::Fail(cause), rules), None, "once");
            }
            None => prop_assert!(out(&start)),
        }
    }

    #[test]
    fn the_epoch_changes_exactly_with_the_right_to_traffic(start in standing(), cause in cause(), rules in rules(), which in 0usize..10, at in any::<u64>()) {
        prop_assume!(start.epoch < u32::MAX);
        let lease = Lease { id: at, until: Micros(at) };
        let signal = [
            Signal::Fail(cause.clone()), Signal::WouldFail(cause.clone()), Signal::Shared(cause.clone()),
            Signal::Pass { now: Micros(at), window: Millis(1000) }, Signal::Time(Micros(at)), Signal::Ask(lease, Micros(at)),
            Signal::Probed(at, ProbeOutcome::Passed), Signal::Probed(at, ProbeOutcome::Inconclusive), Signal::Probed(at, ProbeOutcome::Failed(cause.clone())), Signal::WouldHold(cause),
        ][which].clone();
        let right = |s: &Standing| match s.phase {
            Phase::Active | Phase::Holding(_) => 0,
            Phase::Probing { .. } => 1,
            Phase::RolledBack { .. } => 2,
        };
        if let Some(next) = start.on(&signal, rules) {
            prop_assert_eq!(next.epoch > start.epoch, right(&next) != right(&start), "{:?}", signal);
        }
    }

    #[test]
    fn a_comparison_does_not_depend_on_its_division_into_merges(
        events in vec((any::<bool>(), any::<bool>(), 1u16..10_000), 0..200), cuts in vec(any::<bool>(), 200),
    ) {
        let document = r#"{"deployments": [{"name": "d", "stable": "v", "versions": [{"id": "v", "weight": 100, "cluster": "c"}]}]}"#;
        let compare = plan(document).deployments[0].guard.compare.unwrap();
        let (mut whole, mut cut) = (Scores::default(), Scores::default());
        let (mut all, mut part) = (ScoresDelta::default(), ScoresDelta::default());
        for ((bad, canary, share), end) in events.into_iter().zip(cuts) {
            let arm = if canary { Arm::Canary } else { Arm::Stable };
            let odds = Odds { canary: share, stable: 10_000 - share };
            let identity = bad.then_some(u64::from(share % 23));
            all.add(arm, bad, odds, identity);
            part.add(arm, bad, odds, identity);
            if end {
                cut.merge(&std::mem::take(&mut part), &compare, 4);
            }
        }
        whole.merge(&all, &compare, 4);
        cut.merge(&part, &compare, 4);
        prop_assert!(whole == cut);
        let evidence = whole.evidence(&compare);
        prop_assert!(evidence.score.is_finite() && evidence.score >= 0.0);
        prop_assert!(evidence.counts.canary_bad <= evidence.counts.canary);
    }

    #[test]
    fn a_ramp_never_goes_back_and_never_skips_a_stage_with_any_wall_clock(
        looks in vec((0u64..100_000_000, 0u64..100, 0u64..120, any::<bool>(), any::<u64>()), 1..60),
    ) {
        let document = r#"{"deployments": [{"name": "d", "stable": "a", "versions": [{"id": "a", "cluster": "c"}, {"id": "b", "cluster": "c"}],
            "ramp": {"stages": [{"weight": 5, "for": "10s", "min_requests": 20}, {"weight": 25, "for": "1m"}, {"weight": 100, "for": "1h"}]}}]}"#;
        let plan = plan(document);
        let ramp = plan.deployments[0].ramp.as_ref().unwrap();
        let now = |mono: u64, wall: u64| bellwether::time::Now { mono: Micros(mono), wall: UnixMillis(wall) };
        let (mut at, mut seen) = (0, 0);
        let mut position = Position::first(ramp, now(0, 0));
        for (later, more, evidence, active, wall) in looks {
            at += later;
            seen += more;
            let facts = RampFacts { now: now(at, wall), outcomes: seen, evidence, active };
            let next = position.advance(ramp, facts);
            let begun = next.stage != position.stage;
            let (before, after) = (position.stage.unwrap(), next.stage.unwrap());
            prop_assert_eq!(after - before, u32::from(begun));
            prop_assert!(!begun || (active && evidence < 50), "nothing advances in trouble");
            prop_assert!(before > 0 || after == 0 || seen >= 20, "nor without data");
            position = next;
        }
    }

    #[test]
    fn a_window_equals_a_recount_of_all_its_events(
        span in 1_000u64..100_000, adds in vec((0u64..200_000_000, 0u64..5, 0u64..5), 0..60), later in 0u64..200_000_000,
    ) {
        // Time never runs backwards for one writer; a late worker's time is clamped to the newest slot.
        let width = span * 100;
        let mut window = Window::new(Millis(span));
        let (mut newest, mut kept): (u64, Vec<(u64, u64, u64)>) = (0, Vec::new());
        for (at, judged, bad) in adds {
            newest = newest.max(at / width);
            kept.push((newest, judged, bad));
            window.add(Micros(at), &Tally { judged, bad, ..Tally::default() });
        }
        let end = newest * width + later;
        let inside = |slot: u64| slot + 10 > end / width;
        let expected = kept.iter().filter(|(slot, ..)| inside(*slot)).fold((0, 0), |(j, b), (_, judged, bad)| (j + judged, b + bad));
        let sum = window.sum(Micros(end));
        prop_assert_eq!((sum.judged, sum.bad), expected);
    }

    #[test]
    fn a_streak_of_failures_does_not_depend_on_its_division_into_merges(events in vec(any::<bool>(), 0..40), cuts in vec(any::<bool>(), 40)) {
        let (mut whole, mut cut) = (Stats::new(0, Millis(1000)), Stats::new(0, Millis(1000)));
        let mut expected = 0u32;
        let (mut all, mut part) = (Delta::default(), Delta::default());
        for (good, end) in events.iter().zip(cuts) {
            let outcome = if *good { Outcome::Good } else { Outcome::Bad };
            expected = if *good { 0 } else { expected + 1 };
            let event = Event::Answered { outcome, latency: None };
            all.add(event);
            part.add(event);
            if end {
                cut.merge(&std::mem::take(&mut part), Micros(1));
            }
        }
        whole.merge(&all, Micros(1));
        cut.merge(&part, Micros(1));
        prop_assert_eq!(whole.answers_failed, expected);
        prop_assert_eq!(cut.answers_failed, expected);
        prop_assert_eq!(whole.total, cut.total);
    }

    #[test]
    fn percentiles_are_within_six_percent_of_the_exact_values(mut latencies in vec(0u64..900_000, 1..200), bps in 1u16..=10_000) {
        let mut h = Histogram::default();
        latencies.iter().for_each(|ms| h.record(Span(ms * 1000)));
        latencies.sort_unstable();
        let rank = (latencies.len() * usize::from(bps)).div_ceil(10_000);
        let truth = latencies[rank - 1];
        let shown = h.percentile_millis(bps).unwrap();
        prop_assert!(shown.abs_diff(truth) * 100 <= truth * 6 + 50, "{shown} for {truth}");
        prop_assert_eq!(h.count(), u64::try_from(latencies.len()).unwrap());
    }

    #[test]
    fn every_split_gives_every_version_exactly_its_points(cuts in vec(0u16..=10_000, 0..15), stable in any::<prop::sample::Index>()) {
        let mut borders = cuts;
        borders.push(0);
        borders.push(10_000);
        borders.sort_unstable();
        let weights: Vec<Bps> = borders.windows(2).map(|w| Bps::new(w[1] - w[0]).unwrap()).collect();
        let split = Split::new(stable.index(weights.len()), &weights);
        let mut counts = vec![0u16; weights.len()];
        for point in 0..10_000 {
            counts[split.pick(Point::new(point).unwrap())] += 1;
        }
        let wanted: Vec<u16> = weights.iter().map(|w| w.get()).collect();
        prop_assert_eq!(&counts, &wanted);
        for (version, weight) in weights.iter().enumerate() {
            prop_assert_eq!(split.share_of(version), *weight);
        }
    }

    #[test]
    fn any_request_is_routed_to_a_version_that_exists_and_may_serve(
        headers in headers(), random in any::<u64>(), address in proptest::option::of(vec(any::<u8>(), 0..30)), down in 0usize..3,
    ) {
        let plan = plan(FULL);
        let Some(n) = candidates(&plan, &headers).find(&plan, Content::default()) else { return Err(TestCaseError::fail("the last deployment takes all")) };
        let deployment = &plan.deployments[n];
        let facts = RequestFacts {
            headers: &headers,
            client_address: &|| address.as_deref().map(|a| address_without_port(a).to_vec()),
            random, asked: Asked::default() };
        let access = |version| if version == down { Access::Shut } else { Access::Open };
        let choice = choose(deployment, &deployment.split, &facts, &access);
        prop_assert!(choice.version < deployment.versions.len());
        prop_assert!(choice.version != down || down == deployment.stable);
        // The same request is decided the same way, on any worker.
        prop_assert_eq!(choose(deployment, &deployment.split, &facts, &access), choice);
        if let Some(path) = headers.get(":path") {
            rewritten_path(&deployment.versions[choice.version], &path);
        }
    }

    #[test]
    fn raising_a_weight_moves_an_identity_only_towards_the_canary(user in "[ -~]{1,40}", low in 0u16..=10_000, high in 0u16..=10_000) {
        let (low, high) = (low.min(high), low.max(high));
        let version = |weight: u16| {
            let plan = plan(&format!(
                r#"{{"deployments": [{{"name": "d", "stable": "v1", "sticky": {{"on": [{{"header": "u"}}]}}, "versions": [
                    {{"id": "v1", "weight": {}, "cluster": "a"}}, {{"id": "v2", "weight": {}, "cluster": "b"}}]}}]}}"#,
                f64::from(10_000 - weight) / 100.0, f64::from(weight) / 100.0
            ));
            let headers = Headers::new(vec![("u".to_owned(), user.clone().into_bytes())]);
            let facts = RequestFacts { headers: &headers, client_address: &|| None, random: 0, asked: Asked::default() };
            choose(&plan.deployments[0], &plan.deployments[0].split, &facts, &|_| Access::Open).version
        };
        prop_assert!(version(low) <= version(high));
    }

    #[test]
    fn every_answer_has_exactly_one_class(errors in bad_outcomes(), status in proptest::option::of(any::<u16>()), bits in any::<u64>(), reached in any::<bool>(), own in any::<bool>()) {
        let how = ending(bits, reached);
        let refusal = own.then_some(Refusal::Rejected);
        let outcome = classify(&errors, status, how, refusal);
        prop_assert!(Outcome::ALL.contains(&outcome));
        prop_assert!(own || outcome != Outcome::KeyRejected);
        prop_assert!((outcome == Outcome::Local) == matches!(how, Ending::Local | Ending::Overflow));
    }

    #[test]
    fn a_request_settles_each_attempt_once_in_any_order(
        errors in bad_outcomes(), steps in vec((0u8..6, 0usize..4, 100u16..600), 0..20), end in 0usize..6,
    ) {
        let mut attempts = Attempts::new(Micros(0), Some(Millis(5)));
        let (mut judged, mut begun, mut now): (Vec<Judgement>, usize, u64) = (Vec::new(), 0, 0);
        for (step, n, status) in steps {
            now += 1000;
            match step {
                0 | 1 => {
                    attempts.begin(Micros(now), Carried { key: Some(KeyRef { pool: 0, key: n }), to_stable: n == 3, ..Carried::default() }, &errors, &mut judged);
                    begun += 1;
                }
                2 | 3 => judged.extend(attempts.record_headers(n, AnswerHeaders { status, on_key: KeyAnswer::Silent }, Micros(now), &errors)),
                4 => judged.extend(attempts.settle_failed(n, Micros(now), &errors)),
                _ => judged.extend(attempts.settle_abandoned(n, Ending::ClientFault, Micros(now), &errors)),
            }
        }
        let ending = [Ending::Complete, Ending::Reset, Ending::Timeout, Ending::Cancelled, Ending::Local, Ending::ClientFault][end];
        let end = RequestEnd { ending, carried: Carried::default(), now: Micros(now) };
        attempts.finish(end, &errors, &mut judged);
        let settled = judged.iter().filter(|j| j.outcome.is_some()).count();
        // An attempt with good headers that was overtaken by another is over, but nobody saw its end.
        prop_assert!(settled <= begun.max(1), "{settled} settled of {begun}");
        let answered = judged.iter().filter(|j| matches!(j.event, Some(Event::Answered { .. }))).count();
        prop_assert!(answered <= begun.max(1), "{answered} answers of {begun}");
        if begun > 0 {
            prop_assert_eq!(answered, begun, "each attempt is judged as an answer exactly once");
        }
    }

    #[test]
    fn a_pool_chooses_only_keys_that_are_allowed_and_have_a_weight_and_a_value(
        weights in vec(0u32..4, 1..12), missing in vec(any::<bool>(), 12), out in vec(0usize..12, 0..12), random in any::<u64>(),
        identity in proptest::option::of(any::<u64>()),
    ) {
        prop_assume!(weights.iter().any(|w| *w > 0));
        let keys: Vec<String> = weights.iter().enumerate().map(|(n, w)| {
            let value = if missing[n] { format!(r#"{{"secret": "none-{n}"}}"#) } else { format!(r#""sk-{n}""#) };
            format!(r#"{{"id": "k{n}", "value": {value}, "weight": {w}}}"#)
        }).collect();
        let plan = plan(&format!(r#"{{"deployments": [{{"name": "d", "stable": "v", "versions": [{{"id": "v", "weight": 100, "cluster": "c"}}]}}],
            "key_pools": [{{"name": "p", "keys": [{}]}}]}}"#, keys.join(",")));
        let keys = KeySet::new(&plan.pools[0], &BTreeMap::new());
        let usable = |n: usize| weights[n] > 0 && !missing[n] && !out.contains(&n);
        match keys.choose(random, identity, &|n| !out.contains(&n)) {
            Some(n) => prop_assert!(usable(n)),
            None => prop_assert!(!(0..weights.len()).any(usable)),
        }
    }

    #[test]
    fn a_deadline_never_moves_earlier_except_by_success_and_every_state_ends(
        faults in vec((0u8..9, proptest::option::of(0u64..100_000_000_000), 0u64..200, 0u64..100, any::<[bool; 4]>()), 1..60),
    ) {
        let document = r#"{"deployments": [{"name": "d", "stable": "v", "versions": [{"id": "v", "weight": 100, "cluster": "c"}]}],
            "key_pools": [{"name": "p", "keys": [{"id": "a", "value": "sk-1"}]}]}"#;
        let plan = plan(document);
        let (mut health, mut now) = (Health::default(), 1_000_000_000u64);
        for (which, wait, seconds, age, others) in faults {
            now += seconds * 1_000_000;
            let fault = match which {
                0 => KeyOutcome::Completed,
                1 => KeyOutcome::Limited(wait.map(Millis)),
                2 => KeyOutcome::Rejected,
                3 => KeyOutcome::Inconclusive,
                4 => KeyOutcome::Accepted,
                5 => KeyOutcome::Broke,
                6 => KeyOutcome::Exhausted,
                7 => KeyOutcome::Unproven(Unproven { refusal: Refusal::Rejected, alone: others[3] }),
                _ => KeyOutcome::Failed,
            };
            let others = Others { active: others[0], trusted: others[0] && others[1], work: others[0] && others[2] };
            let began = Micros(now - age * 1_000_000);
            let after = health.apply(Observation { outcome: fault, began, now: Micros(now), client: which.into() }, others, &plan.pools[0]);
            prop_assert!(matches!(fault, KeyOutcome::Completed | KeyOutcome::Accepted) || after.until >= health.until, "{:?}: {:?} then {:?}", fault, health, after);
            // Nothing lasts longer than the longest of the pool's times from the last fault.
            prop_assert!(after.until.0 <= now + 3_600_000_000 || after.until == health.until);
            prop_assert!(after.is_active() || after.start_trial(after.until).is_trial_due(Micros(after.until.0 + 60_000_000)));
            health = after;
        }
        let later = Micros(now + 1_000_000);
        prop_assert_eq!(health.apply(Observation { outcome: KeyOutcome::Completed, began: later, now: later, client: 1 }, OTHERS, &plan.pools[0]), Health::default());
    }

    #[test]
    fn reset_headers_of_any_bytes_give_a_wait_of_a_day_at_most(name in prop_oneof![
        Just("retry-after"), Just("retry-after-ms"), Just("x-ratelimit-reset-requests"), Just("anthropic-ratelimit-tokens-reset"),
        Just("x-ratelimit-remaining-requests"), Just("ratelimit-reset"),
    ], value in prop_oneof![vec(any::<u8>(), 0..40), "[0-9hms.]{0,30}".prop_map(String::into_bytes), "[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT".prop_map(String::into_bytes)]) {
        let wait = bellwether::keys::reset::limit([(name, value.as_slice())].into_iter(), UnixMillis(1_795_168_800_000)).wait();
        prop_assert!(wait.is_none_or(|wait| wait <= Millis(86_400_000)));
    }

    #[test]
    fn a_cleaned_key_is_trimmed_and_never_doubles_its_prefix(raw in ".{0,30}", prefix in prop_oneof![Just("Bearer "), Just(""), Just("Key:")]) {
        let pasted = format!("  {prefix}{raw}\n");
        let clean = Secret::clean(&pasted, prefix);
        prop_assert_eq!(clean.expose(), clean.expose().trim());
        prop_assert!(clean.expose().len() <= raw.len().max(pasted.trim().len()));
    }
}
