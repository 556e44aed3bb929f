//! Generated clusters: few names and addresses, so that things collide.
//!
//! Worlds are drawn in IPv4, and every address has a twin in IPv6: snapshots are of dual-stack Services, and what holds
//! for the table of one family must hold for the other's.
#![allow(dead_code, missing_docs, clippy::expect_used)]

mod host_pods;

pub use host_pods::HostPod;
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot, cluster::AddressRange};
use minisvc_netstate::{
    family::{Address, Endpoint},
    nft::{Packet, Protocol, Verdict},
};
use minisvc_proxy::NodeView;
use proptest::prelude::*;
use serde_json::json;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 1);
/// Another address of the node, where no node ports answer.
pub const NODE_TOO: Ipv4Addr = Ipv4Addr::new(192, 168, 8, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// The addresses of a family that stand for the IPv4 addresses of a world.
pub trait Twin: Address {
    fn twin(drawn: Ipv4Addr) -> Self;

    /// The address it stands for.
    fn drawn(self) -> Ipv4Addr {
        Ipv4Addr::from(self.number() as u32)
    }
}

impl Twin for Ipv4Addr {
    fn twin(drawn: Ipv4Addr) -> Self {
        drawn
    }
}

impl Twin for Ipv6Addr {
    fn twin(drawn: Ipv4Addr) -> Self {
        Self::from(0xfd00 << 112 | u128::from(u32::from(drawn)))
    }
}

fn both(drawn: Ipv4Addr) -> [IpAddr; 2] {
    [drawn.into(), Ipv6Addr::twin(drawn).into()]
}

/// A network and its twin.
pub fn both_nets(drawn: &str) -> [ipnet::IpNet; 2] {
    let net: ipnet::Ipv4Net = drawn.parse().expect("network");
    let twin = ipnet::Ipv6Net::new(Ipv6Addr::twin(net.network()), 96 + net.prefix_len()).expect("length");
    [net.into(), twin.into()]
}

/// The packet in a table's family.
pub fn twin<A: Twin>(packet: &Packet) -> Packet<A> {
    let Packet { source, destination, protocol, port, from_node, mark } = *packet;
    Packet { source: A::twin(source), destination: A::twin(destination), protocol, port, from_node, mark }
}

/// A verdict as it is in the world that was drawn.
pub fn drawn<A: Twin>(verdict: Verdict<A>) -> Verdict {
    match verdict {
        Verdict::Endpoint { endpoint: Endpoint { address, port }, masquerade } => {
            Verdict::Endpoint { endpoint: Endpoint { address: address.drawn(), port }, masquerade }
        }
        Verdict::Pass { masquerade } => Verdict::Pass { masquerade },
        Verdict::Refuse => Verdict::Refuse,
        Verdict::Drop => Verdict::Drop,
    }
}

pub fn node_view() -> NodeView {
    let [first, last] = [1, 9].map(|last| both(Ipv4Addr::new(203, 0, 113, last)));
    let pool = [0, 1].map(|family| AddressRange { first: first[family], last: last[family] });
    let cluster = ClusterConfig {
        cluster_cidrs: both_nets("10.42.0.0/16").to_vec(),
        service_cidrs: both_nets("10.43.0.0/16").to_vec(),
        load_balancer_pool: pool.to_vec(),
        external_ip_cidrs: both_nets("192.0.2.0/24").to_vec(),
        ..ClusterConfig::default()
    };
    NodeView {
        name: "n1".to_owned(),
        addresses: both(NODE).to_vec(),
        more_addresses: both(NODE_TOO).to_vec(),
        api_ports: vec![6443],
        zone: Some("z1".to_owned()),
        cluster,
    }
}

#[derive(Clone, Debug)]
pub struct Port {
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

#[derive(Clone, Debug)]
pub struct End {
    pub address: Ipv4Addr,
    pub node: &'static str,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// Nodes and zones it is kept for.
    pub hints: (&'static [&'static str], &'static [&'static str]),
}

#[derive(Clone, Debug)]
pub struct Svc {
    pub name: String,
    pub cluster_ip: Option<Ipv4Addr>,
    pub balancer_ip: Option<Ipv4Addr>,
    pub external_ip: Option<Ipv4Addr>,
    pub external: bool,
    pub internal_local: bool,
    pub external_local: bool,
    pub sticky: bool,
    pub ranges: Vec<&'static str>,
    pub ports: Vec<Port>,
    pub ends: Vec<End>,
}

impl Svc {
    /// The endpoints for a node called n1 in zone z1, of all that may be used.
    pub fn near(&self, port: &Port) -> Vec<Endpoint> {
        let ready: Vec<&End> = self.ends.iter().filter(|end| end.ready).collect();
        for (hints, own) in [
            (ready.iter().map(|end| end.hints.0).collect::<Vec<_>>(), "n1"),
            (ready.iter().map(|end| end.hints.1).collect::<Vec<_>>(), "z1"),
        ] {
            let here = |hint: &&[&str]| hint.contains(&own);
            if hints.iter().all(|hint| !hint.is_empty()) && hints.iter().any(here) {
                let kept = ready.iter().zip(&hints).filter(|(_, hint)| here(hint));
                return kept
                    .map(|(end, _)| Endpoint { address: end.address, port: 8000 + port.port })
                    .collect();
            }
        }
        self.usable(port, |_| true)
    }

    pub fn usable(&self, port: &Port, on: impl Fn(&str) -> bool) -> Vec<Endpoint> {
        let of = |wanted: &dyn Fn(&End) -> bool| -> Vec<Endpoint> {
            let ends = self.ends.iter().filter(|end| on(end.node) && wanted(end));
            ends.map(|end| Endpoint { address: end.address, port: 8000 + port.port }).collect()
        };
        let ready = of(&|end| end.ready);
        if ready.is_empty() { of(&|end| !end.ready && end.serving && end.terminating) } else { ready }
    }
}

#[derive(Clone, Debug)]
pub struct World {
    pub services: Vec<Svc>,
    pub pods: Vec<HostPod>,
    /// Whether node ports answer on both addresses of the node.
    pub wide: bool,
}

/// A change: which Service, and what about it.
pub type Change = (u8, u8, u8);

impl World {
    pub fn node_view(&self) -> NodeView {
        let mut view = node_view();
        if self.wide {
            view.addresses.append(&mut view.more_addresses);
        }
        view
    }

    pub fn change(&mut self, (which, what, value): Change) {
        if what % 9 > 6 {
            return self.change_pods(which, what % 9 == 7);
        }
        let count = self.services.len();
        let Some(service) = self.services.get_mut(usize::from(which) % count.max(1)) else { return };
        match what % 9 {
            0 => service.sticky = !service.sticky,
            1 => service.ends.truncate(usize::from(value % 4)),
            2 => service.ends.retain(|end| end.node != "n1"),
            3 => {
                service.external_local =
                    !service.external_local && (service.external || service.external_ip.is_some())
            }
            4 => service.cluster_ip = Some(Ipv4Addr::new(10, 43, 1, value % 4)),
            5 => {
                for (at, end) in service.ends.iter_mut().enumerate() {
                    end.ready = value >> (at % 8) & 1 == 0;
                }
            }
            _ => {
                let at = usize::from(which) % count;
                self.services.remove(at);
            }
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_from(Snapshot::default())
    }

    pub fn snapshot_from(&self, mut snapshot: Snapshot) -> Snapshot {
        for service in &self.services {
            let name = &service.name;
            let kind = match (service.external, service.balancer_ip) {
                (false, _) => "ClusterIP",
                (true, None) => "NodePort",
                (true, Some(_)) => "LoadBalancer",
            };
            let policy = |local: bool| if local { "Local" } else { "Cluster" };
            let label = |protocol: Protocol| protocol.to_string().to_uppercase();
            let port_name = |port: &Port| format!("{}{}", port.protocol, port.port);
            let ports: Vec<_> = service
                .ports
                .iter()
                .map(|port| {
                    json!({"name": port_name(port), "port": port.port, "nodePort": port.node_port,
                           "protocol": label(port.protocol)})
                })
                .collect();
            let balancers = service.balancer_ip.into_iter().flat_map(both);
            let ingress: Vec<_> = balancers.map(|ip| json!({"ip": ip})).collect();
            let external_ips: Vec<IpAddr> = service.external_ip.into_iter().flat_map(both).collect();
            let cluster_ips: Vec<IpAddr> = service.cluster_ip.into_iter().flat_map(both).collect();
            let ranges: Vec<_> = service.ranges.iter().flat_map(|range| both_nets(range)).collect();
            let object = json!({
                "metadata": {"namespace": "default", "name": name},
                "spec": {"type": kind, "clusterIP": service.cluster_ip,
                         "clusterIPs": cluster_ips, "ports": ports, "externalIPs": external_ips,
                         "internalTrafficPolicy": policy(service.internal_local),
                         "externalTrafficPolicy": policy(service.external_local),
                         "loadBalancerSourceRanges": ranges,
                         "sessionAffinity": if service.sticky { "ClientIP" } else { "None" }},
                "status": {"loadBalancer": {"ingress": ingress}},
            });
            let key = ObjectKey::new("default", name);
            let service_object = serde_json::from_value(object).expect("Service");
            snapshot.services.insert(key, Arc::new(service_object));
            let slice_ports: Vec<_> = service
                .ports
                .iter()
                .map(|port| {
                    json!({"name": port_name(port), "port": 8000 + port.port, "protocol": label(port.protocol)})
                })
                .collect();
            for (family, type_) in [(0, "IPv4"), (1, "IPv6")] {
                let ends = service.ends.iter().map(|end| {
                    let named = |names: &[&str]| -> Vec<_> { names.iter().map(|name| json!({"name": name})).collect() };
                    json!({"addresses": [both(end.address)[family]], "nodeName": end.node,
                        "hints": {"forNodes": named(end.hints.0), "forZones": named(end.hints.1)},
                        "conditions": {"ready": end.ready, "serving": end.serving, "terminating": end.terminating}})
                });
                let slice = format!("{name}-{}", type_.to_lowercase());
                let object = json!({
                    "metadata": {"namespace": "default", "name": slice,
                                 "labels": {"kubernetes.io/service-name": name}},
                    "addressType": type_, "ports": slice_ports, "endpoints": ends.collect::<Vec<_>>(),
                });
                let object = serde_json::from_value(object).expect("EndpointSlice");
                snapshot.endpoint_slices.insert(ObjectKey::new("default", slice), Arc::new(object));
            }
        }
        snapshot.pods.extend(self.pods.iter().map(HostPod::object));
        snapshot
    }

    /// Packets from everywhere to everything that has a meaning in this world, and beside it.
    pub fn packets(&self, mark: u32) -> Vec<Packet> {
        let mut sources = vec![(CLIENT, false), (NODE, true), (Ipv4Addr::new(10, 42, 7, 7), false)];
        sources.extend(self.services.iter().flat_map(|s| &s.ends).take(2).map(|end| (end.address, false)));
        sources.extend(self.pods.first().map(|pod| (pod.address, false)));
        let mut destinations = vec![NODE, NODE_TOO, DNS, Ipv4Addr::new(10, 43, 9, 9), CLIENT];
        destinations.extend(self.services.iter().filter_map(|service| service.cluster_ip));
        destinations.extend(self.services.iter().filter_map(|service| service.balancer_ip));
        destinations.extend(self.services.iter().filter_map(|service| service.external_ip));
        let mut packets = Vec::new();
        for (source, from_node) in sources {
            for destination in &destinations {
                for protocol in Protocol::ALL {
                    for port in [80, 81, 30001, 30002] {
                        let destination = *destination;
                        packets.push(Packet { source, destination, protocol, port, from_node, mark });
                    }
                }
            }
        }
        packets
    }
}

/// What an endpoint is kept for; mostly for something, so that all of a Service's often are.
fn hints(of: [&'static [&'static str]; 3]) -> impl Strategy<Value = &'static [&'static str]> {
    prop_oneof![1 => Just(&[] as &[&str]), 3 => Just(of[0]), 2 => Just(of[1]), 1 => Just(of[2])]
}

fn end() -> impl Strategy<Value = End> {
    let hints = (hints([&["n1"], &["n2"], &["n1", "n2"]]), hints([&["z1"], &["z2"], &["z2", "z1"]]));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (1u8..6, prop_oneof![Just("n1"), Just("n2")], flags, hints).prop_map(
        |(address, node, (ready, serving, terminating), hints)| End {
            hints,
            address: Ipv4Addr::new(10, 42, if node == "n1" { 0 } else { 1 }, address),
            node,
            ready,
            serving,
            terminating,
        },
    )
}

fn port() -> impl Strategy<Value = Port> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    (protocol, 80u16..82, proptest::option::of(30001u16..30003))
        .prop_map(|(protocol, port, node_port)| Port { protocol, port, node_port })
}

fn svc() -> impl Strategy<Value = Svc> {
    let addresses = (0u8..12, proptest::option::of(1u8..4), proptest::option::of(1u8..8));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let ranges = prop_oneof![
        3 => Just(vec![]),
        1 => Just(vec!["198.51.100.0/24"]),
        1 => Just(vec!["10.42.0.0/16", "192.168.9.0/24", "192.168.9.1/32"]),
    ];
    let parts = (proptest::collection::vec(port(), 1..4), proptest::collection::vec(end(), 0..5));
    (addresses, flags, ranges, parts).prop_map(
        |((ip, balancer, outside), flags, ranges, (mut ports, mut ends))| {
            let (external, internal_local, external_local, sticky) = flags;
            ports.sort_by_key(|port| (port.protocol, port.port));
            ports.dedup_by_key(|port| (port.protocol, port.port));
            let mut node_ports = std::collections::BTreeSet::new();
            for port in &mut ports {
                if port.node_port.is_some_and(|number| !node_ports.insert((port.protocol, number))) {
                    port.node_port = None;
                }
            }
            ends.sort_by_key(|end| end.address);
            ends.dedup_by_key(|end| end.address);
            let cluster_ip = if ip == 11 { DNS } else { Ipv4Addr::new(10, 43, 1, ip) };
            let balancer_ip = balancer.filter(|_| external).map(|last| Ipv4Addr::new(203, 0, 113, last));
            let ranges = if balancer_ip.is_some() { ranges } else { Vec::new() };
            // 192.0.3.x is an address that this cluster does not allow.
            let outside = outside.map(|last| Ipv4Addr::new(192, 0, if last > 5 { 3 } else { 2 }, last));
            let external_local = external_local && (external || outside.is_some());
            Svc {
                name: String::new(),
                cluster_ip: Some(cluster_ip),
                balancer_ip,
                external_ip: outside,
                external,
                internal_local,
                external_local,
                sticky,
                ranges,
                ports,
                ends,
            }
        },
    )
}

pub fn worlds() -> impl Strategy<Value = World> {
    (proptest::collection::vec(svc(), 1..5), host_pods::some(), any::<bool>()).prop_map(
        |(mut services, pods, wide)| {
            for (number, service) in services.iter_mut().enumerate() {
                service.name = format!("s{number}");
            }
            World { services, pods, wide }
        },
    )
}
