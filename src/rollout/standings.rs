//! The shared record of one release: the standings of its versions and the position of its ramp.

use crate::plan::Deployment;
use crate::rollout::ramp::Position;
use crate::rollout::{Cause, Lease, Phase, Standing};
use crate::shared::codec::{Found, Reader, Writer};
use crate::time::{Micros, UnixMillis};

/// Longest reason that is kept, in bytes.
const REASON_BYTES: usize = 400;
/// Most versions of a record: those of a plan, and as many that an older plan of the release still knows.
const VERSIONS: usize = 64;
/// Most probes in flight that a configuration may ask for.
const LEASES: usize = 1000;

/// Standings by version id, and the ramp. A version without an entry has the standing of a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standings {
    /// Standing of each version, by id.
    pub versions: Vec<(String, Standing)>,
    /// Position of the ramp; `None` without a ramp, and before the first step of its clock.
    pub ramp: Option<Position>,
}

impl Standings {
    /// Returns the standing of a version; `None` without an entry.
    pub fn get(&self, version: &str) -> Option<&Standing> {
        self.versions.iter().find(|(id, _)| id == version).map(|(_, standing)| standing)
    }

    /// Replaces or adds a standing. Returns false, and adds nothing, if the record is full.
    pub fn put(&mut self, version: &str, standing: Standing) -> bool {
        let full = self.versions.len() >= VERSIONS;
        match self.versions.iter_mut().find(|(id, _)| id == version) {
            Some((_, held)) => *held = standing,
            None if full => return false,
            None => self.versions.push((version.to_owned(), standing)),
        }
        true
    }

    /// Removes a version. Returns whether it had an entry.
    pub fn remove(&mut self, version: &str) -> bool {
        let before = self.versions.len();
        self.versions.retain(|(id, _)| id != version);
        self.versions.len() < before
    }

    /// Removes versions that have left the deployment if there is no room for others.
    pub fn make_room(&mut self, deployment: &Deployment) {
        if self.versions.len() >= VERSIONS {
            self.versions.retain(|(id, _)| deployment.versions.iter().any(|version| version.id == *id));
        }
    }

    /// Encodes the record.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(u64::try_from(self.versions.len()).unwrap_or(0));
        for (id, standing) in &self.versions {
            w.text(id);
            w.number(u64::from(standing.epoch));
            w.number(u64::from(standing.observed) | u64::from(standing.observed_hold) << 1);
            w.number(standing.phase.gauge());
            write_phase(&mut w, &standing.phase);
        }
        w.number(u64::from(self.ramp.is_some()));
        if let Some(position) = &self.ramp {
            position.encode(&mut w);
        }
        w.finish()
    }

    /// Decodes a record; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<Standings> {
        Found::read(bytes, read)
    }
}

fn write_phase(w: &mut Writer, phase: &Phase) {
    if let Some(cause) = phase.cause() {
        w.text(&cause.label);
        w.text(shortened(&cause.text));
        w.number(cause.since.0);
        w.number(cause.wall.0);
    }
    match phase {
        Phase::Active | Phase::Holding(_) => {}
        Phase::RolledBack { failed_rounds, probe_at, .. } => {
            w.number(u64::from(*failed_rounds));
            w.number(u64::from(probe_at.is_some()));
            w.number(probe_at.unwrap_or_default().0);
        }
        Phase::Probing { failed_rounds, passed, leases, .. } => {
            w.number(u64::from(*failed_rounds));
            w.number(u64::from(*passed));
            w.number(u64::try_from(leases.len()).unwrap_or(0));
            for lease in leases {
                w.number(lease.id);
                w.number(lease.until.0);
            }
        }
    }
}

fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(REASON_BYTES)).unwrap_or("")
}

fn read(bytes: &[u8]) -> Option<Standings> {
    let mut r = Reader::new(bytes)?;
    let count = r.count(VERSIONS)?;
    let mut versions = Vec::with_capacity(count);
    for _ in 0..count {
        let id = r.text(64)?;
        let epoch = r.small()?;
        let observed: u8 = r.small()?;
        if observed > 3 {
            return None;
        }
        let (observed, observed_hold) = (observed & 1 != 0, observed & 2 != 0);
        versions.push((id, Standing { epoch, observed, observed_hold, phase: read_phase(&mut r)? }));
    }
    let ramp = if r.flag()? { Some(Position::decode(&mut r)?) } else { None };
    r.end()?;
    Some(Standings { versions, ramp })
}

fn read_phase(r: &mut Reader<'_>) -> Option<Phase> {
    Some(match r.number()? {
        0 => Phase::Active,
        1 => Phase::Holding(read_cause(r)?),
        2 => {
            let cause = read_cause(r)?;
            let (failed_rounds, passed) = (r.small()?, r.small()?);
            let count = r.count(LEASES)?;
            let mut leases = Vec::with_capacity(count);
            for _ in 0..count {
                leases.push(Lease { id: r.number()?, until: Micros(r.number()?) });
            }
            Phase::Probing { cause, failed_rounds, passed, leases }
        }
        3 => {
            let cause = read_cause(r)?;
            let failed_rounds = r.small()?;
            let (probing, at) = (r.flag()?, Micros(r.number()?));
            Phase::RolledBack { cause, failed_rounds, probe_at: probing.then_some(at) }
        }
        _ => return None,
    })
}

fn read_cause(r: &mut Reader<'_>) -> Option<Cause> {
    Some(Cause {
        label: r.text(64)?,
        text: r.text(REASON_BYTES)?,
        since: Micros(r.number()?),
        wall: UnixMillis(r.number()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::codec::TOMBSTONE;

    fn cause(text: &str) -> Cause {
        Cause {
            label: "error_rate".to_owned(),
            text: text.to_owned(),
            since: Micros(77),
            wall: UnixMillis(1_795_000_000_000),
        }
    }

    fn standing(phase: Phase) -> Standing {
        Standing { epoch: 4, phase, ..Standing::NEW }
    }

    #[test]
    fn records_come_back_from_their_bytes() {
        let out = |probe_at| Phase::RolledBack { cause: cause("10 of 41"), failed_rounds: 3, probe_at };
        let leases = vec![Lease { id: u64::MAX, until: Micros(9) }, Lease { id: 0, until: Micros(8) }];
        let probing = Phase::Probing { cause: cause("x"), failed_rounds: 1, passed: 2, leases };
        let mut all = Standings { ramp: Some(Position::default()), ..Standings::default() };
        for (n, phase) in [out(None), out(Some(Micros(5))), Phase::Holding(cause("")), probing, Phase::Active]
            .into_iter()
            .enumerate()
        {
            assert!(all.put(&format!("v{n}"), standing(phase)));
        }
        for (id, observed, observed_hold) in [("v7", true, false), ("v8", false, true), ("v9", true, true)] {
            assert!(all.put(id, Standing { observed, observed_hold, ..Standing::NEW }));
        }
        assert!(matches!(Standings::decode(Some(&all.encode())), Found::Value(back) if back == all));
        assert!(matches!(Standings::decode(Some(&[1, 9])), Found::Undecodable));
        assert!(matches!(Standings::decode(Some(TOMBSTONE)), Found::Nothing));
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let mut all = Standings::default();
        all.put("v2", standing(Phase::Holding(cause(&"ä".repeat(500)))));
        let Found::Value(back) = Standings::decode(Some(&all.encode())) else { panic!("undecodable") };
        assert_eq!(back.get("v2").unwrap().phase.cause().unwrap().text, "ä".repeat(200));
    }
}
