//! What a worker has to show to the admin role: its plans, the keys of their pools, the events of the process.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::service::{Service, turn};
use super::worker::Worker;
use crate::engine::Notes;
use crate::host::SharedData;
use crate::keys::usage::WorkerUsage;
use crate::plan::Plan;
use crate::report::build::KeyView;
use crate::report::log::{EventLog, newest_first};
use crate::shared::codec::Found;
use crate::shared::dropped::Dropped;
use crate::shared::names::{EVENTS, POOL_EVENTS, REJECTIONS};
use crate::shared::store::Store;
use crate::time::Micros;

impl Worker {
    /// Use of the keys of each pool of a plan; what no plan uses any more is dropped.
    pub fn usages_of(&self, plan: &Plan) -> Vec<Rc<RefCell<WorkerUsage>>> {
        let Ok(mut held) = self.usages.try_borrow_mut() else { return Vec::new() };
        held.retain(|name, usage| {
            Rc::strong_count(usage) > 1 || plan.pools.iter().any(|pool| pool.name == *name)
        });
        let of = |name: &String| {
            let new = || Rc::new(RefCell::new(WorkerUsage::new(name)));
            Rc::clone(held.entry(name.clone()).or_insert_with(new))
        };
        plan.pools.iter().map(|pool| &pool.name).map(of).collect()
    }

    /// Every plan that has not ended on this worker, the one that was configured or came into service last before the others: also
    /// those that another is about to replace, and which may serve on another worker.
    pub fn services_alive(&self) -> Vec<Rc<Service>> {
        let Ok(all) = self.services.try_borrow() else { return Vec::new() };
        all.iter().rev().filter_map(Weak::upgrade).filter(|service| !service.retired.get()).collect()
    }

    /// The plans in service on this worker, the one that was configured or came into service last before the others; of several for one filter
    /// only that one, for the others are about to be replaced by it.
    pub fn services_in_use(&self) -> Vec<Rc<Service>> {
        let mut found: Vec<Rc<Service>> = Vec::new();
        for service in self.services_alive() {
            if !found.iter().any(|newer| newer.plugin == service.plugin) {
                found.push(service);
            }
        }
        found
    }
}

impl Service {
    /// Merges how much the keys were used, if that is due.
    pub fn merge_usage(&self, now: Micros, notes: &mut Notes) {
        for usage in &self.usages {
            if let Ok(mut usage) = usage.try_borrow_mut() {
                usage.merge(&mut turn(now, notes));
            }
        }
    }

    /// What there is to show of the keys of a pool, in the plan's order.
    pub fn key_views(&self, n: usize, now: Micros, notes: &mut Notes) -> Vec<KeyView> {
        let (Some(pool), Ok(key_sets)) = (self.plan.pools.get(n), self.key_sets.try_borrow()) else {
            return Vec::new();
        };
        let (Some(keys), Some(Ok(mut state))) =
            (key_sets.get(n), self.pools.get(n).map(|state| state.try_borrow_mut()))
        else {
            return Vec::new();
        };
        state.refresh(keys, &mut turn(now, notes));
        let used = self.usages.get(n).and_then(|usage| usage.try_borrow().ok()?.read(&SharedData));
        if used.is_none() {
            notes.dropped.one(Dropped::Undecodable);
        }
        let view = |key: usize| KeyView {
            mask: keys.mask(key, &pool.prefix),
            same_as: keys.same_as(key),
            memory: state.health(keys, key),
            used: used.as_ref().map(|used| {
                let counted = keys.fingerprint(key).filter(|_| keys.same_as(key).is_none());
                counted.map(|fingerprint| used.get(fingerprint)).unwrap_or_default()
            }),
        };
        (0..pool.keys.len()).map(view).collect()
    }
}

/// The last events of the process, newest first; `None` if they cannot be read.
pub fn kept_events() -> Option<Vec<String>> {
    let mut logs = Vec::new();
    for key in [EVENTS, POOL_EVENTS, REJECTIONS] {
        let found = SharedData.get(key).ok()?;
        match EventLog::decode(found.as_ref().map(|found| found.bytes.as_slice())) {
            Found::Nothing => {}
            Found::Value(log) => logs.push(log),
            Found::Undecodable => return None,
        }
    }
    Some(newest_first(logs))
}
