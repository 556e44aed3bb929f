//! A cluster's objects, folded from list and watch.
//!
//! Invariant: a [`Synced`] value exists only after the first list of every kind it holds was complete, so whoever
//! prunes by it cannot prune what it has not heard of yet.

use crate::{
    endpoint_slices::EndpointSlice,
    resource::{self, ObjectKey, Resource},
};
use imbl::{OrdMap, ordmap::DiffItem};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        coordination::v1::Lease,
        core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount},
        networking::v1::{IPAddress, Ingress, IngressClass, ServiceCIDR},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{ops::Deref, sync::Arc};

/// Objects of one kind by key. Cloning is O(1); two versions compare quickly where they share structure.
pub type Objects<T> = OrdMap<ObjectKey, Arc<T>>;

/// Makes [`Snapshot`] and whatever has a case for each of its kinds, from one row a kind.
macro_rules! snapshot {
    ($($(#[$doc:meta])+ $field:ident: $type:ty = $row:ident,)+) => {
        /// What the control loops read. A kind that a reader did not ask for stays empty.
        #[derive(Clone, Debug, Default)]
        pub struct Snapshot {
            $($(#[$doc])+ pub $field: Objects<$type>,)+
        }

        impl Snapshot {
            /// Whether objects of this kind can be in a snapshot at all.
            pub fn can_hold(kind: &Resource) -> bool {
                [$(&resource::$row),+].contains(&kind)
            }

            /// Metadata of one object of any kind.
            pub fn meta(&self, kind: &Resource, key: &ObjectKey) -> Option<&ObjectMeta> {
                $(if *kind == resource::$row {
                    return self.$field.get(key).map(|object| &object.metadata);
                })+
                None
            }

            /// Whether two snapshots have the very same objects of a kind.
            pub fn is_same(&self, other: &Self, kind: &Resource) -> bool {
                $(if *kind == resource::$row {
                    return self.$field.ptr_eq(&other.$field);
                })+
                true
            }

            /// Calls `visit` with the metadata of every object, kind by kind.
            pub fn each_meta<'a>(
                &'a self,
                mut visit: impl FnMut(&'static Resource, &'a ObjectKey, &'a ObjectMeta),
            ) {
                $(self.$field.iter().for_each(|(key, object)| visit(&resource::$row, key, &object.metadata));)+
            }

            /// Calls `visit` with the metadata of every object of a kind that is another in a newer snapshot: as it was
            /// here and as it is there. Costs as much as the two differ.
            pub fn each_changed_meta<'a>(
                &'a self,
                newer: &'a Self,
                kind: &Resource,
                mut visit: impl FnMut(Option<&'a ObjectMeta>, Option<&'a ObjectMeta>),
            ) {
                $(if *kind == resource::$row {
                    self.$field.diff(&newer.$field).for_each(|item| match item {
                        DiffItem::Add(_, new) => visit(None, Some(&new.metadata)),
                        DiffItem::Remove(_, old) => visit(Some(&old.metadata), None),
                        DiffItem::Update { old: (_, old), new: (_, new) } => {
                            visit(Some(&old.metadata), Some(&new.metadata));
                        }
                    });
                })+
            }

            /// Puts an object of any kind in, or takes it out if there is none.
            ///
            /// # Errors
            /// The decoder's words, if the object is none of this kind. A kind that snapshots do not hold is passed over.
            pub fn set(
                &mut self,
                kind: &Resource,
                key: ObjectKey,
                object: Option<serde_json::Value>,
            ) -> Result<(), serde_json::Error> {
                $(if *kind == resource::$row {
                    match object {
                        Some(object) => self.$field.insert(key, Arc::new(serde_json::from_value(object)?)),
                        None => self.$field.remove(&key),
                    };
                    return Ok(());
                })+
                Ok(())
            }

            /// One object of any kind as JSON.
            pub fn value(&self, kind: &Resource, key: &ObjectKey) -> Option<serde_json::Value> {
                $(if *kind == resource::$row {
                    return self.$field.get(key).and_then(|object| serde_json::to_value(&**object).ok());
                })+
                None
            }
        }
    };
}

snapshot! {
    /// v1 Namespaces.
    namespaces: Namespace = NAMESPACES,
    /// v1 Nodes.
    nodes: Node = NODES,
    /// v1 Pods.
    pods: Pod = PODS,
    /// apps/v1 Deployments.
    deployments: Deployment = DEPLOYMENTS,
    /// apps/v1 ReplicaSets.
    replica_sets: ReplicaSet = REPLICA_SETS,
    /// v1 Services.
    services: Service = SERVICES,
    /// v1 Endpoints.
    endpoints: Endpoints = ENDPOINTS,
    /// v1 ServiceAccounts.
    service_accounts: ServiceAccount = SERVICE_ACCOUNTS,
    /// v1 ConfigMaps.
    config_maps: ConfigMap = CONFIG_MAPS,
    /// discovery.k8s.io/v1 EndpointSlices.
    endpoint_slices: EndpointSlice = ENDPOINT_SLICES,
    /// networking.k8s.io/v1 Ingresses.
    ingresses: Ingress = INGRESSES,
    /// networking.k8s.io/v1 IngressClasses.
    ingress_classes: IngressClass = INGRESS_CLASSES,
    /// networking.k8s.io/v1 IPAddresses.
    ip_addresses: IPAddress = IP_ADDRESSES,
    /// networking.k8s.io/v1 ServiceCIDRs.
    service_cidrs: ServiceCIDR = SERVICE_CIDRS,
    /// v1 Secrets.
    secrets: Secret = SECRETS,
    /// coordination.k8s.io/v1 Leases.
    leases: Lease = LEASES,
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
