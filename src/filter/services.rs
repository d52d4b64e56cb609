//! The plans of this worker: those in service, and former ones that streams under way still hold.

use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use super::metrics::take_back;
use super::pool::LivePool;
use super::service::{Service, turn};
use crate::engine::Engine;
use crate::host::SharedData;
use crate::keys::pool::Pools;
use crate::keys::usage::WorkerUsage;
use crate::plan::Plan;
use crate::plan::pool::Secret;
use crate::report::gauges::{Gauges, Shown};
use crate::shared::cell::SharedCell;
use crate::shared::codec::Found;
use crate::shared::names::GAUGES;
use crate::shared::store::{Change, update};
use crate::time::Now;

/// The plans of this worker, and the states that outlive them.
#[derive(Default)]
pub struct Services {
    /// Every plan that something still holds, the newest last.
    all: SharedCell<Vec<Weak<Service>>>,
    engine: SharedCell<Engine>,
    /// States of the keys, by the pool's name.
    pools: SharedCell<Pools>,
    /// Use of the keys, by the pool's name.
    usages: SharedCell<BTreeMap<String, Rc<SharedCell<WorkerUsage>>>>,
}

impl Services {
    /// Puts a plan in service.
    pub fn add(&self, plan: Plan, secrets: &BTreeMap<String, Secret>, now: Now) -> Rc<Service> {
        let bindings = self.engine.with_mut(|engine| engine.attach(&plan)).unwrap_or_default();
        let pools = self.pools_of(&plan, secrets).unwrap_or_default();
        let service = Rc::new(Service::new(plan, bindings, pools));
        let mut turn = turn(now);
        service.bindings.iter().for_each(|binding| binding.prime(&mut turn));
        self.all.with_mut(|all| {
            all.retain(|held| held.strong_count() > 0);
            all.push(Rc::downgrade(&service));
        });
        service
    }

    /// Makes the pools of a plan in service, and drops the counts of pools that no plan has any more.
    fn pools_of(&self, plan: &Plan, secrets: &BTreeMap<String, Secret>) -> Option<Vec<LivePool>> {
        self.usages.with_mut(|usages| {
            usages.retain(|name, usage| {
                Rc::strong_count(usage) > 1 || plan.pools.iter().any(|pool| pool.name == *name)
            });
            self.pools.with_mut(|states| {
                let pools = plan.pools.iter().map(|pool| {
                    let new = || Rc::new(SharedCell::new(WorkerUsage::new(&pool.name)));
                    let usage = usages.entry(pool.name.clone()).or_insert_with(new);
                    LivePool::new(pool, secrets, states.attach(&pool.name), Rc::clone(usage))
                });
                pools.collect()
            })
        })?
    }

    /// Registers the gauges of a plan as those that its filter shows, and takes back those that no plan writes any more.
    pub fn register(&self, service: &Service) {
        service.registered.set(true);
        service.forget_gauges();
        let gauges = service.gauges();
        let former = exchange(service, |shown| {
            shown.plans = shown.plans.saturating_add(u64::from(!service.counted.replace(true)));
            std::mem::replace(&mut shown.gauges, gauges.clone())
        });
        if let Some(former) = former {
            let kept = self.kept(service, gauges);
            take_back(&former.without(&kept), &kept);
        }
    }

    /// Takes back the gauges of a plan that has ended, as far as no plan writes them any more.
    fn unregister(&self, service: &Service) {
        if !service.counted.get() {
            return;
        }
        let shown = exchange(service, |shown| {
            shown.plans = shown.plans.saturating_sub(1);
            if shown.plans == 0 {
                // The filter itself is gone.
                shown.gauges = Gauges::default();
            }
            shown.gauges.clone()
        });
        if let Some(shown) = shown {
            let kept = self.kept(service, shown);
            take_back(&service.gauges().without(&kept), &kept);
        }
    }

    /// Returns the gauges that stay: those of the latest document of a plan's filter, and those of other filters.
    fn kept(&self, service: &Service, latest: Gauges) -> Vec<Gauges> {
        let others = self.in_service().into_iter().filter(|other| other.plugin != service.plugin);
        [latest].into_iter().chain(others.map(|other| other.gauges())).collect()
    }

    /// Marks a plan as ended, and drops the states that only this plan used.
    pub fn end(&self, service: Rc<Service>) {
        let served = service.served.get();
        service.ended.set(true);
        self.unregister(&service);
        drop(service);
        self.engine.with_mut(|engine| engine.sweep(&SharedData, served));
    }

    /// Marks a plan that is given a new request as the newest of its filter.
    pub fn mark_newest(&self, service: &Rc<Service>) {
        self.all.with_mut(|all| {
            let is_same = |held: &Weak<Service>| std::ptr::eq(held.as_ptr(), Rc::as_ptr(service));
            if all.last().is_some_and(is_same) {
                return;
            }
            let Some(at) = all.iter().position(is_same) else { return };
            let mut newer = all.iter().skip(at.saturating_add(1)).filter_map(Weak::upgrade);
            if newer.any(|newer| newer.plugin == service.plugin) {
                let held = all.remove(at);
                all.push(held);
                // The other plan has taken back the gauges that only this one has.
                service.registered.set(false);
            }
        });
    }

    /// Returns every plan that something still holds, the oldest first.
    pub fn held(&self) -> Vec<Rc<Service>> {
        self.all.with(|all| all.iter().filter_map(Weak::upgrade).collect()).unwrap_or_default()
    }

    /// Returns every plan that has not ended, the newest first. Some of them may be about to be replaced, and still serve on
    /// another worker.
    pub fn alive(&self) -> Vec<Rc<Service>> {
        self.held().into_iter().rev().filter(|service| !service.ended.get()).collect()
    }

    /// Returns the plans in service, the newest first. If one filter has several, only the newest is in service: it is about to
    /// replace the others.
    pub fn in_service(&self) -> Vec<Rc<Service>> {
        let mut found: Vec<Rc<Service>> = Vec::new();
        for service in self.alive() {
            if !found.iter().any(|newer| newer.plugin == service.plugin) {
                found.push(service);
            }
        }
        found
    }
}

/// Changes the shared value that says which gauges a plan's filter shows. Returns the result of `change`, if the value could be
/// written.
fn exchange<T>(service: &Service, change: impl Fn(&mut Shown) -> T) -> Option<T> {
    let key = [GAUGES, &String::from_utf8_lossy(&service.plugin)].concat();
    let changed = update(&SharedData, &key, &mut |bytes| {
        let mut shown = match Shown::decode(bytes) {
            Found::Value(shown) => shown,
            Found::Nothing | Found::Undecodable => Shown::default(),
        };
        let result = change(&mut shown);
        Change::Write(shown.encode(), result)
    });
    changed.ok()
}
