//! Steady traffic without an end, of which one can look at every part.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bellwether_harness::client::{Client, Request};
use bellwether_harness::load::{Sample, send_one};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep_until;

/// Requests at a constant rate whatever becomes of them, every second one streamed.
pub struct Traffic {
    seen: Seen,
    ended: Arc<AtomicBool>,
    generator: JoinHandle<()>,
}

/// The requests that are over, in the order of their ends.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<Sample>>>);

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those from the n-th on.
    pub fn from(&self, n: usize) -> Vec<Sample> {
        self.lock().iter().skip(n).cloned().collect()
    }
}

impl Traffic {
    /// Starts to send.
    pub fn start(client: Client, per_second: f64) -> Traffic {
        let (seen, ended) = (Seen::default(), Arc::new(AtomicBool::new(false)));
        let generator = tokio::spawn(generate(client, per_second, seen.clone(), Arc::clone(&ended)));
        Traffic { seen, ended, generator }
    }

    /// How many requests are over.
    pub fn count(&self) -> usize {
        self.seen.lock().len()
    }

    /// The requests that are over, from the n-th on.
    pub fn samples_from(&self, n: usize) -> Vec<Sample> {
        self.seen.from(n)
    }

    /// Forgets the requests that are over, for traffic that goes on for hours.
    pub fn forget(&self) {
        self.seen.lock().clear();
    }

    /// The requests that are over, for somebody who looks from elsewhere.
    pub fn seen(&self) -> Seen {
        self.seen.clone()
    }

    /// Sends no more, waits for what is in flight and returns all requests.
    pub async fn stop(self) -> Vec<Sample> {
        self.ended.store(true, Ordering::Relaxed);
        // The generator ends in a panic or as told, and there is nothing to do about a panic.
        let _ = self.generator.await;
        self.seen.from(0)
    }
}

async fn generate(client: Client, per_second: f64, seen: Seen, ended: Arc<AtomicBool>) {
    let start = Instant::now();
    let mut running = JoinSet::new();
    for number in 0.. {
        let due = start + Duration::from_secs_f64(number as f64 / per_second);
        sleep_until(due.into()).await;
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let (client, seen) = (client.clone(), seen.clone());
        running.spawn(async move {
            let sample = send_one(&client, number, due, Request::chat(number % 2 == 1)).await;
            seen.lock().push(sample);
        });
        while running.try_join_next().is_some() {}
    }
    running.join_all().await;
}
