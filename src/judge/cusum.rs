//! One alternative's score: a CUSUM (Page, 1954) of steps that [`crate::judge::scores`] works out, what happened since it left zero, and
//! which clients it happened to.
//!
//! Each score has its own beginning, so each remembers its own clients. What a client did before a score left zero is neither in
//! the score nor to be taken from it: if it were, one client that has been broken for long would be charged to a canary that
//! breaks only now, and the scores that would prove that soonest could not leave zero at all.

use crate::judge::sketch::Top;
use crate::shared::codec::{Reader, Writer};

/// Outcomes since a score left zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bad ones of the canary.
    pub canary_bad: u64,
    /// All of the canary.
    pub canary: u64,
    /// Bad ones of stable.
    pub stable_bad: u64,
    /// All of stable.
    pub stable: u64,
}

impl Counts {
    /// The same without so many failures of the canary.
    fn without(self, failures: u64) -> Counts {
        let (canary_bad, canary) = (self.canary_bad, self.canary);
        Counts {
            canary_bad: canary_bad.saturating_sub(failures),
            canary: canary.saturating_sub(failures.min(canary_bad)),
            ..self
        }
    }
}

/// One alternative's CUSUM. At zero it holds nothing but whom to suspect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cusum {
    /// Natural logarithm of a likelihood ratio, 0 or more.
    score: f64,
    /// The most that one failure of the canary has added to it: steps are larger while the canary's share is small.
    largest: f64,
    since: Counts,
    /// Whose failures of the canary these are.
    top: Top,
}

impl Cusum {
    /// The score.
    pub fn score(&self) -> f64 {
        self.score
    }

    /// What it is based on.
    pub fn since(&self) -> Counts {
        self.since
    }

    /// Nothing is held against the canary.
    pub fn is_at_zero(&self) -> bool {
        self.score <= 0.0
    }

    /// Outcomes that were not bad. At zero they mean nothing.
    pub fn good(&mut self, canary: u64, stable: u64) {
        if !self.is_at_zero() {
            self.since.canary = self.since.canary.saturating_add(canary);
            self.since.stable = self.since.stable.saturating_add(stable);
        }
    }

    /// The canary has failed. `identity`: hash of the client's sticky identity, if there is one.
    pub fn canary_failed(&mut self, step: f64, identity: Option<u64>) {
        self.score += step;
        self.largest = self.largest.max(step);
        self.since.canary_bad = self.since.canary_bad.saturating_add(1);
        self.since.canary = self.since.canary.saturating_add(1);
        if let Some(identity) = identity {
            self.top.add(identity);
        }
        self.restart_if_nothing_is_left();
    }

    /// Stable has failed: the step is negative.
    pub fn stable_failed(&mut self, step: f64) {
        self.score += step;
        self.since.stable_bad = self.since.stable_bad.saturating_add(1);
        self.since.stable = self.since.stable.saturating_add(1);
        self.restart_if_nothing_is_left();
    }

    /// What one broken client has added must not keep a score from starting again: behind it, a canary that breaks later would
    /// have to make up first for all that stable has failed since. More restarts only lower a score, so the proof holds.
    fn restart_if_nothing_is_left(&mut self) {
        let (score, _) = self.believed();
        if score <= 0.0 || !score.is_finite() {
            (self.score, self.largest, self.since) = Default::default();
            self.top.restart();
        }
    }

    /// The score and the counts without the client that failed most: without so many failures of the canary, each at the most
    /// that one has added. At what they have added on average a part would be left, where the canary's share has grown since:
    /// of a client that failed a thousand times at 1 %, more than a verdict takes at 50 %.
    pub fn believed(&self) -> (f64, Counts) {
        let failures = self.top.doubtful();
        (self.score - failures as f64 * self.largest, self.since.without(failures))
    }

    /// Appends it to a value.
    pub fn encode(&self, w: &mut Writer) {
        w.number(self.score.to_bits());
        self.top.encode(w);
        if self.is_at_zero() {
            return;
        }
        w.number(self.largest.to_bits());
        let since = &self.since;
        for count in [since.canary_bad, since.canary, since.stable_bad, since.stable] {
            w.number(count);
        }
    }

    /// Reads it from a value; `None` unless it could have been written.
    pub fn decode(r: &mut Reader<'_>) -> Option<Cusum> {
        let mut cusum = Cusum { score: read_score(r)?, top: Top::decode(r)?, ..Cusum::default() };
        if !cusum.is_at_zero() {
            cusum.largest = read_score(r)?;
            let [canary_bad, canary, stable_bad, stable] =
                [r.number()?, r.number()?, r.number()?, r.number()?];
            cusum.since = Counts { canary_bad, canary, stable_bad, stable };
        }
        let Counts { canary_bad, canary, stable_bad, stable } = cusum.since;
        let possible = canary_bad <= canary && stable_bad <= stable && cusum.top.failures() <= canary_bad;
        possible.then_some(cusum)
    }
}

/// A negative zero is none: it would not be written again as it is.
fn read_score(r: &mut Reader<'_>) -> Option<f64> {
    Some(f64::from_bits(r.number()?)).filter(|score| score.is_finite() && score.is_sign_positive())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A score to which each failure of the canary adds 2 and from which each of stable's takes 1.
    fn after(events: &[Option<u64>]) -> Cusum {
        let mut cusum = Cusum::default();
        for event in events {
            match event {
                Some(client) => cusum.canary_failed(2.0, Some(*client)),
                None => cusum.stable_failed(-1.0),
            }
        }
        cusum
    }

    fn encoded(cusum: &Cusum) -> Vec<u8> {
        let mut w = Writer::new();
        cusum.encode(&mut w);
        w.finish()
    }

    fn decoded(bytes: &[u8]) -> Option<Cusum> {
        let mut r = Reader::new(bytes)?;
        let cusum = Cusum::decode(&mut r)?;
        r.end()?;
        Some(cusum)
    }

    #[test]
    fn a_score_that_comes_to_zero_begins_anew() {
        let mut cusum = after(&[Some(1), None]);
        cusum.good(5, 7);
        assert_eq!(cusum.score(), 1.0);
        assert_eq!(cusum.since(), Counts { canary_bad: 1, canary: 6, stable_bad: 1, stable: 8 });
        cusum.stable_failed(-1.0);
        cusum.good(5, 7);
        assert_eq!(cusum, Cusum::default());
    }

    #[test]
    fn without_the_client_that_failed_most_are_left_the_score_and_the_counts_of_the_others() {
        let mut cusum = after(&[Some(1), Some(2), None, Some(1), Some(3), Some(1)]);
        cusum.good(4, 9);
        assert_eq!(cusum.score(), 9.0);
        let others = Counts { canary_bad: 2, canary: 6, stable_bad: 1, stable: 10 };
        assert_eq!(cusum.believed(), (3.0, others));
        assert_eq!(after(&[Some(1), Some(2), Some(3)]).believed().0, 6.0, "nobody failed most");
    }

    #[test]
    fn a_client_is_left_out_with_no_less_than_it_added() {
        let mut cusum = Cusum::default();
        [1, 2].into_iter().for_each(|client| cusum.canary_failed(5.0, Some(client)));
        (0..20).for_each(|_| cusum.canary_failed(5.0, Some(1)));
        (0..3).for_each(|n| cusum.canary_failed(1.0, Some(10 + n)));
        assert_eq!((cusum.score(), cusum.believed().0), (113.0, 8.0));
    }

    #[test]
    fn what_a_client_did_before_a_score_began_is_not_taken_from_it() {
        let mut long = vec![Some(1), Some(2)];
        long.extend([Some(1); 30]);
        long.extend([None; 4]);
        let mut cusum = after(&long);
        assert!(cusum.is_at_zero(), "the others' 2, and stable's failures");
        for n in 1..=5 {
            cusum.canary_failed(2.0, Some(10 + n));
            cusum.canary_failed(2.0, Some(1));
            assert_eq!(cusum.believed().0, 2.0 * n as f64, "after {n} others");
        }
    }

    #[test]
    fn a_client_alone_moves_nothing_however_often_it_fails() {
        let mut cusum = after(&[Some(1), Some(1)]);
        assert!(cusum.is_at_zero());
        (0..100).for_each(|_| {
            cusum.canary_failed(2.0, Some(1));
            assert!(cusum.is_at_zero());
        });
    }

    #[test]
    fn a_score_comes_back_from_its_bytes() {
        for events in [&[][..], &[Some(1)], &[Some(1), Some(2), None, Some(1)], &[Some(1), Some(1)]] {
            let cusum = after(events);
            let bytes = encoded(&cusum);
            assert_eq!(decoded(&bytes), Some(cusum), "{events:?}");
            (0..bytes.len()).for_each(|cut| assert_eq!(decoded(&bytes[..cut]), None, "{events:?} {cut}"));
        }
        assert_eq!(encoded(&Cusum::default()).len(), 4, "at zero it is short");
    }

    #[test]
    fn what_could_not_have_been_written_is_undecodable() {
        for number in [-1.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(decoded(&encoded(&Cusum { score: number, ..Cusum::default() })), None, "{number}");
            let largest = Cusum { score: 1.0, largest: number, ..Cusum::default() };
            assert_eq!(decoded(&encoded(&largest)), None, "{number}");
        }
        let good = after(&[Some(1)]);
        let counts = |canary_bad, canary, stable_bad, stable| {
            let since = Counts { canary_bad, canary, stable_bad, stable };
            decoded(&encoded(&Cusum { since, ..good.clone() }))
        };
        assert!(counts(1, 1, 0, 0).is_some());
        assert_eq!(counts(2, 1, 0, 0), None, "more failures than requests");
        assert_eq!(counts(1, 1, 1, 0), None, "of stable too");
        assert_eq!(counts(0, 1, 0, 0), None, "a client's failure that was none of the canary's");
        let clients = Cusum { score: 0.0, ..good.clone() };
        assert_eq!(decoded(&encoded(&clients)), None, "failures at zero");
    }

    #[test]
    fn a_hostile_value_stays_a_value() {
        let most = Counts { canary_bad: u64::MAX, canary: u64::MAX, stable_bad: u64::MAX, stable: u64::MAX };
        let mut cusum = Cusum { score: f64::MAX, largest: f64::MAX, since: most, top: after(&[Some(1)]).top };
        for n in 0..40 {
            cusum.canary_failed(3.0, Some(n / 2));
            cusum.good(u64::MAX, 1);
            assert_eq!(decoded(&encoded(&cusum)).as_ref(), Some(&cusum));
            assert!(!cusum.believed().0.is_nan());
        }
    }
}
