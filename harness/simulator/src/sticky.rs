//! Sticky clients in bulk: hours of traffic in which one client is broken. The comparison is told who sent what, and leaves the
//! client out that contributed most; this measures what that is worth and what it costs.

use bellwether::judge::scores::Arm;

use crate::bulk::Bulk;
use crate::clients::{Clients, Population, STICKY};
use crate::rng::Rng;
use crate::setup;
use crate::traffic::Kind;

/// A population and its traffic.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// Requests a second.
    pub rps: f64,
    /// The canary's share in basis points.
    pub share: u16,
    /// Probability that a request of a client that is not broken fails on stable, and on the canary while it is healthy.
    pub stable: f64,
    /// And on the canary from [`Crowd::from`] on.
    pub canary: f64,
    /// When the canary begins to fail, in seconds.
    pub from: u64,
    /// Who they are.
    pub population: Population,
    /// Workers.
    pub workers: usize,
    /// Whether the comparison is told who sent what, as the engine tells it.
    pub named: bool,
    /// Length in seconds.
    pub seconds: u64,
}

/// When the canary was given up (in seconds), and the failures of clients that are not broken that it had cost since
/// [`Crowd::from`]; `None` if it was not.
pub fn run(crowd: &Crowd, rng: &mut Rng) -> Option<(u64, u64)> {
    let Population { broken, .. } = crowd.population;
    let clients = Clients::new(crowd.population, &setup::plan(crowd.share, STICKY), rng);
    let whole = crowd.population.clients as f64 - 1.0;
    let on_canary = (1..crowd.population.clients).filter(|client| clients.on_canary(*client)).count() as f64;
    let traffic = crowd.rps * (1.0 - broken);
    let (c, s) = (traffic * on_canary / whole, traffic * (whole - on_canary) / whole);
    let mut bulk = Bulk::new(setup::compare(), crowd.share, crowd.workers);
    let (mut now, mut errors) = (0.0, 0);
    let (change, end) = (crowd.from as f64, crowd.seconds as f64);
    loop {
        let begun = now >= change;
        let canary = if begun { crowd.canary } else { crowd.stable };
        let rates = [c * canary, s * crowd.stable, crowd.rps * broken];
        let calm = [c * (1.0 - canary), s * (1.0 - crowd.stable)];
        let all: f64 = rates.iter().sum();
        // Infinite if nothing ever fails. What has not happened by the change is drawn anew: it has no memory.
        let wait = rng.exponential(all);
        let until = if begun { end } else { change.min(end) };
        let passed = wait.min(until - now);
        bulk.calm([rng.poisson(calm[0] * passed), rng.poisson(calm[1] * passed)]);
        if now + wait >= until {
            now = until;
            if now >= end {
                return None;
            }
            continue;
        }
        now += wait;
        let x = rng.unit() * all;
        let client = if x > all - rates[2] { 0 } else { one_of(&clients, x <= rates[0], rng) };
        let arm = if clients.on_canary(client) { Arm::Canary } else { Arm::Stable };
        let worker = clients.worker(client, crowd.workers.max(1), rng);
        errors += u64::from(begun && arm == Arm::Canary && !clients.is_broken(client));
        let identity = crowd.named.then(|| clients.identity(client));
        if bulk.add((now * 1e6) as u64, arm, Kind::Failed, identity, worker).is_some() {
            return Some((now as u64, errors));
        }
    }
}

fn one_of(clients: &Clients, canary: bool, rng: &mut Rng) -> usize {
    loop {
        let client = clients.pick_whole(rng);
        if clients.on_canary(client) == canary {
            return client;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd() -> Crowd {
        Crowd {
            rps: 100.0,
            share: 500,
            stable: 0.005,
            canary: 0.005,
            from: 0,
            population: Population { clients: 500, broken: 0.05, spread: 1 },
            workers: 1,
            named: true,
            seconds: 3600,
        }
    }

    #[test]
    fn a_comparison_that_does_not_know_who_sent_what_blames_the_canary_for_one_client() {
        let plain = Crowd { named: false, ..crowd() };
        assert!(run(&plain, &mut Rng::of(1, "sticky", 0)).is_some_and(|(seconds, _)| seconds < 60));
        assert_eq!(run(&crowd(), &mut Rng::of(1, "sticky", 0)), None);
    }

    #[test]
    fn a_canary_that_fails_for_all_its_clients_is_found() {
        let population = Population { broken: 0.0, ..crowd().population };
        let broken = Crowd { canary: 0.3, population, ..crowd() };
        let found = run(&broken, &mut Rng::of(1, "sticky", 0));
        assert!(found.is_some_and(|(_, errors)| errors < 30), "{found:?}");
    }

    #[test]
    fn nothing_is_counted_before_the_canary_breaks() {
        let population = Population { broken: 0.0, ..crowd().population };
        let broken = Crowd { canary: 1.0, from: 1800, population, ..crowd() };
        let (seconds, errors) = run(&broken, &mut Rng::of(1, "sticky", 0)).expect("a rollback");
        assert!((1800..1830).contains(&seconds) && errors < 20, "{seconds} {errors}");
    }
}
