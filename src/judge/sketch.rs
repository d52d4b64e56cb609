//! The clients that failed most: the failure counts of a few clients, however many there are.
//!
//! The sketch is that of J. Misra and D. Gries ("Finding repeated elements", Science of Computer Programming 2, 1982). It has sixteen
//! counters, and each client takes one. A client that finds no free counter is not counted; instead every count goes down by one, and
//! a counter at zero is free again. Such a round forgets seventeen failures, of as many clients. So a client without a counter has
//! had at most as many failures as there were rounds, and a client with a counter at most its count and one for each round. A count
//! may be too high, by a seventeenth of all failures at most, and is never too low.
//!
//! Sketches are part of a value that workers read and write many times a second, so a client is known by only 16 bits of its hash.
//! Two given clients share these bits once in 65 536 times. Their shared count is too high as well, and too high is the safe side: the
//! verdict on the canary has to stand without more of its failures.
//!
//! A sketch restarts with its score, but remembers the client that had failed again and again. One more failure of that client is no
//! news, and begins nothing.

use crate::shared::codec::{Reader, Writer};

/// Clients that are counted one by one. Each costs three bytes a sketch; half as many would double the excess of a count.
const TOP: usize = 16;

/// Failures by client, of the clients that failed most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Top {
    /// The client's bits, ascending, and its count: 1 or more.
    clients: Vec<(u16, u32)>,
    /// Rounds: failures of clients that found no free counter.
    missed: u32,
    /// The client that had failed most, and more than once, when the sketch last restarted; if there was none, the one before.
    suspect: Option<u16>,
}

impl Top {
    /// Adds a failure of a client. `identity`: hash of its sticky identity.
    pub fn add(&mut self, identity: u64) {
        // The lowest bits: the highest ones decide the client's version.
        let client = u16::try_from(identity & 0xffff).unwrap_or(0);
        match self.clients.binary_search_by_key(&client, |(held, _)| *held) {
            Ok(at) => {
                if let Some((_, count)) = self.clients.get_mut(at) {
                    *count = count.saturating_add(1);
                }
            }
            Err(at) if self.clients.len() < TOP => self.clients.insert(at, (client, 1)),
            Err(_) => {
                self.missed = self.missed.saturating_add(1);
                for (_, count) in &mut self.clients {
                    *count = count.saturating_sub(1);
                }
                self.clients.retain(|(_, count)| *count > 0);
            }
        }
    }

    /// Returns the most failures that one client can have caused: all failures of the client that failed most, if it failed more than
    /// once, or is known to have done so before.
    ///
    /// All of them are doubtful. If one of many were believed, the others would get a head start of one step each time a score leaves
    /// zero, and one false alarm would become several. For the same reason not even the first failure of a suspected client is
    /// believed. The first failure of any other client is: at first, each client that fails is the one that failed most.
    pub fn doubtful(&self) -> u64 {
        let most = self.counted(self.clients.iter());
        if most > 1 {
            return most;
        }
        self.suspect
            .map_or(0, |suspect| self.counted(self.clients.iter().filter(|(held, _)| *held == suspect)))
    }

    /// Returns the most failures that one of these clients can have had.
    fn counted<'a>(&self, clients: impl Iterator<Item = &'a (u16, u32)>) -> u64 {
        let counted = clients.map(|(_, count)| *count).max().unwrap_or(0);
        u64::from(self.missed).saturating_add(u64::from(counted))
    }

    /// Forgets all failures, but not the client that failed most.
    pub fn restart(&mut self) {
        let worst = self.clients.iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > 1);
        self.suspect = worst.map(|(client, _)| *client).or(self.suspect);
        self.clients.clear();
        self.missed = 0;
    }

    /// Returns the number of failures added.
    pub fn failures(&self) -> u64 {
        let counted = self.clients.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
        // Each round has taken one off every counter, and its own failure was not counted.
        let round = u64::try_from(TOP).unwrap_or(u64::MAX).saturating_add(1);
        counted.saturating_add(u64::from(self.missed).saturating_mul(round))
    }

    /// Appends the sketch to a value: a client is one number, its count above its bits.
    pub fn encode(&self, w: &mut Writer) {
        w.number(self.suspect.map_or(0, |suspect| u64::from(suspect).saturating_add(1)));
        w.number(u64::from(self.missed) << 5 | u64::try_from(self.clients.len()).unwrap_or(0));
        for (client, count) in &self.clients {
            w.number(u64::from(*count) << 16 | u64::from(*client));
        }
    }

    /// Reads a sketch from a value; `None` for bytes that [`Top::encode`] never writes.
    pub fn decode(r: &mut Reader<'_>) -> Option<Top> {
        let suspect = match r.number()? {
            0 => None,
            number => Some(u16::try_from(number.saturating_sub(1)).ok()?),
        };
        let number = r.number()?;
        let missed = u32::try_from(number >> 5).ok()?;
        let length = usize::try_from(number & 31).ok().filter(|length| *length <= TOP)?;
        let mut clients: Vec<(u16, u32)> = Vec::with_capacity(length);
        for _ in 0..length {
            let number = r.number()?;
            let (client, count) = (u16::try_from(number & 0xffff).ok()?, u32::try_from(number >> 16).ok()?);
            if count == 0 || clients.last().is_some_and(|(last, _)| *last >= client) {
                return None;
            }
            clients.push((client, count));
        }
        Some(Top { clients, missed, suspect })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(top: &Top) -> Vec<u8> {
        let mut w = Writer::new();
        top.encode(&mut w);
        w.finish()
    }

    fn decoded(bytes: &[u8]) -> Option<Top> {
        let mut r = Reader::new(bytes)?;
        let top = Top::decode(&mut r)?;
        r.end()?;
        Some(top)
    }

    /// Encodes these fields, whether or not a sketch can have them.
    fn saying(missed: u32, clients: &[(u16, u32)]) -> Vec<u8> {
        bytes(&Top { clients: clients.to_vec(), missed, suspect: None })
    }

    #[test]
    fn a_sketch_never_counts_a_client_too_low() {
        let (mut top, mut exact) = (Top::default(), 0);
        for n in 0..5000u64 {
            // One client in three events, among thousands of others.
            let identity = if n % 3 == 0 { 1 } else { 1000 + n };
            exact += u64::from(identity == 1);
            top.add(identity);
            assert!(exact < 2 || top.doubtful() >= exact, "{} for {exact}", top.doubtful());
            assert_eq!(top.failures(), n + 1);
        }
        assert!(top.doubtful() <= exact + 5000 / 17 + 1 && top.clients.len() <= TOP);
    }

    #[test]
    fn clients_that_look_alike_are_one() {
        let mut top = Top::default();
        (0..5u64).for_each(|n| top.add(n << 16 | 7));
        assert_eq!((top.doubtful(), top.failures()), (5, 5));
    }

    #[test]
    fn a_client_that_failed_once_is_believed_unless_it_is_suspected() {
        let mut top = Top::default();
        (1..=3).for_each(|client| top.add(client));
        assert_eq!(top.doubtful(), 0);
        top.add(2);
        assert_eq!(top.doubtful(), 2);
        top.restart();
        assert_eq!((top.doubtful(), top.failures()), (0, 0));
        top.add(1);
        top.add(3);
        assert_eq!(top.doubtful(), 0, "of those who failed once nobody is known");
        top.add(2);
        assert_eq!(top.doubtful(), 1);
        top.restart();
        top.add(2);
        assert_eq!(top.doubtful(), 1, "still known: nobody has failed more than once since");
        top.add(3);
        top.add(3);
        top.restart();
        top.add(2);
        top.add(1);
        assert_eq!(top.doubtful(), 0, "another has taken its place");
        top.add(3);
        assert_eq!(top.doubtful(), 1);
    }

    #[test]
    fn a_suspected_client_without_a_counter_is_doubted_too() {
        let mut top = Top { suspect: Some(99), ..Top::default() };
        (0..16).for_each(|client| top.add(client));
        assert_eq!(top.doubtful(), 0);
        top.add(99);
        assert_eq!((top.clients.len(), top.doubtful()), (0, 1));
    }

    #[test]
    fn a_sketch_comes_back_from_its_bytes_at_every_length() {
        let mut top = Top::default();
        assert_eq!(decoded(&bytes(&top)).as_ref(), Some(&top));
        for n in 0..200u64 {
            // In no order.
            top.add(n * n * 40_503 % 97 * 601);
            assert_eq!(decoded(&bytes(&top)).as_ref(), Some(&top), "after {n}");
        }
        assert!(top.missed > 0 && top.clients.len() > 3, "{top:?}");
        for suspect in [0, 1, u16::MAX] {
            let top = Top { suspect: Some(suspect), ..top.clone() };
            assert_eq!(decoded(&bytes(&top)), Some(top));
        }
    }

    #[test]
    fn a_sketch_is_small() {
        let mut top = Top { suspect: Some(u16::MAX), ..Top::default() };
        assert_eq!(bytes(&top).len(), 1 + 3 + 1);
        (0..16 * 31u64).for_each(|n| top.add(n % 16 * 4099));
        assert_eq!((top.doubtful(), bytes(&top).len()), (31, 1 + 3 + 1 + 16 * 3));
    }

    #[test]
    fn bytes_that_are_never_written_are_undecodable() {
        assert!(decoded(&saying(9, &[(1, 1), (2, u32::MAX), (u16::MAX, 1)])).is_some());
        assert_eq!(decoded(&saying(0, &[(1, 0)])), None, "a client that has not failed");
        assert_eq!(decoded(&saying(0, &[(2, 1), (1, 1)])), None, "in another order");
        assert_eq!(decoded(&saying(0, &[(1, 1), (1, 1)])), None, "a client twice");
        let crowd: Vec<(u16, u32)> = (0..17).map(|client| (client, 1)).collect();
        assert!(decoded(&saying(0, &crowd[1..])).is_some());
        assert_eq!(decoded(&saying(0, &crowd)), None, "more clients than there are counters");
        let too_large: [&[u64]; 4] = [&[0, 1, 1 << 48], &[0, 1 << 37], &[0, 31], &[1 << 16 | 1, 0]];
        for numbers in too_large {
            let mut w = Writer::new();
            numbers.iter().for_each(|number| w.number(*number));
            assert_eq!(decoded(&w.finish()), None, "{numbers:?}");
        }
        let whole = saying(3, &crowd[..16]);
        (0..whole.len()).for_each(|cut| assert_eq!(decoded(&whole[..cut]), None, "cut at {cut}"));
    }

    #[test]
    fn the_largest_counts_stay_where_they_are() {
        let mut top = decoded(&saying(u32::MAX, &[(1, u32::MAX)])).unwrap();
        top.add(1);
        (100..117).for_each(|client| top.add(client));
        assert_eq!((top.missed, top.doubtful()), (u32::MAX, 2 * u64::from(u32::MAX) - 1));
        assert_eq!(decoded(&bytes(&top)), Some(top));
    }
}
