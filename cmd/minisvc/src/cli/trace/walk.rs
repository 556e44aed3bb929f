//! The walk: node by node, what a table does with the packet and where it goes on.
//!
//! In: the cluster's objects and a question. Out: hops. Pure: the table is [`Planner`]'s, what becomes of the packet
//! [`explain`]'s, the links are those of `minisvc_podnet`.
//!
//! Invariant: a packet that a node sends on as it is, to another node's address, is followed there; [`HOPS_MAX`] bounds it.

use super::question::{Question, Start, is_in_node_network, node_with, pod_address};
use minisvc_apimachinery::{
    ObjectKey, Snapshot,
    cluster::{FACTS_ANNOTATION, NodeFacts},
    service_changes::service_of,
    service_cidr::extended,
};
use minisvc_netstate::{
    family::{Address, Endpoint},
    link::NetState,
    nft::{Packet, ServiceTable},
};
use minisvc_podnet::{LocalPod, Underlay, Way, internal_ips, node_address, pod_cidrs, way};
use minisvc_proxy::{
    NodeView, Planner,
    explain::{Explanation, Outcome, explain},
    load_balancer_addresses_of,
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Most nodes that see a packet before it is where it was sent: from one to another, never further.
const HOPS_MAX: usize = 3;

/// Who has an address.
#[derive(Debug, Clone, PartialEq)]
pub enum Owner {
    Pod {
        key: ObjectKey,
        node: String,
    },
    Node(String),
    /// Of a node's podCIDR, but no Pod has it.
    NodesPart(String),
    Nobody,
}

/// Where a packet goes on from a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    pub owner: Owner,
    pub way: Way,
}

/// What one node does.
#[derive(Debug, Clone, PartialEq)]
pub struct Hop<A: Address> {
    pub node: String,
    pub packet: Packet<A>,
    pub explanation: Explanation<A>,
    /// Where it goes on: for each endpoint, or for the packet as it is.
    pub next: Vec<Next>,
}

/// The whole way. Without a hop nobody takes the packet.
#[derive(Debug, Clone, PartialEq)]
pub struct Walk<A: Address> {
    pub question: Question<A>,
    pub hops: Vec<Hop<A>>,
}

/// What becomes of the packet in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// An endpoint gets it.
    Endpoint,
    /// It was sent to no Service and goes where it was sent.
    Pass,
    /// The client is told that nothing answers.
    Refused,
    /// Silence.
    Dropped,
}

impl<A: Address> Walk<A> {
    /// What becomes of the packet in the end.
    pub fn end(&self) -> End {
        let Some(last) = self.hops.last() else { return End::Dropped };
        let unreachable = |next: &Next| next.way == Way::Unreachable;
        match last.explanation.outcome {
            Outcome::Refused(_) => End::Refused,
            Outcome::Dropped(_) => End::Dropped,
            // The route of a Pod's address that no node has answers with an error.
            _ if !last.next.is_empty() && last.next.iter().all(unreachable) => End::Refused,
            Outcome::Endpoints { .. } => End::Endpoint,
            Outcome::Pass { .. } => End::Pass,
        }
    }
}

/// Follows the packet.
///
/// # Errors
/// If a node on the way is not known well enough; in words for people.
pub fn walk<A: Address>(snapshot: &Snapshot, question: Question<A>) -> Result<Walk<A>, String> {
    let (mut node, mut source) = match &question.start {
        Start::Pod { address, node, .. } => (node.clone(), Some(*address)),
        Start::Node(node) => (node.clone(), None),
        Start::Outside { address, node: Some(node) } => (node.clone(), Some(*address)),
        Start::Outside { node: None, .. } => return Ok(Walk { question, hops: Vec::new() }),
    };
    let Question { destination, protocol, port, .. } = question;
    let mut hops = Vec::new();
    while hops.len() < HOPS_MAX {
        let side = Side::of(snapshot, &node)?;
        let from_node = source.is_none();
        let source_here = source.unwrap_or_else(|| side.source(destination));
        let packet = Packet { source: source_here, destination, protocol, port, from_node, mark: 0 };
        let mut explanation = explain(&side.planner, snapshot, &packet);
        let next = side.onward(snapshot, destination, &mut explanation);
        let stays = next.iter().all(|next| next.way == Way::Here);
        let masquerade = match explanation.outcome {
            Outcome::Pass { masquerade } => Some(masquerade),
            _ => None,
        };
        hops.push(Hop { node: node.clone(), packet, explanation, next });
        match (masquerade, node_with(snapshot, destination)) {
            (Some(masquerade), Some(other)) if other != node && !stays => {
                source = Some(if masquerade { side.address } else { source_here });
                node = other;
            }
            _ => break,
        }
    }
    Ok(Walk { question, hops })
}

/// One node, as its agent makes it.
struct Side<A: Address> {
    address: A,
    /// All of its addresses that it says.
    own: Vec<IpAddr>,
    underlay: Underlay,
    links: NetState,
    planner: Planner<A>,
}

impl<A: Address> Side<A> {
    fn of(snapshot: &Snapshot, name: &str) -> Result<Self, String> {
        let node = snapshot.nodes.get(&ObjectKey::cluster(name));
        let node = node.ok_or_else(|| format!("there is no Node {name}"))?;
        let facts = NodeFacts::of(node).ok_or_else(|| {
            format!("Node {name} does not say how its network is made (annotation {FACTS_ANNOTATION}): start a newer minisvc there")
        })?;
        let addresses = internal_ips(node).map_err(|error| format!("Node {name}: {error}"))?;
        // A node without an address of the family on its link sends as what it is among the Pods.
        let among_pods = || pod_cidrs(node).ok()?.iter().find_map(|net| A::of(node_address(net)));
        let address = addresses
            .iter()
            .copied()
            .find_map(A::of)
            .or_else(among_pods)
            .ok_or_else(|| format!("Node {name} has no {} address", A::FAMILY.name()))?;
        let primary = addresses.first().copied().ok_or_else(|| format!("Node {name} has no InternalIP"))?;
        // The size of packets and what computes checksums decide nothing here.
        let underlay = Underlay {
            ifname: facts.link,
            address: primary,
            prefix_len: facts.prefix_len,
            second: facts.second,
            mtu_bytes: 1500,
            hardware: false,
        };
        let cluster = extended(&facts.cluster, &snapshot.service_cidrs);
        let held: Vec<IpAddr> = load_balancer_addresses_of(name, snapshot).into_iter().collect();
        let view = minisvc_podnet::NodeView {
            node_name: name,
            cluster: &cluster,
            underlay: &underlay,
            lb_addresses: &held,
        };
        let links = minisvc_podnet::desired(snapshot, &view, &pods_of(snapshot, name))
            .map_err(|error| error.to_string())?
            .desired
            .links;
        let ports_at = facts.node_ports_at.unwrap_or(addresses);
        let node = NodeView::of(snapshot, name, ports_at, facts.addresses.clone(), &facts.cluster);
        let mut planner = Planner::new(node, ServiceTable::new());
        planner.update(snapshot);
        Ok(Self { address, own: facts.addresses, underlay, links, planner })
    }

    /// The address that the node itself sends from.
    fn source(&self, to: A) -> A {
        match way(&self.links, &self.underlay, to.into()) {
            Way::Here => to,
            Way::Link { source: Some(source), .. } => A::of(source).unwrap_or(self.address),
            _ => self.address,
        }
    }

    /// Where the packet goes on. What stays on this node leaves by no link, so its source stays what it is.
    fn onward(&self, snapshot: &Snapshot, to: A, explanation: &mut Explanation<A>) -> Vec<Next> {
        let service = explanation.matched.as_ref().and_then(|matched| match &matched.owner {
            minisvc_proxy::Owner::Service(key) => Some(key),
            minisvc_proxy::Owner::Pod(_) => None,
        });
        match &mut explanation.outcome {
            Outcome::Endpoints { choices, .. } => {
                let all = choices.iter_mut().map(|choice| {
                    let mut next = self.next(snapshot, choice.endpoint.address);
                    choice.masquerade &= next.way != Way::Here;
                    if let Owner::Node(node) = &next.owner
                        && let Some(key) = service.and_then(|key| pod_behind(snapshot, key, choice.endpoint))
                    {
                        next.owner = Owner::Pod { key, node: node.clone() };
                    }
                    next
                });
                all.collect()
            }
            Outcome::Pass { masquerade } => {
                let next = self.next(snapshot, to);
                *masquerade &= next.way != Way::Here;
                vec![next]
            }
            Outcome::Refused(_) | Outcome::Dropped(_) => Vec::new(),
        }
    }

    fn next(&self, snapshot: &Snapshot, to: A) -> Next {
        let here = self.own.contains(&to.into());
        let way = if here { Way::Here } else { way(&self.links, &self.underlay, to.into()) };
        Next { owner: owner(snapshot, to), way }
    }
}

/// The Pods of a node that have an address.
fn pods_of(snapshot: &Snapshot, name: &str) -> BTreeMap<String, LocalPod> {
    let here = |node: Option<&String>| node.is_some_and(|node| node == name);
    let pods = snapshot
        .pods
        .iter()
        .filter(|(_, pod)| here(pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref())))
        .filter(|(_, pod)| !is_in_node_network(pod));
    pods.filter_map(|(key, pod)| {
        let uid = pod.metadata.uid.clone()?;
        let v4 = pod_address::<Ipv4Addr>(pod).map(IpAddr::from);
        let v6 = pod_address::<Ipv6Addr>(pod).map(IpAddr::from);
        let addresses = v4.into_iter().chain(v6).collect();
        let local = LocalPod::new(&uid, &key.namespace, &key.name, addresses);
        Some((uid, local))
    })
    .collect()
}

/// The Pod in its node's network that is this endpoint of a Service: by its address alone it cannot be told.
fn pod_behind<A: Address>(snapshot: &Snapshot, service: &ObjectKey, end: Endpoint<A>) -> Option<ObjectKey> {
    let slices =
        snapshot.endpoint_slices.values().filter(|slice| service_of(slice).as_ref() == Some(service));
    let with_port = slices.filter(|slice| {
        let mut ports = slice.ports.iter().flatten();
        ports.any(|port| port.port == Some(end.port.into()))
    });
    let mut endpoints = with_port.flat_map(|slice| &slice.endpoints);
    let is_it = |text: Option<&Box<str>>| text.and_then(|text| text.parse().ok()) == Some(end.address);
    let found = endpoints.find(|endpoint| is_it(endpoint.addresses.first()))?;
    let name = found.target_ref.as_ref()?.name.as_deref()?;
    Some(ObjectKey::new(service.namespace.as_str(), name))
}

fn owner<A: Address>(snapshot: &Snapshot, address: A) -> Owner {
    if let Some((key, pod)) = snapshot.pods.iter().find(|(_, pod)| pod_address(pod) == Some(address)) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        return Owner::Pod { key: key.clone(), node };
    }
    if let Some(node) = node_with(snapshot, address) {
        return Owner::Node(node);
    }
    let part = |node| pod_cidrs(node).is_ok_and(|nets| nets.iter().any(|net| net.contains(&address.into())));
    let found = snapshot.nodes.iter().find(|(_, node)| part(node));
    found.map_or(Owner::Nobody, |(key, _)| Owner::NodesPart(key.name.clone()))
}
