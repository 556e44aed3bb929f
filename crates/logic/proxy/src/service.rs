//! A Service's spec as typed values.
//!
//! In: a v1 Service. Out: what the proxy needs of it; what is malformed or not supported is left out with a reason.
//! Headless Services and ExternalName have nothing for the proxy.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use minisvc_netstate::{
    family::{Address, Network},
    nft::{Protocol, element::AFFINITY_MAX_S},
};
use minisvc_reconcile::Rejection;
use std::net::IpAddr;

/// Session affinity's timeout where none is given, in seconds.
pub const AFFINITY_DEFAULT_S: u32 = 10_800;
/// Most source ranges of a Service.
const RANGES_MAX: usize = 1_000;

/// What the proxy of one family needs of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView<A: Address> {
    /// Virtual addresses.
    pub cluster_ips: Vec<A>,
    /// `spec.externalIPs`, whether the cluster allows them or not.
    pub external_ips: Vec<A>,
    /// Load balancer addresses that the node translates (`ipMode: VIP`).
    pub load_balancer_ips: Vec<A>,
    /// Who may use the load balancer addresses; None: everybody.
    pub source_ranges: Option<Vec<A::Net>>,
    /// The ports, without malformed and double ones.
    pub ports: Vec<PortView>,
    /// `internalTrafficPolicy: Local`
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`
    pub external_local: bool,
    /// Session affinity by client address, with its timeout in seconds.
    pub affinity_s: Option<u32>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// Name, empty if it has none: what joins it with the ports of EndpointSlices.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the virtual addresses.
    pub port: u16,
    /// Port on the nodes.
    pub node_port: Option<u16>,
}

/// A reason to leave something of a Service out.
pub fn reject(service: &Service, reason: &'static str, message: String) -> Rejection {
    let metadata = &service.metadata;
    Rejection {
        kind: "Service",
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        reason,
        message,
    }
}

/// Reads a Service; None if it has nothing for the proxy.
pub fn view<A: Address>(service: &Service, rejected: &mut Vec<Rejection>) -> Option<ServiceView<A>> {
    let spec = service.spec.as_ref()?;
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if kind == "ExternalName" || spec.cluster_ip.as_deref() == Some("None") {
        return None;
    }
    let external_ips: Vec<&String> = spec.external_ips.iter().flatten().collect();
    let has_node_ports = kind == "NodePort" || kind == "LoadBalancer";
    let external = has_node_ports || !external_ips.is_empty();
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let balanced = kind == "LoadBalancer";
    Some(ServiceView {
        cluster_ips: cluster_ips(service, spec, rejected),
        external_ips: parse_addresses(service, "spec.externalIPs", &external_ips, rejected),
        load_balancer_ips: if balanced { load_balancer_ips(service, rejected) } else { Vec::new() },
        source_ranges: if balanced { source_ranges::<A>(service, spec, rejected) } else { None },
        ports: ports(service, spec, has_node_ports, rejected),
        internal_local: local(&spec.internal_traffic_policy),
        external_local: external && local(&spec.external_traffic_policy),
        affinity_s: affinity(spec),
    })
}

fn cluster_ips<A: Address>(service: &Service, spec: &ServiceSpec, rejected: &mut Vec<Rejection>) -> Vec<A> {
    let mut given: Vec<&String> = spec.cluster_ips.iter().flatten().collect();
    if given.is_empty() {
        given.extend(spec.cluster_ip.iter().filter(|ip| !ip.is_empty()));
    }
    parse_addresses(service, "spec.clusterIPs", &given, rejected)
}

/// The addresses of a Service's load balancer that nodes translate.
pub fn load_balancer_ips<A: Address>(service: &Service, rejected: &mut Vec<Rejection>) -> Vec<A> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let given: Vec<&String> = ingress
        .iter()
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref())
        .collect();
    parse_addresses(service, "status.loadBalancer.ingress", &given, rejected)
}

/// The addresses of this family; those that no Service can have are rejected, by the proxies of both families alike.
fn parse_addresses<A: Address>(
    service: &Service,
    field: &str,
    given: &[&String],
    rejected: &mut Vec<Rejection>,
) -> Vec<A> {
    let mut addresses = Vec::new();
    for text in given {
        match text.parse::<IpAddr>() {
            Ok(address) if !is_reserved(address) => addresses.extend(A::of(address)),
            _ => rejected.push(reject(
                service,
                "InvalidAddress",
                format!("{field}: {text:?} is not an address a Service can have"),
            )),
        }
    }
    addresses.sort();
    addresses.dedup();
    addresses
}

fn is_reserved(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_reserved(),
        IpAddr::V6(address) => address.is_reserved(),
    }
}

fn source_ranges<A: Address>(
    service: &Service,
    spec: &ServiceSpec,
    rejected: &mut Vec<Rejection>,
) -> Option<Vec<A::Net>> {
    let given = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if given.is_empty() {
        return None;
    }
    let mut ranges = Vec::new();
    for text in given.iter().take(RANGES_MAX) {
        match text.trim().parse::<IpNet>() {
            Ok(net) => ranges.extend(A::net(net)),
            Err(_) => rejected.push(reject(
                service,
                "InvalidSourceRange",
                format!("spec.loadBalancerSourceRanges: {text:?} is not a network such as 192.0.2.0/24"),
            )),
        }
    }
    if given.len() > RANGES_MAX {
        let message = format!("spec.loadBalancerSourceRanges: only the first {RANGES_MAX} are used");
        rejected.push(reject(service, "TooManySourceRanges", message));
    }
    Some(A::Net::merged(&ranges))
}

fn ports(
    service: &Service,
    spec: &ServiceSpec,
    has_node_ports: bool,
    rejected: &mut Vec<Rejection>,
) -> Vec<PortView> {
    let mut ports: Vec<PortView> = Vec::new();
    for given in spec.ports.as_deref().unwrap_or_default() {
        match port(given, has_node_ports) {
            Err(message) => rejected.push(reject(service, "InvalidPort", message)),
            Ok(port) if ports.iter().any(|p| (p.protocol, p.port) == (port.protocol, port.port)) => {
                let message = format!("spec.ports: {} {} is there twice", port.protocol, port.port);
                rejected.push(reject(service, "DuplicatePort", message));
            }
            Ok(port) => ports.push(port),
        }
    }
    ports
}

/// The protocol that a Service or EndpointSlice port names; TCP if none.
pub fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn port(given: &ServicePort, has_node_ports: bool) -> Result<PortView, String> {
    let number = |field: &str, value: i32| {
        u16::try_from(value)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("spec.ports.{field}: {value} is not a port, 1 to 65535"))
    };
    let node_port = given.node_port.filter(|port| has_node_ports && *port != 0);
    Ok(PortView {
        name: given.name.clone().unwrap_or_default(),
        protocol: protocol(given.protocol.as_deref())
            .ok_or_else(|| format!("spec.ports.protocol: {:?} is not TCP, UDP or SCTP", given.protocol))?,
        port: number("port", given.port)?,
        node_port: node_port.map(|port| number("nodePort", port)).transpose()?,
    })
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|client| client.timeout_seconds).and_then(|s| u32::try_from(s).ok());
    Some(seconds.unwrap_or(AFFINITY_DEFAULT_S).clamp(1, AFFINITY_MAX_S))
}
