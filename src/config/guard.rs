//! `guard` and `recovery`: limits that make a canary fail, and the behaviour after a rollback.

use crate::config::bounds;
use crate::config::value::{self, at_least, duration_or};
use crate::json::{Cursor, Object, Read, Reported, each};
use crate::plan::guard::{
    BadOutcomes, Compare, Guard, GuardMode, LatencyLimits, Probe, Recovery, SharedOutage,
};
use crate::time::Millis;
use crate::units::Bps;

/// Default of `compare`.
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

/// Returns the default guard: the comparison with stable, and no limits.
pub fn default() -> Guard {
    Guard {
        mode: GuardMode::Enforce,
        errors: BadOutcomes { server_errors: true, reset: true, timeout: true, ..BadOutcomes::default() },
        // Long enough for twenty outcomes at low traffic, short enough to forget a past incident.
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

/// Reads a guard. Absent fields come from `base`: the defaults for a deployment's guard, the deployment's guard for a stage's.
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

/// Reads a number of errors; `base` where it is absent.
fn count(object: &Object<'_>, name: &'static str, base: Option<u32>) -> Read<Option<u32>> {
    object.get(name).map_or(Ok(base), |at| at.integer(&bounds::ERROR_COUNT).map(Some))
}

/// Reads `max_latency`; absent limits come from `base`.
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

/// Reads `compare`. Absent fields come from `base`, or from the defaults if that is off.
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

/// Reads `errors`, a list of kinds without duplicates.
fn errors(at: &Cursor<'_>) -> Read<BadOutcomes> {
    let items = at.items(&bounds::SOME)?;
    let mut bad = BadOutcomes::default();
    // A status may be a string or a number: `529` is a duplicate of `"529"`.
    let mut earlier: Vec<(ErrorKind, &Cursor<'_>)> = Vec::new();
    let read = each(&items, error_kind);
    for item in &items.cursors {
        let Some(kind) = as_error_kind(item) else { continue };
        if let Some((_, first)) = earlier.iter().find(|(held, _)| *held == kind) {
            item.wrong(&format!("duplicates {}", first.path()));
            continue;
        }
        earlier.push((kind, item));
    }
    for kind in read? {
        match kind {
            ErrorKind::ServerErrors => bad.server_errors = true,
            ErrorKind::ClientErrors => bad.client_errors = true,
            ErrorKind::Reset => bad.reset = true,
            ErrorKind::Timeout => bad.timeout = true,
            ErrorKind::Status(status) => {
                let index = bad.statuses.partition_point(|held| *held < status);
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

/// Reads `recovery`.
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
