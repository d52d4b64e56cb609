//! A request in flight: what the `router` role (which sees the client's side) and the `keys` role (which sees every
//! attempt) know of it together, and what that says about the version.
//!
//! Each attempt is judged once as an answer (headers, or none) and, if it answered well, once more at its end (whole or
//! broken). The attempts are seen by the `keys` role; where that role is not in the chain the router's view of the final
//! answer stands in for the one attempt it can see. A failed attempt that Envoy retried still counts.

use crate::outcome::blame::Event;
use crate::outcome::blame::Fault;
use crate::outcome::{Ending, Outcome, classify};
use crate::plan::guard::BadOutcomes;
use crate::time::{Micros, Millis};

/// What an attempt carried, and to whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Index of the pool, and of the key in it.
    pub key: Option<(usize, usize)>,
    /// Fingerprint of that key's value.
    pub fingerprint: Option<u64>,
    /// It went to stable although the request was assigned to a canary (failover).
    pub to_stable: bool,
}

impl Carried {
    /// Whether it was a key of a pool: only then is a refusal the key's fault and not the caller's.
    fn own_key(&self) -> bool {
        self.key.is_some()
    }
}

/// One try at an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attempt {
    began: Micros,
    carried: Carried,
    /// When it gave headers.
    heard: Option<Micros>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No headers so far.
    Open,
    /// Good headers; its end is awaited.
    Good,
    /// Judged for good.
    Settled(Outcome),
}

/// A judgement to record: an event for the version's statistics, and for the metrics the attempt's final outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// For the version; `None` if this says nothing about it (yet).
    pub event: Option<Event>,
    /// The attempt is over and was this.
    pub outcome: Option<Outcome>,
    /// What the attempt carried.
    pub carried: Carried,
    /// When it began.
    pub began: Micros,
    /// Its status, if it had one.
    pub status: Option<u16>,
}

impl Judgement {
    /// What it says about the key that the attempt carried; `None`: nothing. `wait`: what the response says of a rate limit.
    pub fn fault(&self, wait: Option<Millis>) -> Option<Fault> {
        // By the status first: a guard may count 429 against the version as well.
        match (self.status, self.event?) {
            (Some(429), _) => Some(Fault::Limited(wait)),
            (Some(401 | 403), _) => Some(Fault::Rejected),
            (_, Event::Completed) => Some(Fault::None),
            (_, Event::Broke) => Some(Fault::Broke),
            (_, Event::Answered { outcome, .. }) => match outcome {
                Outcome::Good => Some(Fault::Accepted),
                Outcome::Bad => Some(Fault::Failing),
                Outcome::Cancelled | Outcome::CallerError => Some(Fault::Nothing),
                _ => None,
            },
        }
    }
}

/// The ledger of one request.
#[derive(Debug)]
pub struct Flight {
    seen: Micros,
    /// A client that leaves after this long has left because of the latency.
    impatient_after: Option<Millis>,
    attempts: Vec<Attempt>,
    /// The router's own view of the answer: status, and whether it came from an upstream.
    answer: Option<(u16, bool)>,
    /// The `keys` role has seen an attempt.
    seen_by_keys: bool,
}

impl Flight {
    /// A request seen at `seen`. `impatient_after`: the smallest latency limit.
    pub fn new(seen: Micros, impatient_after: Option<Millis>) -> Flight {
        Flight { seen, impatient_after, attempts: Vec::new(), answer: None, seen_by_keys: false }
    }

    /// When the request was seen.
    pub fn seen(&self) -> Micros {
        self.seen
    }

    /// Whether the `keys` role has seen any attempt.
    pub fn seen_by_keys(&self) -> bool {
        self.seen_by_keys
    }

    /// Whether an upstream has answered, as far as either role knows.
    pub fn reached(&self) -> bool {
        self.last_status_seen() || self.answer.is_some_and(|(_, reached)| reached)
    }

    /// Whether the last attempt's headers were seen by the `keys` role.
    pub fn last_status_seen(&self) -> bool {
        self.attempts.last().is_some_and(|attempt| attempt.heard.is_some())
    }

    /// When the headers of the answer came, if they were good ones: others Envoy may have kept, and answered itself later.
    pub fn good_since(&self) -> Option<Micros> {
        self.attempts.last().filter(|attempt| attempt.state == State::Good).and_then(|attempt| attempt.heard)
    }

    /// Keys of a pool that this request has already tried.
    pub fn tried(&self, pool: usize) -> Vec<usize> {
        let keys = self.attempts.iter().filter_map(|attempt| attempt.carried.key);
        keys.filter(|(of, _)| *of == pool).map(|(_, key)| key).collect()
    }

    /// How many attempts the assigned version has had.
    pub fn attempts_on_assigned(&self) -> u32 {
        let on_assigned = self.attempts.iter().filter(|attempt| !attempt.carried.to_stable);
        u32::try_from(on_assigned.count()).unwrap_or(u32::MAX)
    }

    /// Whether the last attempt went to stable by failover.
    pub fn served_by_stable(&self) -> bool {
        self.attempts.last().is_some_and(|attempt| attempt.carried.to_stable)
    }

    /// An attempt begins. Any earlier one that never answered has failed: Envoy would
    /// not try again otherwise. Returns the attempt's number.
    pub fn begin(
        &mut self,
        now: Micros,
        carried: Carried,
        errors: &BadOutcomes,
        judged: &mut Vec<Judgement>,
    ) -> usize {
        for n in 0..self.attempts.len() {
            self.settle_open(n, now, Ending::Unanswered, errors, judged);
        }
        self.seen_by_keys = true;
        self.attempts.push(Attempt { began: now, carried, heard: None, state: State::Open });
        self.attempts.len().saturating_sub(1)
    }

    /// Envoy goes to stable with its first attempt: the canary's cluster has no endpoint to go to, which counts against it as it
    /// does where Envoy answers so by itself.
    pub fn passed_over(&mut self, now: Micros, errors: &BadOutcomes, judged: &mut Vec<Judgement>) {
        self.attempts.push(Attempt {
            began: now,
            carried: Carried::default(),
            heard: None,
            state: State::Open,
        });
        let n = self.attempts.len().saturating_sub(1);
        self.settle_open(n, now, Ending::Reset, errors, judged);
    }

    /// Headers arrived for an attempt.
    pub fn answered(
        &mut self,
        attempt: usize,
        status: u16,
        now: Micros,
        errors: &BadOutcomes,
    ) -> Option<Judgement> {
        let began = self.began(attempt);
        let held = self.attempts.get_mut(attempt).filter(|held| held.state == State::Open)?;
        let outcome = classify(errors, Some(status), Ending::Complete, held.carried.own_key());
        let good = outcome == Outcome::Good;
        held.heard = Some(now);
        held.state = if good { State::Good } else { State::Settled(outcome) };
        Some(Judgement {
            event: Some(Event::Answered { outcome, latency: good.then(|| Micros(now.since(began))) }),
            outcome: (!good).then_some(outcome),
            carried: held.carried,
            began,
            status: Some(status),
        })
    }

    /// An attempt is over without headers, and its client has left. (An attempt that failed by itself is settled by the
    /// next one or by the request's end, when Envoy says how.)
    pub fn abandoned(&mut self, attempt: usize, now: Micros, errors: &BadOutcomes) -> Option<Judgement> {
        let mut judged = Vec::new();
        self.settle_open(attempt, now, Ending::Cancelled, errors, &mut judged);
        judged.pop()
    }

    /// An attempt is over without headers and its client is still there. Settled at once where a reset and a time-out mean
    /// the same; otherwise left for whoever learns which it was.
    pub fn failed(&mut self, attempt: usize, now: Micros, errors: &BadOutcomes) -> Option<Judgement> {
        if errors.reset != errors.timeout {
            return None;
        }
        let mut judged = Vec::new();
        self.settle_open(attempt, now, Ending::Unanswered, errors, &mut judged);
        judged.pop()
    }

    /// The router saw an answer which the `keys` role did not: there is no such role here, or Envoy answered by itself.
    /// A good one counts at once; anything else waits for the end, when Envoy says how it came to be.
    pub fn router_answer(
        &mut self,
        (status, reached): (u16, bool),
        carried: Carried,
        now: Micros,
        errors: &BadOutcomes,
    ) -> Option<Judgement> {
        self.answer = Some((status, reached));
        if !reached || self.seen_by_keys {
            return None;
        }
        self.attempts.push(Attempt { began: self.seen, carried, heard: None, state: State::Open });
        if classify(errors, Some(status), Ending::Complete, carried.own_key()) == Outcome::Good {
            return self.answered(0, status, now, errors);
        }
        None
    }

    /// The request is over. Settles what is open and returns the request's own outcome. `carried`: what the router put in, for
    /// an attempt that nobody saw.
    pub fn finish(
        &mut self,
        ending: Ending,
        carried: Carried,
        now: Micros,
        errors: &BadOutcomes,
        judged: &mut Vec<Judgement>,
    ) -> Outcome {
        let status = self.answer.filter(|(_, reached)| *reached).map(|(status, _)| status);
        if ending == Ending::Overflow {
            self.attempts.pop_if(|last| last.state == State::Open);
        }
        if self.attempts.is_empty() {
            // Nobody saw an attempt: either none was made, or there is no `keys` role and no upstream answered.
            let outcome = classify(errors, status, ending, carried.own_key());
            if outcome != Outcome::Local {
                let latency = self.latency(self.seen, outcome, ending, now);
                let event = Some(Event::Answered { outcome, latency });
                judged.push(Judgement { event, outcome: Some(outcome), carried, began: self.seen, status });
            }
            return outcome;
        }
        let last = self.attempts.len().saturating_sub(1);
        for n in 0..self.attempts.len() {
            let how = if n == last { ending } else { Ending::Unanswered };
            match self.attempts.get(n).map(|attempt| attempt.state) {
                Some(State::Open) if n == last && status.is_some() => {
                    if let Some((status, _)) = self.answer {
                        judged.extend(self.answered(n, status, now, errors));
                    }
                    self.settle_good(n, how, errors, judged);
                }
                Some(State::Open) => {
                    // Envoy answered although an attempt was made: the attempt gave nothing.
                    let how = if how == Ending::Local { Ending::Unanswered } else { how };
                    self.settle_open(n, now, how, errors, judged);
                }
                Some(State::Good) if n == last => self.settle_good(n, how, errors, judged),
                _ => {}
            }
        }
        match self.attempts.last().map(|attempt| attempt.state) {
            Some(State::Settled(outcome)) => outcome,
            _ => Outcome::Good,
        }
    }

    fn began(&self, attempt: usize) -> Micros {
        match attempt {
            0 => self.seen,
            n => self.attempts.get(n).map_or(self.seen, |held| held.began),
        }
    }

    fn settle_open(
        &mut self,
        n: usize,
        now: Micros,
        ending: Ending,
        errors: &BadOutcomes,
        judged: &mut Vec<Judgement>,
    ) {
        let began = self.began(n);
        let Some(held) = self.attempts.get_mut(n).filter(|held| held.state == State::Open) else { return };
        let outcome = classify(errors, None, ending, held.carried.own_key());
        held.state = State::Settled(outcome);
        let carried = held.carried;
        let event = Some(Event::Answered { outcome, latency: self.latency(began, outcome, ending, now) });
        judged.push(Judgement { event, outcome: Some(outcome), carried, began, status: None });
    }

    /// The end of an attempt with good headers.
    fn settle_good(&mut self, n: usize, ending: Ending, errors: &BadOutcomes, judged: &mut Vec<Judgement>) {
        let began = self.began(n);
        let Some(held) = self.attempts.get_mut(n).filter(|held| held.state == State::Good) else { return };
        // A status that let it pass as good does so again: only the ending matters.
        let outcome = classify(errors, Some(200), ending, held.carried.own_key());
        let event = match outcome {
            Outcome::Bad => Some(Event::Broke),
            Outcome::Good => Some(Event::Completed),
            _ => None,
        };
        held.state = State::Settled(outcome);
        judged.push(Judgement { event, outcome: Some(outcome), carried: held.carried, began, status: None });
    }

    /// The latency worth recording where no headers came: a time-out took at least this long, and a client that left after
    /// the limit left because of it. Fast failures say nothing about speed.
    fn latency(&self, began: Micros, outcome: Outcome, ending: Ending, now: Micros) -> Option<Micros> {
        let waited = now.since(began);
        let telling = match outcome {
            Outcome::Cancelled => self.impatient_after.is_some_and(|limit| waited > limit.as_micros()),
            Outcome::Bad => ending == Ending::Timeout,
            _ => false,
        };
        telling.then_some(Micros(waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1000;

    fn errors() -> BadOutcomes {
        BadOutcomes { server_errors: true, reset: true, timeout: true, ..BadOutcomes::default() }
    }

    fn flight() -> Flight {
        Flight::new(Micros(0), Some(Millis(1000)))
    }

    fn answered(outcome: Outcome, latency: Option<u64>) -> Option<Event> {
        Some(Event::Answered { outcome, latency: latency.map(Micros) })
    }

    fn finish(flight: &mut Flight, ending: Ending, at: u64) -> (Outcome, Vec<Judgement>) {
        let mut judged = Vec::new();
        let outcome = flight.finish(ending, Carried::default(), Micros(at), &errors(), &mut judged);
        (outcome, judged)
    }

    fn key_of(key: usize) -> Carried {
        Carried { key: Some((0, key)), ..Carried::default() }
    }

    fn begin(flight: &mut Flight, at: u64, key: usize) -> (usize, Vec<Judgement>) {
        let mut judged = Vec::new();
        let n = flight.begin(Micros(at), key_of(key), &errors(), &mut judged);
        (n, judged)
    }

    #[test]
    fn an_attempt_that_failed_without_headers_has_reached_nobody() {
        let mut f = flight();
        let (n, _) = begin(&mut f, 0, 0);
        assert_eq!(f.failed(n, Micros(MS), &errors()).map(|j| j.outcome), Some(Some(Outcome::Bad)));
        assert!(!f.last_status_seen() && !f.reached(), "nobody answered");
        assert_eq!(
            f.router_answer((503, false), Carried::default(), Micros(MS), &errors()),
            None,
            "Envoy's own answer"
        );
        assert!(!f.reached());
        assert_eq!(finish(&mut f, Ending::Reset, 2 * MS), (Outcome::Bad, vec![]));
    }

    #[test]
    fn a_good_attempt_counts_at_its_headers_and_completes_at_its_end() {
        let mut f = flight();
        let (n, earlier) = begin(&mut f, MS, 3);
        assert!(earlier.is_empty());
        let at_headers = f.answered(n, 200, Micros(20 * MS), &errors()).unwrap();
        assert_eq!(at_headers.event, answered(Outcome::Good, Some(20 * MS)));
        assert_eq!(at_headers.outcome, None, "not over yet");
        let (outcome, judged) = finish(&mut f, Ending::Complete, 90 * MS);
        assert_eq!(outcome, Outcome::Good);
        assert_eq!(judged.len(), 1);
        assert_eq!((judged[0].event, judged[0].outcome), (Some(Event::Completed), Some(Outcome::Good)));
        assert_eq!(judged[0].carried, key_of(3));
    }

    #[test]
    fn a_stream_that_breaks_is_bad_at_its_end() {
        for ending in [Ending::Reset, Ending::Timeout] {
            let mut f = flight();
            let (n, _) = begin(&mut f, 0, 0);
            f.answered(n, 200, Micros(MS), &errors());
            let (outcome, judged) = finish(&mut f, ending, 9 * MS);
            assert_eq!((outcome, judged[0].event), (Outcome::Bad, Some(Event::Broke)), "{ending:?}");
        }
    }

    #[test]
    fn only_a_whole_answer_says_that_a_key_works() {
        let says = |status: u16, ending: Ending| {
            let mut f = flight();
            let (n, mut judged) = begin(&mut f, 0, 0);
            judged.extend(f.answered(n, status, Micros(MS), &errors()));
            judged.extend(finish(&mut f, ending, 9 * MS).1);
            judged.iter().filter_map(|judgement| judgement.fault(None)).collect::<Vec<_>>()
        };
        assert_eq!(says(200, Ending::Complete), [Fault::Accepted, Fault::None]);
        assert_eq!(says(200, Ending::Reset), [Fault::Accepted, Fault::Broke]);
        assert_eq!(says(200, Ending::Cancelled), [Fault::Accepted], "how it would have ended nobody knows");
        assert_eq!(says(503, Ending::Complete), [Fault::Failing]);
        assert_eq!(says(400, Ending::Complete), [Fault::Nothing], "perhaps nobody has looked at the key");
        assert_eq!(says(429, Ending::Complete), [Fault::Limited(None)]);
        assert_eq!(says(401, Ending::Complete), [Fault::Rejected]);
    }

    #[test]
    fn a_canary_that_envoy_passes_over_has_failed_and_stable_has_served() {
        let mut f = flight();
        let mut judged = Vec::new();
        f.passed_over(Micros(MS), &errors(), &mut judged);
        assert_eq!(judged.len(), 1);
        assert_eq!((judged[0].event, judged[0].outcome), (answered(Outcome::Bad, None), Some(Outcome::Bad)));
        assert_eq!(judged[0].carried, Carried::default(), "no key had a part in it");
        assert_eq!(f.attempts_on_assigned(), 1);
        let stable = Carried { to_stable: true, ..key_of(1) };
        let n = f.begin(Micros(MS), stable, &errors(), &mut judged);
        assert_eq!(judged.len(), 1, "once");
        let good = f.answered(n, 200, Micros(3 * MS), &errors()).unwrap();
        assert_eq!((good.event, good.carried), (answered(Outcome::Good, Some(2 * MS)), stable));
        assert!(f.served_by_stable());
        assert_eq!(finish(&mut f, Ending::Complete, 4 * MS).0, Outcome::Good);
    }

    #[test]
    fn a_client_that_leaves_a_stream_judges_nobody() {
        let mut f = flight();
        let (n, _) = begin(&mut f, 0, 0);
        f.answered(n, 200, Micros(MS), &errors());
        let (outcome, judged) = finish(&mut f, Ending::Cancelled, 9 * MS);
        assert_eq!((outcome, judged[0].event), (Outcome::Cancelled, None));
    }

    #[test]
    fn an_attempt_that_envoy_retried_still_counts_against_its_version() {
        let mut f = flight();
        let (first, _) = begin(&mut f, 0, 0);
        let bad = f.answered(first, 503, Micros(5 * MS), &errors()).unwrap();
        assert_eq!((bad.event, bad.outcome), (answered(Outcome::Bad, None), Some(Outcome::Bad)));
        let (second, earlier) = begin(&mut f, 30 * MS, 1);
        assert!(earlier.is_empty(), "already settled");
        let good = f.answered(second, 200, Micros(40 * MS), &errors()).unwrap();
        assert_eq!(good.event, answered(Outcome::Good, Some(10 * MS)), "a retry is timed from its beginning");
        let (outcome, judged) = finish(&mut f, Ending::Complete, 50 * MS);
        assert_eq!((outcome, judged.len()), (Outcome::Good, 1));
        assert_eq!(f.tried(0), [0, 1]);
    }

    #[test]
    fn an_attempt_without_an_answer_is_settled_by_the_next() {
        let mut f = flight();
        begin(&mut f, 0, 0);
        let (_, earlier) = begin(&mut f, 30 * MS, 1);
        assert_eq!(earlier.len(), 1);
        assert_eq!(earlier[0].event, answered(Outcome::Bad, None));
        assert_eq!(earlier[0].carried, key_of(0));
    }

    #[test]
    fn an_unanswered_attempt_waits_only_where_reset_and_timeout_differ() {
        let mut f = flight();
        let (n, _) = begin(&mut f, 0, 0);
        assert!(f.failed(n, Micros(MS), &errors()).is_some());
        assert!(f.failed(n, Micros(MS), &errors()).is_none(), "once only");
        let only_timeouts = BadOutcomes { timeout: true, ..BadOutcomes::default() };
        let mut f = flight();
        let n = f.begin(Micros(0), Carried::default(), &only_timeouts, &mut Vec::new());
        assert!(f.failed(n, Micros(MS), &only_timeouts).is_none());
        let outcome =
            f.finish(Ending::Reset, Carried::default(), Micros(MS), &only_timeouts, &mut Vec::new());
        assert_eq!(outcome, Outcome::Good, "a reset is not among the errors");
    }

    #[test]
    fn a_timeout_is_as_slow_as_it_took() {
        let mut f = flight();
        begin(&mut f, 0, 0);
        let (outcome, judged) = finish(&mut f, Ending::Timeout, 3000 * MS);
        assert_eq!(outcome, Outcome::Bad);
        assert_eq!(judged[0].event, answered(Outcome::Bad, Some(3000 * MS)));
    }

    #[test]
    fn a_client_that_leaves_is_neutral_but_past_the_latency_limit_it_is_slow() {
        for (left_at, latency) in [(900 * MS, None), (1200 * MS, Some(1200 * MS))] {
            let mut f = flight();
            let (n, _) = begin(&mut f, 0, 0);
            let judged = f.abandoned(n, Micros(left_at), &errors()).unwrap();
            assert_eq!(judged.event, answered(Outcome::Cancelled, latency));
            assert!(finish(&mut f, Ending::Cancelled, left_at).1.is_empty(), "settled once");
        }
    }

    #[test]
    fn without_the_keys_role_the_routers_view_stands_in() {
        let mut f = flight();
        let good = f.router_answer((200, true), Carried::default(), Micros(20 * MS), &errors()).unwrap();
        assert_eq!(good.event, answered(Outcome::Good, Some(20 * MS)));
        assert_eq!(finish(&mut f, Ending::Complete, 30 * MS).0, Outcome::Good);

        let mut f = flight();
        assert!(f.router_answer((500, true), Carried::default(), Micros(20 * MS), &errors()).is_none());
        let (outcome, judged) = finish(&mut f, Ending::Complete, 30 * MS);
        assert_eq!((outcome, judged[0].event), (Outcome::Bad, answered(Outcome::Bad, None)));

        let mut f = flight();
        assert!(f.router_answer((503, false), Carried::default(), Micros(MS), &errors()).is_none());
        let (outcome, judged) = finish(&mut f, Ending::Reset, MS);
        assert_eq!((outcome, judged[0].event), (Outcome::Bad, answered(Outcome::Bad, None)));
    }

    #[test]
    fn what_envoy_answers_before_any_attempt_judges_nobody() {
        let mut f = flight();
        f.router_answer((403, false), Carried::default(), Micros(MS), &errors());
        assert_eq!(finish(&mut f, Ending::Local, MS), (Outcome::Local, vec![]));
    }

    #[test]
    fn an_attempt_that_the_circuit_breaker_forbids_was_none() {
        let mut f = flight();
        begin(&mut f, 0, 0);
        f.router_answer((503, false), Carried::default(), Micros(MS), &errors());
        assert_eq!(finish(&mut f, Ending::Overflow, MS), (Outcome::Local, vec![]));

        let mut f = flight();
        let (first, _) = begin(&mut f, 0, 0);
        f.answered(first, 503, Micros(MS), &errors());
        begin(&mut f, 2 * MS, 1);
        assert_eq!(finish(&mut f, Ending::Overflow, 2 * MS), (Outcome::Bad, vec![]), "what was made counts");
    }

    #[test]
    fn an_attempt_is_never_local_once_it_was_made() {
        let mut f = flight();
        begin(&mut f, 0, 0);
        f.router_answer((503, false), Carried::default(), Micros(MS), &errors());
        let (outcome, judged) = finish(&mut f, Ending::Local, MS);
        assert_eq!((outcome, judged.len()), (Outcome::Bad, 1));
    }
}
