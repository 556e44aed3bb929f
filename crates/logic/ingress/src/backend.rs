//! From an Ingress' backend to endpoints.
//!
//! In: a Service and one of its ports. Out: the ready endpoints of that port.
//! Invariant: only addresses of the cluster's EndpointSlices, never names, loopback or link-local addresses.

use crate::table::Backend;
use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    networking::v1::IngressBackend,
};
use minisvc_apimachinery::{
    ObjectKey, Snapshot, endpoint_slices::EndpointSlice, service_changes::service_of,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// What is wrong with a backend: a reason for an Event, and a message.
pub(crate) type Fault = (&'static str, String);

/// EndpointSlices of the Services that may be asked for.
pub(crate) struct Backends<'a> {
    snapshot: &'a Snapshot,
    slices: BTreeMap<ObjectKey, Vec<&'a EndpointSlice>>,
}

impl<'a> Backends<'a> {
    /// Indexes what a snapshot has of these Services.
    pub(crate) fn new(snapshot: &'a Snapshot, services: &BTreeSet<ObjectKey>) -> Self {
        let mut slices = BTreeMap::<_, Vec<_>>::new();
        let all = if services.is_empty() { None } else { Some(snapshot.endpoint_slices.values()) };
        for slice in all.into_iter().flatten() {
            if let Some(service) = service_of(slice).filter(|service| services.contains(service)) {
                slices.entry(service).or_default().push(&**slice);
            }
        }
        Self { snapshot, slices }
    }

    /// The backend as a route's target. A Service or port that does not exist is a target without endpoints, as it
    /// may come later, together with the fault to report.
    ///
    /// # Errors
    /// If the backend can never be served.
    pub(crate) fn resolve(
        &self,
        namespace: &str,
        backend: &IngressBackend,
    ) -> Result<(Arc<Backend>, Option<Fault>), Fault> {
        let Some(reference) = &backend.service else {
            let message = "backend.resource: Unsupported: only Services can be backends";
            return Err(("UnsupportedBackend", message.to_owned()));
        };
        let wanted = reference.port.clone().unwrap_or_default();
        let port = wanted.number.map(|number| number.to_string()).or(wanted.name).unwrap_or_default();
        let service = ObjectKey::new(namespace, &*reference.name);
        let mut target = Backend { service, port, endpoints: Vec::new() };
        let fault = match self.snapshot.services.get(&target.service) {
            None => Some(("ServiceNotFound", format!("Service {:?} not found", reference.name))),
            Some(service) => match port_of(service, &target.port) {
                Some(port) => {
                    target.endpoints = self.endpoints(&target.service, port);
                    None
                }
                None => {
                    let message = format!("Service {:?} has no TCP port {:?}", reference.name, target.port);
                    Some(("ServicePortNotFound", message))
                }
            },
        };
        Ok((Arc::new(target), fault))
    }

    fn endpoints(&self, service: &ObjectKey, port: &ServicePort) -> Vec<SocketAddr> {
        let name = port.name.as_deref().unwrap_or_default();
        let mut found = BTreeSet::new();
        let slices = self.slices.get(service);
        for slice in slices.into_iter().flatten() {
            let ports = slice.ports.iter().flatten().filter(|p| {
                p.name.as_deref().unwrap_or_default() == name
                    && p.protocol.as_deref().unwrap_or("TCP") == "TCP"
            });
            for number in ports.filter_map(|p| u16::try_from(p.port?).ok()).filter(|number| *number != 0) {
                // Ready unless said otherwise, as the API defines it.
                let ready = slice
                    .endpoints
                    .iter()
                    .filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
                let addresses = ready.filter_map(|e| e.addresses.first()?.parse::<IpAddr>().ok());
                found.extend(addresses.filter(is_routable).map(|address| SocketAddr::new(address, number)));
            }
        }
        found.into_iter().collect()
    }
}

/// The Service's TCP port of this number or name.
fn port_of<'a>(service: &'a Service, wanted: &str) -> Option<&'a ServicePort> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
    spec.ports.iter().flatten().find(|port| {
        port.protocol.as_deref().unwrap_or("TCP") == "TCP"
            && (port.port.to_string() == wanted || port.name.as_deref().is_some_and(|name| name == wanted))
    })
}

/// Whether an address can be an endpoint: never the node itself or its link (CVE-2021-25737).
fn is_routable(address: &IpAddr) -> bool {
    // An IPv4 address as IPv6 leads to where it leads as IPv4.
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}
