//! What one Service wants of the table, without numbers: a function of that Service, its slices and the node alone.

use crate::{
    endpoints::{Endpoints, addresses_maybe_here, endpoints},
    numbers::{At, Role},
    service::{PortView, ServiceView, reject, view},
    sorted::Sorted,
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use minisvc_apimachinery::{
    ClusterConfig, ObjectKey, Snapshot, endpoint_slices::EndpointSlice, service_cidr::extended,
};
use minisvc_netstate::{
    family::{Address, Endpoint, Network},
    nft::{Class, Frontend, Protocol},
};
use minisvc_reconcile::Rejection;
use std::{collections::BTreeSet, net::IpAddr};

/// The label that says a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the table of a node depends on besides the cluster's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// `metadata.name` of the node.
    pub name: String,
    /// The node's primary addresses: node ports answer on these and nowhere else.
    pub addresses: Vec<IpAddr>,
    /// Its other addresses: ports of Pods (`hostPort`) answer on these too.
    pub more_addresses: Vec<IpAddr>,
    /// Ports of the API, if it is served here.
    pub api_ports: Vec<u16>,
    /// The node's zone (label `topology.kubernetes.io/zone`), which endpoints may be kept for.
    pub zone: Option<String>,
    /// What all nodes agree on.
    pub cluster: ClusterConfig,
}

impl NodeView {
    /// The node of this name and these addresses: its zone is what its Node says, and ServiceCIDRs add networks to the cluster's.
    pub fn of(
        snapshot: &Snapshot,
        name: &str,
        addresses: Vec<IpAddr>,
        mut more_addresses: Vec<IpAddr>,
        cluster: &ClusterConfig,
    ) -> Self {
        let node = snapshot.nodes.get(&ObjectKey::cluster(name));
        let labels = node.and_then(|node| node.metadata.labels.as_ref());
        let known = node.and_then(|node| node.status.as_ref()?.addresses.as_deref()).unwrap_or_default();
        let internal = known.iter().filter(|known| known.type_ == "InternalIP");
        more_addresses.extend(internal.filter_map(|known| known.address.parse::<IpAddr>().ok()));
        more_addresses.retain(|address| !addresses.contains(address));
        more_addresses.sort();
        more_addresses.dedup();
        let api_ports =
            api_ports(snapshot, |address| addresses.contains(&address) || more_addresses.contains(&address));
        Self {
            name: name.to_owned(),
            addresses,
            more_addresses,
            api_ports,
            zone: labels.and_then(|labels| labels.get(ZONE).cloned()),
            cluster: extended(cluster, &snapshot.service_cidrs),
        }
    }

    /// The addresses of a family that node ports answer on; never one of the loopback.
    pub fn addresses_of<A: Address>(&self) -> impl Iterator<Item = A> + '_ {
        self.addresses.iter().filter_map(|address| A::of(*address)).filter(|address| !address.is_reserved())
    }

    /// All of the node's addresses of a family on which something can answer, sorted.
    pub fn all_addresses_of<A: Address>(&self) -> Vec<A> {
        let all =
            self.addresses.iter().chain(&self.more_addresses).filter(|address| !self.in_pool(**address));
        let mut all: Vec<A> = all.filter_map(|address| A::of(*address)).collect();
        all.retain(|address| !address.is_reserved());
        all.sort();
        all.dedup();
        all
    }

    /// The networks of Pods of a family.
    pub fn cluster_networks<A: Address>(&self) -> Vec<A::Net> {
        networks::<A>(&self.cluster.cluster_cidrs)
    }

    /// The networks of virtual addresses of a family.
    pub fn service_networks<A: Address>(&self) -> Vec<A::Net> {
        networks::<A>(&self.cluster.service_cidrs)
    }

    /// The cluster DNS address of a family, which every node answers itself.
    pub fn dns_address<A: Address>(&self) -> Option<A> {
        self.cluster.dns_addresses().into_iter().find_map(A::of)
    }

    fn in_pool(&self, address: IpAddr) -> bool {
        self.cluster.load_balancer_pool.iter().any(|range| (range.first..=range.last).contains(&address))
    }
}

fn networks<A: Address>(nets: &[IpNet]) -> Vec<A::Net> {
    let nets: Vec<A::Net> = nets.iter().filter_map(|net| A::net(*net)).collect();
    A::Net::merged(&nets)
}

/// Which of a port's endpoints a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All usable ones.
    Cluster,
    /// Those on this node.
    Local,
}

/// The ports at which the API is served on addresses that are `here`.
fn api_ports(snapshot: &Snapshot, here: impl Fn(IpAddr) -> bool) -> Vec<u16> {
    let Some(slice) = snapshot.endpoint_slices.get(&ObjectKey::new("default", "kubernetes")) else {
        return Vec::new();
    };
    let addresses = slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter());
    if !addresses.filter_map(|address| address.parse().ok()).any(here) {
        return Vec::new();
    }
    slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok()).collect()
}

/// Names an endpoint set within its owner.
pub type SetName = (Protocol, u16, Scope);

/// An endpoint set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSet<A> {
    /// Never empty, sorted.
    pub endpoints: Vec<Endpoint<A>>,
    /// Session affinity in seconds.
    pub affinity_s: Option<u32>,
}

impl<A> EndpointSet<A> {
    /// How an endpoint is picked.
    pub fn class(&self) -> Class {
        let endpoints = u16::try_from(self.endpoints.len()).unwrap_or(u16::MAX);
        Class { endpoints, affinity_s: self.affinity_s }
    }
}

/// Where a Service, or a Pod by a port of the node, answers. Two cannot have the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place<A> {
    /// An address and port.
    Address(Frontend<A>),
    /// A port of every node.
    NodePort(Protocol, u16),
}

/// A place that is owned; a node port at which of the node's addresses, if not at all.
pub type Held<A> = (Place<A>, Option<Vec<A>>);

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
pub struct FrontendPlan<A: Address> {
    /// For Pods and nodes.
    pub internal: Target,
    /// For everybody else.
    pub external: Target,
    /// For load balancer addresses: who may come; None: everybody.
    pub source_ranges: Option<Vec<A::Net>>,
    /// Whether clients from outside get the node's address as source.
    pub masquerade: bool,
}

/// What one owner wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan<A: Address> {
    /// Age for conflicts: the older owner keeps a place. Seconds since the epoch.
    pub created_s: i64,
    /// Endpoint sets by name.
    pub sets: Sorted<SetName, EndpointSet<A>>,
    /// Frontends by place.
    pub frontends: Sorted<Place<A>, FrontendPlan<A>>,
    /// Pod addresses that may reach themselves through the Service, sorted.
    pub hairpin: Vec<A>,
    /// Load balancer addresses whose other ports are refused, sorted.
    pub load_balancer_ips: Vec<A>,
    /// What was left out, and why.
    pub rejected: Vec<Rejection>,
}

/// Not derived: that would ask a default of the address.
impl<A: Address> Default for ServicePlan<A> {
    fn default() -> Self {
        Self {
            created_s: 0,
            sets: Sorted::default(),
            frontends: Sorted::default(),
            hairpin: Vec::new(),
            load_balancer_ips: Vec::new(),
            rejected: Vec::new(),
        }
    }
}

impl<A: Address> ServicePlan<A> {
    /// Whether it has a UDP port, whose flows the kernel remembers.
    pub fn has_udp(&self) -> bool {
        self.frontends.keys().any(|place| match place {
            Place::Address(frontend) => frontend.protocol == Protocol::Udp,
            Place::NodePort(protocol, _) => *protocol == Protocol::Udp,
        })
    }

    /// The sets that the places it owns lead to.
    pub fn used_sets(&self, owned: &[Held<A>]) -> BTreeSet<SetName> {
        owned
            .iter()
            .filter_map(|(place, _)| self.frontends.get(place))
            .flat_map(|frontend| [frontend.internal, frontend.external])
            .filter_map(|target| match target {
                Target::Set(name) => Some(name),
                Target::Refuse | Target::Drop => None,
            })
            .collect()
    }

    /// Where in a table the mark of a set stands.
    pub fn roles(&self, owned: &[Held<A>], name: SetName, node_addresses: &[A]) -> Vec<(At<A>, Role)> {
        let mut roles = Vec::new();
        for (place, at) in owned {
            let Some(frontend) = self.frontends.get(place) else { continue };
            let here: Vec<Frontend<A>> = match *place {
                Place::Address(frontend) => vec![frontend],
                Place::NodePort(protocol, port) => at
                    .as_deref()
                    .unwrap_or(node_addresses)
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
pub fn plan<A: Address>(service: &Service, slices: &[&EndpointSlice], node: &NodeView) -> ServicePlan<A> {
    let mut plan = ServicePlan {
        created_s: service.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second()),
        ..ServicePlan::default()
    };
    let Some(view) = view::<A>(service, &mut plan.rejected) else { return plan };
    let hairpin: BTreeSet<A> = addresses_maybe_here(slices.iter().copied(), &node.name).collect();
    plan.hairpin = hairpin.into_iter().collect();
    let field = "status.loadBalancer.ingress";
    let load_balancer_ips = outside_ips(service, field, &view.load_balancer_ips, node, &mut plan.rejected);
    let external_ips = outside_ips(service, "spec.externalIPs", &view.external_ips, node, &mut plan.rejected);
    let external_ips = allowed_external_ips(service, external_ips, node, &mut plan.rejected);
    plan.load_balancer_ips =
        load_balancer_ips.iter().copied().filter(|ip| node.in_pool((*ip).into())).collect();
    for port in &view.ports {
        let found = endpoints(slices.iter().copied(), &port.name, port.protocol, node);
        if found.truncated {
            let message = format!("port {}: only the first endpoints are used", port.port);
            plan.rejected.push(reject(service, "TooManyEndpoints", message));
        }
        plan_port(&mut plan, &view, port, &found, (&load_balancer_ips, &external_ips), node);
    }
    plan
}

/// Addresses from outside the cluster, without those that are in the cluster's own networks.
fn outside_ips<A: Address>(
    service: &Service,
    field: &str,
    given: &[A],
    node: &NodeView,
    rejected: &mut Vec<Rejection>,
) -> Vec<A> {
    let mut taken = node.service_networks::<A>();
    taken.extend(node.cluster_networks::<A>());
    let (bad, good): (Vec<A>, Vec<A>) = given.iter().partition(|ip| taken.iter().any(|net| net.holds(**ip)));
    for ip in bad {
        let message = format!("{field}: {ip} is in the cluster's own networks");
        rejected.push(reject(service, "InvalidAddress", message));
    }
    good
}

/// Of `spec.externalIPs` those that the cluster allows. The API refuses others; one that was allowed once may be there.
fn allowed_external_ips<A: Address>(
    service: &Service,
    given: Vec<A>,
    node: &NodeView,
    rejected: &mut Vec<Rejection>,
) -> Vec<A> {
    let (good, bad): (Vec<A>, Vec<A>) =
        given.into_iter().partition(|ip| node.cluster.allows_external_ip((*ip).into()));
    for ip in bad {
        let message = format!("spec.externalIPs: {ip} is in none of the networks that the cluster allows");
        rejected.push(reject(service, "ExternalIPNotAllowed", message));
    }
    good
}

fn plan_port<A: Address>(
    plan: &mut ServicePlan<A>,
    view: &ServiceView<A>,
    port: &PortView,
    found: &Endpoints<A>,
    (load_balancer_ips, external_ips): (&[A], &[A]),
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
    let service_networks = node.service_networks::<A>();
    let internal = if view.internal_local { local } else { cluster };
    for address in view.cluster_ips.iter().filter(|ip| Some(**ip) != node.dns_address()) {
        let place = Place::Address(Frontend { address: *address, protocol: port.protocol, port: port.port });
        let masquerade = !service_networks.iter().any(|net| net.holds(*address));
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
    for address in external_ips {
        let place = Place::Address(Frontend { address: *address, protocol: port.protocol, port: port.port });
        plan.frontends.insert(place, outside(None));
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
fn own_range<A: Address>(mut ranges: Vec<A::Net>, address: A, node: &NodeView) -> Vec<A::Net> {
    let node_allowed = node.addresses_of().any(|own: A| ranges.iter().any(|range| range.holds(own)));
    if node_allowed {
        ranges.push(A::Net::single(address));
    }
    A::Net::merged(&ranges)
}
