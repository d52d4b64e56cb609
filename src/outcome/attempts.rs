//! A request in flight: what the `router` role (which sees the client's side) and the `keys` role (which sees every
//! attempt) know of it together, and what that says about the version.
//!
//! Each attempt is judged once as an answer (headers, or none) and, if it answered well, once more at its end (whole or
//! broken). The attempts are seen by the `keys` role; where that role is not in the chain the router's view of the final
//! answer stands in for the one attempt it can see. A failed attempt that Envoy retried still counts.

use crate::outcome::blame::Event;
use crate::outcome::blame::KeyOutcome;
use crate::outcome::{Ending, Outcome, classify};
use crate::plan::guard::BadOutcomes;
use crate::plan::pool::KeyRef;
use crate::time::{Micros, Millis, Span};

/// What an attempt carried, and to whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// The key of a pool.
    pub key: Option<KeyRef>,
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
    pub fn key_outcome(&self, wait: Option<Millis>) -> Option<KeyOutcome> {
        // By the status first: a guard may count 429 against the version as well.
        match (self.status, self.event?) {
            (Some(429), _) => Some(KeyOutcome::Limited(wait)),
            (Some(401 | 403), _) => Some(KeyOutcome::Rejected),
            (_, Event::Completed) => Some(KeyOutcome::Completed),
            (_, Event::Broke) => Some(KeyOutcome::Broke),
            (_, Event::Answered { outcome, .. }) => match outcome {
                Outcome::Good => Some(KeyOutcome::Accepted),
                Outcome::Bad => Some(KeyOutcome::Failed),
                Outcome::Cancelled | Outcome::CallerError => Some(KeyOutcome::Inconclusive),
                _ => None,
            },
        }
    }
}

/// The ledger of one request.
#[derive(Debug)]
pub struct Attempts {
    seen: Micros,
    /// A client that leaves after this long has left because of the latency.
    impatient_after: Option<Millis>,
    attempts: Vec<Attempt>,
    /// The router's own view of the answer: status, and whether it came from an upstream.
    answer: Option<(u16, bool)>,
    /// The `keys` role has seen an attempt.
    seen_by_keys: bool,
}

impl Attempts {
    /// A request seen at `seen`. `impatient_after`: the smallest latency limit.
    pub fn new(seen: Micros, impatient_after: Option<Millis>) -> Attempts {
        Attempts { seen, impatient_after, attempts: Vec::new(), answer: None, seen_by_keys: false }
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
        self.has_last_headers() || self.answer.is_some_and(|(_, reached)| reached)
    }

    /// Whether the last attempt's headers were seen by the `keys` role.
    pub fn has_last_headers(&self) -> bool {
        self.attempts.last().is_some_and(|attempt| attempt.heard.is_some())
    }

    /// When the headers of the answer came, if they were good ones: others Envoy may have kept, and answered itself later.
    pub fn good_headers_at(&self) -> Option<Micros> {
        self.attempts.last().filter(|attempt| attempt.state == State::Good).and_then(|attempt| attempt.heard)
    }

    /// Keys of a pool that this request has already tried.
    pub fn tried_keys(&self, pool: usize) -> Vec<usize> {
        let keys = self.attempts.iter().filter_map(|attempt| attempt.carried.key);
        keys.filter(|key| key.pool == pool).map(|key| key.key).collect()
    }

    /// How many attempts the assigned version has had.
    pub fn count_on_assigned(&self) -> u32 {
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
    pub fn record_skipped(&mut self, now: Micros, errors: &BadOutcomes, judged: &mut Vec<Judgement>) {
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
    pub fn record_headers(
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
            event: Some(Event::Answered { outcome, latency: good.then(|| now.since(began)) }),
            outcome: (!good).then_some(outcome),
            carried: held.carried,
            began,
            status: Some(status),
        })
    }

    /// An attempt is over without headers, and its client has left. (An attempt that failed by itself is settled by the
    /// next one or by the request's end, when Envoy says how.)
    pub fn settle_abandoned(
        &mut self,
        attempt: usize,
        now: Micros,
        errors: &BadOutcomes,
    ) -> Option<Judgement> {
        let mut judged = Vec::new();
        self.settle_open(attempt, now, Ending::Cancelled, errors, &mut judged);
        judged.pop()
    }

    /// An attempt is over without headers and its client is still there. Settled at once where a reset and a time-out mean
    /// the same; otherwise left for whoever learns which it was.
    pub fn settle_failed(&mut self, attempt: usize, now: Micros, errors: &BadOutcomes) -> Option<Judgement> {
        if errors.reset != errors.timeout {
            return None;
        }
        let mut judged = Vec::new();
        self.settle_open(attempt, now, Ending::Unanswered, errors, &mut judged);
        judged.pop()
    }

    /// The router saw an answer which the `keys` role did not: there is no such role here, or Envoy answered by itself.
    /// A good one counts at once; anything else waits for the end, when Envoy says how it came to be.
    pub fn record_router_answer(
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
            return self.record_headers(0, status, now, errors);
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
                        judged.extend(self.record_headers(n, status, now, errors));
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
    fn latency(&self, began: Micros, outcome: Outcome, ending: Ending, now: Micros) -> Option<Span> {
        let waited = now.since(began);
        let telling = match outcome {
            Outcome::Cancelled => self.impatient_after.is_some_and(|limit| waited > limit.span()),
            Outcome::Bad => ending == Ending::Timeout,
            _ => false,
        };
        telling.then_some(waited)
    }
}

#[cfg(test)]
mod tests;
