//! The clocks of the process.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::time::{Micros, Now, Span, UnixMillis};

/// The clocks of the process as numbers.
///
/// An [`Instant`] cannot be converted to a number, and a difference to this VM's start means nothing to another worker. On this
/// target an `Instant` is the host's reading itself. The largest span that can be subtracted from it is therefore the reading,
/// counted from the lowest value. It is found once a VM, by halving.
pub struct Clock {
    /// A moment on the monotonic clock.
    origin: Instant,
    /// The same moment in microseconds.
    micros: u64,
    /// The last reading of the wall clock, and the monotonic clock at that moment.
    wall: Cell<(Micros, UnixMillis)>,
}

/// The wall clock is read again when its last reading is older than this. Until then the monotonic clock counts on from there,
/// which saves most callbacks a host call. A clock that is set is noticed so much later. Only a date in `retry-after` is compared
/// with it.
const WALL_AFTER: Span = Span::from_millis(20);

impl Clock {
    /// Finds the number of the monotonic clock's reading.
    pub fn new() -> Clock {
        let origin = Instant::now();
        let fits = |secs, nanos| origin.checked_sub(Duration::new(secs, nanos)).is_some();
        let secs = largest(u64::MAX, &|secs| fits(secs, 0));
        let nanos = largest(999_999_999, &|nanos| u32::try_from(nanos).is_ok_and(|nanos| fits(secs, nanos)));
        let secs = secs.checked_sub(SIGNED_ZERO).unwrap_or(secs);
        let micros = secs.saturating_mul(1_000_000).saturating_add(nanos.checked_div(1000).unwrap_or(0));
        Clock { origin, micros, wall: Cell::new((Micros(0), UnixMillis(0))) }
    }

    /// Reads the monotonic clock.
    pub fn mono(&self) -> Micros {
        let elapsed = self.origin.elapsed();
        // `as_micros` would count in 128 bits, for which this target has no instruction.
        let seconds = elapsed.as_secs().saturating_mul(1_000_000);
        Micros(self.micros.saturating_add(seconds).saturating_add(u64::from(elapsed.subsec_micros())))
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        let mono = self.mono();
        let (at, wall) = self.wall.get();
        let since = mono.since(at);
        if wall != UnixMillis(0) && since < WALL_AFTER {
            return Now { mono, wall: UnixMillis(wall.0.saturating_add(since.whole_millis())) };
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        self.wall.set((mono, wall));
        Now { mono, wall }
    }
}

/// The distance of 0 from the lowest number of seconds in an `Instant`: an `i64` in Rust 1.95, and once a `u64`.
const SIGNED_ZERO: u64 = 1 << 63;

/// Finds the largest number up to `max` that `fits`. 0 must fit, and every number below one that fits.
fn largest(max: u64, fits: &dyn Fn(u64) -> bool) -> u64 {
    let (mut known, mut above) = (0, max);
    while above > known {
        let middle = above.saturating_sub(above.saturating_sub(known) >> 1);
        if fits(middle) {
            known = middle;
        } else {
            above = middle.saturating_sub(1);
        }
    }
    known
}
