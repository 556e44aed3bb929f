//! One file a kind: its defaults, its rules, its columns.

use crate::{Status, strategy::Strategy};
use minisvc_apimachinery::Resource;
use serde::de::DeserializeOwned;
use serde_json::Value;

mod config_map;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod ingress;
mod ingress_class;
pub(crate) mod ip_address;
mod lease;
mod namespace;
mod node;
pub(crate) mod pod;
mod replica_set;
mod secret;
pub(crate) mod service;
pub(crate) mod service_account;
mod service_cidr;
pub(crate) mod workload;

/// The rules of a kind.
pub(crate) fn strategy(r: &Resource) -> Result<&'static dyn Strategy, Status> {
    Ok(match (r.group, r.plural) {
        ("", "configmaps") => &config_map::ConfigMaps,
        ("apps", "deployments") => &deployment::Deployments,
        ("apps", "replicasets") => &replica_set::ReplicaSets,
        ("", "endpoints") => &endpoints::EndpointsStrategy,
        ("discovery.k8s.io", "endpointslices") => &endpoint_slice::EndpointSlices,
        ("", "events") => &event::Events,
        ("events.k8s.io", "events") => &event::EventsK8sIo,
        ("networking.k8s.io", "ingressclasses") => &ingress_class::IngressClasses,
        ("networking.k8s.io", "ipaddresses") => &ip_address::IpAddresses,
        ("networking.k8s.io", "servicecidrs") => &service_cidr::ServiceCidrs,
        ("networking.k8s.io", "ingresses") => &ingress::Ingresses,
        ("coordination.k8s.io", "leases") => &lease::Leases,
        ("", "namespaces") => &namespace::Namespaces,
        ("", "nodes") => &node::Nodes,
        ("", "pods") => &pod::Pods,
        ("autoscaling", "scales") => &workload::Scales,
        ("", "secrets") => &secret::Secrets,
        ("", "serviceaccounts") => &service_account::ServiceAccounts,
        ("", "services") => &service::Services,
        _ => return Err(Status::no_such_path()),
    })
}

/// Whether the object can be read as `T`; else the decoder's words.
fn reads_as<T: DeserializeOwned>(object: &Value) -> Result<(), String> {
    T::deserialize(object).map(|_| ()).map_err(|error| error.to_string())
}
