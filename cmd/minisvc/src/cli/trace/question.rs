//! Who sends a packet, and where to: words of the command line as objects of the cluster.
//!
//! Invariant: what names nothing, or two things, is refused with the word that does; nothing is guessed.

use k8s_openapi::api::core::v1::{Pod, Service};
use minisvc_apimachinery::{ObjectKey, Snapshot, cluster::NodeFacts};
use minisvc_netstate::{
    family::{Address, Family},
    nft::Protocol,
};
use minisvc_podnet::internal_ips;
use minisvc_proxy::{holder::is_ready, lb_holder};
use std::net::IpAddr;

/// A destination as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    host: String,
    port: String,
    protocol: Option<Protocol>,
}

/// Who sends the packet.
#[derive(Debug, Clone, PartialEq)]
pub enum Start<A> {
    /// A Pod, and the node it is on.
    Pod { key: ObjectKey, address: A, node: String },
    /// A node.
    Node(String),
    /// Somebody else, and the node that answers them; None: no node does.
    Outside { address: A, node: Option<String> },
}

/// The packet that is asked about.
#[derive(Debug, Clone, PartialEq)]
pub struct Question<A> {
    pub start: Start<A>,
    pub destination: A,
    pub protocol: Protocol,
    pub port: u16,
}

/// The command line's words.
pub struct Asked<'a> {
    pub to: Target,
    pub from: Option<&'a str>,
    pub via: Option<&'a str>,
    /// Of names that say none.
    pub namespace: &'a str,
}

impl Target {
    /// Reads `HOST:PORT[/PROTO]`.
    ///
    /// # Errors
    /// In words for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, rest) = text.rsplit_once(':').ok_or_else(|| {
            format!("{text:?} has no port: give ADDRESS:PORT[/PROTO] or SERVICE:PORT[/PROTO]")
        })?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains(':') {
            return Err(format!("{text:?}: write an IPv6 address in brackets: [fd43::1]:80"));
        }
        if let Some(six) = bare.filter(|six| six.parse::<std::net::Ipv6Addr>().is_err()) {
            return Err(format!("{text:?}: {six:?} is no IPv6 address"));
        }
        let host = bare.unwrap_or(host);
        let (port, protocol) = match rest.split_once('/') {
            None => (rest, None),
            Some((port, name)) => {
                let known = Protocol::ALL.into_iter().find(|p| p.to_string().eq_ignore_ascii_case(name));
                let unknown = || format!("{text:?}: {name:?} is no protocol: tcp, udp or sctp");
                (port, Some(known.ok_or_else(unknown)?))
            }
        };
        if host.is_empty() || port.is_empty() {
            return Err(format!(
                "{text:?}: the {} is missing",
                if host.is_empty() { "address" } else { "port" }
            ));
        }
        Ok(Self { host: host.to_owned(), port: port.to_owned(), protocol })
    }
}

/// A port by number.
fn number(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("{text:?} is not a port, 1 to 65535"))
}

impl Asked<'_> {
    /// The family of the packet: the destination's if that is an address, else the sender's if that is one, else the
    /// first of the Service's.
    pub fn family(&self, snapshot: &Snapshot) -> Family {
        let address = |text: &str| text.parse::<IpAddr>().ok();
        let service = || {
            let spec = snapshot.services.get(&self.key(&self.to.host))?.spec.as_ref()?;
            address(spec.cluster_ip.as_deref()?)
        };
        let found = address(&self.to.host).or_else(|| address(self.from?)).or_else(service);
        found.map_or(Family::Ipv4, Family::of)
    }

    /// Finds the objects that the words name.
    ///
    /// # Errors
    /// In words for people.
    pub fn resolve<A: Address>(&self, snapshot: &Snapshot) -> Result<Question<A>, String> {
        let (destination, protocol, port) = self.destination(snapshot)?;
        let start = self.start(snapshot, destination)?;
        Ok(Question { start, destination, protocol, port })
    }

    fn key(&self, text: &str) -> ObjectKey {
        let (namespace, name) = text.split_once('/').unwrap_or((self.namespace, text));
        ObjectKey::new(namespace, name)
    }

    fn destination<A: Address>(&self, snapshot: &Snapshot) -> Result<(A, Protocol, u16), String> {
        let Target { host, port, protocol } = &self.to;
        if let Ok(address) = host.parse::<A>() {
            return Ok((address, protocol.unwrap_or(Protocol::Tcp), number(port)?));
        }
        let key = self.key(host);
        let service = snapshot
            .services
            .get(&key)
            .ok_or_else(|| format!("{host:?} is no address, and there is no Service {key}"))?;
        let address = cluster_ip(&key, service)?;
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let named = |given: &&k8s_openapi::api::core::v1::ServicePort| {
            let its = minisvc_proxy::service::protocol(given.protocol.as_deref());
            let same = given.name.as_ref() == Some(port) || given.port.to_string() == *port;
            same && (protocol.is_none() || its == *protocol)
        };
        if let Some(found) = ports.iter().find(named) {
            let its = minisvc_proxy::service::protocol(found.protocol.as_deref());
            return Ok((address, its.unwrap_or(Protocol::Tcp), number(&found.port.to_string())?));
        }
        // A number that the Service does not have can be asked about: it is refused, and the trace says so.
        let number = number(port).map_err(|_| format!("Service {key} has no port {port:?}"))?;
        Ok((address, protocol.unwrap_or(Protocol::Tcp), number))
    }

    fn start<A: Address>(&self, snapshot: &Snapshot, destination: A) -> Result<Start<A>, String> {
        let Some(from) = self.from else {
            let mut ready = snapshot.nodes.iter().filter(|(_, node)| is_ready(node));
            let (key, _) = ready.next().ok_or("no node is Ready: say by --from who sends the packet")?;
            return Ok(Start::Node(key.name.clone()));
        };
        let start = match from.parse::<IpAddr>() {
            Ok(address) => {
                let mixed = || format!("--from {from}: {destination} is of the other family");
                self.of_address(snapshot, A::of(address).ok_or_else(mixed)?, destination)?
            }
            Err(_) => self.of_name(snapshot, from)?,
        };
        match (self.via, &start) {
            (Some(via), Start::Pod { .. } | Start::Node(_)) => Err(format!(
                "--via {via}: {from} is inside the cluster, and its own node sees the packet first"
            )),
            _ => Ok(start),
        }
    }

    fn of_address<A: Address>(
        &self,
        snapshot: &Snapshot,
        address: A,
        destination: A,
    ) -> Result<Start<A>, String> {
        let mut pods = snapshot.pods.iter().filter(|(_, pod)| pod_address(pod) == Some(address));
        if let Some((key, pod)) = pods.next() {
            return started(key, pod);
        }
        if let Some(name) = node_with(snapshot, address) {
            return Ok(Start::Node(name));
        }
        let node = match self.via {
            Some(via) if !snapshot.nodes.contains_key(&ObjectKey::cluster(via)) => {
                return Err(format!("--via {via}: there is no such Node"));
            }
            Some(via) => Some(via.to_owned()),
            None => entry(snapshot, destination)?,
        };
        Ok(Start::Outside { address, node })
    }

    fn of_name<A: Address>(&self, snapshot: &Snapshot, from: &str) -> Result<Start<A>, String> {
        let (kind, name) = match from.split_once('/') {
            Some((kind @ ("pod" | "pods" | "node" | "nodes"), name)) => (kind.trim_end_matches('s'), name),
            _ => ("", from),
        };
        let (pod_key, node_key) = (self.key(name), ObjectKey::cluster(name));
        let pod = snapshot.pods.get(&pod_key).filter(|_| kind != "node");
        let node = snapshot.nodes.get(&node_key).filter(|_| kind != "pod");
        match (pod, node) {
            (Some(_), Some(_)) => {
                Err(format!("--from {from}: a Pod and a Node have that name: say pod/{name} or node/{name}"))
            }
            (Some(pod), None) => started(&pod_key, pod),
            (None, Some(_)) => Ok(Start::Node(name.to_owned())),
            (None, None) => {
                let what = match kind {
                    "pod" => format!("there is no Pod {pod_key}"),
                    "node" => format!("there is no Node {name}"),
                    _ => format!("no address, and there is neither a Pod {pod_key} nor a Node {name}"),
                };
                Err(format!("--from {from}: {what}"))
            }
        }
    }
}

fn cluster_ip<A: Address>(key: &ObjectKey, service: &Service) -> Result<A, String> {
    let spec = service.spec.as_ref();
    let kind = spec.and_then(|spec| spec.type_.as_deref());
    let text = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    let all = spec.into_iter().flat_map(|spec| spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    match all.filter_map(|ip| A::of(ip.parse().ok()?)).next() {
        Some(address) => Ok(address),
        None if kind == Some("ExternalName") => {
            let name = spec.and_then(|spec| spec.external_name.as_deref()).unwrap_or_default();
            Err(format!(
                "Service {key} is of type ExternalName: it is a name for {name:?} and has no address"
            ))
        }
        None if text == "None" => Err(format!(
            "Service {key} is headless: its name gives its Pods' addresses, trace to one of those"
        )),
        None => Err(format!("Service {key} has no {} cluster IP, but {text:?}", A::FAMILY.name())),
    }
}

fn started<A: Address>(key: &ObjectKey, pod: &Pod) -> Result<Start<A>, String> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    if let Some(node) = node.clone().filter(|_| is_in_node_network(pod)) {
        return Ok(Start::Node(node));
    }
    match (pod_address(pod), node) {
        (Some(address), Some(node)) => Ok(Start::Pod { key: key.clone(), address, node }),
        _ => Err(format!("--from: Pod {key} has no {} address, or does not run", A::FAMILY.name())),
    }
}

/// Whether the Pod is in its node's own network, so that its address is the node's.
pub fn is_in_node_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The address of a family that a Pod has for itself now.
pub fn pod_address<A: Address>(pod: &Pod) -> Option<A> {
    let status = pod.status.as_ref()?;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let none = ended || is_in_node_network(pod);
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    all.filter(|_| !none).find_map(|ip| A::of(ip.parse().ok()?))
}

/// The node with this InternalIP, or else one that has it on another link.
pub fn node_with<A: Address>(snapshot: &Snapshot, address: A) -> Option<String> {
    let internal = |node| internal_ips(node).is_ok_and(|own| own.contains(&address.into()));
    let other = |node| NodeFacts::of(node).is_some_and(|facts| facts.addresses.contains(&address.into()));
    let found = snapshot.nodes.iter().find(|(_, node)| internal(node));
    let found = found.or_else(|| snapshot.nodes.iter().find(|(_, node)| other(node)));
    found.map(|(key, _)| key.name.clone())
}

/// The node that a packet from outside comes to; None if it is for a load balancer's address that no node may hold.
fn entry<A: Address>(snapshot: &Snapshot, destination: A) -> Result<Option<String>, String> {
    if let Some(node) = node_with(snapshot, destination) {
        return Ok(Some(node));
    }
    if let Some(node) = lb_holder(destination.into(), snapshot) {
        return Ok(Some(node));
    }
    let balanced = snapshot.services.values().any(|service| {
        minisvc_proxy::service::load_balancer_ips(service, &mut Vec::new()).contains(&destination)
    });
    if balanced {
        return Ok(None);
    }
    Err(format!(
        "{destination} is neither a node's nor a load balancer's address, so no node answers for it outside the \
         cluster; --via NODE says by which node the client routes"
    ))
}
