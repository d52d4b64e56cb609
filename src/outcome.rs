//! Outcomes: blame first, then count.
//!
//! Each answer or fault belongs to one of eight classes, and each class judges at most one party. `bad` and latency judge the
//! version. `rate_limited`, `exhausted` and `key_rejected` judge the key. A caller's error judges nobody; neither does a client that went away,
//! nor an answer that Envoy gave by itself. A gateway that counts every 4xx against the provider loses good keys to three bad
//! prompts.

pub mod attempts; // the attempts of one request, as both roles see them
pub mod blame; // an attempt as its version and its key see it: events and key outcomes
pub mod judgement; // an attempt as statistics, metrics and key pools see it
pub mod member; // the provider that an attempt really goes to

use crate::plan::guard::BadOutcomes;
use crate::plan::pool::Refusal;

/// A classified attempt or request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The version did its job.
    Good,
    /// The version's fault, by the guard's `errors`.
    Bad,
    /// 429: the quota or the capacity of the key is used up.
    RateLimited,
    /// The provider says that the money or the quota of a pool's key is used up: 402, or as the pool says.
    Exhausted,
    /// The provider refuses a key of a pool: 401 or 403, or as the pool says.
    KeyRejected,
    /// Another 4xx: the caller's request was wrong.
    CallerError,
    /// The client went away before the end.
    Cancelled,
    /// Envoy answered before an attempt was made.
    Local,
}

impl Outcome {
    /// All outcomes, in the order of their metric indices.
    pub const ALL: [Outcome; 8] = [
        Outcome::Good,
        Outcome::Bad,
        Outcome::RateLimited,
        Outcome::Exhausted,
        Outcome::KeyRejected,
        Outcome::CallerError,
        Outcome::Cancelled,
        Outcome::Local,
    ];

    /// Returns the metric label: one of a fixed set.
    pub const fn label(self) -> &'static str {
        match self {
            Outcome::Good => "good",
            Outcome::Bad => "bad",
            Outcome::RateLimited => "rate_limited",
            Outcome::Exhausted => "exhausted",
            Outcome::KeyRejected => "key_rejected",
            Outcome::CallerError => "caller_error",
            Outcome::Cancelled => "cancelled",
            Outcome::Local => "local",
        }
    }
}

/// How a stream came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The upstream's answer came whole.
    Complete,
    /// Connection failed, stream reset, no endpoint, unknown cluster: the upstream could not be reached or broke off.
    Reset,
    /// Envoy gave up waiting.
    Timeout,
    /// No response; a reset or a time-out (an attempt that Envoy gave up and retried).
    Unanswered,
    /// The client went away.
    Cancelled,
    /// The client broke the protocol, or did not send its request to the end in time.
    ClientFault,
    /// Envoy answered by itself, before an attempt.
    Local,
    /// Envoy's circuit breaker answered. The attempt that was about to begin was not made, although the `keys` role of an Envoy
    /// before 1.40 has seen it.
    Overflow,
}

/// Response flags of Envoy (`response.flags`), as observed on 1.36 to 1.40.
pub mod flags {
    /// UH: no healthy upstream.
    pub const NO_HEALTHY_UPSTREAM: u64 = 0x2;
    /// UT: upstream request time-out.
    pub const UPSTREAM_TIMEOUT: u64 = 0x4;
    /// LR: local reset.
    pub const LOCAL_RESET: u64 = 0x8;
    /// UR: upstream remote reset.
    pub const UPSTREAM_RESET: u64 = 0x10;
    /// UF: upstream connection failure.
    pub const CONNECTION_FAILURE: u64 = 0x20;
    /// UC: upstream connection termination.
    pub const CONNECTION_TERMINATION: u64 = 0x40;
    /// UO: upstream overflow, of Envoy's own circuit breaker.
    pub const OVERFLOW: u64 = 0x80;
    /// DC: downstream connection termination.
    pub const DOWNSTREAM_CONNECTION: u64 = 0x4000;
    /// SI: stream idle time-out.
    pub const STREAM_IDLE: u64 = 0x1_0000;
    /// DPE: downstream protocol error.
    pub const DOWNSTREAM_PROTOCOL: u64 = 0x4_0000;
    /// UMSDR: upstream maximum stream duration reached.
    pub const UPSTREAM_MAX_DURATION: u64 = 0x8_0000;
    /// UPE: upstream protocol error.
    pub const UPSTREAM_PROTOCOL: u64 = 0x80_0000;
    /// NC: no such cluster.
    pub const NO_CLUSTER: u64 = 0x100_0000;
    /// DR: downstream remote reset.
    pub const DOWNSTREAM_RESET: u64 = 0x1000_0000;

    /// The client went away.
    pub const CANCELLED: u64 = DOWNSTREAM_CONNECTION | DOWNSTREAM_RESET;
    /// Envoy gave up waiting for the upstream.
    pub const TIMEOUT: u64 = UPSTREAM_TIMEOUT | STREAM_IDLE | UPSTREAM_MAX_DURATION;
    /// The upstream could not be reached or broke off. UH and NC belong here: a version without endpoints, or without an existing
    /// cluster, is at fault itself. UO (Envoy's own circuit breaker) does not belong here.
    pub const RESET: u64 = NO_HEALTHY_UPSTREAM
        | LOCAL_RESET
        | UPSTREAM_RESET
        | CONNECTION_FAILURE
        | CONNECTION_TERMINATION
        | UPSTREAM_PROTOCOL
        | NO_CLUSTER;
}

/// Reads the end of a stream from Envoy's flags. `reached`: an upstream answered. A client that went away wins over every other flag,
/// because all that Envoy noticed later is a consequence.
pub fn ending(response_flags: u64, reached: bool) -> Ending {
    if response_flags & flags::CANCELLED != 0 {
        Ending::Cancelled
    } else if response_flags & flags::DOWNSTREAM_PROTOCOL != 0 {
        Ending::ClientFault
    } else if response_flags & flags::TIMEOUT != 0 {
        Ending::Timeout
    } else if response_flags & flags::RESET != 0 {
        Ending::Reset
    } else if reached {
        // Also with UO: then the circuit breaker forbade a retry of this answer.
        Ending::Complete
    } else if response_flags & flags::OVERFLOW != 0 {
        Ending::Overflow
    } else {
        Ending::Local
    }
}

/// Status of Envoy's own answer to a request that did not come to its end in time. If the request was complete, Envoy answers a
/// time-out with 504. Nothing else tells the two apart without a look at the body.
pub const REQUEST_TIMEOUT: u16 = 408;

/// Puts an attempt or a request into its class.
///
/// `status`: the upstream's answer, `None` without one. `refusal`: the refusal by which this status meets the pool's key that the
/// request carried.
///
/// A status that `errors` lists by number is always bad. The classes `4xx` and `5xx` leave 429 and the refusals of a pool's key to
/// the key. A fault without an answer also counts as the status that the client gets: 503, or 504 for a time-out. A
/// bad status wins over a client that went away after it.
pub fn classify(
    errors: &BadOutcomes,
    status: Option<u16>,
    ending: Ending,
    refusal: Option<Refusal>,
) -> Outcome {
    if matches!(ending, Ending::Local | Ending::Overflow) {
        return Outcome::Local;
    }
    if let Some(status) = status {
        let by_status = classify_status(errors, status, refusal);
        if by_status != Outcome::Good {
            return by_status;
        }
    }
    let listed = |code: u16| status.is_none() && classify_status(errors, code, None) == Outcome::Bad;
    let bad = match ending {
        Ending::Complete | Ending::Local | Ending::Overflow => false,
        Ending::Cancelled | Ending::ClientFault => return Outcome::Cancelled,
        Ending::Reset => errors.reset || listed(503),
        Ending::Timeout => errors.timeout || listed(504),
        Ending::Unanswered => errors.reset || errors.timeout || listed(503) || listed(504),
    };
    if bad { Outcome::Bad } else { Outcome::Good }
}

fn classify_status(errors: &BadOutcomes, status: u16, refusal: Option<Refusal>) -> Outcome {
    if errors.statuses.binary_search(&status).is_ok() {
        return Outcome::Bad;
    }
    match refusal {
        Some(Refusal::Rejected) => return Outcome::KeyRejected,
        Some(Refusal::Exhausted) => return Outcome::Exhausted,
        Some(Refusal::Limited) | None => {}
    }
    match status {
        429 => Outcome::RateLimited,
        500..=599 if errors.server_errors => Outcome::Bad,
        // Envoy passes on any number that an upstream sends. A number outside HTTP is a broken answer, like a reset.
        0..=99 | 600.. if errors.reset || errors.server_errors => Outcome::Bad,
        400..=499 if errors.client_errors => Outcome::Bad,
        400..=499 => Outcome::CallerError,
        _ => Outcome::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> BadOutcomes {
        BadOutcomes { server_errors: true, reset: true, timeout: true, ..BadOutcomes::default() }
    }

    /// Returns the refusal of a pool's key by the default statuses.
    fn refusal(status: Option<u16>, own_key: bool) -> Option<Refusal> {
        match status? {
            401 | 403 if own_key => Some(Refusal::Rejected),
            402 if own_key => Some(Refusal::Exhausted),
            _ => None,
        }
    }

    #[test]
    fn each_row_of_the_blame_table() {
        let e = defaults();
        use Ending::*;
        for (status, ending, own_key, expected) in [
            (Some(200), Complete, true, Outcome::Good),
            (Some(302), Complete, true, Outcome::Good),
            (Some(500), Complete, true, Outcome::Bad),
            (Some(503), Complete, true, Outcome::Bad),
            (Some(529), Complete, true, Outcome::Bad),
            (Some(429), Complete, true, Outcome::RateLimited),
            (Some(429), Complete, false, Outcome::RateLimited),
            (Some(401), Complete, true, Outcome::KeyRejected),
            (Some(403), Complete, true, Outcome::KeyRejected),
            (Some(402), Complete, true, Outcome::Exhausted),
            (Some(402), Complete, false, Outcome::CallerError),
            (Some(401), Complete, false, Outcome::CallerError),
            (Some(400), Complete, true, Outcome::CallerError),
            (Some(404), Complete, true, Outcome::CallerError),
            (Some(200), Reset, true, Outcome::Bad),
            (Some(200), Timeout, true, Outcome::Bad),
            (None, Reset, true, Outcome::Bad),
            (None, Timeout, true, Outcome::Bad),
            (None, Unanswered, true, Outcome::Bad),
            (None, Cancelled, true, Outcome::Cancelled),
            (Some(200), Cancelled, true, Outcome::Cancelled),
            (Some(500), Cancelled, true, Outcome::Bad),
            (Some(503), Local, true, Outcome::Local),
            (None, Local, false, Outcome::Local),
        ] {
            assert_eq!(
                classify(&e, status, ending, refusal(status, own_key)),
                expected,
                "{status:?} {ending:?} own key {own_key}"
            );
        }
    }

    #[test]
    fn a_status_that_http_does_not_have_is_a_broken_answer() {
        for status in [0, 2, 99, 600, 999, u16::MAX] {
            assert_eq!(
                classify(&defaults(), Some(status), Ending::Complete, refusal(Some(status), true)),
                Outcome::Bad,
                "{status}"
            );
        }
    }

    #[test]
    fn a_status_listed_by_number_is_bad_even_if_it_concerns_the_key() {
        let e = BadOutcomes { statuses: vec![401, 429], ..BadOutcomes::default() };
        assert_eq!(classify(&e, Some(429), Ending::Complete, refusal(Some(429), true)), Outcome::Bad);
        assert_eq!(classify(&e, Some(401), Ending::Complete, refusal(Some(401), true)), Outcome::Bad);
        assert_eq!(classify(&e, Some(500), Ending::Complete, refusal(Some(500), true)), Outcome::Good);
    }

    #[test]
    fn the_class_4xx_leaves_rate_limits_and_key_faults_to_the_key() {
        let e = BadOutcomes { client_errors: true, ..BadOutcomes::default() };
        assert_eq!(classify(&e, Some(400), Ending::Complete, refusal(Some(400), true)), Outcome::Bad);
        assert_eq!(classify(&e, Some(429), Ending::Complete, refusal(Some(429), true)), Outcome::RateLimited);
        assert_eq!(classify(&e, Some(401), Ending::Complete, refusal(Some(401), true)), Outcome::KeyRejected);
        assert_eq!(classify(&e, Some(401), Ending::Complete, refusal(Some(401), false)), Outcome::Bad);
    }

    #[test]
    fn faults_without_an_answer_count_as_the_status_the_client_sees() {
        let e = BadOutcomes { server_errors: true, ..BadOutcomes::default() };
        assert_eq!(classify(&e, None, Ending::Reset, refusal(None, true)), Outcome::Bad);
        let e = BadOutcomes { statuses: vec![504], ..BadOutcomes::default() };
        assert_eq!(classify(&e, None, Ending::Reset, refusal(None, true)), Outcome::Good);
        assert_eq!(classify(&e, None, Ending::Timeout, refusal(None, true)), Outcome::Bad);
    }

    #[test]
    fn a_reset_that_is_not_listed_is_not_bad() {
        let e = BadOutcomes { timeout: true, ..BadOutcomes::default() };
        assert_eq!(classify(&e, Some(200), Ending::Reset, refusal(Some(200), true)), Outcome::Good);
        assert_eq!(classify(&e, Some(200), Ending::Timeout, refusal(Some(200), true)), Outcome::Bad);
    }

    #[test]
    fn a_client_that_left_wins_over_every_other_flag() {
        assert_eq!(ending(flags::DOWNSTREAM_CONNECTION | flags::UPSTREAM_TIMEOUT, true), Ending::Cancelled);
        assert_eq!(ending(flags::DOWNSTREAM_RESET, false), Ending::Cancelled);
        // What Envoy does to the attempt after the client has broken the protocol is a consequence as well.
        let flags = flags::DOWNSTREAM_PROTOCOL | flags::LOCAL_RESET | flags::STREAM_IDLE;
        assert_eq!(ending(flags, false), Ending::ClientFault);
        assert_eq!(
            classify(&defaults(), None, Ending::ClientFault, Some(Refusal::Rejected)),
            Outcome::Cancelled
        );
    }

    #[test]
    fn envoy_overflow_and_rate_limiting_are_local() {
        // RL, UAEX
        for flag in [0x800, 0x1000] {
            assert_eq!(ending(flag, false), Ending::Local, "flag {flag:#x}");
        }
        assert_eq!(ending(flags::OVERFLOW, false), Ending::Overflow);
        assert_eq!(ending(flags::OVERFLOW | flags::CONNECTION_FAILURE, false), Ending::Reset);
        assert_eq!(classify(&defaults(), None, Ending::Overflow, refusal(None, true)), Outcome::Local);
    }

    #[test]
    fn an_exhausted_retry_budget_keeps_the_upstreams_answer() {
        assert_eq!(ending(0x8000, true), Ending::Complete);
        assert_eq!(
            ending(flags::OVERFLOW, true),
            Ending::Complete,
            "no retry because of the circuit breaker"
        );
    }
}
