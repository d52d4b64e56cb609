//! `guard` and `recovery`: what makes a canary fail, and what follows.

use std::ops::RangeInclusive;

use crate::config::bounds;
use crate::config::value;
use crate::json::{Cursor, Object, Read, Reported, each};
use crate::plan::guard::{
    BadOutcomes, Compare, Guard, GuardMode, LatencyLimits, Probe, Recovery, SharedOutage,
};
use crate::time::Millis;
use crate::units::Bps;

/// `compare` where the document says nothing..
const COMPARE: Compare = Compare {
    worse_than_stable_milli: 1_500,
    confidence: 1e7,
    min_difference: ONE_PERCENT,
    floor: ONE_PERCENT,
    latency_floor: Millis(100),
};

const ONE_PERCENT: Bps = match Bps::new(100) {
    Some(bps) => bps,
    None => Bps::ALL,
};

const LATENCIES: [&str; 4] = ["avg", "p50", "p95", "p99"];

/// The guard of a deployment whose document says nothing: the comparison with stable, and no limits.
pub fn default() -> Guard {
    Guard {
        mode: GuardMode::Enforce,
        errors: BadOutcomes { server_errors: true, reset: true, timeout: true, ..BadOutcomes::default() },
        // Long enough for twenty outcomes at little traffic, short enough to forget an incident that is over.
        window: Millis(30_000),
        min_requests: 20,
        max_error_rate: None,
        max_errors: None,
        max_consecutive_errors: None,
        max_latency: LatencyLimits::default(),
        compare: Some(COMPARE),
        shared_outage: SharedOutage::Hold,
    }
}

/// A guard; fields that are absent are those of `base`. So a deployment's guard stands on the defaults, and a stage's on
/// the deployment's.
pub fn guard(at: &Cursor<'_>, base: &Guard) -> Read<Guard> {
    let object = at.object(&[
        "mode",
        "errors",
        "window",
        "min_requests",
        "max_error_rate",
        "max_errors",
        "max_consecutive_errors",
        "max_latency",
        "compare",
        "shared_outage",
    ])?;
    let mode = object.get("mode").map_or(Ok(base.mode), |at| {
        at.choice(&["enforce", "observe"])
            .map(|i| if i == 0 { GuardMode::Enforce } else { GuardMode::Observe })
    });
    let errors = object.get("errors").map_or_else(|| Ok(base.errors.clone()), |at| errors(&at));
    let window = duration_or(&object, "window", &bounds::WINDOW, base.window);
    let min_requests =
        object.get("min_requests").map_or(Ok(base.min_requests), |at| at.integer(&bounds::MIN_REQUESTS));
    let max_error_rate =
        object.get("max_error_rate").map_or(Ok(base.max_error_rate), |at| value::percent(&at).map(Some));
    let max_errors = count(&object, "max_errors", base.max_errors);
    let max_consecutive_errors = count(&object, "max_consecutive_errors", base.max_consecutive_errors);
    let max_latency = object
        .get("max_latency")
        .map_or_else(|| Ok(base.max_latency.clone()), |at| latency(&at, &base.max_latency));
    let compare = object.get("compare").map_or(Ok(base.compare), |at| compare(&at, base.compare));
    let shared_outage = object.get("shared_outage").map_or(Ok(base.shared_outage), |at| {
        at.choice(&["hold", "rollback"])
            .map(|i| if i == 0 { SharedOutage::Hold } else { SharedOutage::Rollback })
    });
    Ok(Guard {
        mode: mode?,
        errors: errors?,
        window: window?,
        min_requests: min_requests?,
        max_error_rate: max_error_rate?,
        max_errors: max_errors?,
        max_consecutive_errors: max_consecutive_errors?,
        max_latency: max_latency?,
        compare: compare?,
        shared_outage: shared_outage?,
    })
}

/// The duration in the field `name`, or `default` where it is absent.
pub fn duration_or(
    object: &Object<'_>,
    name: &'static str,
    range: &RangeInclusive<Millis>,
    default: Millis,
) -> Read<Millis> {
    object.get(name).map_or(Ok(default), |at| value::duration(&at, range))
}

fn count(object: &Object<'_>, name: &'static str, base: Option<u32>) -> Read<Option<u32>> {
    object.get(name).map_or(Ok(base), |at| at.integer(&bounds::ERROR_COUNT).map(Some))
}

fn latency(at: &Cursor<'_>, base: &LatencyLimits) -> Read<LatencyLimits> {
    let object = at.object(&LATENCIES)?;
    if LATENCIES.iter().all(|name| object.get(name).is_none()) {
        return Err(at.refuse(&format!("must have at least one of {}", LATENCIES.join(", "))));
    }
    let limit = |name, base: Option<Millis>| {
        object.get(name).map_or(Ok(base), |at| value::duration(&at, &bounds::LATENCY).map(Some))
    };
    let (avg, p50) = (limit("avg", base.avg), limit("p50", base.p50));
    let (p95, p99) = (limit("p95", base.p95), limit("p99", base.p99));
    Ok(LatencyLimits { avg: avg?, p50: p50?, p95: p95?, p99: p99? })
}

/// Fields that are absent are those of `base`, or the defaults where that is off.
fn compare(at: &Cursor<'_>, base: Option<Compare>) -> Read<Option<Compare>> {
    if at.as_bool() == Some(false) {
        return Ok(None);
    }
    if !at.is_object() {
        return Err(at.wrong("must be an object or false"));
    }
    let base = base.unwrap_or(COMPARE);
    let object =
        at.object(&["worse_than_stable", "confidence", "min_difference", "floor", "latency_floor"])?;
    let worse_than_stable_milli =
        object.get("worse_than_stable").map_or(Ok(base.worse_than_stable_milli), |at| {
            at.as_number()
                .and_then(|number| value::scaled(number, 1000.0, &bounds::WORSE_THAN_STABLE_MILLI))
                .ok_or_else(|| at.wrong("must be a number in 1..=100 with at most three decimals"))
        });
    let confidence = object.get("confidence").map_or(Ok(base.confidence), |at| {
        at.as_number()
            .filter(|number| bounds::CONFIDENCE.contains(number))
            .ok_or_else(|| at.wrong("must be a number in 1e2..=1e12"))
    });
    let min_difference =
        object.get("min_difference").map_or(Ok(base.min_difference), |at| value::percent(&at));
    let floor = object.get("floor").map_or(Ok(base.floor), |at| value::percent(&at));
    let latency_floor = object
        .get("latency_floor")
        .map_or(Ok(base.latency_floor), |at| value::duration(&at, &bounds::LATENCY_FLOOR));
    Ok(Some(Compare {
        worse_than_stable_milli: worse_than_stable_milli?,
        confidence: confidence?,
        min_difference: min_difference?,
        floor: floor?,
        latency_floor: latency_floor?,
    }))
}

fn errors(at: &Cursor<'_>) -> Read<BadOutcomes> {
    let items = at.items(&bounds::SOME)?;
    let mut bad = BadOutcomes::default();
    // Whether a status was given as a string or as a number is forgotten here, so `529` doubles `"529"`.
    let mut holders: Vec<(ErrorKind, &Cursor<'_>)> = Vec::new();
    let read = each(&items, error_kind);
    for item in &items.cursors {
        let Some(kind) = as_error_kind(item) else { continue };
        if let Some((_, first)) = holders.iter().find(|(held, _)| *held == kind) {
            item.wrong(&format!("duplicates {}", first.path()));
            continue;
        }
        holders.push((kind, item));
    }
    for kind in read? {
        match kind {
            ErrorKind::ServerErrors => bad.server_errors = true,
            ErrorKind::ClientErrors => bad.client_errors = true,
            ErrorKind::Reset => bad.reset = true,
            ErrorKind::Timeout => bad.timeout = true,
            ErrorKind::Status(status) => {
                let index = bad.statuses.partition_point(|earlier| *earlier < status);
                bad.statuses.insert(index, status);
            }
        }
    }
    Ok(bad)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ErrorKind {
    ServerErrors,
    ClientErrors,
    Reset,
    Timeout,
    Status(u16),
}

fn error_kind(at: &Cursor<'_>) -> Read<ErrorKind> {
    as_error_kind(at).ok_or_else(|| at.wrong("must be 5xx, 4xx, reset, timeout or a status in 100..=599"))
}

fn as_error_kind(at: &Cursor<'_>) -> Option<ErrorKind> {
    let status = match at.as_str() {
        Some("5xx") => return Some(ErrorKind::ServerErrors),
        Some("4xx") => return Some(ErrorKind::ClientErrors),
        Some("reset") => return Some(ErrorKind::Reset),
        Some("timeout") => return Some(ErrorKind::Timeout),
        Some(digits) if digits.len() == 3 && !digits.starts_with('+') => digits.parse().ok()?,
        Some(_) => return None,
        None => at.as_integer()?,
    };
    bounds::STATUS.contains(&status).then_some(ErrorKind::Status(u16::try_from(status).ok()?))
}

/// A deployment's `recovery`.
pub fn recovery(at: &Cursor<'_>) -> Read<Recovery> {
    const PROBE: [&str; 4] = ["after", "max_after", "max_probes_in_flight", "successes"];
    let object = at.object(&["mode", "after", "max_after", "max_probes_in_flight", "successes"])?;
    let mode = object.get("mode").map_or(Ok(0), |at| at.choice(&["hold", "probe"]));
    if let Ok(0) = mode {
        let mut failed: Option<Reported> = None;
        for field in PROBE.iter().filter_map(|name| object.get(name)) {
            failed = Some(field.wrong("must be absent unless mode is probe"));
        }
        return failed.map_or(Ok(Recovery::Hold), Err);
    }
    let after = duration_or(&object, "after", &bounds::PROBE_AFTER, Millis(30_000));
    let max_after = duration_or(&object, "max_after", &bounds::PROBE_AFTER, Millis(600_000));
    let max_after = at_least(&object, "max_after", max_after, "after", after);
    let max_in_flight = object.get("max_probes_in_flight").map_or(Ok(2), |at| at.integer(&bounds::PROBES));
    let successes = object.get("successes").map_or(Ok(3), |at| at.integer(&bounds::SUCCESSES));
    mode?;
    Ok(Recovery::Probe(Probe {
        after: after?,
        max_after: max_after?,
        max_in_flight: max_in_flight?,
        successes: successes?,
    }))
}

/// Checks that the duration `max` is not below `min`, defaults included. The problem is `max`'s if it is given, else
/// `min`'s, which then exceeds the default.
pub fn at_least(
    object: &Object<'_>,
    max_name: &'static str,
    max: Read<Millis>,
    min_name: &'static str,
    min: Read<Millis>,
) -> Read<Millis> {
    let (Ok(upper), Ok(lower)) = (max, min) else { return max };
    if upper >= lower {
        return max;
    }
    match object.get(max_name) {
        Some(at) => Err(at.wrong(&format!("must not be below {min_name} ({lower})"))),
        None => Err(object.need(min_name)?.wrong(&format!("must not be above {max_name} (default {upper})"))),
    }
}
