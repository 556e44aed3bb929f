//! Who owns which place: two Services that claim one cannot both have it; and all that is left out.
//!
//! Invariant: the least claim owns the place, so the older Service keeps it; the others are rejected with `Conflict`.

use super::Planner;
use crate::{
    plan::{NodeView, Place, ServicePlan},
    sorted,
};
use minisvc_apimachinery::ObjectKey;
use minisvc_netstate::family::Address;
use minisvc_reconcile::Rejection;
use std::collections::BTreeSet;

/// Age and name: the least owns the place.
pub(super) type Claim = (i64, ObjectKey);

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

    /// Takes note of which of these Services something is rejected; whether of one something is, or was before.
    pub(super) fn note_rejected<'a>(&mut self, keys: impl Iterator<Item = &'a ObjectKey>) -> bool {
        let mut any = false;
        for key in keys {
            let entry = self.planned.get(key);
            let has = entry.is_some_and(|e| !e.plan.rejected.is_empty() || !e.rejected.is_empty());
            let had = if has { !self.rejecting.insert(key.clone()) } else { self.rejecting.remove(key) };
            any |= has || had;
        }
        any
    }

    /// The Service that owns a place, and what it wants.
    pub fn owner(&self, place: &Place<A>) -> Option<(&ObjectKey, &ServicePlan<A>)> {
        let (_, owner) = self.claims.get(place)?.first()?;
        Some((owner, &self.planned.get(owner)?.plan))
    }

    pub(super) fn unclaim(&mut self, place: &Place<A>, claim: &Claim, again: &mut BTreeSet<ObjectKey>) {
        if let Some(claims) = self.claims.get_mut(place) {
            sorted::remove(claims, claim);
            again.extend(claims.iter().map(|(_, key)| key.clone()));
            if claims.is_empty() {
                self.claims.remove(place);
            }
        }
    }

    /// The places that a Service owns, and those it lost.
    pub(super) fn places(&self, key: &ObjectKey) -> (Vec<Place<A>>, Vec<Place<A>>) {
        let Some(entry) = self.planned.get(key) else { return (Vec::new(), Vec::new()) };
        entry.plan.frontends.keys().partition(|place| {
            self.claims.get(place).and_then(|claims| claims.first()).is_none_or(|(_, owner)| owner == key)
        })
    }

    pub(super) fn conflict(&self, key: &ObjectKey, place: &Place<A>) -> Rejection {
        let owner =
            self.claims.get(place).and_then(|claims| claims.first()).map(|(_, owner)| owner.to_string());
        let place = match place {
            Place::Address(frontend) => frontend.to_string(),
            Place::NodePort(protocol, port) => format!("node port {port}/{protocol}"),
        };
        rejection(key, "Conflict", format!("{place} belongs to Service {}", owner.unwrap_or_default()))
    }
}

/// A reason to leave something of a Service out.
pub(super) fn rejection(key: &ObjectKey, reason: &'static str, message: String) -> Rejection {
    Rejection { kind: "Service", namespace: key.namespace.clone(), name: key.name.clone(), reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::{ClusterConfig, Snapshot, resource::SERVICES};
    use minisvc_netstate::nft::ServiceTable;
    use serde_json::json;

    #[test]
    fn only_changes_of_what_is_rejected_ask_for_the_list() {
        let addresses = vec![[192, 168, 9, 1].into()];
        let cluster = ClusterConfig::default();
        let node = NodeView { name: "n1".to_owned(), addresses, zone: None, cluster };
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
