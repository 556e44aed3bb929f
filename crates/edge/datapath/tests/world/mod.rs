//! Nodes as network namespaces on a bridge, for tests inside namespaces of their own.
#![allow(dead_code, missing_docs, unsafe_code, clippy::unwrap_used)]

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeSpec, NodeStatus};
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Overlay, Snapshot};
use minisvc_datapath::link::LinkTarget;
use minisvc_datapath::netns::NetnsDir;
use minisvc_datapath::tun::{Peers, TunnelHandle};
use minisvc_netstate::link::NetState;
use minisvc_podnet::{LocalPod, NodeView, PodNetwork, Underlay, desired, owned};
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Everything blocking ends by then.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub cluster: ClusterConfig,
    pub nodes: Vec<TestNode>,
    pub nodes_dir: NetnsDir,
    /// Pretend that the underlay is a card.
    pub hardware: bool,
}

pub struct TestNode {
    pub name: String,
    pub address: Ipv4Addr,
    pub netns: NetnsDir,
    pub pods: BTreeMap<String, LocalPod>,
    pub lb_addresses: Vec<IpAddr>,
    pub tunnel: Option<TunnelHandle>,
}

/// IPv6 address of the underlay with this number.
pub fn six(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into())
}

/// The IPv6 address of the Pod that has this IPv4 address.
pub fn six_of(pod: IpAddr) -> IpAddr {
    let IpAddr::V4(v4) = pod else { return pod };
    let [_, _, node, n] = v4.octets();
    Ipv6Addr::new(0xfd42, 0, 0, node.into(), 0, 0, 0, n.into()).into()
}

pub async fn handle() -> Handle {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
}

pub async fn index(handle: &Handle, name: &str) -> u32 {
    use futures::TryStreamExt;
    handle.link().get().match_name(name).execute().try_next().await.unwrap().unwrap().header.index
}

pub fn block_on<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body)
}

impl World {
    /// Nodes 192.0.2.1 and 2001:db8::1, .2 …, each with the podCIDRs 10.42.n.0/24 and fd42:0:0:n::/64, on one bridge; an
    /// extra namespace `client` .100.
    pub fn new(overlay: Overlay, count: u8) -> Self {
        let nodes_dir = NetnsDir::new("/run/nodes");
        let names: Vec<(String, u8)> =
            (1..=count).map(|n| (format!("node{n}"), n)).chain([("client".to_owned(), 100)]).collect();
        block_on(async {
            let host = handle().await;
            host.link().add(LinkBridge::new("br0").up().build()).execute().await.unwrap();
            let bridge = index(&host, "br0").await;
            for (name, _) in &names {
                nodes_dir.create(name).unwrap();
                let file = std::fs::File::open(nodes_dir.path(name)).unwrap();
                let peer = LinkMessageBuilder::<LinkUnspec>::new().name("eth0").setns_by_fd(file.as_raw_fd());
                let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
                    .name(format!("to-{name}"))
                    .controller(bridge)
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
                    .up()
                    .build();
                host.link().add(message).execute().await.unwrap();
            }
        });
        for (name, n) in &names {
            nodes_dir
                .run(name, || {
                    block_on(async {
                        let inside = handle().await;
                        let eth0 = index(&inside, "eth0").await;
                        inside
                            .link()
                            .change(LinkUnspec::new_with_index(eth0).up().build())
                            .execute()
                            .await
                            .unwrap();
                        for (address, length) in [(IpAddr::from([192, 0, 2, *n]), 24), (six(*n).into(), 64)] {
                            let mut request = inside.address().add(eth0, address, length);
                            let at_once = AddressAttribute::Flags(AddressFlags::Nodad);
                            request.message_mut().attributes.extend(address.is_ipv6().then_some(at_once));
                            request.execute().await.unwrap();
                        }
                    })
                })
                .unwrap();
        }
        let nodes = names[..usize::from(count)].iter().map(|(name, n)| TestNode {
            name: name.clone(),
            address: Ipv4Addr::new(192, 0, 2, *n),
            netns: NetnsDir::new(format!("/run/{name}")),
            pods: BTreeMap::new(),
            lb_addresses: Vec::new(),
            tunnel: None,
        });
        let pair = |v4: &str, v6: &str| vec![v4.parse().unwrap(), v6.parse().unwrap()];
        let cluster = ClusterConfig {
            overlay,
            cluster_cidrs: pair("10.42.0.0/16", "fd42::/56"),
            service_cidrs: pair("10.43.0.0/16", "fd43::/112"),
            ..ClusterConfig::default()
        };
        Self { cluster, nodes: nodes.collect(), nodes_dir, hardware: false }
    }

    /// Adds a Pod with the n-th address of a node; realized by [`Self::converge`].
    pub fn pod(&mut self, node: usize, n: u8) -> (usize, String, IpAddr) {
        let address = IpAddr::from([10, 42, node as u8 + 1, n]);
        let uid = format!("pod-{node}-{n}");
        let addresses = vec![address, six_of(address)];
        self.nodes[node].pods.insert(uid.clone(), LocalPod::new(&uid, "default", &uid, addresses));
        (node, uid, address)
    }

    pub fn planned(&self, node: usize) -> PodNetwork {
        let internal = |address| NodeAddress { address, type_: "InternalIP".to_owned() };
        let object = |n: usize| Node {
            spec: Some(NodeSpec {
                pod_cidrs: Some(vec![format!("10.42.{}.0/24", n + 1), format!("fd42:0:0:{:x}::/64", n + 1)]),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                addresses: Some(vec![
                    internal(self.nodes[n].address.to_string()),
                    internal(six(self.nodes[n].address.octets()[3]).to_string()),
                ]),
                ..NodeStatus::default()
            }),
            ..Node::default()
        };
        let nodes = (0..self.nodes.len())
            .map(|n| (ObjectKey::cluster(self.nodes[n].name.as_str()), Arc::new(object(n))));
        let snapshot = Snapshot { nodes: nodes.collect(), ..Snapshot::default() };
        let own = &self.nodes[node];
        let underlay = self.underlay(node);
        let view = NodeView {
            node_name: &own.name,
            cluster: &self.cluster,
            underlay: &underlay,
            lb_addresses: &own.lb_addresses,
        };
        let planned = desired(&snapshot, &view, &own.pods).unwrap();
        assert_eq!(planned.rejected, []);
        planned.desired
    }

    pub fn underlay(&self, node: usize) -> Underlay {
        let own = &self.nodes[node];
        Underlay {
            ifname: "eth0".to_owned(),
            address: own.address.into(),
            prefix_len: 24,
            second: Some(IpNet::new(six(own.address.octets()[3]).into(), 64).unwrap()),
            mtu_bytes: 1500,
            hardware: self.hardware,
        }
    }

    pub fn on_node<T: Send>(&self, node: usize, body: impl FnOnce() -> T + Send) -> T {
        self.nodes_dir.run(&self.nodes[node].name, body).unwrap()
    }

    pub fn in_pod<T: Send>(&self, pod: &(usize, String, IpAddr), body: impl FnOnce() -> T + Send) -> T {
        self.nodes[pod.0].netns.run(&pod.1, body).unwrap()
    }

    /// Runs with the node's link target, inside the node.
    pub fn with_target<T: Send>(
        &self,
        node: usize,
        body: impl AsyncFnOnce(&mut LinkTarget) -> T + Send,
    ) -> T {
        let mut target = LinkTarget::new(self.owned(), self.nodes[node].netns.clone());
        self.on_node(node, move || block_on(async { body(&mut target).await }))
    }

    fn owned(&self) -> minisvc_netstate::link::Owned {
        owned(&self.cluster, &self.underlay(0))
    }

    pub fn observe(&self, node: usize) -> NetState {
        self.with_target(node, async |target| target.observe().await.unwrap())
    }

    /// Makes a node as planned; returns the steps this took.
    pub fn converge_one(&mut self, node: usize) -> usize {
        let planned = self.planned(node);
        let links = planned.links;
        let steps = self.with_target(node, async |target| target.converge(&links).await.unwrap());
        if let Some(tunnel) = planned.tunnel {
            let peers = Peers::new(&tunnel.peers);
            match &self.nodes[node].tunnel {
                Some(running) => running.set_peers(peers),
                None => {
                    let start = || TunnelHandle::start("msvtun", tunnel.local, tunnel.mtu_bytes, 2, peers);
                    let started = self.on_node(node, start).unwrap();
                    self.nodes[node].tunnel = Some(started);
                }
            }
        }
        steps
    }

    pub fn converge(&mut self) {
        for node in 0..self.nodes.len() {
            self.converge_one(node);
        }
    }
}

/// A byte stream that both ends can tell without sending it.
fn pattern(seed: u64, buffer: &mut [u8]) -> u64 {
    let mut state = seed | 1;
    for chunk in buffer.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bytes = state.to_le_bytes();
        let length = chunk.len();
        chunk.copy_from_slice(&bytes[..length]);
    }
    state
}

pub fn tcp_server(address: IpAddr) -> TcpListener {
    TcpListener::bind((address, 0)).unwrap()
}

/// Accepts one connection, checks every byte; returns who called.
pub fn receive_checked(listener: &TcpListener, bytes: usize) -> SocketAddr {
    let (mut stream, from) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut got, mut expected) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut seed = 42;
    for block in 0..bytes / got.len() {
        seed = pattern(seed, &mut expected);
        stream.read_exact(&mut got).unwrap_or_else(|error| panic!("block {block}: {error}"));
        assert!(got == expected, "block {block} differs");
    }
    stream.write_all(b"all").unwrap();
    from
}

pub fn send_checked(to: SocketAddr, bytes: usize) -> Duration {
    let started = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut block = vec![0; 1 << 16];
    let mut seed = 42;
    for _ in 0..bytes / block.len() {
        seed = pattern(seed, &mut block);
        stream.write_all(&block).unwrap();
    }
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).unwrap();
    started.elapsed()
}

pub fn udp(address: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let on = libc::IP_PMTUDISC_DO;
    let (level, option) = if address.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    };
    // SAFETY: the socket is open, and the value is an int of the length given.
    let set = unsafe {
        let value = std::ptr::from_ref(&on).cast();
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, option, value, length)
    };
    assert_eq!(set, 0);
    socket
}

/// A socket that sees every frame of a link, non-blocking.
pub fn raw_capture(link: &str) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the result is checked, and is nobody else's.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, kind, i32::from((libc::ETH_P_ALL as u16).to_be()));
        assert!(fd >= 0);
        std::os::fd::OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: sockaddr_ll is plain data, and its length is given.
    let bound = unsafe {
        let mut to: libc::sockaddr_ll = std::mem::zeroed();
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        to.sll_ifindex = nix::net::if_::if_nametoindex(link).unwrap() as i32;
        libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&to).cast(), size_of_val(&to) as libc::socklen_t)
    };
    assert_eq!(bound, 0);
    socket
}

/// Of the captured frames: how many carry TCP inside VXLAN, and in how many the TCP checksum is wrong.
pub fn inner_tcp_checksums(socket: &std::os::fd::OwnedFd) -> (usize, usize) {
    let mut frame = vec![0u8; 1 << 17];
    let (mut checked, mut wrong) = (0, 0);
    while let Ok(length) = nix::unistd::read(socket, &mut frame) {
        // Ethernet 14, IPv4 20, UDP 8, VXLAN 8, Ethernet 14: then the inner packet.
        let frame = &frame[..length];
        if length < 64 + 40
            || frame[12..14] != [8, 0]
            || frame[23] != 17
            || frame[36..38] != 8472u16.to_be_bytes()
        {
            continue;
        }
        let inner = &frame[64..];
        if inner[0] != 0x45 || inner[9] != 6 {
            continue;
        }
        let total = usize::from(u16::from_be_bytes([inner[2], inner[3]]));
        assert!(total <= 1450, "a packet larger than the MTU was left to the card: {total}");
        let mut sum = 6 + (total - 20) as u32;
        for pair in inner[12..total].chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        checked += 1;
        wrong += usize::from(sum != 0xffff);
    }
    (checked, wrong)
}
