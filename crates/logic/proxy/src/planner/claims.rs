//! Who owns which place: two that claim one cannot both have it; and all that is left out.
//!
//! Invariant: the least claim owns the place, so the older owner keeps it; the others are rejected with `Conflict`. A port of
//! the node is a place at each of its addresses, and may be lost at one of them only.

use super::Planner;
use crate::{
    owner::Owner,
    plan::{Held, NodeView, Place, ServicePlan},
    sorted,
};
use minisvc_netstate::{family::Address, nft::Frontend};
use minisvc_reconcile::Rejection;
use std::collections::BTreeSet;

/// Age and name: the least owns the place.
pub(super) type Claim = (i64, Owner);

impl<A: Address> Planner<A> {
    /// The node it plans for.
    pub fn node(&self) -> &NodeView {
        &self.node
    }

    /// The objects left out, sorted.
    pub fn rejected(&self) -> Vec<Rejection> {
        let entries = self.rejecting.iter().filter_map(|key| self.planned.get(key));
        let all = entries.flat_map(|entry| entry.plan.rejected.iter().chain(&entry.rejected));
        all.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Takes note of which of these something is rejected; whether of one something is, or was before.
    pub(super) fn note_rejected<'a>(&mut self, keys: impl Iterator<Item = &'a Owner>) -> bool {
        let mut any = false;
        for key in keys {
            let entry = self.planned.get(key);
            let has = entry.is_some_and(|e| !e.plan.rejected.is_empty() || !e.rejected.is_empty());
            let had = if has { !self.rejecting.insert(key.clone()) } else { self.rejecting.remove(key) };
            any |= has || had;
        }
        any
    }

    /// Who has an address and port, and what they want: as that place, or as a port of the node.
    pub fn owner_at(&self, frontend: Frontend<A>) -> Option<(Place<A>, &Owner, &ServicePlan<A>)> {
        let place = Place::Address(frontend);
        let all = std::iter::once(place).chain(self.meeting(place));
        let first = all.filter_map(|place| Some((self.first(&place)?, place)));
        let ((_, owner), place) = first.min()?;
        Some((place, owner, &self.planned.get(owner)?.plan))
    }

    fn first(&self, place: &Place<A>) -> Option<&Claim> {
        self.claims.get(place)?.first()
    }

    /// The places that this one shares something with: a port of the node with each of its addresses on which those
    /// answer.
    fn meeting(&self, place: Place<A>) -> impl Iterator<Item = Place<A>> + '_ {
        let own = self.node_addresses.iter();
        own.filter_map(move |&address| match place {
            Place::NodePort(protocol, port) => Some(Place::Address(Frontend { address, protocol, port })),
            Place::Address(frontend) => {
                (frontend.address == address).then_some(Place::NodePort(frontend.protocol, frontend.port))
            }
        })
    }

    /// Adds those who claim a place, or one that it shares something with.
    pub(super) fn contenders(&self, place: &Place<A>, to: &mut BTreeSet<Owner>) {
        for place in std::iter::once(*place).chain(self.meeting(*place)) {
            let claims = self.claims.get(&place).into_iter().flatten();
            to.extend(claims.map(|(_, owner)| owner.clone()));
        }
    }

    pub(super) fn unclaim(&mut self, place: &Place<A>, claim: &Claim, again: &mut BTreeSet<Owner>) {
        if let Some(claims) = self.claims.get_mut(place) {
            sorted::remove(claims, claim);
            if claims.is_empty() {
                self.claims.remove(place);
            }
        }
        self.contenders(place, again);
    }

    /// The places that an owner has, and those it lost.
    pub(super) fn places(&self, owner: &Owner) -> Places<A> {
        let (mut owned, mut lost) = (Vec::new(), Vec::new());
        let places = self.planned.get(owner).into_iter().flat_map(|entry| entry.plan.frontends.keys());
        for &place in places {
            let Some(first) = self.first(&place) else {
                owned.push((place, None));
                continue;
            };
            if first.1 != *owner {
                lost.push((place, first.1.clone()));
                continue;
            }
            let older = self.meeting(place).filter_map(|meeting| Some((meeting, self.first(&meeting)?)));
            let older: Vec<_> = older.filter(|(_, claim)| *claim < first).collect();
            match place {
                _ if older.is_empty() => owned.push((place, None)),
                Place::Address(_) => lost.extend(older.into_iter().map(|(_, (_, to))| (place, to.clone()))),
                Place::NodePort(..) => {
                    let hidden = |own: &A| {
                        let at = |place: &Place<A>| matches!(place, Place::Address(f) if f.address == *own);
                        older.iter().any(|(meeting, _)| at(meeting))
                    };
                    let left: Vec<A> =
                        self.node_addresses.iter().copied().filter(|own| !hidden(own)).collect();
                    if !left.is_empty() {
                        owned.push((place, Some(left)));
                    }
                    lost.extend(older.into_iter().map(|(meeting, (_, to))| (meeting, to.clone())));
                }
            }
        }
        Places { owned, lost }
    }
}

/// What became of an owner's claims.
pub(super) struct Places<A> {
    pub(super) owned: Vec<Held<A>>,
    /// With who has it.
    pub(super) lost: Vec<(Place<A>, Owner)>,
}

pub(super) fn conflict<A: Address>(owner: &Owner, place: Place<A>, to: &Owner) -> Rejection {
    let place = match place {
        Place::Address(frontend) => frontend.to_string(),
        Place::NodePort(protocol, port) => format!("node port {port}/{protocol}"),
    };
    owner.reject("Conflict", format!("{place} belongs to {to}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot, resource::SERVICES};
    use minisvc_netstate::nft::ServiceTable;
    use serde_json::json;

    #[test]
    fn only_changes_of_what_is_rejected_ask_for_the_list() {
        let addresses = vec![[192, 168, 9, 1].into()];
        let cluster = ClusterConfig::default();
        let node = NodeView { name: "n1".to_owned(), addresses, cluster, ..NodeView::default() };
        let mut planner = Planner::<std::net::Ipv4Addr>::new(node, ServiceTable::new());
        let mut snapshot = Snapshot::default();
        let mut put = |name: &str, created: &str, address: &str, port: u16| {
            let meta = json!({ "namespace": "ns", "name": name, "creationTimestamp": created });
            let service =
                json!({ "metadata": meta, "spec": { "clusterIP": address, "ports": [{ "port": port }] } });
            snapshot.set(&SERVICES, ObjectKey::new("ns", name), Some(service)).unwrap();
            let told = planner.update(&snapshot).rejected;
            (told, planner.rejected().into_iter().map(|rejection| rejection.name).collect::<Vec<_>>())
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        assert_eq!(put("a", old, "10.43.0.1", 80), (true, vec![]), "the first");
        assert_eq!(put("b", new, "10.43.0.1", 80), (true, vec!["b".to_owned()]));
        assert_eq!(put("c", old, "10.43.0.3", 80), (false, vec!["b".to_owned()]));
        assert_eq!(put("c", old, "10.43.0.3", 81), (false, vec!["b".to_owned()]));
        // That another gives the place up is news of the one that was rejected.
        assert_eq!(put("a", old, "10.43.0.4", 80), (true, vec![]));
        assert_eq!(put("a", old, "10.43.0.5", 80), (false, vec![]));
    }
}
