//! The endpoints a Service should have, grouped by what its ports resolve to in each Pod.

use crate::objects::{
    is_in_node_network, is_over, node_addresses, node_of, pod_cidrs, pod_is_ready, selector, selects,
};
use k8s_openapi::{
    api::{
        core::{
            self,
            v1::{ObjectReference, Pod, Service, ServicePort},
        },
        discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use minisvc_apimachinery::{Family, ObjectKey, Snapshot, endpoint_slices::EndpointSlice};
use std::{collections::BTreeMap, net::IpAddr};

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// One port of a slice; comparable, unlike the wire type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    name: String,
    protocol: String,
    port: i32,
    app_protocol: Option<String>,
}

/// The ports of a slice, sorted.
pub(crate) type Ports = Vec<Port>;

impl From<&EndpointPort> for Port {
    fn from(port: &EndpointPort) -> Self {
        Self {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port.unwrap_or_default(),
            app_protocol: port.app_protocol.clone(),
        }
    }
}

impl From<&Port> for core::v1::EndpointPort {
    fn from(port: &Port) -> Self {
        Self {
            name: Some(port.name.clone()).filter(|name| !name.is_empty()),
            protocol: Some(port.protocol.clone()),
            port: port.port,
            app_protocol: port.app_protocol.clone(),
        }
    }
}

impl From<&core::v1::EndpointPort> for Port {
    fn from(port: &core::v1::EndpointPort) -> Self {
        Self {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port,
            app_protocol: port.app_protocol.clone(),
        }
    }
}

impl From<&Port> for EndpointPort {
    fn from(port: &Port) -> Self {
        Self {
            name: Some(port.name.clone()),
            protocol: Some(port.protocol.clone()),
            port: Some(port.port),
            app_protocol: port.app_protocol.clone(),
        }
    }
}

/// The ports of a present slice, in our order.
pub(crate) fn ports_of(slice: &EndpointSlice) -> Ports {
    let mut ports: Ports = slice.ports.iter().flatten().map(Port::from).collect();
    ports.sort();
    ports
}

/// Endpoints of a family by ports, then by Pod UID.
pub(crate) fn desired(
    snapshot: &Snapshot,
    service: &Service,
    family: Family,
) -> BTreeMap<Ports, BTreeMap<String, Endpoint>> {
    let mut groups: BTreeMap<Ports, BTreeMap<String, Endpoint>> = BTreeMap::new();
    let (Some(selector), Some(namespace)) = (selector(service), service.metadata.namespace.as_deref()) else {
        return groups;
    };
    let pods = snapshot
        .pods
        .range(ObjectKey::new(namespace, "")..)
        .take_while(|(key, _)| key.namespace == namespace);
    for (_, pod) in pods {
        if !selects(selector, &pod.metadata) || is_over(pod) {
            continue;
        }
        let Some((address, uid)) = address(snapshot, pod, family).zip(pod.metadata.uid.clone()) else {
            continue;
        };
        groups.entry(ports(service, pod)).or_default().insert(uid, endpoint(snapshot, service, pod, address));
    }
    groups
}

/// The Pod's address of a family. One outside its node's podCIDRs is none, nor one that is not the node's own for a Pod in
/// its network: a node, which says it, may not lead callers elsewhere.
fn address(snapshot: &Snapshot, pod: &Pod, family: Family) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let mut all = all.filter_map(|text| text.parse::<IpAddr>().ok());
    let address = all.find(|address| Family::of(*address) == family)?;
    let node = node_of(pod).and_then(|node| snapshot.nodes.get(&ObjectKey::cluster(node)));
    if is_in_node_network(pod) {
        return node.filter(|node| node_addresses(node).any(|own| own == address)).map(|_| address);
    }
    let nets = node.map(|node| pod_cidrs(node)).unwrap_or_default();
    // A Node that is not there, or has no podCIDR yet, is about to be given one: its Pods stay.
    (nets.is_empty() || nets.iter().any(|net| net.contains(&address))).then_some(address)
}

fn ports(service: &Service, pod: &Pod) -> Ports {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let resolved = ports.iter().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: target(port, pod)?,
            app_protocol: port.app_protocol.clone(),
        })
    });
    let mut resolved: Ports = resolved.collect();
    resolved.sort();
    resolved
}

/// The Pod's port for a Service's port: by number, or by the name of a container's port of that protocol.
fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let wanted = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let containers = &pod.spec.as_ref()?.containers;
    containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| {
            port.name.as_ref() == Some(wanted) && port.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|port| port.container_port)
}

fn endpoint(snapshot: &Snapshot, service: &Service, pod: &Pod, address: IpAddr) -> Endpoint {
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let (serving, terminating) = (pod_is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    let node = node_of(pod);
    let zone = node
        .and_then(|node| snapshot.nodes.get(&ObjectKey::cluster(node)))
        .and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned());
    let spec = pod.spec.as_ref();
    let hostname = spec
        .filter(|spec| spec.subdomain.is_some() && spec.subdomain == service.metadata.name)
        .and_then(|spec| spec.hostname.clone())
        .filter(|hostname| !hostname.is_empty());
    let ready = publish || (serving && !terminating);
    Endpoint {
        hints: hints(service, node, zone.as_deref()).filter(|_| ready),
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname,
        node_name: node.map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone,
        deprecated_topology: None,
    }
}

/// For whom an endpoint is kept, by the Service's `trafficDistribution` (source: KEP-4444, KEP-3015; kubernetes
/// `endpointslice/trafficdist`).
fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let wanted = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let zones = zone.map(|name| vec![ForZone { name: name.to_owned() }]);
    let hints = match wanted {
        "PreferSameNode" => {
            let nodes = node.map(|name| vec![ForNode { name: name.to_owned() }]);
            EndpointHints { for_nodes: nodes, for_zones: zones }
        }
        "PreferSameZone" | "PreferClose" => EndpointHints { for_nodes: None, for_zones: zones },
        _ => return None,
    };
    (hints.for_nodes.is_some() || hints.for_zones.is_some()).then_some(hints)
}
