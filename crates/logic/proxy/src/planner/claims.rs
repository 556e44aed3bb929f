//! Who owns which place: two Services that claim one cannot both have it.
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
