//! The gauges that a filter shows: names of its deployments, versions, pools and keys, as the latest document of the filter has
//! them. A gauge of Envoy outlives the VM that wrote it, so the names are shared: a worker that puts the next document in service
//! learns from them which gauges are no longer written.

use crate::plan::Plan;
use crate::shared::codec::{Found, Reader, Writer};

/// Most groups of one kind: a plan has at most so many deployments.
const GROUPS_MAX: usize = 1024;
/// Most members of a group: a pool has at most so many keys.
const MEMBERS_MAX: usize = 256;
/// Longest name, in bytes.
const NAME_BYTES: usize = 255;

/// A deployment with its versions, or a pool with its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Names of its versions or keys.
    pub members: Vec<String>,
}

/// The gauges of one document, by the names in their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Deployments and their versions.
    pub deployments: Vec<Group>,
    /// Pools and their keys.
    pub pools: Vec<Group>,
}

impl Gauges {
    /// Returns the gauges of a plan. `label` writes a name as labels have it.
    pub fn of(plan: &Plan, label: fn(&str) -> String) -> Gauges {
        let mut gauges = Gauges::default();
        for deployment in &plan.deployments {
            let members = deployment.versions.iter().map(|version| label(&version.id)).collect();
            gauges.deployments.push(Group { name: label(&deployment.name), members });
        }
        for pool in &plan.pools {
            let members = pool.keys.iter().map(|key| label(&key.id)).collect();
            gauges.pools.push(Group { name: label(&pool.name), members });
        }
        gauges
    }

    /// Returns the gauges of `self` that none of `others` has. A group that is gone as a whole is there with all its members; of
    /// a group that stays, only the members that are gone, if there are any.
    pub fn without(&self, others: &[Gauges]) -> Gauges {
        let mut gone = self.clone();
        for other in others {
            remove(&mut gone.deployments, &other.deployments);
            remove(&mut gone.pools, &other.pools);
        }
        gone
    }
}

fn remove(groups: &mut Vec<Group>, stay: &[Group]) {
    groups.retain_mut(|group| {
        for stays in stay.iter().filter(|stays| stays.name == group.name) {
            group.members.retain(|member| !stays.members.contains(member));
        }
        !group.members.is_empty()
    });
}

/// The shared value of one filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Plans of this filter in service, counted on each worker. Workers that crashed are never taken off.
    pub plans: u64,
    /// The gauges of the latest document.
    pub gauges: Gauges,
}

impl Shown {
    /// Encodes the value.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(self.plans);
        for groups in [&self.gauges.deployments, &self.gauges.pools] {
            w.number(u64::try_from(groups.len()).unwrap_or(0));
            for Group { name, members } in groups {
                w.text(name);
                w.number(u64::try_from(members.len()).unwrap_or(0));
                members.iter().for_each(|member| w.text(member));
            }
        }
        w.finish()
    }

    /// Decodes a value; total.
    pub fn decode(bytes: Option<&[u8]>) -> Found<Shown> {
        Found::read(bytes, |bytes| {
            let mut r = Reader::new(bytes)?;
            let plans = r.number()?;
            let gauges = Gauges { deployments: groups(&mut r)?, pools: groups(&mut r)? };
            r.end()?;
            Some(Shown { plans, gauges })
        })
    }
}

fn groups(r: &mut Reader<'_>) -> Option<Vec<Group>> {
    let mut groups = Vec::new();
    for _ in 0..r.count(GROUPS_MAX)? {
        let mut group = Group { name: r.text(NAME_BYTES)?, members: Vec::new() };
        for _ in 0..r.count(MEMBERS_MAX)? {
            group.members.push(r.text(NAME_BYTES)?);
        }
        groups.push(group);
    }
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(of: &[(&str, &[&str])]) -> Vec<Group> {
        let group = |(name, members): &(&str, &[&str])| Group {
            name: (*name).to_owned(),
            members: members.iter().map(|member| (*member).to_owned()).collect(),
        };
        of.iter().map(group).collect()
    }

    fn gauges(deployments: &[(&str, &[&str])], pools: &[(&str, &[&str])]) -> Gauges {
        Gauges { deployments: groups(deployments), pools: groups(pools) }
    }

    #[test]
    fn what_no_other_document_has_is_gone() {
        let before = gauges(
            &[("a", &["v1", "v2"]), ("b", &["v1"]), ("c", &["v1", "v3"])],
            &[("p", &["k1", "k2"]), ("q", &["k1"])],
        );
        let after = gauges(&[("a", &["v1"])], &[("p", &["k2"])]);
        let other = gauges(&[("b", &["v1", "v9"])], &[]);
        let gone = gauges(&[("a", &["v2"]), ("c", &["v1", "v3"])], &[("p", &["k1"]), ("q", &["k1"])]);
        assert_eq!(before.without(&[after, other]), gone);
        assert_eq!(before.without(&[]), before);
        assert_eq!(before.without(std::slice::from_ref(&before)), Gauges::default());
    }

    #[test]
    fn a_value_comes_back_from_its_bytes_and_no_part_of_them_is_one() {
        let gauges = gauges(&[("a", &["v1", "v2"]), ("b", &["v1"])], &[("p", &["k1"])]);
        let shown = Shown { plans: 300, gauges };
        let bytes = shown.encode();
        assert!(matches!(Shown::decode(Some(&bytes)), Found::Value(back) if back == shown));
        for end in 0..bytes.len() {
            assert!(!matches!(Shown::decode(Some(&bytes[..end])), Found::Value(_)), "{end} bytes");
        }
    }
}
