//! Writes what the targets start from into the corpora: documents and values that mean something, made by the code itself.
//!
//! `cargo run --manifest-path harness/fuzz/Cargo.toml --example seeds` after a change of a layout in shared data, or of the contract.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use std::path::Path;

use bellwether::judge::comparison::{Comparison, Observed, Pending};
use bellwether::judge::scores::{Arm, Odds};
use bellwether::judge::stats::{Delta, Stats};
use bellwether::keys::health::{Health, Observation, PoolHealth};
use bellwether::outcome::Outcome;
use bellwether::outcome::blame::Event;
use bellwether::outcome::blame::KeyOutcome;
use bellwether::report::log::EventLog;
use bellwether::rollout::ramp::Position;
use bellwether::rollout::standings::Standings;
use bellwether::rollout::{Cause, Lease, Phase, Standing};
use bellwether::time::{Micros, Millis, Span, UnixMillis};
use bellwether_fuzz::samples::{FULL, LIMITS, SAMPLE, SMALL, plan};
use bellwether_fuzz::wire::{self, Specifier};

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), bytes).unwrap();
}

fn main() {
    configurations();
    secrets();
    headers();
    shared();
}

fn configurations() {
    for (how, name, text) in [
        ('j', "full", FULL),
        ('s', "limits", LIMITS),
        ('g', "sample", SAMPLE),
        ('b', "small", SMALL),
        ('p', "full-struct", FULL),
        ('j', "twice", r#"{"deployments": [], "deployments": [{"name": "d", "name": "e"}]}"#),
        (
            'j',
            "nothing-right",
            r#"{"deployments": [{"name": "D", "versions": [{"id": 1, "weight": "90"}], "ramp": {}}], "key_pools": {}}"#,
        ),
        ('j', "no-json", "{\"deployments\": [}"),
    ] {
        write("config", name, format!("{how}{text}").as_bytes());
    }
    let json: serde_json::Value = serde_json::from_str(LIMITS).unwrap();
    write("envelope", "struct", &wire::structure(&json).unwrap());
    write("envelope", "string-value", &wire::string_value(SMALL));
    write("envelope", "secret-string", &wire::secret(Specifier::InlineString(SMALL.to_owned())));
    write("envelope", "secret-bytes", &wire::secret(Specifier::InlineBytes(SAMPLE.as_bytes().to_vec())));
    write("envelope", "secret-file", &wire::secret(Specifier::Filename("/etc/config.json".to_owned())));
    write("envelope", "secret-variable", &wire::secret(Specifier::EnvironmentVariable("CONFIG".to_owned())));
    write("envelope", "text", SMALL.as_bytes());
    // Fields nobody knows, of every wire type, around a document.
    write(
        "envelope",
        "unknown-fields",
        b"\x12\x01x\x19\x01\x02\x03\x04\x05\x06\x07\x08\x0a\x0c\x28\xff\x01\x1a\x02{}\x35\x01\x02\x03\x04\xf8\xff\x01\x07",
    );
}

fn secrets() {
    for (name, text) in [
        ("two", r#"{"secrets": {"openai-2": " sk-SECRET\n", "three": "Bearer x"}}"#),
        ("none", "{}"),
        (
            "wrong",
            r#"{"secrets": {"a": "x", "b": " ", "a": "y", "c": ["z"], "d e": "v", "f": "g\nx", "": 7}, "o": "p"}"#,
        ),
    ] {
        write("secrets", name, text.as_bytes());
    }
    let text = r#"{"secrets": {"three": "sk-SECRET"}}"#;
    write("secrets", "wrapped", &wire::secret(Specifier::InlineString(text.to_owned())));
}

fn headers() {
    for (name, lines) in [
        (
            "matching",
            "10.0.0.1:4711\n:authority: API.example.com:443\n:path: /v1/chat?x=1\nx-deployment-id: gpt4-upgrade\nx-end: s\nx-within: c\nx-among: d2\nx-gray-group: treatment",
        ),
        ("forced", "[::1]:4711\n:path: /v1/\nx-force: two\nx-group: treatment\nx-user-id: 7"),
        (
            "cookies",
            "::1\n:authority: [::1]:8443\ncookie: xuid=1; uidx=2;uid = \"me\" ; uid=later\ncookie: Uid=3",
        ),
        ("retry-after", "\nretry-after: 1.5\nretry-after-ms: 250"),
        ("retry-date", "\nretry-after: Fri, 20 Nov 2026 10:01:00 GMT"),
        (
            "limits",
            "\nx-ratelimit-reset-requests: 6m0s\nx-ratelimit-remaining-requests: 0\nx-ratelimit-reset-tokens: 1h2m3.5s\nx-ratelimit-remaining-tokens: 12\nratelimit-reset: 1795168830\nx-ratelimit-reset: 20ms",
        ),
        (
            "anthropic",
            "\nanthropic-ratelimit-requests-reset: 2026-11-20T10:00:45Z\nanthropic-ratelimit-requests-remaining: 0\nanthropic-ratelimit-tokens-reset: 2026-11-20t11:00:00.123999+01:00",
        ),
        (
            "endless",
            "\nretry-after: 99999999999999999999\nx-ratelimit-reset-requests: 18446744073709551615h\nx-ratelimit-reset-tokens: 999999999h999999999m",
        ),
    ] {
        write("headers", name, lines.as_bytes());
    }
}

/// A value with operations of every kind before it.
fn value(kind: u8, name: &str, bytes: &[u8]) {
    let steps: Vec<u8> = (0..8u8).flat_map(|n| [n, 3 * n, 77, 0, 0, n & 1, 0, 0]).collect();
    write("shared", name, &[&[kind, 8], steps.as_slice(), bytes].concat());
}

fn shared() {
    let mut stats = Stats::new(3, Millis(30_000));
    for n in 0..40u64 {
        let mut delta = Delta::default();
        let outcome = Outcome::ALL[usize::try_from(n % 7).unwrap()];
        delta.add(Event::Answered { outcome, latency: Some(Span(n * n * 1000)) });
        delta.add(if n % 9 == 0 { Event::Broke } else { Event::Completed });
        stats.merge(&delta, Micros(n * 1_000_000));
    }
    value(b's', "stats", &stats.encode());

    let cause = Cause {
        label: "error_rate".to_owned(),
        text: "10 of 41".to_owned(),
        since: Micros(77),
        wall: UnixMillis(1_795_168_800_000),
    };
    let leases = vec![Lease { id: 1, until: Micros(9) }, Lease { id: 2, until: Micros(8_000_000) }];
    let phases = [
        Phase::Active,
        Phase::Holding(cause.clone()),
        Phase::RolledBack { cause: cause.clone(), failed_rounds: 3, probe_at: Some(Micros(5)) },
        Phase::RolledBack { cause: cause.clone(), failed_rounds: 0, probe_at: None },
        Phase::Probing { cause, failed_rounds: 1, passed: 1, leases },
    ];
    let mut standings = Standings::default();
    for (n, phase) in (0u32..).zip(phases) {
        standings
            .put(&format!("v{n}"), Standing { epoch: n, phase, observed: n == 1, observed_hold: n == 2 });
    }
    value(b't', "standings", &standings.encode());
    standings.ramp = Some(Position {
        stage: Some(1),
        elapsed: Span(5),
        outcomes_before: 6,
        updated_at: Micros(7_000_000),
    });
    value(b't', "ramp", &standings.encode());

    let plan = plan(LIMITS);
    let compare = plan.deployments[0].guard.compare.unwrap();
    let mut comparison = Comparison::new(4);
    for n in 0..20u64 {
        let mut pending = Pending::default();
        pending.add(Observed {
            arm: if n % 4 == 0 { Arm::Stable } else { Arm::Canary },
            odds: Odds { canary: 500, stable: 9500 },
            identity: Some(n),
            event: Event::Answered { outcome: Outcome::Bad, latency: Some(Span(n * 1000)) },
            yardstick: Some(Span(7000)),
        });
        comparison.merge(&pending, &compare);
    }
    value(b'c', "comparison", &comparison.encode());

    let mut health = PoolHealth::default();
    for (n, outcome) in (1u64..).zip([
        KeyOutcome::Limited(None),
        KeyOutcome::Rejected,
        KeyOutcome::Failed,
        KeyOutcome::Limited(Some(Millis(5))),
    ]) {
        let at = Micros(n * 1_000_000);
        let seen = Observation { outcome, began: at, now: at };
        health.put(n, Health::default().apply(seen, true, &plan.pools[0]), at);
    }
    value(b'k', "keyring", &health.encode());

    let mut log = EventLog::default();
    for n in 0..5 {
        log.push(&format!(r#"{{"bellwether":"transition","version":"v{n}"}}"#));
    }
    value(b'e', "events", &log.encode());
}
