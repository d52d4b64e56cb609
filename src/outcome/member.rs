//! The provider that an attempt of a canary's request really goes to.
//!
//! A retry may go to stable in two ways. With a route that reads the cluster header again, Envoy goes to stable's cluster and
//! names it. With an aggregate cluster (the canary's endpoints first, then stable's), Envoy always names the canary's cluster, and
//! only a label on the endpoint tells its members apart. Envoy's choice decides, not the filter's expectation: a key must go to
//! its own provider.

/// The two clusters, and the facts that are known before an attempt.
#[derive(Debug, Clone, Copy)]
pub struct Clusters<'a> {
    /// The cluster of the canary that the request was assigned to.
    pub assigned: &'a str,
    /// Stable's cluster.
    pub stable: &'a str,
    /// The canary has had its attempts: the route was told to go to stable with this one.
    pub stable_due: bool,
    /// The route was told at some time to go to stable: it may do so now.
    pub stable_named: bool,
    /// An earlier attempt of this request went to an endpoint with a label.
    pub labelled: bool,
}

/// Direction of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// To the version that the request was assigned to.
    Assigned,
    /// To stable.
    Stable,
    /// Unknown: the endpoint's label names neither cluster, or the endpoint has no label although its cluster has labels.
    Unknown,
}

impl Clusters<'_> {
    /// Returns the direction of an attempt. `label`: the endpoint's. `cluster`: asks Envoy for the name of the cluster, only if that
    /// matters.
    ///
    /// The label wins over the cluster's name. If both versions are on one cluster, the turn decides.
    pub fn side(&self, label: Option<&[u8]>, cluster: &dyn Fn() -> Option<Vec<u8>>) -> Side {
        let by_turn = if self.stable_due { Side::Stable } else { Side::Assigned };
        let one_cluster = self.assigned == self.stable;
        match label {
            Some(label) if label == self.stable.as_bytes() => {
                if one_cluster {
                    by_turn
                } else {
                    Side::Stable
                }
            }
            Some(label) if label == self.assigned.as_bytes() => Side::Assigned,
            Some(_) => Side::Unknown,
            None if self.stable_due || self.stable_named || self.labelled => match cluster() {
                Some(cluster) if cluster == self.stable.as_bytes() => {
                    if one_cluster {
                        by_turn
                    } else {
                        Side::Stable
                    }
                }
                _ if self.labelled => Side::Unknown,
                // With a plain `cluster_header` route a retry stays where it is, and stable's key must not go there.
                _ => Side::Assigned,
            },
            None => Side::Assigned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Clusters<'static> = Clusters {
        assigned: "relay",
        stable: "openai",
        stable_due: false,
        stable_named: false,
        labelled: false,
    };

    fn side(clusters: Clusters<'_>, label: Option<&str>, cluster: &str) -> Side {
        clusters.side(label.map(str::as_bytes), &|| Some(cluster.as_bytes().to_vec()))
    }

    #[test]
    fn a_label_wins_over_the_expected_side() {
        for (due, labelled) in [(false, false), (false, true), (true, false), (true, true)] {
            let clusters = Clusters { stable_due: due, labelled, ..NEW };
            for cluster in ["relay", "openai"] {
                assert_eq!(
                    side(clusters, Some("relay"), cluster),
                    Side::Assigned,
                    "{clusters:?} in {cluster}"
                );
                assert_eq!(
                    side(clusters, Some("openai"), cluster),
                    Side::Stable,
                    "{clusters:?} in {cluster}"
                );
                for foreign in ["third", "", "relay-only", "openai2"] {
                    assert_eq!(
                        side(clusters, Some(foreign), cluster),
                        Side::Unknown,
                        "{clusters:?}, {foreign}"
                    );
                }
            }
        }
    }

    #[test]
    fn without_a_label_the_cluster_decides_once_the_route_may_have_changed_it() {
        let due = Clusters { stable_due: true, ..NEW };
        assert_eq!(side(due, None, "openai"), Side::Stable);
        assert_eq!(side(due, None, "relay"), Side::Assigned, "a retry that could not change cluster");
        assert_eq!(due.side(None, &|| None), Side::Assigned);
        let not_asked = || -> Option<Vec<u8>> { panic!("asked on the common path") };
        assert_eq!(NEW.side(None, &not_asked), Side::Assigned);
    }

    #[test]
    fn an_endpoint_without_a_label_among_labelled_ones_is_unknown_unless_the_cluster_is_stables() {
        for due in [false, true] {
            let clusters = Clusters { stable_due: due, labelled: true, ..NEW };
            assert_eq!(side(clusters, None, "relay"), Side::Unknown);
            assert_eq!(clusters.side(None, &|| None), Side::Unknown);
            assert_eq!(side(clusters, None, "openai"), Side::Stable, "the route has changed it");
        }
    }

    #[test]
    fn two_versions_on_one_cluster_take_turns() {
        let one = Clusters { assigned: "openai", ..NEW };
        for label in [None, Some("openai")] {
            assert_eq!(side(one, label, "openai"), Side::Assigned, "{label:?}");
            assert_eq!(
                side(Clusters { stable_due: true, ..one }, label, "openai"),
                Side::Stable,
                "{label:?}"
            );
        }
    }
}
