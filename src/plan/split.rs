//! The split: maps each point to a version, by the versions' weights.
//!
//! The 10 000 points are assigned once, when the configuration is compiled: each canary gets exactly its weight in points, and
//! stable gets the rest. The points are divided evenly into one segment a canary, in configuration order. A canary takes points
//! from the start of its own segment; the overflow, if there is any, takes points from the ends of the other segments.
//!
//! So a higher weight only adds points to that canary, and a lower weight only returns points to stable. As long as every
//! canary fits its own segment (a single canary always does), the points of the other canaries do not move either. The simpler
//! layout, weights end to end, would move every canary after the one that grows.
//!
//! The assignment is stored as ranges: a table of 10 000 bytes for each of a thousand deployments, on every worker, would be
//! too large.

use crate::units::{Bps, Point, WHOLE};

/// An assignment of all points to versions (indices into the deployment's versions).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Ranges, ascending by start. The first starts at 0, and neighbours differ in version.
    ranges: Vec<Range>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u16,
    version: usize,
}

impl Split {
    /// Assigns the points. `weights` has one entry a version. Stable's entry is ignored: stable gets the points that the canaries
    /// leave. If the canaries' weights sum to more than 100 %, the later ones get less.
    pub fn new(stable: usize, weights: &[Bps]) -> Split {
        let canaries: Vec<(usize, u16)> = weights
            .iter()
            .enumerate()
            .filter(|(version, _)| *version != stable)
            .map(|(version, weight)| (version, weight.get()))
            .collect();
        let mut segments = Vec::with_capacity(canaries.len());
        for (i, (version, weight)) in canaries.iter().enumerate() {
            let (start, end) = (share(i, canaries.len()), share(i.saturating_add(1), canaries.len()));
            let own = (*weight).min(end.saturating_sub(start));
            segments.push(Segment {
                start,
                free_from: start.saturating_add(own),
                free_to: end,
                owner: *version,
                overflow: weight.saturating_sub(own),
                others: Vec::new(),
            });
        }
        place_overflow(&mut segments);
        let mut split = Split { ranges: Vec::new() };
        for segment in &segments {
            if segment.free_from > segment.start {
                split.push(segment.start, segment.owner);
            }
            if segment.free_to > segment.free_from {
                split.push(segment.free_from, stable);
            }
            // The overflow of others was placed from the end downwards, so that the last one is the lowest.
            for (start, version) in segment.others.iter().rev() {
                split.push(*start, *version);
            }
        }
        if split.ranges.is_empty() {
            split.push(0, stable);
        }
        split
    }

    fn push(&mut self, start: u16, version: usize) {
        if self.ranges.last().is_none_or(|last| last.version != version) {
            self.ranges.push(Range { start, version });
        }
    }

    /// Returns the version of a point. A version of weight 0 has no point.
    pub fn pick(&self, point: Point) -> usize {
        let mut found = 0;
        for range in &self.ranges {
            if range.start > point.get() {
                break;
            }
            found = range.version;
        }
        found
    }

    /// Returns the share of the points that `version` has.
    pub fn share_of(&self, version: usize) -> Bps {
        let mut sum = 0u16;
        for (i, range) in self.ranges.iter().enumerate() {
            if range.version == version {
                let end = self.ranges.get(i.saturating_add(1)).map_or(WHOLE, |next| next.start);
                sum = sum.saturating_add(end.saturating_sub(range.start));
            }
        }
        Bps::new(sum).unwrap_or(Bps::ALL)
    }
}

struct Segment {
    start: u16,
    /// The points `free_from..free_to` are not assigned to a canary.
    free_from: u16,
    free_to: u16,
    /// The canary that this segment belongs to.
    owner: usize,
    /// Points of the owner that did not fit and are not placed yet.
    overflow: u16,
    /// Ranges at the end that other canaries have taken: start and version.
    others: Vec<(u16, usize)>,
}

/// Returns the start of the i-th of n equal segments.
fn share(i: usize, n: usize) -> u16 {
    let point = usize::from(WHOLE).saturating_mul(i).checked_div(n).unwrap_or(0);
    u16::try_from(point).unwrap_or(WHOLE)
}

/// Places each canary's overflow at the free ends of the other segments, beginning with the next one.
fn place_overflow(segments: &mut [Segment]) {
    let n = segments.len();
    for i in 0..n {
        for step in 1..n {
            let Some(Segment { owner, overflow, .. }) = segments.get(i) else { return };
            let (version, overflow) = (*owner, *overflow);
            let other = i.saturating_add(step).checked_rem(n).unwrap_or(0);
            let Some(segment) = segments.get_mut(other) else { return };
            let taken = overflow.min(segment.free_to.saturating_sub(segment.free_from));
            if taken > 0 {
                segment.free_to = segment.free_to.saturating_sub(taken);
                segment.others.push((segment.free_to, version));
            }
            if let Some(own) = segments.get_mut(i) {
                own.overflow = own.overflow.saturating_sub(taken);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(stable: usize, weights: &[u16]) -> Split {
        let weights: Vec<Bps> = weights.iter().map(|w| Bps::new(*w).unwrap()).collect();
        Split::new(stable, &weights)
    }

    fn picks(split: &Split) -> Vec<usize> {
        (0..WHOLE).map(|p| split.pick(Point::new(p).unwrap())).collect()
    }

    fn counts(split: &Split, versions: usize) -> Vec<usize> {
        let picks = picks(split);
        (0..versions).map(|v| picks.iter().filter(|p| **p == v).count()).collect()
    }

    #[test]
    fn every_weight_of_a_canary_gets_exactly_its_points() {
        for weight in 0..=WHOLE {
            let split = split(0, &[WHOLE - weight, weight]);
            assert_eq!(
                counts(&split, 2),
                [usize::from(WHOLE - weight), usize::from(weight)],
                "weight {weight}"
            );
            assert_eq!(split.share_of(1).get(), weight);
        }
    }

    #[test]
    fn raising_a_weight_only_adds_points_to_the_canary() {
        let mut before = picks(&split(0, &[WHOLE, 0]));
        for weight in 1..=WHOLE {
            let after = picks(&split(0, &[WHOLE - weight, weight]));
            for (p, (b, a)) in before.iter().zip(&after).enumerate() {
                assert!(b == a || (*b == 0 && *a == 1), "point {p} moved from {b} to {a} at weight {weight}");
            }
            before = after;
        }
    }

    #[test]
    fn canaries_that_fit_their_segment_do_not_move_each_other() {
        let before = picks(&split(1, &[1000, 8500, 500]));
        let after = picks(&split(1, &[3000, 6500, 500]));
        for (b, a) in before.iter().zip(&after) {
            assert!(b == a || (*b == 1 && *a == 0));
        }
    }

    #[test]
    fn versions_that_overflow_their_segment_still_get_exactly_their_points() {
        for weights in [
            vec![0u16, 9000, 500, 500],
            vec![100, 4950, 4950],
            vec![10_000, 0, 0],
            vec![0, 0, 10_000],
            vec![1, 3333, 3333, 3333],
            vec![625, 625, 625, 625, 625, 625, 625, 625, 625, 625, 625, 625, 625, 625, 625, 625],
            vec![1, 9985, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        ] {
            for stable in 0..weights.len() {
                let wanted: Vec<usize> = weights.iter().map(|w| usize::from(*w)).collect();
                assert_eq!(counts(&split(stable, &weights), weights.len()), wanted, "{weights:?} {stable}");
            }
        }
    }

    #[test]
    fn a_single_version_gets_everything() {
        assert_eq!(counts(&split(0, &[WHOLE]), 1), [10_000]);
    }
}
