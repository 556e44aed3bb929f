//! What one Service wants of the table, without numbers: a function of that Service, its slices and the node alone.

use crate::{
    endpoints::{Endpoints, addresses_maybe_here, endpoints},
    numbers::{At, Role},
    service::{PortView, ServiceView, reject, view},
};
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot, service_cidr::extended};
use minisvc_netstate::nft::{Class, Frontend, Protocol};
use minisvc_reconcile::Rejection;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};

/// The label that says a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the table of a node depends on besides the cluster's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// `metadata.name` of the node.
    pub name: String,
    /// The node's primary addresses: node ports answer on these and nowhere else.
    pub addresses: Vec<IpAddr>,
    /// The node's zone (label `topology.kubernetes.io/zone`), which endpoints may be kept for.
    pub zone: Option<String>,
    /// What all nodes agree on.
    pub cluster: ClusterConfig,
}

impl NodeView {
    /// The node of this name and address: its zone is what its Node says, and ServiceCIDRs add networks to the cluster's.
    pub fn of(snapshot: &Snapshot, name: &str, address: IpAddr, cluster: &ClusterConfig) -> Self {
        let node = snapshot.nodes.get(&ObjectKey::cluster(name));
        let labels = node.and_then(|node| node.metadata.labels.as_ref());
        Self {
            name: name.to_owned(),
            addresses: vec![address],
            zone: labels.and_then(|labels| labels.get(ZONE).cloned()),
            cluster: extended(cluster, &snapshot.service_cidrs),
        }
    }

    /// The IPv4 addresses node ports answer on; never one of the loopback.
    pub fn addresses_v4(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.addresses.iter().filter_map(|address| match address {
            IpAddr::V4(address) if !address.is_loopback() && !address.is_unspecified() => Some(*address),
            _ => None,
        })
    }

    /// The IPv4 networks of Pods.
    pub fn cluster_networks(&self) -> Vec<Ipv4Net> {
        networks(&self.cluster.cluster_cidrs)
    }

    /// The IPv4 networks of virtual addresses.
    pub fn service_networks(&self) -> Vec<Ipv4Net> {
        networks(&self.cluster.service_cidrs)
    }

    /// The cluster DNS address, which every node answers itself.
    pub fn dns_address(&self) -> Option<Ipv4Addr> {
        match self.cluster.dns_address() {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        }
    }

    fn in_pool(&self, address: Ipv4Addr) -> bool {
        let address = IpAddr::V4(address);
        self.cluster.load_balancer_pool.iter().any(|range| (range.first..=range.last).contains(&address))
    }
}

fn networks(nets: &[IpNet]) -> Vec<Ipv4Net> {
    let v4: Vec<_> = nets
        .iter()
        .filter_map(|net| match net {
            IpNet::V4(net) => Some(net.trunc()),
            IpNet::V6(_) => None,
        })
        .collect();
    Ipv4Net::aggregate(&v4)
}

/// Which of a port's endpoints a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All usable ones.
    Cluster,
    /// Those on this node.
    Local,
}

/// Names an endpoint set within its Service.
pub type SetName = (Protocol, u16, Scope);

/// An endpoint set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSet {
    /// Never empty, sorted.
    pub endpoints: Vec<SocketAddrV4>,
    /// Session affinity in seconds.
    pub affinity_s: Option<u32>,
}

impl EndpointSet {
    /// How an endpoint is picked.
    pub fn class(&self) -> Class {
        let endpoints = u16::try_from(self.endpoints.len()).unwrap_or(u16::MAX);
        Class { endpoints, affinity_s: self.affinity_s }
    }
}

/// Where a Service answers. Two Services cannot have the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An address and port.
    Address(Frontend),
    /// A port of every node.
    NodePort(Protocol, u16),
}

/// What a packet to a place gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An endpoint of the set.
    Set(SetName),
    /// "Nothing answers here."
    Refuse,
    /// Silence: there are endpoints, but policy forbids them here.
    Drop,
}

/// How a place answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendPlan {
    /// For Pods and nodes.
    pub internal: Target,
    /// For everybody else.
    pub external: Target,
    /// For load balancer addresses: who may come; None: everybody.
    pub source_ranges: Option<Vec<Ipv4Net>>,
    /// Whether clients from outside get the node's address as source.
    pub masquerade: bool,
}

/// What one Service wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Age for conflicts: the older Service keeps a place. Seconds since the epoch.
    pub created_s: i64,
    /// Endpoint sets by name.
    pub sets: BTreeMap<SetName, EndpointSet>,
    /// Frontends by place.
    pub frontends: BTreeMap<Place, FrontendPlan>,
    /// Pod addresses that may reach themselves through the Service.
    pub hairpin: BTreeSet<Ipv4Addr>,
    /// Load balancer addresses whose other ports are refused.
    pub load_balancer_ips: BTreeSet<Ipv4Addr>,
    /// What was left out, and why.
    pub rejected: Vec<Rejection>,
}

impl ServicePlan {
    /// Whether it has a UDP port, whose flows the kernel remembers.
    pub fn has_udp(&self) -> bool {
        self.frontends.keys().any(|place| match place {
            Place::Address(frontend) => frontend.protocol == Protocol::Udp,
            Place::NodePort(protocol, _) => *protocol == Protocol::Udp,
        })
    }

    /// The sets that the places it owns lead to.
    pub fn used_sets(&self, owned: &[Place]) -> BTreeSet<SetName> {
        owned
            .iter()
            .filter_map(|place| self.frontends.get(place))
            .flat_map(|frontend| [frontend.internal, frontend.external])
            .filter_map(|target| match target {
                Target::Set(name) => Some(name),
                Target::Refuse | Target::Drop => None,
            })
            .collect()
    }

    /// Where in a table the mark of a set stands.
    pub fn roles(&self, owned: &[Place], name: SetName, node_addresses: &[Ipv4Addr]) -> Vec<(At, Role)> {
        let mut roles = Vec::new();
        for place in owned {
            let Some(frontend) = self.frontends.get(place) else { continue };
            let here: Vec<Frontend> = match *place {
                Place::Address(frontend) => vec![frontend],
                Place::NodePort(protocol, port) => node_addresses
                    .iter()
                    .map(|address| Frontend { address: *address, protocol, port })
                    .collect(),
            };
            let (internal, external) = (frontend.internal, frontend.external);
            if internal == external && internal == Target::Set(name) {
                roles.push(match *place {
                    Place::Address(frontend) => (At::Address(frontend), Role::Only),
                    Place::NodePort(protocol, port) => (At::NodePort(protocol, port), Role::Only),
                });
            } else if internal == Target::Set(name) {
                roles.extend(here.iter().map(|frontend| (At::Address(*frontend), Role::Internal)));
            } else if external == Target::Set(name) {
                roles.extend(here.iter().map(|frontend| (At::Address(*frontend), Role::External)));
            }
        }
        roles
    }
}

/// Plans one Service.
pub fn plan(service: &Service, slices: &[&EndpointSlice], node: &NodeView) -> ServicePlan {
    let mut plan = ServicePlan {
        created_s: service.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second()),
        ..ServicePlan::default()
    };
    let Some(view) = view(service, &mut plan.rejected) else { return plan };
    plan.hairpin = addresses_maybe_here(slices.iter().copied(), &node.name).collect();
    let load_balancer_ips = usable_load_balancer_ips(service, &view, node, &mut plan.rejected);
    plan.load_balancer_ips = load_balancer_ips.iter().copied().filter(|ip| node.in_pool(*ip)).collect();
    for port in &view.ports {
        let found = endpoints(slices.iter().copied(), &port.name, port.protocol, node);
        if found.truncated {
            let message = format!("port {}: only the first endpoints are used", port.port);
            plan.rejected.push(reject(service, "TooManyEndpoints", message));
        }
        plan_port(&mut plan, &view, port, &found, &load_balancer_ips, node);
    }
    plan
}

fn usable_load_balancer_ips(
    service: &Service,
    view: &ServiceView,
    node: &NodeView,
    rejected: &mut Vec<Rejection>,
) -> Vec<Ipv4Addr> {
    let mut taken = node.service_networks();
    taken.extend(node.cluster_networks());
    let (bad, good): (Vec<Ipv4Addr>, Vec<Ipv4Addr>) =
        view.load_balancer_ips.iter().partition(|ip| taken.iter().any(|net| net.contains(*ip)));
    for ip in bad {
        let message = format!("status.loadBalancer.ingress: {ip} is in the cluster's own networks");
        rejected.push(reject(service, "InvalidAddress", message));
    }
    good
}

fn plan_port(
    plan: &mut ServicePlan,
    view: &ServiceView,
    port: &PortView,
    found: &Endpoints,
    load_balancer_ips: &[Ipv4Addr],
    node: &NodeView,
) {
    let set = |scope| (port.protocol, port.port, scope);
    let cluster = if found.cluster.is_empty() { Target::Refuse } else { Target::Set(set(Scope::Cluster)) };
    let local = if found.local.is_empty() {
        if found.cluster.is_empty() { Target::Refuse } else { Target::Drop }
    } else if found.local == found.cluster {
        cluster
    } else {
        Target::Set(set(Scope::Local))
    };
    let service_networks = node.service_networks();
    let internal = if view.internal_local { local } else { cluster };
    for address in view.cluster_ips.iter().filter(|ip| Some(**ip) != node.dns_address()) {
        let place = Place::Address(Frontend { address: *address, protocol: port.protocol, port: port.port });
        let masquerade = !service_networks.iter().any(|net| net.contains(address));
        let frontend = FrontendPlan { internal, external: internal, source_ranges: None, masquerade };
        plan.frontends.insert(place, frontend);
    }
    // Pods and nodes that use an external address are inside already: Local is about those who are not.
    let external = if view.external_local { local } else { cluster };
    let outside = |source_ranges| FrontendPlan {
        internal: cluster,
        external,
        source_ranges,
        masquerade: !view.external_local,
    };
    if let Some(number) = port.node_port {
        plan.frontends.insert(Place::NodePort(port.protocol, number), outside(None));
    }
    for address in load_balancer_ips {
        let place = Place::Address(Frontend { address: *address, protocol: port.protocol, port: port.port });
        let ranges = view.source_ranges.clone().map(|ranges| own_range(ranges, *address, node));
        plan.frontends.insert(place, outside(ranges));
    }
    let used: BTreeSet<SetName> = plan
        .frontends
        .values()
        .flat_map(|frontend| [frontend.internal, frontend.external])
        .filter_map(|target| match target {
            Target::Set(name) => Some(name),
            Target::Refuse | Target::Drop => None,
        })
        .collect();
    for (scope, endpoints) in [(Scope::Cluster, &found.cluster), (Scope::Local, &found.local)] {
        if used.contains(&set(scope)) {
            let endpoints = EndpointSet { endpoints: endpoints.clone(), affinity_s: view.affinity_s };
            plan.sets.insert(set(scope), endpoints);
        }
    }
}

/// A node that holds the address itself reaches it with that address as source: allowed if the node is.
fn own_range(mut ranges: Vec<Ipv4Net>, address: Ipv4Addr, node: &NodeView) -> Vec<Ipv4Net> {
    let node_allowed = node.addresses_v4().any(|own| ranges.iter().any(|range| range.contains(&own)));
    if node_allowed {
        ranges.push(Ipv4Net::from(address));
    }
    Ipv4Net::aggregate(&ranges)
}
