//! The score of one alternative: a CUSUM (E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954) of the steps that
//! [`crate::judge::scores`] computes, the outcomes since it left zero, and the clients that failed.
//!
//! Each score has its own beginning, so each remembers its own clients. A client's failures from before a score left zero are not in
//! the score, and must not be subtracted from it. Otherwise one client that has been broken for long would hide a canary that breaks
//! only now: the scores that would prove it soonest could not leave zero at all.

use crate::judge::sketch::Top;
use crate::shared::codec::{Reader, Writer};

/// Outcomes since a score left zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bad outcomes of the canary.
    pub canary_bad: u64,
    /// All outcomes of the canary.
    pub canary: u64,
    /// Bad outcomes of stable.
    pub stable_bad: u64,
    /// All outcomes of stable.
    pub stable: u64,
}

impl Counts {
    /// Returns the counts without so many failures of the canary.
    fn without(self, failures: u64) -> Counts {
        let (canary_bad, canary) = (self.canary_bad, self.canary);
        Counts {
            canary_bad: canary_bad.saturating_sub(failures),
            canary: canary.saturating_sub(failures.min(canary_bad)),
            ..self
        }
    }
}

/// The CUSUM of one alternative. At zero it holds nothing but the suspected client.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cusum {
    /// Natural logarithm of a likelihood ratio, 0 or more.
    score: f64,
    /// Largest step of one failure of the canary: steps are larger while the canary's share is small.
    largest: f64,
    since: Counts,
    /// Failures of the canary by client.
    top: Top,
}

impl Cusum {
    /// Returns the score.
    pub fn score(&self) -> f64 {
        self.score
    }

    /// Returns the outcomes that the score is based on.
    pub fn since(&self) -> Counts {
        self.since
    }

    /// Returns whether nothing is held against the canary.
    pub fn is_at_zero(&self) -> bool {
        self.score <= 0.0
    }

    /// Counts good outcomes. At zero they mean nothing.
    pub fn good(&mut self, canary: u64, stable: u64) {
        if !self.is_at_zero() {
            self.since.canary = self.since.canary.saturating_add(canary);
            self.since.stable = self.since.stable.saturating_add(stable);
        }
    }

    /// Adds a failure of the canary. `identity`: hash of the client's sticky identity, if there is one.
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

    /// Adds a failure of stable: the step is negative.
    pub fn stable_failed(&mut self, step: f64) {
        self.score += step;
        self.since.stable_bad = self.since.stable_bad.saturating_add(1);
        self.since.stable = self.since.stable.saturating_add(1);
        self.restart_if_nothing_is_left();
    }

    /// Starts the score again if nothing is left without the client that failed most. Its failures must not keep the score
    /// above zero: a canary that breaks later would first have to make up for all failures of stable since. More restarts only lower a
    /// score, so the proof of [`crate::judge::scores`] holds.
    fn restart_if_nothing_is_left(&mut self) {
        let (score, _) = self.believed();
        if score <= 0.0 || !score.is_finite() {
            (self.score, self.largest, self.since) = Default::default();
            self.top.restart();
        }
    }

    /// Returns the score and the counts without the client that failed most: its failures are subtracted, each with the largest step.
    /// The average step would leave a part where the canary's share has grown since. A client that failed a thousand times at a share
    /// of 1 % would leave more than the limit at 50 %.
    pub fn believed(&self) -> (f64, Counts) {
        let failures = self.top.doubtful();
        (self.score - failures as f64 * self.largest, self.since.without(failures))
    }

    /// Appends the score to a value.
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

    /// Reads a score from a value; `None` for bytes that [`Cusum::encode`] never writes.
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

/// Reads a number that is 0 or more. A negative zero is refused: it would not be written again as it is.
fn read_score(r: &mut Reader<'_>) -> Option<f64> {
    Some(f64::from_bits(r.number()?)).filter(|score| score.is_finite() && score.is_sign_positive())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replays events: each failure of the canary adds 2 and each of stable subtracts 1.
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
    fn a_score_that_comes_to_zero_starts_again() {
        let mut cusum = after(&[Some(1), None]);
        cusum.good(5, 7);
        assert_eq!(cusum.score(), 1.0);
        assert_eq!(cusum.since(), Counts { canary_bad: 1, canary: 6, stable_bad: 1, stable: 8 });
        cusum.stable_failed(-1.0);
        cusum.good(5, 7);
        assert_eq!(cusum, Cusum::default());
    }

    #[test]
    fn leaving_out_the_client_that_failed_most_keeps_the_score_and_the_counts_of_the_others() {
        let mut cusum = after(&[Some(1), Some(2), None, Some(1), Some(3), Some(1)]);
        cusum.good(4, 9);
        assert_eq!(cusum.score(), 9.0);
        let others = Counts { canary_bad: 2, canary: 6, stable_bad: 1, stable: 10 };
        assert_eq!(cusum.believed(), (3.0, others));
        assert_eq!(after(&[Some(1), Some(2), Some(3)]).believed().0, 6.0, "nobody failed most");
    }

    #[test]
    fn leaving_out_a_client_subtracts_at_least_its_steps() {
        let mut cusum = Cusum::default();
        [1, 2].into_iter().for_each(|client| cusum.canary_failed(5.0, Some(client)));
        (0..20).for_each(|_| cusum.canary_failed(5.0, Some(1)));
        (0..3).for_each(|n| cusum.canary_failed(1.0, Some(10 + n)));
        assert_eq!((cusum.score(), cusum.believed().0), (113.0, 8.0));
    }

    #[test]
    fn failures_from_before_a_score_began_are_not_subtracted_from_it() {
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
    fn bytes_that_are_never_written_are_undecodable() {
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
