//! What a provider does, and what goes wrong with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// How a provider answers. The default answers at once and without faults.
///
/// As JSON (`PUT /_mock/behaviour`) every field is optional, for example
/// `{"fault": {"kind": "status", "status": 503}, "fault_ratio": 0.1, "latency": {"kind": "fixed", "ms": 20}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// The time before the response headers, of every request.
    pub latency: Latency,
    /// Number of content chunks of a streamed answer, besides the role chunk before and the finish chunk after them.
    pub chunks: usize,
    /// The time before each chunk of a streamed answer, except the first.
    pub chunk_delay_ms: u64,
    /// Headers added to every answer, for example `x-ratelimit-remaining-requests`.
    pub headers: BTreeMap<String, String>,
    /// What goes wrong, if anything.
    pub fault: Option<Fault>,
    /// The fraction of requests that `fault` happens to, in `0.0..=1.0`; default 1.
    ///
    /// Not drawn but counted: with 0.25 it is every fourth request since the behaviour was set.
    pub fault_ratio: f64,
    /// Answers by key, which win over `fault`; a key is the value of `authorization` (with or without `Bearer `),
    /// `x-api-key` or `api-key`.
    pub keys: BTreeMap<String, KeyAnswer>,
    /// The answer to requests with the header `x-flagged`, with whichever key; it wins over all others.
    pub flagged: Option<KeyAnswer>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            latency: Latency::None,
            chunks: 3,
            chunk_delay_ms: 0,
            headers: BTreeMap::new(),
            fault: None,
            fault_ratio: 1.0,
            keys: BTreeMap::new(),
            flagged: None,
        }
    }
}

impl Behaviour {
    /// A behaviour in which `fault` happens to every request.
    pub fn failing(fault: Fault) -> Behaviour {
        Behaviour { fault: Some(fault), ..Behaviour::default() }
    }

    /// A behaviour in which every request is answered with `status` and an OpenAI-shaped error.
    pub fn status(status: u16) -> Behaviour {
        Behaviour::failing(Fault::Status { status, headers: BTreeMap::new() })
    }

    /// A behaviour without faults and with this latency.
    pub fn slow(latency: Latency) -> Behaviour {
        Behaviour { latency, ..Behaviour::default() }
    }

    /// The content of an answer, one word a chunk; the first names the provider.
    pub(super) fn words(&self, provider: &str) -> Vec<String> {
        let word = |n| if n == 0 { format!("hello from {provider}") } else { format!(" word{n}") };
        (0..self.chunks).map(word).collect()
    }

    /// The same with `fault` happening to only this fraction of the requests.
    #[must_use]
    pub fn ratio(mut self, fault_ratio: f64) -> Behaviour {
        self.fault_ratio = fault_ratio;
        self
    }

    /// The same with requests under `key` answered with `status` and these headers.
    #[must_use]
    pub fn key(mut self, key: &str, status: u16, headers: &[(&str, &str)]) -> Behaviour {
        self.keys.insert(key.to_owned(), KeyAnswer { status, headers: owned(headers) });
        self
    }
}

impl Behaviour {
    /// Requests with the header `x-flagged` get this answer.
    pub fn flagged(mut self, status: u16, headers: &[(&str, &str)]) -> Behaviour {
        self.flagged = Some(KeyAnswer { status, headers: owned(headers) });
        self
    }
}

/// What can go wrong with a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// An error answer.
    Status {
        /// The status code, `200..=599`.
        status: u16,
        /// Headers to add, for example `retry-after`.
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    /// The latency is this and not the behaviour's.
    Slow {
        /// The time before the response headers.
        latency: Latency,
    },
    /// The connection is reset and nothing is answered.
    Reset,
    /// The connection is reset after the headers and this many events of a stream, or after half of a whole answer.
    ResetAfter {
        /// Events sent, the role chunk included; of a whole answer, 0 sends none of the body and anything else half.
        chunks: usize,
    },
    /// Nothing is ever answered.
    Hang,
    /// Nothing more comes after the headers and this many events of a stream, or after half of a whole answer.
    HangAfter {
        /// Events sent, as in [`Fault::ResetAfter`].
        chunks: usize,
    },
}

impl Fault {
    /// An error answer with these headers.
    pub fn status(status: u16, headers: &[(&str, &str)]) -> Fault {
        Fault::Status { status, headers: owned(headers) }
    }
}

/// How requests that carry one key are answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyAnswer {
    /// The status code, `200..=599`; 200 serves the request, which exempts the key from faults.
    pub status: u16,
    /// Headers to add, for example `retry-after`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// A distribution of times, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Latency {
    /// No time at all.
    #[default]
    None,
    /// Always the same.
    Fixed {
        /// The time.
        ms: f64,
    },
    /// Anything from `min_ms` to `max_ms`.
    Uniform {
        /// The least.
        min_ms: f64,
        /// The most.
        max_ms: f64,
    },
    /// Mostly near the median with a long tail, as real services are.
    Lognormal {
        /// Half of the times are below this.
        median_ms: f64,
        /// Standard deviation of the logarithm; with 0.5 the 99th percentile is about 3.2 medians.
        sigma: f64,
    },
}

impl Latency {
    /// Draws one time, at most an hour.
    fn draw(self, random: &mut SmallRng) -> Duration {
        let ms = match self {
            Latency::None => 0.0,
            Latency::Fixed { ms } => ms,
            Latency::Uniform { min_ms, max_ms } => min_ms + (max_ms - min_ms) * random.random::<f64>(),
            Latency::Lognormal { median_ms, sigma } => median_ms * (sigma * normal(random)).exp(),
        };
        // What is not a number is no time, so that nonsense over HTTP cannot panic the provider.
        Duration::try_from_secs_f64(ms.clamp(0.0, 3_600_000.0) / 1000.0).unwrap_or_default()
    }
}

/// Draws from the standard normal distribution, by Box and Muller.
fn normal(random: &mut SmallRng) -> f64 {
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.random::<f64>()).cos()
}

/// What will happen to one request.
#[derive(Debug)]
pub(super) struct Chosen {
    pub behaviour: Arc<Behaviour>,
    pub latency: Duration,
    pub fate: Fate,
}

/// How one request ends.
#[derive(Debug)]
pub(super) enum Fate {
    Serve,
    Status { status: u16, headers: BTreeMap<String, String> },
    Reset,
    ResetAfter(usize),
    Hang,
    HangAfter(usize),
}

/// Chooses what happens to each request, the same way in every run.
#[derive(Debug)]
pub(super) struct Chooser {
    behaviour: Arc<Behaviour>,
    /// Faults owed, in millionths of a request: integers, so that a tenth is exactly every tenth.
    owed: u64,
    random: SmallRng,
}

impl Chooser {
    pub fn new(behaviour: Behaviour) -> Chooser {
        Chooser { behaviour: Arc::new(behaviour), owed: 0, random: SmallRng::seed_from_u64(0) }
    }

    pub fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    pub fn choose(&mut self, key: Option<&str>, flagged: bool) -> Chosen {
        let behaviour = Arc::clone(&self.behaviour);
        let mut latency = behaviour.latency;
        let by_key = key.and_then(|key| key_answer(&behaviour.keys, key));
        let by_flag = behaviour.flagged.as_ref().filter(|_| flagged);
        let fate = if let Some(answer) = by_flag.or(by_key) {
            Fate::Status { status: answer.status, headers: answer.headers.clone() }
        } else {
            match &behaviour.fault {
                Some(fault) if self.due() => match fault.clone() {
                    Fault::Status { status, headers } => Fate::Status { status, headers },
                    Fault::Slow { latency: slow } => {
                        latency = slow;
                        Fate::Serve
                    }
                    Fault::Reset => Fate::Reset,
                    Fault::ResetAfter { chunks } => Fate::ResetAfter(chunks),
                    Fault::Hang => Fate::Hang,
                    Fault::HangAfter { chunks } => Fate::HangAfter(chunks),
                },
                _ => Fate::Serve,
            }
        };
        Chosen { latency: latency.draw(&mut self.random), behaviour, fate }
    }

    /// Whether the fault happens to this request.
    fn due(&mut self) -> bool {
        const WHOLE: u64 = 1_000_000;
        // A cast from float saturates, and NaN becomes 0.
        self.owed += (self.behaviour.fault_ratio.clamp(0.0, 1.0) * WHOLE as f64).round() as u64;
        let due = self.owed >= WHOLE;
        if due {
            self.owed -= WHOLE;
        }
        due
    }
}

/// Finds the answer for a key, which the map may name with or without `Bearer `.
fn key_answer<'a>(keys: &'a BTreeMap<String, KeyAnswer>, key: &str) -> Option<&'a KeyAnswer> {
    if keys.is_empty() {
        return None;
    }
    keys.get(key).or_else(|| keys.get(&format!("Bearer {key}")))
}

fn owned(headers: &[(&str, &str)]) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_counted_and_not_drawn() {
        let mut chooser = Chooser::new(Behaviour::status(500).ratio(0.1));
        let fates: Vec<bool> =
            (0..100).map(|_| matches!(chooser.choose(None, false).fate, Fate::Status { .. })).collect();
        assert_eq!(fates.iter().filter(|failed| **failed).count(), 10);
        assert!(fates.iter().skip(9).step_by(10).all(|failed| *failed), "every tenth fails");
    }

    #[test]
    fn a_ratio_of_zero_never_fails_and_nonsense_is_no_ratio() {
        for ratio in [0.0, -1.0, f64::NAN] {
            let mut chooser = Chooser::new(Behaviour::status(500).ratio(ratio));
            assert!(
                (0..1000).all(|_| matches!(chooser.choose(None, false).fate, Fate::Serve)),
                "ratio {ratio}"
            );
        }
    }

    #[test]
    fn a_lognormal_latency_has_its_median_and_tail() {
        let mut random = SmallRng::seed_from_u64(1);
        let latency = Latency::Lognormal { median_ms: 100.0, sigma: 0.5 };
        let mut drawn: Vec<Duration> = (0..10_001).map(|_| latency.draw(&mut random)).collect();
        drawn.sort();
        let (median, p99) = (drawn[5_000].as_millis(), drawn[9_900].as_millis());
        assert!((95..=105).contains(&median), "median {median}");
        assert!((290..=350).contains(&p99), "p99 {p99}, expected about 100 * exp(0.5 * 2.326) = 320");
    }

    #[test]
    fn nonsense_latencies_are_no_latency() {
        let mut random = SmallRng::seed_from_u64(1);
        for ms in [-5.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(Latency::Fixed { ms }.draw(&mut random), Duration::ZERO);
        }
    }

    #[test]
    fn a_key_is_found_with_and_without_its_scheme() {
        for named in ["sk-1", "Bearer sk-1"] {
            let mut chooser = Chooser::new(Behaviour::default().key(named, 429, &[("retry-after", "7")]));
            assert!(
                matches!(chooser.choose(Some("sk-1"), false).fate, Fate::Status { status: 429, .. }),
                "named {named}"
            );
            assert!(matches!(chooser.choose(Some("sk-2"), false).fate, Fate::Serve));
        }
    }

    #[test]
    fn behaviours_round_trip_and_misspellings_are_refused() {
        let behaviour = Behaviour::failing(Fault::ResetAfter { chunks: 2 }).ratio(0.5).key("k", 401, &[]);
        let text = serde_json::to_string(&behaviour).unwrap();
        assert_eq!(serde_json::from_str::<Behaviour>(&text).unwrap(), behaviour);
        assert!(serde_json::from_str::<Behaviour>(r#"{"falt": null}"#).is_err());
    }
}
