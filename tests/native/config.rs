//! The configuration contract: accepted documents and their meaning, and the exact words of every refusal.
//!
//! The table has one poke a case: a piece of the full document is replaced, and the complete list of problems is
//! compared. So each case also shows that one mistake makes one message.

use bellwether::config::{admin, compile, document, secrets};
use bellwether::plan::guard::*;
use bellwether::plan::matching::*;
use bellwether::plan::pool::*;
use bellwether::plan::*;
use bellwether::problems::Problems;
use bellwether::time::{Millis, UnixMillis};
use bellwether::units::Bps;
use proptest::prelude::*;

/// Every field of the contract.
const FULL: &str = r#"{
  "deployments": [
    {
      "name": "gpt4-upgrade",
      "release": "2026-11-20a",
      "match": {
        "hosts": ["API.example.com", "*.example.com", "[::1]:8443"],
        "methods": ["POST", "OPTIONS"],
        "path_prefix": "/v1/",
        "paths": ["/v1/chat/completions", "/v1/embeddings"],
        "headers": [
          {"name": "X-Deployment-Id", "exact": "gpt4-upgrade"},
          {"name": "x-begin", "prefix": "p", "invert": true},
          {"name": "x-end", "suffix": "s"},
          {"name": "x-within", "contains": "c"},
          {"name": "x-among", "one_of": ["d1", "d2"]},
          {"name": "x-there", "present": false}
        ]
      },
      "stable": "v1",
      "versions": [
        {"id": "v1", "weight": 89.75, "cluster": "openai", "key_pool": "openai", "host": "api.openai.com",
         "rewrite_prefix": {"from": "/v1/", "to": "/compat/v1/"}, "set_headers": {"X-Tier": "gold", "x-b": ""},
         "query": {"api-version": "2024-10-21", "a b": "c&d"}, "remove_headers": ["OpenAI-Beta", "x-c"]},
        {"id": "v2", "weight": 10, "cluster": "relay", "key_pool": "relay"},
        {"id": "v3", "weight": 0.25, "cluster": "third", "set_headers": {"authorization": "Basic c2stU0VDUkVU"}}
      ],
      "rules": [
        {"headers": [{"name": "x-test-version", "exact": "v2"}], "version": "v2", "after_rollback": "keep"},
        {"headers": [{"name": "x-gray-group", "exact": "treatment"}], "version": "v3", "percent": 12.5}
      ],
      "sticky": {"on": [{"header": "X-User-Id"}, {"cookie": "Uid"}, {"client_address": true}], "salt": "pepper"},
      "failover": {"after": 2},
      "guard": {
        "mode": "observe",
        "errors": ["5xx", "reset", "429", 408],
        "window": "1m",
        "min_requests": 50,
        "max_error_rate": 5.5,
        "max_errors": 40,
        "max_consecutive_errors": 6,
        "max_latency": {"avg": "2s", "p50": "1s", "p95": "1.2s", "p99": "1500ms"},
        "compare": {"worse_than_stable": 1.25, "confidence": 1e6, "min_difference": 2, "floor": 0.5, "latency_floor": "250ms"},
        "shared_outage": "rollback"
      },
      "recovery": {"mode": "probe", "after": "20s", "max_after": "5m", "max_probes_in_flight": 4, "successes": 9}
    },
    {
      "name": "ramped",
      "stable": "old",
      "versions": [{"id": "new", "cluster": "c-new"}, {"id": "old", "cluster": "c-old"}],
      "guard": {"max_error_rate": 4, "max_latency": {"avg": "3s", "p99": "9s"}},
      "ramp": {
        "stages": [
          {"weight": 5, "for": "1h", "min_requests": 300,
           "guard": {"max_error_rate": 2, "max_latency": {"p99": "8s"}, "compare": {"floor": 3}}},
          {"weight": 25, "for": "2h", "guard": {"compare": false}},
          {"weight": 100, "for": "24h"}
        ],
        "start": "2026-11-20T10:00:00Z",
        "paused": true
      }
    }
  ],
  "key_pools": [
    {
      "name": "openai",
      "keys": [
        {"id": "prod-001", "value": {"env": "OPENAI_KEY_1"}, "weight": 3},
        {"id": "prod-002", "value": {"secret": "openai-2"}, "weight": 0, "quota_group": "org-a"},
        {"id": "prod-003", "value": " Bearer sk-SECRET-inline\n"}
      ],
      "inject": "request",
      "rate_limited": {"cooldown": "30s", "max_cooldown": "5m"},
      "rejected": {"after": 2, "disable_for": "20m"},
      "failing": {"after": 7, "cooldown": "45s"},
      "sticky": true,
      "remove_headers": ["X-Tenant-Token"]
    },
    {"name": "relay", "header": "X-Api-Key", "prefix": "", "keys": [{"id": "only", "value": "Bearer sk-SECRET-relay"}]},
    {"name": "unused", "header": "x-goog-api-key", "keys": [{"id": "k", "value": "sk-SECRET-unused"}]}
  ],
  "cluster_header": "X-Cluster",
  "version_header": "x-version",
  "alerts": {"cluster": "alerts", "host": "hooks.local:8080", "path": "/bellwether", "timeout": "2s"}
}"#;

/// A document with the required fields only.
const SMALL: &str = r#"{"deployments": [{"name": "d", "stable": "v", "versions": [{"id": "v", "weight": 100, "cluster": "c"}]}]}"#;

fn env(name: &str) -> Option<String> {
    match name {
        "OPENAI_KEY_1" => Some("sk-SECRET-env".to_owned()),
        "BLANK" => Some(" \n".to_owned()),
        "MARKED" => Some("\u{feff}sk-SECRET".to_owned()),
        "QUOTED" => Some("\"sk-SECRET\"\n".to_owned()),
        "BROKEN" => Some("sk-SECRET\nbroken".to_owned()),
        "SAME" => Some("bearer sk-SECRET-inline".to_owned()),
        _ => None,
    }
}

fn compiled(text: &str) -> Plan {
    compile(text.as_bytes(), &env).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn refused(text: &str) -> Vec<String> {
    match compile(text.as_bytes(), &env) {
        Ok(_) => Vec::new(),
        Err(problems) => lines(&problems),
    }
}

fn lines(problems: &Problems) -> Vec<String> {
    problems.0.iter().map(ToString::to_string).collect()
}

fn bps(n: u16) -> Bps {
    Bps::new(n).unwrap()
}

/// `text` with `from`, which must be there exactly once, replaced.
fn poked(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "must be there exactly once: {from}");
    text.replacen(from, to, 1)
}

fn secret(value: &KeyValue) -> &str {
    match value {
        KeyValue::Known(secret) => secret.expose(),
        KeyValue::Named(_) => panic!("a named value"),
    }
}

#[test]
fn every_field_of_a_full_document_reaches_the_plan() {
    let plan = compiled(FULL);
    assert_eq!(plan.cluster_header, "x-cluster");
    assert_eq!(plan.version_header.as_deref(), Some("x-version"));
    let alerts = plan.alerts.as_ref().unwrap();
    assert_eq!((alerts.cluster.as_str(), alerts.host.as_str()), ("alerts", "hooks.local:8080"));
    assert_eq!((alerts.path.as_str(), alerts.timeout), ("/bellwether", Millis(2_000)));

    let d = &plan.deployments[0];
    assert_eq!((d.name.as_str(), d.release.as_str(), d.stable), ("gpt4-upgrade", "2026-11-20a", 0));
    assert_eq!(
        d.matches.hosts,
        [
            HostPattern::Exact("api.example.com".to_owned()),
            HostPattern::Suffix(".example.com".to_owned()),
            HostPattern::Exact("[::1]:8443".to_owned()),
        ]
    );
    assert_eq!(d.matches.methods, ["POST", "OPTIONS"]);
    assert_eq!(d.matches.path_prefix.as_deref(), Some("/v1/"));
    assert_eq!(d.matches.paths, ["/v1/chat/completions", "/v1/embeddings"]);
    let conditions: Vec<_> = d.matches.headers.iter().map(|c| (c.name.as_str(), &c.test, c.invert)).collect();
    assert_eq!(
        conditions,
        [
            ("x-deployment-id", &HeaderTest::Exact("gpt4-upgrade".to_owned()), false),
            ("x-begin", &HeaderTest::Prefix("p".to_owned()), true),
            ("x-end", &HeaderTest::Suffix("s".to_owned()), false),
            ("x-within", &HeaderTest::Contains("c".to_owned()), false),
            ("x-among", &HeaderTest::OneOf(vec!["d1".to_owned(), "d2".to_owned()]), false),
            ("x-there", &HeaderTest::Present(false), false),
        ]
    );

    let [v1, v2, v3] = d.versions.as_slice() else { panic!("three versions") };
    assert_eq!((v1.id.as_str(), v1.weight, v1.cluster.as_str()), ("v1", Some(bps(8_975)), "openai"));
    assert_eq!((v1.pool, v1.host.as_deref()), (Some(0), Some("api.openai.com")));
    assert_eq!(
        v1.rewrite_prefix,
        Some(PrefixRewrite { from: "/v1/".to_owned(), to: "/compat/v1/".to_owned() })
    );
    assert_eq!(v1.set_headers, [("x-tier".to_owned(), "gold".to_owned()), ("x-b".to_owned(), String::new())]);
    let pairs: Vec<_> = v1.query.iter().map(|own| (own.name.as_str(), own.pair.as_str())).collect();
    assert_eq!(pairs, [("api-version", "api-version=2024-10-21"), ("a b", "a%20b=c%26d")]);
    assert_eq!(v1.remove_headers, ["openai-beta", "x-c"]);
    assert_eq!(plan.pools[0].remove_headers, ["x-tenant-token"]);
    assert_eq!((v2.weight, v2.pool, v3.weight, v3.pool), (Some(bps(1_000)), Some(1), Some(bps(25)), None));
    assert_eq!([0, 1, 2].map(|v| d.split.share_of(v).get()), [8_975, 1_000, 25]);

    assert_eq!(d.rules.len(), 2);
    assert_eq!((d.rules[0].version, d.rules[0].percent, d.rules[0].keep_after_rollback), (1, Bps::ALL, true));
    assert_eq!(
        (d.rules[1].version, d.rules[1].percent, d.rules[1].keep_after_rollback),
        (2, bps(1_250), false)
    );
    assert_eq!(
        d.sticky.as_ref().unwrap().on,
        [
            IdentitySource::Header("x-user-id".to_owned()),
            IdentitySource::Cookie("Uid".to_owned()),
            IdentitySource::ClientAddress,
        ]
    );
    assert_eq!((d.salt.as_str(), d.failover), ("pepper", Some(2)));
    assert_eq!(
        d.guard,
        Guard {
            mode: GuardMode::Observe,
            errors: BadOutcomes {
                server_errors: true,
                client_errors: false,
                statuses: vec![408, 429],
                reset: true,
                timeout: false,
            },
            window: Millis(60_000),
            min_requests: 50,
            max_error_rate: Some(bps(550)),
            max_errors: Some(40),
            max_consecutive_errors: Some(6),
            max_latency: LatencyLimits {
                avg: Some(Millis(2_000)),
                p50: Some(Millis(1_000)),
                p95: Some(Millis(1_200)),
                p99: Some(Millis(1_500)),
            },
            compare: Some(Compare {
                worse_than_stable_milli: 1_250,
                confidence: 1e6,
                latency_floor: Millis(250),
                min_difference: bps(200),
                floor: bps(50),
            }),
            shared_outage: SharedOutage::Rollback,
        }
    );
    assert_eq!(
        d.recovery,
        Recovery::Probe(Probe {
            after: Millis(20_000),
            max_after: Millis(300_000),
            max_in_flight: 4,
            successes: 9,
        })
    );

    let pool = &plan.pools[0];
    assert_eq!((pool.name.as_str(), pool.inject, pool.sticky), ("openai", Inject::Request, true));
    assert_eq!(pool.rate_limited, Cooldown { first: Millis(30_000), max: Millis(300_000) });
    assert_eq!(pool.rejected, StreakLimit { failures: 2, out_for: Millis(1_200_000) });
    assert_eq!((&pool.rejected_statuses[..], &pool.exhausted_statuses[..]), (&[401, 403][..], &[402][..]));
    assert_eq!(pool.exhausted_for, Millis(3_600_000));
    assert_eq!(pool.failing, StreakLimit { failures: 7, out_for: Millis(45_000) });
    let keys: Vec<_> =
        pool.keys.iter().map(|k| (k.id.as_str(), k.weight, k.quota_group.as_deref())).collect();
    assert_eq!(keys, [("prod-001", 3, None), ("prod-002", 0, Some("org-a")), ("prod-003", 1, None)]);
    assert_eq!(secret(&pool.keys[0].value), "sk-SECRET-env");
    assert!(matches!(&pool.keys[1].value, KeyValue::Named(name) if name == "openai-2"));
    assert_eq!(secret(&pool.keys[2].value), "sk-SECRET-inline");
    let relay = &plan.pools[1];
    assert_eq!((relay.header.as_str(), relay.prefix.as_str()), ("x-api-key", ""));
    assert_eq!(secret(&relay.keys[0].value), "sk-SECRET-relay", "no scheme belongs into this header");
}

#[test]
fn fields_that_are_absent_have_the_defaults_of_the_contract() {
    let plan = compiled(SMALL);
    assert_eq!(plan.cluster_header, "x-bellwether-cluster");
    assert_eq!(plan.version_header.as_deref(), Some("x-bellwether-version"));
    assert!(plan.alerts.is_none() && plan.pools.is_empty());
    let d = &plan.deployments[0];
    assert_eq!((d.release.as_str(), d.salt.as_str(), d.failover), ("1", "d/1", Some(1)));
    assert!(d.matches.hosts.is_empty() && d.matches.path_prefix.is_none() && d.matches.headers.is_empty());
    assert!(d.rules.is_empty() && d.sticky.is_none() && d.ramp.is_none());
    assert_eq!(d.recovery, Recovery::Hold);
    assert_eq!(
        d.guard,
        Guard {
            mode: GuardMode::Enforce,
            errors: BadOutcomes { server_errors: true, reset: true, timeout: true, ..BadOutcomes::default() },
            window: Millis(30_000),
            min_requests: 20,
            max_error_rate: None,
            max_errors: None,
            max_consecutive_errors: None,
            max_latency: LatencyLimits::default(),
            compare: Some(Compare {
                worse_than_stable_milli: 1_500,
                confidence: 1e7,
                latency_floor: Millis(100),
                min_difference: bps(100),
                floor: bps(100),
            }),
            shared_outage: SharedOutage::Hold,
        }
    );

    let pools = compiled(&poked(
        SMALL,
        r#"{"deployments""#,
        r#"{"key_pools": [{"name": "p", "keys": [{"id": "k", "value": "sk-SECRET"}]}], "alerts":
            {"cluster": "a", "host": "h", "path": "/"}, "version_header": "", "deployments""#,
    ));
    assert_eq!(pools.version_header, None);
    assert_eq!(pools.alerts.unwrap().timeout, Millis(5_000));
    let pool = &pools.pools[0];
    assert_eq!((pool.header.as_str(), pool.prefix.as_str()), ("authorization", "Bearer "));
    assert_eq!((pool.inject, pool.sticky), (Inject::Attempt, false));
    assert_eq!(pool.rate_limited, Cooldown { first: Millis(60_000), max: Millis(600_000) });
    assert_eq!(pool.rejected, StreakLimit { failures: 1, out_for: Millis(600_000) });
    assert_eq!(pool.failing, StreakLimit { failures: 5, out_for: Millis(30_000) });
    assert_eq!(pool.keys[0].weight, 1);

    let small = |to: &str| compiled(&poked(SMALL, r#""stable""#, &format!(r#"{to}, "stable""#)));
    assert_eq!(
        small(r#""recovery": {"mode": "probe"}"#).deployments[0].recovery,
        Recovery::Probe(Probe {
            after: Millis(30_000),
            max_after: Millis(600_000),
            max_in_flight: 2,
            successes: 3,
        })
    );
    assert_eq!(small(r#""recovery": {}"#).deployments[0].recovery, Recovery::Hold);
    assert_eq!(small(r#""failover": {}"#).deployments[0].failover, Some(1));
    assert_eq!(small(r#""failover": false"#).deployments[0].failover, None);
    assert_eq!(small(r#""guard": {"compare": false}"#).deployments[0].guard.compare, None);
    assert!(small(r#""guard": {"compare": {}}"#).deployments[0].guard.compare.is_some());
}

#[test]
fn a_stage_overrides_single_fields_of_the_guard() {
    let plan = compiled(FULL);
    let d = &plan.deployments[1];
    let ramp = d.ramp.as_ref().unwrap();
    assert_eq!((ramp.start, ramp.paused), (Some(UnixMillis(1_795_168_800_000)), true));
    let shares: Vec<_> =
        ramp.stages.iter().map(|s| (s.weight.get(), s.duration.0 / 3_600_000, s.min_requests)).collect();
    assert_eq!(shares, [(500, 1, 300), (2_500, 2, 0), (10_000, 24, 0)]);
    let [first, second, third] = ramp.stages.as_slice() else { panic!("three stages") };
    assert_eq!(first.guard.max_error_rate, Some(bps(200)));
    assert_eq!(
        (first.guard.max_latency.avg, first.guard.max_latency.p99),
        (Some(Millis(3_000)), Some(Millis(8_000)))
    );
    let compare = first.guard.compare.unwrap();
    assert_eq!((compare.floor, compare.min_difference), (bps(300), bps(100)));
    assert_eq!((second.guard.max_error_rate, second.guard.compare), (Some(bps(400)), None));
    assert_eq!(third.guard, d.guard);
}

#[test]
fn under_a_ramp_the_split_is_that_of_the_first_stage() {
    let plan = compiled(FULL);
    let d = &plan.deployments[1];
    assert_eq!(d.stable, 1);
    assert_eq!(d.versions.iter().map(|v| v.weight).collect::<Vec<_>>(), [None, None]);
    assert_eq!([d.split.share_of(0).get(), d.split.share_of(1).get()], [500, 9_500]);
}

#[test]
fn weights_that_sum_to_100_only_in_decimal_are_accepted() {
    let text = poked(
        SMALL,
        r#"{"id": "v", "weight": 100, "cluster": "c"}"#,
        r#"{"id": "v", "weight": 33.34, "cluster": "c"}, {"id": "w", "weight": 33.33, "cluster": "c"},
           {"id": "x", "weight": 33.33, "cluster": "c"}"#,
    );
    assert_eq!(compiled(&text).deployments[0].split.share_of(0), bps(3_334));
}

/// One poke each: a piece of [`FULL`], its replacement, and every problem that must be reported.
type Case = (&'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // the document
    (r#"  "cluster_header""#, r#"  "clusterheader": 1, "cluster_header""#, &["clusterheader: unknown field, expected one of deployments, key_pools, cluster_header, version_header, alerts"]),
    (r#"  "cluster_header""#, r#"  "cluster header": 1, "cluster_header""#, &[r#"["cluster header"]: unknown field, expected one of deployments, key_pools, cluster_header, version_header, alerts"#]),
    (r#"  "version_header""#, r#"  "cluster_header": "x-other", "version_header""#, &["cluster_header: duplicate field"]),
    (r#""X-Cluster""#, r#"12"#, &["cluster_header: must be a string, got 12"]),
    (r#""X-Cluster""#, r#"null"#, &["cluster_header: must be a string, got null"]),
    (r#""X-Cluster""#, r#""""#, &[r#"cluster_header: must be an HTTP header name, got """#]),
    (r#""X-Cluster""#, r#"":path""#, &[r#"cluster_header: must be an HTTP header name, got ":path""#]),
    (r#""X-Cluster""#, r#""Host""#, &[r#"cluster_header: must not be a header of the connection or of a credential, got "Host""#]),
    (r#""X-Cluster""#, r#""Authorization""#, &[r#"cluster_header: must not be a header of the connection or of a credential, got "Authorization""#]),
    (r#""x-version""#, r#""api-key""#, &[r#"version_header: must not be a header of the connection or of a credential, got "api-key""#]),
    (r#""x-version""#, r#""X-Cluster ""#, &[r#"version_header: must be an HTTP header name, got "X-Cluster ""#]),
    (r#""x-version""#, r#""x-cluster""#, &[r#"version_header: must differ from the other of cluster_header and version_header, got "x-cluster""#]),
    (r#""x-version""#, r#"false"#, &["version_header: must be a string, got false"]),
    // alerts
    (r#"{"cluster": "alerts", "host": "hooks.local:8080", "path": "/bellwether", "timeout": "2s"}"#, r#"{}"#, &["alerts.cluster: is required", "alerts.host: is required", "alerts.path: is required"]),
    (r#"{"cluster": "alerts", "host": "hooks.local:8080", "path": "/bellwether", "timeout": "2s"}"#, r#""http://hooks.local""#, &[r#"alerts: must be an object, got "http://hooks.local""#]),
    (r#""hooks.local:8080""#, r#""http://hooks.local""#, &[r#"alerts.host: must be a host, with a port or without, got "http://hooks.local""#]),
    (r#""/bellwether""#, r#""bellwether""#, &[r#"alerts.path: must begin with / and have no white space, got a string"#]),
    (r#""timeout": "2s""#, r#""timeout": "2m""#, &[r#"alerts.timeout: must be in 1ms..=1m, got "2m""#]),
    (r#""timeout": "2s""#, r#""timeout": "0s""#, &[r#"alerts.timeout: must be in 1ms..=1m, got "0s""#]),
    (r#""timeout": "2s""#, r#""timeout": 2"#, &["alerts.timeout: must be a duration such as 250ms, 30s, 5m or 1h, got 2"]),
    // deployment
    (r#""name": "gpt4-upgrade","#, r#""#, &["deployments[0].name: is required"]),
    (r#""name": "gpt4-upgrade","#, r#""name": "GPT4","#, &[r#"deployments[0].name: must match ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$, got "GPT4""#]),
    (r#""name": "gpt4-upgrade","#, r#""name": "-a","#, &[r#"deployments[0].name: must match ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$, got "-a""#]),
    (r#""name": "gpt4-upgrade","#, r#""name": "a-","#, &[r#"deployments[0].name: must match ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$, got "a-""#]),
    (r#""name": "gpt4-upgrade","#, r#""name": "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg","#, &[r#"deployments[0].name: must match ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$, got "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff…""#]),
    (r#""name": "ramped","#, r#""name": "gpt4-upgrade","#, &[r#"deployments[1].name: duplicates deployments[0].name, got "gpt4-upgrade""#]),
    (r#""2026-11-20a""#, r#""a b""#, &[r#"deployments[0].release: must match ^[A-Za-z0-9._-]{1,63}$, got "a b""#]),
    (r#""2026-11-20a""#, r#""""#, &[r#"deployments[0].release: must match ^[A-Za-z0-9._-]{1,63}$, got """#]),
    (r#""2026-11-20a""#, r#"20261120"#, &["deployments[0].release: must be a string, got 20261120"]),
    (r#""stable": "v1","#, r#""#, &["deployments[0].stable: is required"]),
    (r#""stable": "v1""#, r#""stable": "v9""#, &[r#"deployments[0].stable: unknown version, expected one of v1, v2, v3, got "v9""#]),
    (r#""stable": "v1""#, r#""stable": 1"#, &["deployments[0].stable: must be a string, got 1"]),
    (r#""stable": "v1""#, r#""stabel": 1, "stable": "v1""#, &["deployments[0].stabel: unknown field, expected one of name, release, match, stable, versions, rules, sticky, failover, guard, recovery, ramp, llm"]),
    // match
    (r#"["API.example.com", "*.example.com", "[::1]:8443"]"#, r#"[]"#, &["deployments[0].match.hosts: must not be empty"]),
    (r#"["API.example.com", "*.example.com", "[::1]:8443"]"#, r#""api.example.com""#, &[r#"deployments[0].match.hosts: must be an array, got "api.example.com""#]),
    (r#""API.example.com""#, r#""""#, &[r#"deployments[0].match.hosts[0]: must be a host or *.host, with a port or without, got """#]),
    (r#""API.example.com""#, r#""api.*.com""#, &[r#"deployments[0].match.hosts[0]: must be a host or *.host, with a port or without, got "api.*.com""#]),
    (r#""API.example.com""#, r#""*""#, &[r#"deployments[0].match.hosts[0]: must be a host or *.host, with a port or without, got "*""#]),
    (r#""API.example.com""#, r#""api example.com""#, &[r#"deployments[0].match.hosts[0]: must be a host or *.host, with a port or without, got "api example.com""#]),
    (r#""*.example.com""#, r#""*.example.com:99999""#, &[r#"deployments[0].match.hosts[1]: must be a host or *.host, with a port or without, got "*.example.com:99999""#]),
    (r#""path_prefix": "/v1/""#, r#""path_prefix": "v1/""#, &[r#"deployments[0].match.path_prefix: must begin with / and have no white space, got "v1/""#]),
    (r#""path_prefix": "/v1/""#, r#""path-prefix": "/v1/""#, &["deployments[0].match.path-prefix: unknown field, expected one of hosts, path_prefix, headers, methods, paths, models, body"]),
    (r#""methods": ["POST", "OPTIONS"]"#, r#""methods": []"#, &["deployments[0].match.methods: must have 1 to 32 elements, got 0"]),
    (r#""methods": ["POST", "OPTIONS"]"#, r#""methods": "POST""#, &[r#"deployments[0].match.methods: must be an array, got "POST""#]),
    (r#""methods": ["POST", "OPTIONS"]"#, r#""methods": ["post"]"#, &[r#"deployments[0].match.methods[0]: must be an HTTP method in capitals, such as POST, got "post""#]),
    (r#""methods": ["POST", "OPTIONS"]"#, r#""methods": ["POST", ""]"#, &[r#"deployments[0].match.methods[1]: must be an HTTP method in capitals, such as POST, got """#]),
    (r#""/v1/embeddings"]"#, r#""v1/embeddings"]"#, &[r#"deployments[0].match.paths[1]: must begin with / and have no white space, got "v1/embeddings""#]),
    (r#""/v1/embeddings"]"#, r#""/v1/embeddings?a"]"#, &[r#"deployments[0].match.paths[1]: must be a path without a query, got "/v1/embeddings?a""#]),
    (r#""/v1/embeddings"]"#, r#""/v2/embeddings"]"#, &[r#"deployments[0].match.paths[1]: must begin with path_prefix, got "/v2/embeddings""#]),
    (r#"["/v1/chat/completions", "/v1/embeddings"]"#, r#"[]"#, &["deployments[0].match.paths: must have 1 to 256 elements, got 0"]),
    (r#"{"name": "X-Deployment-Id", "exact": "gpt4-upgrade"}"#, r#"{"exact": "gpt4-upgrade"}"#, &["deployments[0].match.headers[0].name: is required"]),
    (r#"{"name": "X-Deployment-Id", "exact": "gpt4-upgrade"}"#, r#"{"name": "x-id"}"#, &["deployments[0].match.headers[0]: must have exactly one of exact, prefix, suffix, contains, one_of, present"]),
    (r#"{"name": "X-Deployment-Id", "exact": "gpt4-upgrade"}"#, r#"{"name": "x-id", "exact": "a", "present": true}"#, &["deployments[0].match.headers[0]: must have exactly one of exact, prefix, suffix, contains, one_of, present"]),
    (r#"{"name": "X-Deployment-Id", "exact": "gpt4-upgrade"}"#, r#"{"name": ":authority", "exact": "a"}"#, &[r#"deployments[0].match.headers[0].name: must be an HTTP header name, got ":authority""#]),
    (r#"{"name": "X-Deployment-Id", "exact": "gpt4-upgrade"}"#, r#"{"name": "x-id", "exact": "a\nb"}"#, &["deployments[0].match.headers[0].exact: must not have CR, LF or NUL"]),
    (r#"{"name": "X-Deployment-Id", "exact": "gpt4-upgrade"}"#, r#"{"name": "x-id", "regex": "a.*"}"#, &["deployments[0].match.headers[0]: must have exactly one of exact, prefix, suffix, contains, one_of, present", "deployments[0].match.headers[0].regex: unknown field, expected one of name, exact, prefix, suffix, contains, one_of, present, invert"]),
    (r#""prefix": "p""#, r#""prefix": """#, &["deployments[0].match.headers[1].prefix: must not be empty"]),
    (r#""invert": true"#, r#""invert": "yes""#, &[r#"deployments[0].match.headers[1].invert: must be true or false, got "yes""#]),
    (r#""contains": "c""#, r#""contains": ["c"]"#, &["deployments[0].match.headers[3].contains: must be a string, got an array"]),
    (r#"["d1", "d2"]"#, r#"[]"#, &["deployments[0].match.headers[4].one_of: must not be empty"]),
    (r#"["d1", "d2"]"#, r#"["d1", 2, ""]"#, &["deployments[0].match.headers[4].one_of[1]: must be a string, got 2", "deployments[0].match.headers[4].one_of[2]: must not be empty"]),
    (r#""present": false"#, r#""present": 1"#, &["deployments[0].match.headers[5].present: must be true or false, got 1"]),
    // versions
    (r#""id": "v1", "#, r#""#, &[r#"deployments[0].stable: unknown version, expected one of v2, v3, got "v1""#, "deployments[0].versions[0].id: is required"]),
    (r#""id": "v3""#, r#""id": "v 3""#, &[r#"deployments[0].versions[2].id: must match ^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$, got "v 3""#, r#"deployments[0].rules[1].version: unknown version, expected one of v1, v2, got "v3""#]),
    (r#"{"id": "new", "cluster": "c-new"}"#, r#"{"id": "old", "cluster": "c-new"}"#, &[r#"deployments[1].versions[1].id: duplicates deployments[1].versions[0].id, got "old""#]),
    (r#"[{"id": "new", "cluster": "c-new"}, {"id": "old", "cluster": "c-old"}]"#, r#"[{"id": "ol.d", "cluster": "c"}, {"id": "ol_d", "cluster": "c"}, {"id": "old", "cluster": "c"}]"#, &[r#"deployments[1].versions[1].id: differs from deployments[1].versions[0].id only by . and _, which metrics show alike, got "ol_d""#, "deployments[1].ramp: needs exactly two versions, got 3"]),
    (r#"[{"id": "new", "cluster": "c-new"}, {"id": "old", "cluster": "c-old"}]"#, r#"[]"#, &["deployments[1].versions: must have 1 to 16 elements, got 0"]),
    (r#"[{"id": "new", "cluster": "c-new"}, {"id": "old", "cluster": "c-old"}]"#, r#"{"old": "c-old"}"#, &["deployments[1].versions: must be an array, got an object"]),
    (r#"[{"id": "new", "cluster": "c-new"}, {"id": "old", "cluster": "c-old"}]"#, r#"["old", "new"]"#, &[r#"deployments[1].stable: unknown version, got "old""#, r#"deployments[1].versions[0]: must be an object, got "old""#, r#"deployments[1].versions[1]: must be an object, got "new""#]),
    (r#"[{"id": "new", "cluster": "c-new"}, {"id": "old", "cluster": "c-old"}]"#, r#"[{"id": "old", "cluster": "c"}]"#, &["deployments[1].ramp: needs exactly two versions, got 1"]),
    (r#""weight": 10,"#, r#""weight": 20.5,"#, &["deployments[0].versions[2].weight: weights must sum to 100, got 110.5"]),
    (r#""weight": 89.75"#, r#""weight": 79.75"#, &["deployments[0].versions[2].weight: weights must sum to 100, got 90"]),
    (r#""weight": 10,"#, r#""#, &["deployments[0].versions[1].weight: is required"]),
    (r#""weight": 10,"#, r#""weight": "10","#, &[r#"deployments[0].versions[1].weight: must be a number in 0..=100 with at most two decimals, got "10""#]),
    (r#""weight": 10,"#, r#""weight": 10.001,"#, &["deployments[0].versions[1].weight: must be a number in 0..=100 with at most two decimals, got 10.001"]),
    (r#""weight": 10,"#, r#""weight": -10,"#, &["deployments[0].versions[1].weight: must be a number in 0..=100 with at most two decimals, got -10"]),
    (r#""weight": 10,"#, r#""weight": 101,"#, &["deployments[0].versions[1].weight: must be a number in 0..=100 with at most two decimals, got 101"]),
    (r#""cluster": "c-old""#, r#""cluster": "c-old", "weight": 95"#, &["deployments[1].versions[1].weight: must be absent when ramp is given, got 95"]),
    (r#""cluster": "c-old""#, r#""cluster": """#, &[r#"deployments[1].versions[1].cluster: must be a cluster name: 1 to 255 bytes without white space, got """#]),
    (r#""cluster": "c-old""#, r#""cluster": "c old""#, &[r#"deployments[1].versions[1].cluster: must be a cluster name: 1 to 255 bytes without white space, got "c old""#]),
    (r#", "cluster": "c-old""#, r#""#, &["deployments[1].versions[1].cluster: is required"]),
    (r#""key_pool": "relay""#, r#""key_pool": "rely""#, &[r#"deployments[0].versions[1].key_pool: unknown key pool, expected one of openai, relay, unused, got "rely""#]),
    (r#""key_pool": "relay""#, r#""key_pool": null"#, &["deployments[0].versions[1].key_pool: must be a string, got null"]),
    (r#""api.openai.com""#, r#""https://api.openai.com/""#, &[r#"deployments[0].versions[0].host: must be a host, with a port or without, got "https://api.openai.com/""#]),
    (r#"{"from": "/v1/", "to": "/compat/v1/"}"#, r#"{"from": "v1/"}"#, &["deployments[0].versions[0].rewrite_prefix.to: is required", r#"deployments[0].versions[0].rewrite_prefix.from: must begin with / and have no white space, got "v1/""#]),
    (r#""X-Tier": "gold""#, r#""X Tier": "gold""#, &[r#"deployments[0].versions[0].set_headers["X Tier"]: must be an HTTP header name"#]),
    (r#""X-Tier": "gold""#, r#"":path": "/""#, &["deployments[0].versions[0].set_headers.:path: must be an HTTP header name"]),
    (r#""X-Tier": "gold""#, r#""Host": "gold""#, &["deployments[0].versions[0].set_headers.Host: must not be set, it is a header of the connection"]),
    (r#""X-Tier": "gold""#, r#""content-length": "4""#, &["deployments[0].versions[0].set_headers.content-length: must not be set, it is a header of the connection"]),
    (r#""X-Tier": "gold""#, r#""x-cluster": "gold""#, &["deployments[0].versions[0].set_headers.x-cluster: must not be set, Bellwether sets or removes it"]),
    (r#""X-Tier": "gold""#, r#""X-Bellwether-Tier": "gold""#, &["deployments[0].versions[0].set_headers.X-Bellwether-Tier: must not be set, Bellwether sets or removes it"]),
    (r#""X-Tier": "gold""#, r#""Authorization": "Bearer sk-SECRET""#, &["deployments[0].versions[0].set_headers.Authorization: must not be set, Bellwether sets or removes it"]),
    (r#""X-Tier": "gold""#, r#""api-key": "sk-SECRET""#, &["deployments[0].versions[0].set_headers.api-key: must not be set, Bellwether sets or removes it"]),
    (r#""key_pool": "relay""#, r#""key_pool": "unused", "set_headers": {"X-Goog-Api-Key": "sk-SECRET"}"#, &["deployments[0].versions[1].set_headers.X-Goog-Api-Key: must not be set, Bellwether sets or removes it"]),
    (r#""X-Tier": "gold""#, r#""X-Tier": "go\r\nld""#, &["deployments[0].versions[0].set_headers.X-Tier: must not have CR, LF or NUL"]),
    (r#""X-Tier": "gold""#, r#""X-Tier": 1"#, &["deployments[0].versions[0].set_headers.X-Tier: must be a string, got a number"]),
    (r#""X-Tier": "gold""#, r#""X-B": "gold""#, &["deployments[0].versions[0].set_headers.x-b: duplicates deployments[0].versions[0].set_headers.X-B"]),
    (r#"{"X-Tier": "gold", "x-b": ""}"#, r#""Authorization: Bearer sk-SECRET""#, &["deployments[0].versions[0].set_headers: must be an object, got a string"]),
    (r#""X-Tier": "gold""#, r#""x-tenant-token": "sk-SECRET""#, &["deployments[0].versions[0].set_headers.x-tenant-token: must not be set, Bellwether sets or removes it"]),
    // query
    (r#""query": {"api-version": "2024-10-21", "a b": "c&d"}"#, r#""query": ["api-version"]"#, &["deployments[0].versions[0].query: must be an object, got an array"]),
    (r#""api-version": "2024-10-21""#, r#""api-version": 20241021"#, &["deployments[0].versions[0].query.api-version: must be a string, got a number"]),
    (r#""api-version": "2024-10-21""#, r#""API-Key": "sk-SECRET""#, &["deployments[0].versions[0].query.API-Key: must not be set, Bellwether removes it"]),
    (r#""api-version": "2024-10-21""#, r#""key": "sk-SECRET""#, &["deployments[0].versions[0].query.key: must not be set, Bellwether removes it"]),
    (r#""api-version": "2024-10-21""#, r#""": "1""#, &[r#"deployments[0].versions[0].query[""]: must be the name of a query parameter: 1 to 255 bytes, no control characters"#]),
    (r#""api-version": "2024-10-21""#, r#""A B": "1""#, &[r#"deployments[0].versions[0].query["a b"]: duplicates deployments[0].versions[0].query["A B"]"#]),
    (r#""api-version": "2024-10-21""#, r#""api-version": "a\nb""#, &["deployments[0].versions[0].query.api-version: must have at most 255 bytes and no control characters"]),
    // remove_headers
    (r#"["OpenAI-Beta", "x-c"]"#, r#""OpenAI-Beta""#, &[r#"deployments[0].versions[0].remove_headers: must be an array, got "OpenAI-Beta""#]),
    (r#"["OpenAI-Beta", "x-c"]"#, r#"["x c"]"#, &[r#"deployments[0].versions[0].remove_headers[0]: must be an HTTP header name, got "x c""#]),
    (r#"["OpenAI-Beta", "x-c"]"#, r#"[":path"]"#, &[r#"deployments[0].versions[0].remove_headers[0]: must be an HTTP header name, got ":path""#]),
    (r#"["OpenAI-Beta", "x-c"]"#, r#"["Host"]"#, &[r#"deployments[0].versions[0].remove_headers[0]: must not be removed, it is a header of the connection, got "Host""#]),
    (r#"["OpenAI-Beta", "x-c"]"#, r#"["x-cluster"]"#, &[r#"deployments[0].versions[0].remove_headers[0]: must not be removed, Bellwether sets it, got "x-cluster""#]),
    (r#"["OpenAI-Beta", "x-c"]"#, r#"["x-bellwether-a"]"#, &[r#"deployments[0].versions[0].remove_headers[0]: must not be removed, Bellwether sets it, got "x-bellwether-a""#]),
    (r#"["OpenAI-Beta", "x-c"]"#, r#"["Authorization"]"#, &[r#"deployments[0].versions[0].remove_headers[0]: must not be removed, Bellwether sets it, got "Authorization""#]),
    (r#"["OpenAI-Beta", "x-c"]"#, r#"["x-tier"]"#, &[r#"deployments[0].versions[0].remove_headers[0]: must not be removed, Bellwether sets it, got "x-tier""#]),
    (r#"["OpenAI-Beta", "x-c"]"#, r#"["x-c", "X-C"]"#, &[r#"deployments[0].versions[0].remove_headers[1]: duplicates deployments[0].versions[0].remove_headers[0], got "X-C""#]),
    (r#"["X-Tenant-Token"]"#, r#"["authorization"]"#, &[r#"key_pools[0].remove_headers[0]: must not be removed, Bellwether sets it, got "authorization""#]),
    (r#"["X-Tenant-Token"]"#, r#"[7]"#, &["key_pools[0].remove_headers[0]: must be a string, got 7"]),
    // rules
    (r#"{"headers": [{"name": "x-test-version", "exact": "v2"}], "version": "v2", "after_rollback": "keep"}"#, r#"{"headers": [], "version": "v2"}"#, &["deployments[0].rules[0].headers: must not be empty"]),
    (r#"{"headers": [{"name": "x-test-version", "exact": "v2"}], "version": "v2", "after_rollback": "keep"}"#, r#"{}"#, &["deployments[0].rules[0].headers: is required", "deployments[0].rules[0].version: is required"]),
    (r#""version": "v3""#, r#""version": "v4""#, &[r#"deployments[0].rules[1].version: unknown version, expected one of v1, v2, v3, got "v4""#]),
    (r#""percent": 12.5"#, r#""percent": 100.5"#, &["deployments[0].rules[1].percent: must be a number in 0..=100 with at most two decimals, got 100.5"]),
    (r#""after_rollback": "keep""#, r#""after_rollback": "stay""#, &[r#"deployments[0].rules[0].after_rollback: must be one of stable, keep, got "stay""#]),
    // sticky
    (r#"[{"header": "X-User-Id"}, {"cookie": "Uid"}, {"client_address": true}]"#, r#"[]"#, &["deployments[0].sticky.on: must not be empty"]),
    (r#""on": [{"header": "X-User-Id"}, {"cookie": "Uid"}, {"client_address": true}], "#, r#""#, &["deployments[0].sticky.on: is required"]),
    (r#"{"header": "X-User-Id"}"#, r#"{"header": "X-User-Id", "cookie": "uid"}"#, &["deployments[0].sticky.on[0]: must have exactly one of header, cookie, client_address, body, conversation"]),
    (r#"{"header": "X-User-Id"}"#, r#"{}"#, &["deployments[0].sticky.on[0]: must have exactly one of header, cookie, client_address, body, conversation"]),
    (r#"{"header": "X-User-Id"}"#, r#""x-user-id""#, &[r#"deployments[0].sticky.on[0]: must be an object, got "x-user-id""#]),
    (r#"{"cookie": "Uid"}"#, r#"{"cookie": "U=id"}"#, &[r#"deployments[0].sticky.on[1].cookie: must be a cookie name, got "U=id""#]),
    (r#""client_address": true"#, r#""client_address": false"#, &["deployments[0].sticky.on[2].client_address: must be true, got false"]),
    (r#""salt": "pepper""#, r#""salt": """#, &[r#"deployments[0].sticky.salt: must not be empty, got """#]),
    // failover
    (r#""failover": {"after": 2}"#, r#""failover": true"#, &["deployments[0].failover: must be an object or false, got true"]),
    (r#""failover": {"after": 2}"#, r#""failover": {"after": 0}"#, &["deployments[0].failover.after: must be an integer in 1..=10, got 0"]),
    (r#""failover": {"after": 2}"#, r#""failover": {"after": 11}"#, &["deployments[0].failover.after: must be an integer in 1..=10, got 11"]),
    (r#""failover": {"after": 2}"#, r#""failover": {"after": 1.5}"#, &["deployments[0].failover.after: must be an integer in 1..=10, got 1.5"]),
    // guard
    (r#""window": "1m""#, r#""windw": "1m""#, &["deployments[0].guard.windw: unknown field, expected one of mode, errors, window, min_requests, max_error_rate, max_errors, max_consecutive_errors, max_latency, compare, shared_outage"]),
    (r#""mode": "observe""#, r#""mode": "warn""#, &[r#"deployments[0].guard.mode: must be one of enforce, observe, got "warn""#]),
    (r#"["5xx", "reset", "429", 408]"#, r#"[]"#, &["deployments[0].guard.errors: must not be empty"]),
    (r#"["5xx", "reset", "429", 408]"#, r#"["6xx", 99, 600, "4290", "+42", 429.5]"#, &[
        r#"deployments[0].guard.errors[0]: must be 5xx, 4xx, reset, timeout or a status in 100..=599, got "6xx""#,
        "deployments[0].guard.errors[1]: must be 5xx, 4xx, reset, timeout or a status in 100..=599, got 99",
        "deployments[0].guard.errors[2]: must be 5xx, 4xx, reset, timeout or a status in 100..=599, got 600",
        r#"deployments[0].guard.errors[3]: must be 5xx, 4xx, reset, timeout or a status in 100..=599, got "4290""#,
        r#"deployments[0].guard.errors[4]: must be 5xx, 4xx, reset, timeout or a status in 100..=599, got "+42""#,
        "deployments[0].guard.errors[5]: must be 5xx, 4xx, reset, timeout or a status in 100..=599, got 429.5",
    ]),
    (r#"["5xx", "reset", "429", 408]"#, r#"["5xx", "5xx", 529, "529"]"#, &[r#"deployments[0].guard.errors[1]: duplicates deployments[0].guard.errors[0], got "5xx""#, r#"deployments[0].guard.errors[3]: duplicates deployments[0].guard.errors[2], got "529""#]),
    (r#""window": "1m""#, r#""window": "999ms""#, &[r#"deployments[0].guard.window: must be in 1s..=1h, got "999ms""#]),
    (r#""window": "1m""#, r#""window": "61m""#, &[r#"deployments[0].guard.window: must be in 1s..=1h, got "61m""#]),
    (r#""window": "1m""#, r#""window": "1 m""#, &[r#"deployments[0].guard.window: must be a duration such as 250ms, 30s, 5m or 1h, got "1 m""#]),
    (r#""window": "1m""#, r#""window": "1m30s""#, &[r#"deployments[0].guard.window: must be a duration such as 250ms, 30s, 5m or 1h, got "1m30s""#]),
    (r#""min_requests": 50"#, r#""min_requests": 0"#, &["deployments[0].guard.min_requests: must be an integer in 1..=1000000, got 0"]),
    (r#""min_requests": 50"#, r#""min_requests": 1000001"#, &["deployments[0].guard.min_requests: must be an integer in 1..=1000000, got 1000001"]),
    (r#""min_requests": 50"#, r#""min_requests": 18446744073709551615"#, &["deployments[0].guard.min_requests: must be an integer in 1..=1000000, got 18446744073709551615"]),
    (r#""max_error_rate": 5.5"#, r#""max_error_rate": 100.01"#, &["deployments[0].guard.max_error_rate: must be a number in 0..=100 with at most two decimals, got 100.01"]),
    (r#""max_error_rate": 5.5"#, r#""max_error_rate": "5%""#, &[r#"deployments[0].guard.max_error_rate: must be a number in 0..=100 with at most two decimals, got "5%""#]),
    (r#""max_errors": 40"#, r#""max_errors": 0"#, &["deployments[0].guard.max_errors: must be an integer in 1..=1000000, got 0"]),
    (r#""max_consecutive_errors": 6"#, r#""max_consecutive_errors": -1"#, &["deployments[0].guard.max_consecutive_errors: must be an integer in 1..=1000000, got -1"]),
    (r#"{"avg": "2s", "p50": "1s", "p95": "1.2s", "p99": "1500ms"}"#, r#"{}"#, &["deployments[0].guard.max_latency: must have at least one of avg, p50, p95, p99"]),
    (r#"{"avg": "2s", "p50": "1s", "p95": "1.2s", "p99": "1500ms"}"#, r#""2s""#, &[r#"deployments[0].guard.max_latency: must be an object, got "2s""#]),
    (r#""p95": "1.2s""#, r#""p95": "0.5ms""#, &[r#"deployments[0].guard.max_latency.p95: must be a duration such as 250ms, 30s, 5m or 1h, got "0.5ms""#]),
    (r#""p95": "1.2s""#, r#""p95": "2h""#, &[r#"deployments[0].guard.max_latency.p95: must be in 1ms..=1h, got "2h""#]),
    (r#""p95": "1.2s""#, r#""p90": "1.2s""#, &["deployments[0].guard.max_latency.p90: unknown field, expected one of avg, p50, p95, p99"]),
    (r#"{"worse_than_stable": 1.25, "confidence": 1e6, "min_difference": 2, "floor": 0.5, "latency_floor": "250ms"}"#, r#"true"#, &["deployments[0].guard.compare: must be an object or false, got true"]),
    (r#""worse_than_stable": 1.25"#, r#""worse_than_stable": 0.9"#, &["deployments[0].guard.compare.worse_than_stable: must be a number in 1..=100 with at most three decimals, got 0.9"]),
    (r#""worse_than_stable": 1.25"#, r#""worse_than_stable": 1.2345"#, &["deployments[0].guard.compare.worse_than_stable: must be a number in 1..=100 with at most three decimals, got 1.2345"]),
    (r#""confidence": 1e6"#, r#""confidence": 99.5"#, &["deployments[0].guard.compare.confidence: must be a number in 1e2..=1e12, got 99.5"]),
    (r#""confidence": 1e6"#, r#""confidence": 1e13"#, &["deployments[0].guard.compare.confidence: must be a number in 1e2..=1e12, got 10000000000000"]),
    (r#""floor": 0.5"#, r#""floor": 0.125"#, &["deployments[0].guard.compare.floor: must be a number in 0..=100 with at most two decimals, got 0.125"]),
    (r#""shared_outage": "rollback""#, r#""shared_outage": "ignore""#, &[r#"deployments[0].guard.shared_outage: must be one of hold, rollback, got "ignore""#]),
    // recovery
    (r#""mode": "probe""#, r#""mode": "retry""#, &[r#"deployments[0].recovery.mode: must be one of hold, probe, got "retry""#]),
    (r#""mode": "probe""#, r#""mode": "hold""#, &[
        r#"deployments[0].recovery.after: must be absent unless mode is probe, got "20s""#,
        r#"deployments[0].recovery.max_after: must be absent unless mode is probe, got "5m""#,
        "deployments[0].recovery.max_probes_in_flight: must be absent unless mode is probe, got 4",
        "deployments[0].recovery.successes: must be absent unless mode is probe, got 9",
    ]),
    (r#""max_after": "5m""#, r#""max_after": "10s""#, &[r#"deployments[0].recovery.max_after: must not be below after (20s), got "10s""#]),
    (r#""after": "20s", "max_after": "5m""#, r#""after": "20m""#, &[r#"deployments[0].recovery.after: must not be above max_after (default 10m), got "20m""#]),
    (r#""max_probes_in_flight": 4"#, r#""max_probes_in_flight": 0"#, &["deployments[0].recovery.max_probes_in_flight: must be an integer in 1..=1000, got 0"]),
    (r#""successes": 9"#, r#""successes": 1001"#, &["deployments[0].recovery.successes: must be an integer in 1..=1000, got 1001"]),
    // ramp
    (r#""start": "2026-11-20T10:00:00Z""#, r#""start": "2026-02-30T10:00:00Z""#, &[r#"deployments[1].ramp.start: must be an RFC 3339 time from 1970 on, such as 2026-11-20T10:00:00Z, got "2026-02-30T10:00:00Z""#]),
    (r#""start": "2026-11-20T10:00:00Z""#, r#""start": 1795168800"#, &["deployments[1].ramp.start: must be an RFC 3339 time from 1970 on, such as 2026-11-20T10:00:00Z, got 1795168800"]),
    (r#""paused": true"#, r#""paused": "no""#, &[r#"deployments[1].ramp.paused: must be true or false, got "no""#]),
    (r#"{"weight": 25, "for": "2h", "guard": {"compare": false}}"#, r#"{"weight": 4, "for": "2h"}"#, &["deployments[1].ramp.stages[1].weight: must not be below the stage before (5 %), got 4"]),
    (r#"{"weight": 25, "for": "2h", "guard": {"compare": false}}"#, r#"{}"#, &["deployments[1].ramp.stages[1].weight: is required", "deployments[1].ramp.stages[1].for: is required"]),
    (r#""for": "24h""#, r#""for": "8761h""#, &[r#"deployments[1].ramp.stages[2].for: must be in 0s..=8760h, got "8761h""#]),
    (r#""min_requests": 300"#, r#""min_requests": "300""#, &[r#"deployments[1].ramp.stages[0].min_requests: must be an integer in 0..=1000000, got "300""#]),
    (r#""guard": {"max_error_rate": 2,"#, r#""guard": {"max_error_rate": 200,"#, &["deployments[1].ramp.stages[0].guard.max_error_rate: must be a number in 0..=100 with at most two decimals, got 200"]),
    (r#""max_latency": {"p99": "8s"}"#, r#""max_latency": {}"#, &["deployments[1].ramp.stages[0].guard.max_latency: must have at least one of avg, p50, p95, p99"]),
    // key pools
    (r#""name": "relay", "header""#, r#""name": "openai", "header""#, &[r#"deployments[0].versions[1].key_pool: unknown key pool, expected one of openai, openai, unused, got "relay""#, r#"key_pools[1].name: duplicates key_pools[0].name, got "openai""#]),
    (r#""name": "unused", "#, r#""#, &["key_pools[2].name: is required"]),
    (r#""name": "unused""#, r#""name": "un used""#, &[r#"key_pools[2].name: must match ^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$, got "un used""#]),
    (r#""X-Api-Key""#, r#""x-cluster""#, &[r#"key_pools[1].header: must not be a header of the connection or of Bellwether, got "x-cluster""#]),
    (r#""X-Api-Key""#, r#""X-Version""#, &[r#"key_pools[1].header: must not be a header of the connection or of Bellwether, got "X-Version""#]),
    (r#""X-Api-Key""#, r#""x-bellwether-key""#, &[r#"key_pools[1].header: must not be a header of the connection or of Bellwether, got "x-bellwether-key""#]),
    (r#""X-Api-Key""#, r#""host""#, &[r#"key_pools[1].header: must not be a header of the connection or of Bellwether, got "host""#]),
    (r#""X-Api-Key""#, r#"":key""#, &[r#"key_pools[1].header: must be an HTTP header name, got ":key""#]),
    (r#""prefix": """#, r#""prefix": "a\u0000b""#, &["key_pools[1].prefix: must not have CR, LF or NUL"]),
    (r#""keys": [{"id": "only", "value": "Bearer sk-SECRET-relay"}]"#, r#""keys": []"#, &["key_pools[1].keys: must have 1 to 256 elements, got 0"]),
    (r#""keys": [{"id": "only", "value": "Bearer sk-SECRET-relay"}]"#, r#""key": "sk-SECRET""#, &["key_pools[1].keys: is required", "key_pools[1].key: unknown field, expected one of name, header, prefix, keys, inject, rate_limited, rejected, exhausted, failing, sticky, remove_headers"]),
    (r#""keys": [{"id": "only", "value": "Bearer sk-SECRET-relay"}]"#, r#""keys": "sk-SECRET""#, &["key_pools[1].keys: must be an array, got a string"]),
    (r#""keys": [{"id": "only", "value": "Bearer sk-SECRET-relay"}]"#, r#""keys": ["sk-SECRET"]"#, &["key_pools[1].keys[0]: must be an object, got a string"]),
    (r#"{"name": "unused", "header": "x-goog-api-key", "keys": [{"id": "k", "value": "sk-SECRET-unused"}]}"#, r#""sk-SECRET""#, &["key_pools[2]: must be an object, got a string"]),
    (r#""id": "prod-002""#, r#""id": "prod-001""#, &[r#"key_pools[0].keys[1].id: duplicates key_pools[0].keys[0].id, got "prod-001""#]),
    (r#""id": "prod-001""#, r#""id": "prod 001""#, &[r#"key_pools[0].keys[0].id: must match ^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$, got "prod 001""#]),
    (r#""id": "prod-001", "#, r#""#, &["key_pools[0].keys[0].id: is required"]),
    (r#"{"env": "OPENAI_KEY_1"}"#, r#"{"env": "OPENAI_KEY_7"}"#, &["key_pools[0].keys[0].value.env: environment variable OPENAI_KEY_7 is not set"]),
    (r#"{"env": "OPENAI_KEY_1"}"#, r#"{"env": "BLANK"}"#, &["key_pools[0].keys[0].value.env: environment variable BLANK must not be blank"]),
    (r#"{"env": "OPENAI_KEY_1"}"#, r#"{"env": "BROKEN"}"#, &["key_pools[0].keys[0].value.env: environment variable BROKEN must not have control characters inside"]),
    (r#"{"env": "OPENAI_KEY_1"}"#, r#"{"env": "SAME"}"#, &[r#"key_pools[0].keys[2].value: keys "prod-001" and "prod-003" have the same value"#]),
    (r#"{"env": "OPENAI_KEY_1"}"#, r#"{"env": "sk-SECRET"}"#, &["key_pools[0].keys[0].value.env: must be the name of an environment variable: letters, digits and _"]),
    (r#"{"env": "OPENAI_KEY_1"}"#, r#"{"env": ["sk-SECRET"]}"#, &["key_pools[0].keys[0].value.env: must be a string, got an array"]),
    (r#"{"env": "OPENAI_KEY_1"}"#, r#"{"env": "OPENAI_KEY_1", "secret": "sk-SECRET"}"#, &[r#"key_pools[0].keys[0].value: must be a string, {"env": NAME} or {"secret": NAME}, got an object"#]),
    (r#"{"env": "OPENAI_KEY_1"}"#, r#"{"sk-SECRET": true}"#, &[r#"key_pools[0].keys[0].value: must be a string, {"env": NAME} or {"secret": NAME}, got an object"#]),
    (r#"{"env": "OPENAI_KEY_1"}"#, r#"5"#, &[r#"key_pools[0].keys[0].value: must be a string, {"env": NAME} or {"secret": NAME}, got a number"#]),
    (r#"{"secret": "openai-2"}"#, r#"{"secret": "openai 2"}"#, &["key_pools[0].keys[1].value.secret: must be a name of 1 to 255 bytes without white space"]),
    (r#"{"secret": "openai-2"}"#, r#"{"secret": ""}"#, &["key_pools[0].keys[1].value.secret: must be a name of 1 to 255 bytes without white space"]),
    (r#"{"env": "OPENAI_KEY_1"}"#, r#"{"env": "MARKED"}"#, &["key_pools[0].keys[0].value.env: environment variable MARKED must not have a byte order mark (U+FEFF): save the file without one"]),
    (r#"{"env": "OPENAI_KEY_1"}"#, r#"{"env": "QUOTED"}"#, &["key_pools[0].keys[0].value.env: environment variable QUOTED must not have quotes around it"]),
    (r#"" Bearer sk-SECRET-inline\n""#, r#""Bearer 'sk-SECRET'""#, &["key_pools[0].keys[2].value: must not have quotes around it"]),
    (r#"" Bearer sk-SECRET-inline\n""#, r#""“sk-SECRET”""#, &["key_pools[0].keys[2].value: must not have quotes around it"]),
    (r#"" Bearer sk-SECRET-inline\n""#, r#""sk-SECRET\u200b""#, &["key_pools[0].keys[2].value: must not have zero-width or other invisible characters (U+200B and the like)"]),
    (r#"" Bearer sk-SECRET-inline\n""#, r#""sk-SE\u00adCRET""#, &["key_pools[0].keys[2].value: must not have zero-width or other invisible characters (U+200B and the like)"]),
    (r#"" Bearer sk-SECRET-inline\n""#, r#""sk-SECRET\ninline""#, &["key_pools[0].keys[2].value: must not have control characters inside"]),
    (r#"" Bearer sk-SECRET-inline\n""#, r#""""#, &["key_pools[0].keys[2].value: must not be blank"]),
    (r#"" Bearer sk-SECRET-inline\n""#, r#"" Bearer ""#, &["key_pools[0].keys[2].value: must not be blank"]),
    (r#"" Bearer sk-SECRET-inline\n""#, r#""sk-SECRET-env""#, &[r#"key_pools[0].keys[2].value: keys "prod-001" and "prod-003" have the same value"#]),
    (r#"" Bearer sk-SECRET-inline\n""#, r#"{"secret": "openai-2"}"#, &[r#"key_pools[0].keys[2].value: keys "prod-002" and "prod-003" have the same value"#]),
    (r#""weight": 3"#, r#""weight": 1001"#, &["key_pools[0].keys[0].weight: must be an integer in 0..=1000, got 1001"]),
    (r#""weight": 3"#, r#""weight": 0.5"#, &["key_pools[0].keys[0].weight: must be an integer in 0..=1000, got 0.5"]),
    (r#"{"id": "k", "value": "sk-SECRET-unused"}"#, r#"{"id": "k", "value": "sk-SECRET-unused", "weight": 0}"#, &["key_pools[2].keys: at least one weight must be above 0"]),
    (r#"{"id": "k", "value": "sk-SECRET-unused"}"#, r#"{"id": "k"}"#, &["key_pools[2].keys[0].value: is required"]),
    (r#""quota_group": "org-a""#, r#""quota_group": """#, &[r#"key_pools[0].keys[1].quota_group: must match ^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$, got """#]),
    (r#""inject": "request""#, r#""inject": "once""#, &[r#"key_pools[0].inject: must be one of attempt, request, got "once""#]),
    (r#""max_cooldown": "5m""#, r#""max_cooldown": "29s""#, &[r#"key_pools[0].rate_limited.max_cooldown: must not be below cooldown (30s), got "29s""#]),
    (r#"{"cooldown": "30s", "max_cooldown": "5m"}"#, r#"{"cooldown": "11m"}"#, &[r#"key_pools[0].rate_limited.cooldown: must not be above max_cooldown (default 10m), got "11m""#]),
    (r#"{"cooldown": "30s", "max_cooldown": "5m"}"#, r#"{"cooldown": "50ms", "max_cooldown": "49ms"}"#, &[r#"key_pools[0].rate_limited.cooldown: must be in 100ms..=24h, got "50ms""#, r#"key_pools[0].rate_limited.max_cooldown: must be in 100ms..=24h, got "49ms""#]),
    (r#"{"after": 2, "disable_for": "20m"}"#, r#"{"after": 0, "cooldown": "20m"}"#, &["key_pools[0].rejected.after: must be an integer in 1..=1000, got 0", "key_pools[0].rejected.cooldown: unknown field, expected one of after, disable_for, statuses"]),
    (r#""disable_for": "20m""#, r#""disable_for": "25h""#, &[r#"key_pools[0].rejected.disable_for: must be in 100ms..=24h, got "25h""#]),
    (r#"{"after": 7, "cooldown": "45s"}"#, r#"{"after": 1001, "cooldown": 45}"#, &["key_pools[0].failing.after: must be an integer in 1..=1000, got 1001", "key_pools[0].failing.cooldown: must be a duration such as 250ms, 30s, 5m or 1h, got 45"]),
    (r#""disable_for": "20m"}"#, r#""disable_for": "20m", "statuses": ["401", 401]}"#, &["key_pools[0].rejected.statuses[1]: must be listed once, got 401"]),
    (r#""disable_for": "20m"}"#, r#""disable_for": "20m", "statuses": ["429"]}"#, &[r#"key_pools[0].rejected.statuses[0]: must be a status in 400..=499 other than 408 and 429, got "429""#]),
    (r#""sticky": true"#, r#""sticky": true, "exhausted": {"statuses": ["500"]}"#, &[r#"key_pools[0].exhausted.statuses[0]: must be a status in 400..=499 other than 408 and 429, got "500""#]),
    (r#""disable_for": "20m"}"#, r#""disable_for": "20m", "statuses": ["401"]}, "exhausted": {"statuses": ["401"]}"#, &["key_pools[0].exhausted: must not list 401 in statuses, which rejected.statuses lists"]),
    (r#""sticky": true"#, r#""sticky": {}"#, &["key_pools[0].sticky: must be true or false, got an object"]),
];

#[test]
fn each_broken_rule_is_reported_in_exact_words_and_alone() {
    assert!(CASES.len() >= 110, "{}", CASES.len());
    for (from, to, expected) in CASES {
        assert_eq!(refused(&poked(FULL, from, to)), *expected, "{from} -> {to}");
    }
}

#[test]
fn a_document_that_is_no_object_is_refused() {
    for (text, expected) in [
        ("", "configuration: is empty"),
        ("{}", "deployments: is required"),
        ("{\"deployments\": []}", "deployments: must have 1 to 1024 elements, got 0"),
        ("{\"deployments\": 7}", "deployments: must be an array, got 7"),
        ("{\"deployments\": [null]}", "deployments[0]: must be an object, got null"),
        ("{\"deployments\": [}", "configuration: JSON syntax error: expected value at line 1 column 18"),
        (
            "[]",
            "configuration: must be a JSON object, given as StringValue, Struct, or GenericSecret with secret.inline_string",
        ),
    ] {
        assert_eq!(refused(text), [expected], "{text}");
    }
}

#[test]
fn a_missing_environment_variable_is_named() {
    let problems = compile(FULL.as_bytes(), &|_| None).unwrap_err();
    assert_eq!(
        lines(&problems),
        ["key_pools[0].keys[0].value.env: environment variable OPENAI_KEY_1 is not set"]
    );
}

#[test]
fn a_default_cluster_header_can_collide_with_a_version_header() {
    let text =
        poked(SMALL, r#"{"deployments""#, r#"{"version_header": "X-Bellwether-Cluster", "deployments""#);
    assert_eq!(
        refused(&text),
        [
            r#"version_header: must differ from the other of cluster_header and version_header, got "X-Bellwether-Cluster""#
        ]
    );
    let text =
        poked(SMALL, r#"{"deployments""#, r#"{"cluster_header": "x-bellwether-version", "deployments""#);
    assert_eq!(
        refused(&text),
        [
            r#"cluster_header: must differ from the other of cluster_header and version_header, got "x-bellwether-version""#
        ]
    );
}

#[test]
fn more_elements_than_allowed_are_counted_and_references_are_then_not_checked() {
    let versions: Vec<String> =
        (0..17).map(|i| format!(r#"{{"id": "v{i}", "weight": 1, "cluster": "c"}}"#)).collect();
    let text = format!(
        r#"{{"deployments": [{{"name": "d", "stable": "v16", "versions": [{}]}}]}}"#,
        versions.join(",")
    );
    assert_eq!(refused(&text), ["deployments[0].versions: must have 1 to 16 elements, got 17"]);

    let keys: Vec<String> = (0..257).map(|i| format!(r#"{{"id": "k{i}", "value": "sk-{i}"}}"#)).collect();
    let pool = format!(r#"{{"key_pools": [{{"name": "p", "keys": [{}]}}], "deployments""#, keys.join(","));
    assert_eq!(
        refused(&poked(SMALL, r#"{"deployments""#, &pool)),
        ["key_pools[0].keys: must have 1 to 256 elements, got 257"]
    );

    let deployments: Vec<String> = (0..1025)
        .map(|i| {
            format!(
                r#"{{"name": "d{i}", "stable": "v", "versions": [{{"id": "v", "weight": 100, "cluster": "c"}}]}}"#
            )
        })
        .collect();
    let text = format!(r#"{{"deployments": [{}]}}"#, deployments.join(","));
    assert_eq!(refused(&text), ["deployments: must have 1 to 1024 elements, got 1025"]);
    let text = format!(r#"{{"deployments": [{}]}}"#, deployments[..1024].join(","));
    assert_eq!(compiled(&text).deployments.len(), 1024);

    let headers: Vec<String> = (0..65).map(|i| format!(r#""x-{i}": "1""#)).collect();
    assert_eq!(
        refused(&poked(FULL, r#""X-Tier": "gold", "x-b": """#, &headers.join(","))),
        ["deployments[0].versions[0].set_headers: must have at most 64 fields, got 65"]
    );

    let parameters: Vec<String> = (0..17).map(|i| format!(r#""x-{i}": "1""#)).collect();
    assert_eq!(
        refused(&poked(FULL, r#""api-version": "2024-10-21", "a b": "c&d""#, &parameters.join(","))),
        ["deployments[0].versions[0].query: must have at most 16 fields, got 17"]
    );

    let stages = vec![r#"{"weight": 5, "for": "1h"}"#; 101].join(",");
    let text = poked(
        FULL,
        r#"{"weight": 25, "for": "2h", "guard": {"compare": false}},"#,
        &format!("{},", stages.replace("\"weight\": 5", "\"weight\": 26")),
    );
    assert_eq!(refused(&text), ["deployments[1].ramp.stages: must have 1 to 100 elements, got 103"]);
}

#[test]
fn all_problems_are_reported_at_once_in_document_order() {
    let text = r#"{
        "alerts": {"cluster": "a b", "host": "h", "path": "p", "retries": 3},
        "version_header": 1,
        "key_pools": [
            {"name": "p.1", "keys": [{"id": "a", "value": "sk-SECRET"}, {"id": "a", "value": "sk-SECRET", "weight": -1}]},
            {"name": "p_1", "header": "cookie:", "keys": [{"value": {"env": "NOT_SET"}, "weight": 0}], "failing": {"for": "1s"}}
        ],
        "deployments": [
            {
                "guard": {"windw": "1s", "window": "2h", "mode": null, "window": "1s"},
                "stable": "v3",
                "versions": [
                    {"weight": 60, "id": "v1", "cluster": "c", "key_pool": "p", "set_headers": {"x-api-key": "sk-SECRET", "x-ok": "yes"}},
                    {"weight": 50, "id": "v2", "cluster": ""}
                ],
                "match": {"hosts": ["*"], "headers": [{}]},
                "rules": [{"headers": [{"name": "x", "exact": 1}], "version": "v4", "percent": 0.001}],
                "name": "Bad"
            },
            "d",
            {
                "name": "ok", "stable": "a",
                "versions": [{"id": "a", "weight": 1, "cluster": "c"}, {"id": "b", "weight": "2", "cluster": "c"}, {"id": "c", "cluster": "c"}],
                "ramp": {"stages": [{"weight": 50, "for": "1h"}, {"weight": 20, "for": "soon", "guard": {"max_errors": 0}}]},
                "sticky": {"on": [], "salt": ""},
                "recovery": {"successes": 2},
                "failover": 1
            }
        ]
    }"#;
    assert_eq!(
        refused(text),
        [
            r#"alerts.cluster: must be a cluster name: 1 to 255 bytes without white space, got "a b""#,
            r#"alerts.path: must begin with / and have no white space, got a string"#,
            "alerts.retries: unknown field, expected one of cluster, host, path, timeout",
            "version_header: must be a string, got 1",
            r#"key_pools[0].keys[1].id: duplicates key_pools[0].keys[0].id, got "a""#,
            r#"key_pools[0].keys[1].value: keys "a" and "a" have the same value"#,
            "key_pools[0].keys[1].weight: must be an integer in 0..=1000, got -1",
            r#"key_pools[1].name: differs from key_pools[0].name only by . and _, which metrics show alike, got "p_1""#,
            r#"key_pools[1].header: must be an HTTP header name, got "cookie:""#,
            "key_pools[1].keys: at least one weight must be above 0",
            "key_pools[1].keys[0].id: is required",
            "key_pools[1].keys[0].value.env: environment variable NOT_SET is not set",
            "key_pools[1].failing.for: unknown field, expected one of after, cooldown",
            "deployments[0].guard.windw: unknown field, expected one of mode, errors, window, min_requests, \
             max_error_rate, max_errors, max_consecutive_errors, max_latency, compare, shared_outage",
            r#"deployments[0].guard.window: must be in 1s..=1h, got "2h""#,
            "deployments[0].guard.mode: must be one of enforce, observe, got null",
            "deployments[0].guard.window: duplicate field",
            r#"deployments[0].stable: unknown version, expected one of v1, v2, got "v3""#,
            r#"deployments[0].versions[0].key_pool: unknown key pool, expected one of p.1, p_1, got "p""#,
            "deployments[0].versions[0].set_headers.x-api-key: must not be set, Bellwether sets or removes it",
            "deployments[0].versions[1].weight: weights must sum to 100, got 110",
            r#"deployments[0].versions[1].cluster: must be a cluster name: 1 to 255 bytes without white space, got """#,
            r#"deployments[0].match.hosts[0]: must be a host or *.host, with a port or without, got "*""#,
            "deployments[0].match.headers[0].name: is required",
            "deployments[0].match.headers[0]: must have exactly one of exact, prefix, suffix, contains, one_of, present",
            "deployments[0].rules[0].headers[0].exact: must be a string, got 1",
            r#"deployments[0].rules[0].version: unknown version, expected one of v1, v2, got "v4""#,
            "deployments[0].rules[0].percent: must be a number in 0..=100 with at most two decimals, got 0.001",
            r#"deployments[0].name: must match ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$, got "Bad""#,
            r#"deployments[1]: must be an object, got "d""#,
            "deployments[2].versions[0].weight: must be absent when ramp is given, got 1",
            r#"deployments[2].versions[1].weight: must be absent when ramp is given, got "2""#,
            "deployments[2].ramp: needs exactly two versions, got 3",
            "deployments[2].ramp.stages[1].weight: must not be below the stage before (50 %), got 20",
            r#"deployments[2].ramp.stages[1].for: must be a duration such as 250ms, 30s, 5m or 1h, got "soon""#,
            "deployments[2].ramp.stages[1].guard.max_errors: must be an integer in 1..=1000000, got 0",
            "deployments[2].sticky.on: must not be empty",
            r#"deployments[2].sticky.salt: must not be empty, got """#,
            "deployments[2].recovery.successes: must be absent unless mode is probe, got 2",
            "deployments[2].failover: must be an object or false, got 1",
        ]
    );
}

#[test]
fn every_wrapping_of_envoy_is_unwrapped() {
    fn field(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        let mut length = content.len();
        while length >= 0x80 {
            out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        out.push(u8::try_from(length).unwrap());
        out.extend_from_slice(content);
        out
    }
    for wrapped in [
        FULL.as_bytes().to_vec(),
        format!("\n  {FULL}\n").into_bytes(),
        field(0x0a, FULL.as_bytes()),
        field(0x0a, &field(0x1a, FULL.as_bytes())),
        field(0x0a, &field(0x12, FULL.as_bytes())),
    ] {
        assert_eq!(compile(&wrapped, &env).unwrap().deployments.len(), 2);
    }
    let named = secrets(&field(0x0a, &field(0x1a, br#"{"secrets": {"a": "sk-SECRET"}}"#)));
    assert_eq!(named.ok().map(|named| named.len()), Some(1));
    assert!(admin(&field(0x0a, &field(0x1a, b"{}"))).is_ok());
}

#[test]
fn a_secrets_document_gives_trimmed_values_by_name() {
    let named = secrets(br#"{"secrets": {"openai-2": " sk-SECRET\n", "b/c.d": "Bearer x"}}"#).ok().unwrap();
    let named: Vec<_> = named.iter().map(|(name, secret)| (name.as_str(), secret.expose())).collect();
    assert_eq!(named, [("b/c.d", "Bearer x"), ("openai-2", "sk-SECRET")]);
    for empty in ["", "{}", r#"{"secrets": {}}"#] {
        assert_eq!(secrets(empty.as_bytes()).ok().map(|named| named.len()), Some(0), "{empty}");
    }
}

#[test]
fn a_wrong_secrets_document_is_refused_without_showing_a_value() {
    for (text, expected) in [
        (
            r#"{"secrets": {"a": "sk-SECRET", "b": " ", "a": "sk-SECRET-2", "c": ["sk-SECRET"], "d e": "sk-SECRET", "f": "sk-SECRET\nx", "": "sk-SECRET", "g": 7}, "openai": "sk-SECRET"}"#,
            &[
                "secrets.b: must not be blank",
                "secrets.a: duplicate field",
                "secrets.c: must be a string, got an array",
                r#"secrets["d e"]: must be a name of 1 to 255 bytes without white space"#,
                "secrets.f: must not have control characters inside",
                r#"secrets[""]: must be a name of 1 to 255 bytes without white space"#,
                "secrets.g: must be a string, got a number",
                "openai: unknown field, expected secrets",
            ][..],
        ),
        (r#"{"secrets": "sk-SECRET"}"#, &["secrets: must be an object, got a string"][..]),
        (r#"{"secrets": ["sk-SECRET"]}"#, &["secrets: must be an object, got an array"][..]),
        (
            r#"{"secrets": {"a": sk-SECRET}}"#,
            &["configuration: JSON syntax error: expected value at line 1 column 19"][..],
        ),
    ] {
        let problems = secrets(text.as_bytes()).err().map(|problems| lines(&problems));
        assert_eq!(problems.unwrap_or_default(), expected, "{text}");
    }
}

#[test]
fn the_admin_role_takes_an_empty_object_or_nothing_or_hosts() {
    for text in ["", "{}", " { } ", r#"{"hosts": []}"#] {
        assert_eq!(admin(text.as_bytes()), Ok(Vec::new()), "{text}");
    }
    let hosts = admin(br#"{"hosts": ["Ops.example.com", "b:8080"]}"#);
    assert_eq!(hosts, Ok(vec!["ops.example.com".to_owned(), "b:8080".to_owned()]));
    for (text, expected) in [
        (r#"{"secrets": {"a": "sk-SECRET"}}"#, "secrets: unknown field, expected hosts"),
        (r#"{"hosts": "sk-SECRET"}"#, "hosts: must be an array, got a string"),
        (r#"{"hosts": ["*.SECRET"]}"#, "hosts[0]: must be a host, with a port or without, got a string"),
        (
            "[]",
            "configuration: must be a JSON object, given as StringValue, Struct, or GenericSecret with secret.inline_string",
        ),
    ] {
        assert_eq!(lines(&admin(text.as_bytes()).unwrap_err()), [expected], "{text}");
    }
}

/// A text that no problem may show; every value of a key in these tests contains it.
const MARK: &str = "SECRET";

#[test]
fn no_problem_shows_a_key() {
    for (from, to, _) in CASES {
        let shown = refused(&poked(FULL, from, to)).join("\n");
        assert!(!shown.contains(MARK), "{from} -> {to}: {shown}");
    }
    // Anything in place of anything: each JSON value in the document once replaced by each of these shapes.
    let document: serde_json::Value = serde_json::from_str(FULL).unwrap();
    let mut pointers = Vec::new();
    walk(&document, String::new(), &mut pointers);
    assert!(pointers.len() > 150, "{}", pointers.len());
    let key = "sk-SECRET";
    for pointer in
        pointers.iter().filter(|pointer| pointer.contains("/keys") || pointer.ends_with("set_headers"))
    {
        let exempt = ["/id", "/weight", "/quota_group"].iter().any(|tail| pointer.ends_with(tail));
        for shape in [
            serde_json::json!(key),
            serde_json::json!([key]),
            serde_json::json!([[key]]),
            serde_json::json!({ "value": key }),
            serde_json::json!({ "env": key }),
            serde_json::json!({ "env": { "env": key } }),
            serde_json::json!({ "secret": [key] }),
            serde_json::json!({ "authorization": [key] }),
            serde_json::json!({ "authorization": key }),
        ] {
            if exempt && shape.is_string() {
                continue;
            }
            let mut document = document.clone();
            *document.pointer_mut(pointer).unwrap() = shape.clone();
            let shown = refused(&document.to_string()).join("\n");
            assert!(!shown.contains(MARK), "{pointer} = {shape}: {shown}");
        }
    }
}

#[test]
fn a_plan_can_be_printed_without_its_keys() {
    let shown = format!("{:?}", compiled(FULL));
    assert!(!shown.contains(MARK), "{shown}");
}

fn walk(value: &serde_json::Value, at: String, pointers: &mut Vec<String>) {
    pointers.push(at.clone());
    match value {
        serde_json::Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                walk(item, format!("{at}/{i}"), pointers);
            }
        }
        serde_json::Value::Object(members) => {
            for (name, member) in members {
                walk(member, format!("{at}/{name}"), pointers);
            }
        }
        _ => {}
    }
}

/// Each outcome is either a plan or at least one problem, each a line of its own.
fn is_sound<T>(outcome: &Result<T, Problems>) -> bool {
    outcome.as_ref().err().is_none_or(|problems| {
        !problems.0.is_empty() && problems.0.iter().all(|p| !p.to_string().chars().any(char::is_control))
    })
}

fn all_sound(bytes: &[u8]) -> bool {
    is_sound(&compile(bytes, &env))
        && is_sound(&secrets(bytes))
        && is_sound(&admin(bytes))
        && is_sound(&document(bytes))
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        (0u32..200).prop_map(serde_json::Value::from),
        ".{0,80}".prop_map(serde_json::Value::from),
        "[0-9]{0,25}(\\.[0-9]{0,12})?(ms|s|m|h)?".prop_map(serde_json::Value::from),
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,4})?(Z|[+-][0-9]{2}:[0-9]{2})"
            .prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map("[a-z_]{0,8}|\\PC{0,4}", inner, 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(all_sound(&bytes));
    }

    #[test]
    fn arbitrary_messages_never_panic(tags in prop::collection::vec((0u8..0x40, 0u8..40), 0..6), text in "\\PC{0,40}") {
        let mut bytes = Vec::new();
        for (tag, length) in tags {
            bytes.extend([0x0a, length, tag, length]);
            bytes.extend(text.as_bytes().iter().take(usize::from(length)));
        }
        prop_assert!(all_sound(&bytes));
    }

    #[test]
    fn a_document_with_broken_bytes_never_panics_and_shows_no_key(
        pokes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = FULL.as_bytes().to_vec();
        for (at, byte) in pokes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        prop_assert!(all_sound(&bytes));
        if let Err(problems) = compile(&bytes, &env) {
            prop_assert!(!problems.to_string().contains(MARK), "{problems}");
        }
    }

    #[test]
    fn any_value_in_place_of_any_other_never_panics(
        pokes in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4),
    ) {
        let mut document: serde_json::Value = serde_json::from_str(FULL).unwrap();
        for (at, value) in pokes {
            let mut pointers = Vec::new();
            walk(&document, String::new(), &mut pointers);
            // Pointers of names that need escaping do not resolve; those are skipped.
            if let Some(slot) = document.pointer_mut(&pointers[at.index(pointers.len())]) {
                *slot = value;
            }
        }
        prop_assert!(all_sound(document.to_string().as_bytes()));
    }
}

#[test]
fn a_status_listed_for_one_reason_is_no_default_of_the_other() {
    let statuses = |fields: &str| {
        let plan = compiled(&poked(FULL, r#""rejected": {"after": 2, "disable_for": "20m"}"#, fields));
        (plan.pools[0].rejected_statuses.clone(), plan.pools[0].exhausted_statuses.clone())
    };
    assert_eq!(statuses(r#""rejected": {"statuses": ["402", 401]}"#), (vec![401, 402], vec![]));
    assert_eq!(statuses(r#""exhausted": {"statuses": ["403"]}"#), (vec![401], vec![403]));
}
