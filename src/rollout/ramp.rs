//! The position of a ramp: its stage, and the time at which the next stage begins.
//!
//! A stage ends when its time has passed, enough outcomes of the canary were seen in it, and nothing speaks against the
//! canary. Too little data neither passes nor fails: the stage goes on. Its clock runs only while the canary is active and the
//! ramp is not paused, so a pause or a hold makes the stage longer by its own length. The position is shared by all workers and
//! survives reloads. With `start`, an Envoy that sees the release for the first time (or again, after a restart) begins at the
//! stage that the clock gives for all Envoys.

use crate::plan::ramp::Ramp;
use crate::shared::codec::{Reader, Writer};
use crate::time::{Micros, Now, Span};

/// Evidence from which on a stage does not end: half of a rollback, in percent.
pub const NEAR: u64 = 50;

/// The most by which one step moves the clock. A proxy that stood still for longer has not watched the canary meanwhile.
const STEP_MAX: Span = Span::from_secs(10);

/// The position of a ramp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Index of the stage; `None` before `start`.
    pub stage: Option<u32>,
    /// Time for which the stage's clock has run.
    pub elapsed: Span,
    /// The canary's judged outcomes before the stage began.
    pub outcomes_before: u64,
    /// Time of the last step of the clock.
    pub updated_at: Micros,
}

/// The facts that end a stage.
#[derive(Debug, Clone, Copy)]
pub struct RampFacts {
    /// The time.
    pub now: Now,
    /// The canary's judged outcomes since the release was first seen.
    pub outcomes: u64,
    /// Evidence against the canary, in percent of a rollback.
    pub evidence: u64,
    /// Set if the canary is active: neither held, nor rolled back, nor probing.
    pub active: bool,
}

impl Position {
    /// Returns the position of a ramp that is first seen.
    pub fn first(ramp: &Ramp, now: Now) -> Position {
        let at = |stage, elapsed| Position { stage, elapsed, outcomes_before: 0, updated_at: now.mono };
        let Some(start) = ramp.start else { return at(Some(0), Span::ZERO) };
        // The time of the pause is not known. The ramp may not be further than its first stage.
        if ramp.paused {
            return at((now.wall >= start).then_some(0), Span::ZERO);
        }
        let Some(mut since) = now.wall.0.checked_sub(start.0) else { return at(None, Span::ZERO) };
        for (n, stage) in (0..).zip(&ramp.stages) {
            let last = usize::try_from(n).is_ok_and(|n: usize| n.saturating_add(1) >= ramp.stages.len());
            if last || since < stage.duration.0 {
                return at(Some(n), Span::from_millis(since));
            }
            since = since.saturating_sub(stage.duration.0);
        }
        at(Some(0), Span::ZERO)
    }

    /// Returns the position after a step of the clock, at another stage if that has begun.
    pub fn advance(self, ramp: &Ramp, facts: RampFacts) -> Position {
        let Some(n) = self.stage else {
            // A paused ramp does not begin.
            let first = if ramp.paused { self } else { Position::first(ramp, facts.now) };
            return Position { updated_at: facts.now.mono, ..first };
        };
        let step = facts.now.mono.since(self.updated_at).min(STEP_MAX);
        let running = facts.active && !ramp.paused;
        let elapsed = if running { self.elapsed.saturating_add(step) } else { self.elapsed };
        let here = Position { elapsed, updated_at: facts.now.mono, ..self };
        let next = n.saturating_add(1);
        let over = ramp.stage(Some(n)).is_some_and(|stage| {
            elapsed >= stage.duration.span()
                && facts.outcomes.saturating_sub(self.outcomes_before) >= u64::from(stage.min_requests)
        });
        let has_next = usize::try_from(next).is_ok_and(|next| next < ramp.stages.len());
        if running && over && has_next && facts.evidence < NEAR {
            return Position {
                stage: Some(next),
                elapsed: Span::ZERO,
                outcomes_before: facts.outcomes,
                ..here
            };
        }
        here
    }

    /// Returns the first stage: a canary that has recovered does not come back at the stage that broke it.
    pub fn restart(self, outcomes: u64) -> Position {
        Position { stage: self.stage.map(|_| 0), elapsed: Span::ZERO, outcomes_before: outcomes, ..self }
    }

    /// Returns the beginning of the same stage: a canary that an operator resumes has to do well in the whole stage again.
    pub fn restart_stage(self, outcomes: u64, now: Micros) -> Position {
        Position { elapsed: Span::ZERO, outcomes_before: outcomes, updated_at: now, ..self }
    }

    /// Returns the time until the earliest end of the stage; `None` if it is the last one, or if its clock stands still.
    pub fn time_left(&self, ramp: &Ramp, now: Micros) -> Option<Span> {
        let n = self.stage?;
        let stages = u32::try_from(ramp.stages.len()).ok()?;
        if ramp.paused || n.saturating_add(1) >= stages {
            return None;
        }
        let elapsed = self.elapsed.saturating_add(now.since(self.updated_at).min(STEP_MAX));
        Some(ramp.stage(Some(n))?.duration.span().saturating_sub(elapsed))
    }

    /// Appends the position to a value.
    pub fn encode(&self, w: &mut Writer) {
        w.number(self.stage.map_or(0, |stage| u64::from(stage).saturating_add(1)));
        w.number(self.elapsed.0);
        w.number(self.outcomes_before);
        w.number(self.updated_at.0);
    }

    /// Reads a position from a value.
    pub fn decode(r: &mut Reader<'_>) -> Option<Position> {
        let stage = match r.number()? {
            0 => None,
            n => Some(u32::try_from(n.checked_sub(1)?).ok()?),
        };
        let (elapsed, outcomes_before) = (Span(r.number()?), r.number()?);
        Some(Position { stage, elapsed, outcomes_before, updated_at: Micros(r.number()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ramp_plan;
    use crate::time::UnixMillis;
    use crate::units::Bps;

    const SECOND: u64 = 1_000_000;

    fn ramp(rest: &str) -> Ramp {
        ramp_plan(&format!(
            r#""stages": [{{"weight": 5, "for": "10s", "min_requests": 100}}, {{"weight": 25, "for": "20s"}},
               {{"weight": 100, "for": "1h"}}] {rest}"#
        ))
        .deployments
        .remove(0)
        .ramp
        .unwrap()
    }

    fn at(seconds: u64) -> Now {
        Now { mono: Micros(seconds * SECOND), wall: UnixMillis(1_795_168_800_000 + seconds * 1000) }
    }

    fn facts(seconds: u64, outcomes: u64) -> RampFacts {
        RampFacts { now: at(seconds), outcomes, evidence: 0, active: true }
    }

    /// Advances every second until `to`. Returns the last position and the seconds at which stages began.
    fn walk(mut p: Position, ramp: &Ramp, to: u64, outcomes: impl Fn(u64) -> u64) -> (Position, Vec<u64>) {
        let mut begun = Vec::new();
        for second in p.updated_at.0 / SECOND + 1..=to {
            let next = p.advance(ramp, facts(second, outcomes(second)));
            if next.stage != p.stage {
                begun.push(second);
            }
            p = next;
        }
        (p, begun)
    }

    #[test]
    fn stages_end_by_time_and_the_last_one_stays() {
        let ramp = ramp("");
        let (p, begun) = walk(Position::first(&ramp, at(0)), &ramp, 9_000, |_| 1_000);
        assert_eq!((p.stage, begun), (Some(2), vec![10, 30]));
        assert_eq!(ramp.weight(p.stage), Bps::ALL);
    }

    #[test]
    fn too_little_data_holds_the_stage() {
        let ramp = ramp("");
        let (_, begun) = walk(Position::first(&ramp, at(0)), &ramp, 60, |second| second * 4);
        assert_eq!(begun, [25, 45], "a hundred outcomes at the 25th second; then the next stage's own time");
    }

    #[test]
    fn a_stage_does_not_end_while_a_limit_is_near() {
        let ramp = ramp("");
        let p = Position::first(&ramp, at(0));
        let near = RampFacts { evidence: NEAR, ..facts(10, 500) };
        assert_eq!(p.advance(&ramp, near).stage, Some(0));
        assert_eq!(p.advance(&ramp, facts(10, 500)).stage, Some(1));
    }

    #[test]
    fn the_clock_stands_still_while_paused_or_held() {
        let paused = ramp(r#", "paused": true"#);
        let going = ramp("");
        let (p, begun) = walk(Position::first(&paused, at(0)), &paused, 100, |_| 500);
        assert!(begun.is_empty());
        let (_, begun) = walk(p, &going, 120, |_| 500);
        assert_eq!(begun, [110], "ten seconds after the pause has ended");
        let held = RampFacts { active: false, ..facts(50, 500) };
        assert_eq!(Position::first(&going, at(0)).advance(&going, held).elapsed, Span::ZERO);
    }

    #[test]
    fn an_anchored_ramp_begins_where_the_clock_says() {
        let ramp = ramp(r#", "start": "2026-11-20T10:00:00Z""#);
        for (second, stage, elapsed) in
            [(0, 0, 0), (9, 0, 9), (10, 1, 0), (29, 1, 19), (30, 2, 0), (9_999, 2, 9_969)]
        {
            let p = Position::first(&ramp, at(second));
            assert_eq!((p.stage, p.elapsed), (Some(stage), Span::from_secs(elapsed)), "after {second} s");
        }
    }

    #[test]
    fn a_paused_ramp_neither_begins_nor_jumps_at_a_restart() {
        let paused = ramp(r#", "start": "2026-11-20T10:00:05Z", "paused": true"#);
        assert_eq!(Position::first(&paused, at(86_400)).stage, Some(0), "a day later");
        let (p, begun) = walk(Position::first(&paused, at(0)), &paused, 60, |_| 500);
        assert_eq!((p.stage, begun), (None, vec![]));
    }

    #[test]
    fn before_its_start_a_ramp_gives_nothing() {
        let ramp = ramp(r#", "start": "2026-11-20T10:00:05Z""#);
        let p = Position::first(&ramp, at(0));
        assert_eq!((p.stage, ramp.weight(p.stage)), (None, Bps::ZERO));
        let (p, begun) = walk(p, &ramp, 6, |_| 0);
        assert_eq!((p.stage, begun), (Some(0), vec![5]));
    }

    #[test]
    fn a_shortened_ramp_stays_at_its_last_stage() {
        let ramp = ramp("");
        let p = Position { stage: Some(7), ..Position::first(&ramp, at(0)) };
        assert_eq!(ramp.weight(p.stage), Bps::ALL);
        assert_eq!(p.advance(&ramp, facts(9_000, 0)).stage, Some(7));
    }

    #[test]
    fn a_proxy_that_stood_still_has_not_watched() {
        let ramp = ramp("");
        let p = Position { stage: Some(1), ..Position::first(&ramp, at(0)) };
        assert_eq!(p.advance(&ramp, facts(3_600, 500)).stage, Some(1), "an hour's gap counts as ten seconds");
    }

    #[test]
    fn a_position_comes_back_from_its_bytes() {
        for stage in [None, Some(0), Some(99)] {
            let p = Position { stage, elapsed: Span(5), outcomes_before: 6, updated_at: Micros(7) };
            let mut w = Writer::new();
            p.encode(&mut w);
            assert_eq!(Position::decode(&mut Reader::new(&w.finish()).unwrap()), Some(p));
        }
    }
}
