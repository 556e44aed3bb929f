//! A cluster's objects, folded from list and watch.
//!
//! Invariant: a [`Synced`] value exists only after the first list of every kind it holds was complete, so whoever
//! prunes by it cannot prune what it has not heard of yet.

use crate::resource::ObjectKey;
use imbl::OrdMap;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Endpoints, Namespace, Node, Pod, Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::Ingress,
};
use std::{ops::Deref, sync::Arc};

/// Objects of one kind by key. Cloning is O(1); two versions compare quickly where they share structure.
pub type Objects<T> = OrdMap<ObjectKey, Arc<T>>;

/// What the control loops read. A kind that a reader did not ask for stays empty.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// v1 Namespaces.
    pub namespaces: Objects<Namespace>,
    /// v1 Nodes.
    pub nodes: Objects<Node>,
    /// v1 Pods.
    pub pods: Objects<Pod>,
    /// v1 Services.
    pub services: Objects<Service>,
    /// v1 Endpoints.
    pub endpoints: Objects<Endpoints>,
    /// discovery.k8s.io/v1 EndpointSlices.
    pub endpoint_slices: Objects<EndpointSlice>,
    /// networking.k8s.io/v1 Ingresses.
    pub ingresses: Objects<Ingress>,
    /// v1 Secrets.
    pub secrets: Objects<Secret>,
    /// coordination.k8s.io/v1 Leases.
    pub leases: Objects<Lease>,
}

/// Proof that every list behind the value was complete at least once.
#[derive(Clone, Debug)]
pub struct Synced<T>(T);

impl<T> Synced<T> {
    /// Called by whoever saw every list end; by tests with a whole world of their own.
    pub fn after_all_lists(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for Synced<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
