//! The attempts of one request, as both roles see them: the `router` role sees the client's side, the `keys` role each attempt.
//!
//! Each attempt is judged as an answer once (headers, or none). After good headers it is judged again at its end (whole or
//! broken). Without a `keys` role in the chain, the router's view of the final answer stands in for the one attempt that it can
//! see. A failed attempt counts even if Envoy retried it.

use crate::outcome::blame::{Event, KeyAnswer};
use crate::outcome::judgement::{Carried, Judgement};
use crate::outcome::{Ending, Outcome, REQUEST_TIMEOUT, classify};
use crate::plan::guard::BadOutcomes;
use crate::plan::pool::{KeyRef, Refusal};
use crate::time::{Micros, Millis, Span};

/// One try at an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attempt {
    began: Micros,
    carried: Carried,
    /// Time of the headers, if the `keys` role saw them.
    headers_at: Option<Micros>,
    state: State,
    /// The headers of its answer.
    headers: Option<AnswerHeaders>,
    /// Its refusal was taken, see [`Attempts::take_refusals`].
    taken: bool,
}

impl Attempt {
    fn new(began: Micros, carried: Carried) -> Attempt {
        Attempt { began, carried, headers_at: None, state: State::Open, headers: None, taken: false }
    }

    /// Returns what its answer says about its key.
    fn on_key(&self) -> KeyAnswer {
        self.headers.map(|headers| headers.on_key).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No headers so far.
    Open,
    /// Good headers; the end is awaited.
    Good,
    /// Over, with its final outcome.
    Settled(Outcome),
}

/// The headers of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerHeaders {
    /// Status.
    pub status: u16,
    /// What they say about the key of the attempt.
    pub on_key: KeyAnswer,
}

/// The headers of an answer to a request that carried a key of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyedAnswer {
    /// The key.
    pub key: KeyRef,
    /// The headers.
    pub headers: AnswerHeaders,
}

/// A refusal of a key that a request has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The key.
    pub carried: Carried,
    /// Time at which its attempt began.
    pub began: Micros,
    /// The refusal.
    pub refusal: Refusal,
    /// The request has tried no other key of the pool.
    pub alone: bool,
}

/// An answer as the router sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterAnswer {
    /// The headers.
    pub headers: AnswerHeaders,
    /// The answer came from an upstream, not from Envoy itself.
    pub from_upstream: bool,
}

/// The end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestEnd {
    /// How the stream ended.
    pub ending: Ending,
    /// The key that the router put in, for an attempt that no role saw.
    pub carried: Carried,
    /// Time of the end.
    pub now: Micros,
}

/// The attempts of one request.
#[derive(Debug)]
pub struct Attempts {
    seen_at: Micros,
    /// Smallest latency limit. A client that leaves later has left because of the latency.
    latency_limit: Option<Millis>,
    attempts: Vec<Attempt>,
    /// The answer, as the router sees it.
    answer: Option<RouterAnswer>,
    /// The `keys` role has seen an attempt.
    seen_by_keys_role: bool,
    /// Time at which the client had sent all of the request, if that is known.
    request_ended: Option<Micros>,
}

impl Attempts {
    /// Returns the attempts of a new request: none. `latency_limit`: the smallest of the guard.
    pub fn new(seen_at: Micros, latency_limit: Option<Millis>) -> Attempts {
        Attempts {
            seen_at,
            latency_limit,
            attempts: Vec::new(),
            answer: None,
            seen_by_keys_role: false,
            request_ended: None,
        }
    }

    /// Returns the time at which the request was seen.
    pub fn seen_at(&self) -> Micros {
        self.seen_at
    }

    /// Records that the client has sent all of the request. Latencies run from here: the time of an upload is the client's.
    pub fn record_request_end(&mut self, now: Micros) {
        self.request_ended.get_or_insert(now);
    }

    /// Returns the time from which the latency of the request counts: its end, else its headers.
    pub fn waiting_since(&self) -> Micros {
        self.request_ended.map_or(self.seen_at, |ended| ended.max(self.seen_at))
    }

    /// Returns whether the `keys` role has seen an attempt.
    pub fn seen_by_keys_role(&self) -> bool {
        self.seen_by_keys_role
    }

    /// Returns whether an upstream has answered, as far as either role knows.
    pub fn upstream_answered(&self) -> bool {
        self.has_last_headers() || self.answer.is_some_and(|answer| answer.from_upstream)
    }

    /// Returns whether the `keys` role has seen the headers of the last attempt.
    pub fn has_last_headers(&self) -> bool {
        self.attempts.last().is_some_and(|attempt| attempt.headers_at.is_some())
    }

    /// Returns the time of the answer's headers, if they were good. Envoy may have kept bad ones and answered itself later.
    pub fn good_headers_at(&self) -> Option<Micros> {
        let good = self.attempts.last().filter(|attempt| attempt.state == State::Good);
        good.and_then(|attempt| attempt.headers_at)
    }

    /// Returns the keys of a pool that this request has tried.
    pub fn tried_keys(&self, pool: usize) -> Vec<usize> {
        let keys = self.attempts.iter().filter_map(|attempt| attempt.carried.key);
        keys.filter(|key| key.pool == pool).map(|key| key.key).collect()
    }

    /// Returns the key that an attempt carried.
    pub fn key_of(&self, attempt: usize) -> Option<KeyRef> {
        self.attempts.get(attempt).and_then(|attempt| attempt.carried.key)
    }

    /// Returns the headers of the last answer that an upstream gave to a pool's key, as either role knows it.
    pub fn last_answer(&self, router_key: Carried) -> Option<KeyedAnswer> {
        let seen = self.attempts.last().and_then(|last| Some((last.carried.key?, last.headers?)));
        let by_router = || {
            let answer = self.answer.filter(|answer| answer.from_upstream && !self.seen_by_keys_role)?;
            Some((router_key.key?, answer.headers))
        };
        seen.or_else(by_router).map(|(key, headers)| KeyedAnswer { key, headers })
    }

    fn refused(&self, attempt: &Attempt) -> Option<Refused> {
        let (key, refusal) = (attempt.carried.key?, attempt.on_key().refusal()?);
        let others = || self.attempts.iter().filter_map(|other| other.carried.key);
        let alone = !others().any(|other| other.pool == key.pool && other.key != key.key);
        Some(Refused { carried: attempt.carried, began: attempt.began, refusal, alone })
    }

    /// Returns whether an attempt had a refusal that was not taken yet.
    pub fn has_refusals(&self) -> bool {
        self.attempts.iter().any(|attempt| !attempt.taken && self.refused(attempt).is_some())
    }

    /// Takes the refusals that the request has met so far, each key's once. Called when the request is decided: an attempt has got
    /// good headers, or all have failed.
    pub fn take_refusals(&mut self) -> Vec<Refused> {
        let mut taken: Vec<Refused> = Vec::new();
        for refused in self.attempts.iter().filter(|attempt| !attempt.taken).filter_map(|a| self.refused(a)) {
            if !taken.iter().any(|held| held.carried.key == refused.carried.key) {
                taken.push(refused);
            }
        }
        for attempt in &mut self.attempts {
            attempt.taken = true;
        }
        taken
    }

    /// Returns the number of attempts that count for `failover.after`: those that went to the assigned version, except those that
    /// ended with a refusal or a limit of their key.
    pub fn count_on_assigned(&self) -> u32 {
        let counts = |attempt: &&Attempt| {
            !attempt.carried.to_stable
                && (attempt.on_key() == KeyAnswer::Silent || attempt.carried.key.is_none())
        };
        let on_assigned = self.attempts.iter().filter(counts);
        u32::try_from(on_assigned.count()).unwrap_or(u32::MAX)
    }

    /// Returns whether the last attempt went to stable by failover.
    pub fn served_by_stable(&self) -> bool {
        self.attempts.last().is_some_and(|attempt| attempt.carried.to_stable)
    }

    /// Begins an attempt and returns its number. Earlier attempts without an answer have failed: otherwise Envoy would not try
    /// again.
    pub fn begin(
        &mut self,
        now: Micros,
        carried: Carried,
        errors: &BadOutcomes,
        judged: &mut Vec<Judgement>,
    ) -> usize {
        for n in 0..self.attempts.len() {
            judged.extend(self.settle_open(n, now, Ending::Unanswered, errors));
        }
        self.seen_by_keys_role = true;
        self.attempts.push(Attempt::new(now, carried));
        self.attempts.len().saturating_sub(1)
    }

    /// Records that Envoy goes to stable with its first attempt, because the canary's cluster has no endpoint. This counts against
    /// the canary just as Envoy's own answer in that case does.
    pub fn record_skipped(&mut self, now: Micros, errors: &BadOutcomes) -> Option<Judgement> {
        self.attempts.push(Attempt::new(now, Carried::default()));
        let n = self.attempts.len().saturating_sub(1);
        self.settle_open(n, now, Ending::Reset, errors)
    }

    /// Records the headers of an attempt.
    pub fn record_headers(
        &mut self,
        attempt: usize,
        headers: AnswerHeaders,
        now: Micros,
        errors: &BadOutcomes,
    ) -> Option<Judgement> {
        let AnswerHeaders { status, on_key } = headers;
        let (began, waited) = (self.began(attempt), self.waited(attempt, now));
        let held = self.attempts.get_mut(attempt).filter(|held| held.state == State::Open)?;
        let outcome = classify(errors, Some(status), Ending::Complete, on_key.refusal());
        let good = outcome == Outcome::Good;
        held.headers_at = Some(now);
        held.headers = Some(headers);
        held.state = if good { State::Good } else { State::Settled(outcome) };
        Some(Judgement {
            event: Some(Event::Answered { outcome, latency: good.then_some(waited) }),
            outcome: (!good).then_some(outcome),
            carried: held.carried,
            began,
            status: Some(status),
            on_key,
        })
    }

    /// Settles an attempt without headers after its client has left, or has failed to send its request. (An attempt that failed by
    /// itself is settled by the next one, or at the request's end, when Envoy says how it failed.)
    pub fn settle_abandoned(
        &mut self,
        attempt: usize,
        ending: Ending,
        now: Micros,
        errors: &BadOutcomes,
    ) -> Option<Judgement> {
        self.settle_open(attempt, now, ending, errors)
    }

    /// Settles an attempt that failed without headers, if a reset and a time-out mean the same to the guard. Otherwise the next
    /// attempt settles it, or the request's end.
    pub fn settle_failed(&mut self, attempt: usize, now: Micros, errors: &BadOutcomes) -> Option<Judgement> {
        if errors.reset != errors.timeout {
            return None;
        }
        self.settle_open(attempt, now, Ending::Unanswered, errors)
    }

    /// Records an answer that the router saw and the `keys` role did not: the chain has no such role, or Envoy answered by itself.
    /// A good answer counts at once. Any other waits for the end, when Envoy says how it came about.
    pub fn record_router_answer(
        &mut self,
        answer: RouterAnswer,
        carried: Carried,
        now: Micros,
        errors: &BadOutcomes,
    ) -> Option<Judgement> {
        self.answer = Some(answer);
        if !answer.from_upstream || self.seen_by_keys_role {
            return None;
        }
        self.attempts.push(Attempt::new(self.seen_at, carried));
        let AnswerHeaders { status, on_key } = answer.headers;
        let outcome = classify(errors, Some(status), Ending::Complete, on_key.refusal());
        if outcome == Outcome::Good { self.record_headers(0, answer.headers, now, errors) } else { None }
    }

    /// Ends the request: settles its open attempts and returns its outcome.
    pub fn finish(&mut self, end: RequestEnd, errors: &BadOutcomes, judged: &mut Vec<Judgement>) -> Outcome {
        let is_late =
            |answer: RouterAnswer| !answer.from_upstream && answer.headers.status == REQUEST_TIMEOUT;
        let ending = if self.answer.is_some_and(is_late) { Ending::ClientFault } else { end.ending };
        let end = RequestEnd { ending, ..end };
        let now = end.now;
        let headers = self.answer.filter(|answer| answer.from_upstream).map(|answer| answer.headers);
        if ending == Ending::Overflow {
            self.attempts.pop_if(|last| last.state == State::Open);
        }
        let Some(last) = self.attempts.len().checked_sub(1) else {
            return self.finish_unseen(headers, end, errors, judged);
        };
        for n in 0..last {
            judged.extend(self.settle_open(n, now, Ending::Unanswered, errors));
        }
        match (self.attempts.get(last).map(|attempt| attempt.state), headers) {
            (Some(State::Open), Some(headers)) => {
                judged.extend(self.record_headers(last, headers, now, errors));
                judged.extend(self.settle_good(last, ending, errors));
            }
            (Some(State::Open), None) => {
                // Envoy answered by itself although an attempt was made: the attempt got no answer.
                let ending = if ending == Ending::Local { Ending::Unanswered } else { ending };
                judged.extend(self.settle_open(last, now, ending, errors));
            }
            (Some(State::Good), _) => judged.extend(self.settle_good(last, ending, errors)),
            _ => {}
        }
        match self.attempts.last().map(|attempt| attempt.state) {
            Some(State::Settled(outcome)) => outcome,
            _ => Outcome::Good,
        }
    }

    /// Ends a request without a known attempt: none was made, or there is no `keys` role and no upstream answered.
    fn finish_unseen(
        &mut self,
        headers: Option<AnswerHeaders>,
        RequestEnd { ending, carried, now }: RequestEnd,
        errors: &BadOutcomes,
        judged: &mut Vec<Judgement>,
    ) -> Outcome {
        let (status, on_key) = (headers.map(|h| h.status), headers.map(|h| h.on_key).unwrap_or_default());
        let outcome = classify(errors, status, ending, on_key.refusal());
        if outcome != Outcome::Local {
            let began = self.seen_at;
            let latency = self.latency(now.since(self.waiting_since()), outcome, ending);
            let event = Some(Event::Answered { outcome, latency });
            judged.push(Judgement { event, outcome: Some(outcome), carried, began, status, on_key });
            self.attempts.push(Attempt {
                headers,
                state: State::Settled(outcome),
                ..Attempt::new(began, carried)
            });
        }
        outcome
    }

    /// Returns the time at which an attempt began. The first one begins with its request.
    fn began(&self, attempt: usize) -> Micros {
        match attempt {
            0 => self.seen_at,
            n => self.attempts.get(n).map_or(self.seen_at, |held| held.began),
        }
    }

    /// Returns the time that has passed for an attempt since it began and the client had sent all of the request.
    fn waited(&self, attempt: usize, now: Micros) -> Span {
        now.since(self.began(attempt).max(self.waiting_since()))
    }

    /// Settles an attempt without headers.
    fn settle_open(
        &mut self,
        n: usize,
        now: Micros,
        ending: Ending,
        errors: &BadOutcomes,
    ) -> Option<Judgement> {
        let (began, waited) = (self.began(n), self.waited(n, now));
        let held = self.attempts.get_mut(n).filter(|held| held.state == State::Open)?;
        let outcome = classify(errors, None, ending, None);
        held.state = State::Settled(outcome);
        let carried = held.carried;
        let event = Some(Event::Answered { outcome, latency: self.latency(waited, outcome, ending) });
        let on_key = KeyAnswer::Silent;
        Some(Judgement { event, outcome: Some(outcome), carried, began, status: None, on_key })
    }

    /// Settles an attempt with good headers.
    fn settle_good(&mut self, n: usize, ending: Ending, errors: &BadOutcomes) -> Option<Judgement> {
        let began = self.began(n);
        let held = self.attempts.get_mut(n).filter(|held| held.state == State::Good)?;
        // The status was good, so only the ending matters.
        let outcome = classify(errors, Some(200), ending, None);
        let event = match outcome {
            Outcome::Bad => Some(Event::Broke),
            Outcome::Good => Some(Event::Completed),
            _ => None,
        };
        held.state = State::Settled(outcome);
        let (carried, on_key) = (held.carried, KeyAnswer::Silent);
        Some(Judgement { event, outcome: Some(outcome), carried, began, status: None, on_key })
    }

    /// Returns the latency of an attempt without headers, if it says something about the version's speed. A time-out took at least
    /// this long, and a client that left after the latency limit left because of the latency. A fast failure says nothing.
    fn latency(&self, waited: Span, outcome: Outcome, ending: Ending) -> Option<Span> {
        let counts = match outcome {
            Outcome::Cancelled if ending == Ending::ClientFault => false,
            Outcome::Cancelled => self.latency_limit.is_some_and(|limit| waited > limit.span()),
            Outcome::Bad => ending == Ending::Timeout,
            _ => false,
        };
        counts.then_some(waited)
    }
}

#[cfg(test)]
mod tests;
