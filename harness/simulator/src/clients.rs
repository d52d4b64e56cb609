//! Sticky clients: who sends a request, and which version is theirs.

use bellwether::headers::Headers;
use bellwether::plan::Plan;
use bellwether::units::Point;

use crate::rng::Rng;

/// Inserted into a deployment that has them.
pub const STICKY: &str = r#""sticky": {"on": [{"header": "x-user-id"}]},"#;

/// How a population of clients behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Population {
    /// How many there are; all send as much as each other, the broken one apart.
    pub clients: usize,
    /// The broken one's part of the traffic; 0 for none. Whatever it sends fails, and its version is the canary.
    pub broken: f64,
    /// Over how many workers its requests are spread (its connections).
    pub spread: usize,
}

/// The clients of one trial.
pub struct Clients {
    population: Population,
    headers: Vec<Headers>,
    canary: Vec<bool>,
    identities: Vec<u64>,
}

impl Clients {
    /// Names them so that the first, the broken one, is the canary's.
    pub fn new(population: Population, plan: &Plan, rng: &mut Rng) -> Clients {
        let deployment = &plan.deployments[0];
        let mut clients =
            Clients { population, headers: Vec::new(), canary: Vec::new(), identities: Vec::new() };
        while clients.headers.len() < population.clients {
            let name = format!("user-{:016x}", rng.bits());
            let identity = bellwether::hash::hash(&[deployment.salt.as_bytes(), name.as_bytes()]);
            let canary = deployment.split.pick(Point::from_random(identity)) != deployment.stable;
            if clients.headers.is_empty() && !canary {
                continue;
            }
            clients.headers.push(Headers::new(vec![("x-user-id".to_owned(), name.into_bytes())]));
            clients.canary.push(canary);
            clients.identities.push(identity);
        }
        clients
    }

    /// Who sends the next request.
    pub fn pick(&self, rng: &mut Rng) -> usize {
        if rng.chance(self.population.broken) { 0 } else { 1 + rng.below(self.headers.len() - 1) }
    }

    /// One of all but the broken one.
    pub fn pick_whole(&self, rng: &mut Rng) -> usize {
        1 + rng.below(self.headers.len() - 1)
    }

    /// The worker on which a client's next request arrives.
    pub fn worker(&self, client: usize, workers: usize, rng: &mut Rng) -> usize {
        match client {
            0 => rng.below(self.population.spread.clamp(1, workers)),
            _ => rng.below(workers),
        }
    }

    /// Whether everything this client sends fails.
    pub fn is_broken(&self, client: usize) -> bool {
        client == 0 && self.population.broken > 0.0
    }

    /// Its request headers.
    pub fn headers(&self, client: usize) -> &Headers {
        &self.headers[client]
    }

    /// Whether its version is the canary.
    pub fn on_canary(&self, client: usize) -> bool {
        self.canary[client]
    }

    /// The hash of its identity.
    pub fn identity(&self, client: usize) -> u64 {
        self.identities[client]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup;

    #[test]
    fn the_broken_client_is_the_canarys_and_sends_its_part() {
        let population = Population { clients: 500, broken: 0.05, spread: 1 };
        let mut rng = Rng::of(1, "clients", 0);
        let clients = Clients::new(population, &setup::plan(500, STICKY), &mut rng);
        assert!(clients.on_canary(0) && clients.is_broken(0) && !clients.is_broken(1));
        let sent = (0..10_000).filter(|_| clients.pick(&mut rng) == 0).count();
        assert!((400..600).contains(&sent), "{sent}");
        let share = (0..500).filter(|client| clients.on_canary(*client)).count();
        assert!((8..=45).contains(&share), "{share}");
    }
}
