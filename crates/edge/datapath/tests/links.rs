//! Links on the real kernel: nodes as network namespaces on a bridge, Pods on each, real traffic.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod world;

use minisvc_apimachinery::{Family, Overlay};
use minisvc_lab::testing::in_namespaces;
use minisvc_netstate::link::{NetKey, NetState, render};
use minisvc_podnet::pod_mtu_bytes;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use world::{World, block_on, handle, index, receive_checked, send_checked, six_of, tcp_server, udp};

const LARGE_BYTES: usize = 64 << 20;
const SMALL_BYTES: usize = 1 << 20;

type Pod = (usize, String, IpAddr);

/// One pod sends to another; every byte is checked, and who is seen calling.
fn tcp(world: &World, from: &Pod, to: &Pod, bytes: usize) {
    let listener = world.in_pod(to, || tcp_server(to.2));
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_checked(&listener, bytes));
        let took = world.in_pod(from, || send_checked(address, bytes));
        assert_eq!(receiver.join().unwrap().ip(), from.2, "the caller's Pod address is seen");
        println!("{} -> {}: {} MiB in {took:?}", from.2, to.2, bytes >> 20);
    });
}

/// The largest packet passes unfragmented, one byte more does not; the answer comes back.
fn datagrams(world: &World, from: &Pod, to: &Pod, mtu_bytes: u32) {
    let (there, here) = (world.in_pod(to, || udp(to.2)), world.in_pod(from, || udp(from.2)));
    let headers = if from.2.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let fits = vec![7u8; mtu_bytes as usize - headers];
    here.send_to(&fits, there.local_addr().unwrap()).unwrap();
    let mut buffer = vec![0; 65536];
    let (length, caller) = there.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], caller), (&fits[..], here.local_addr().unwrap()));
    there.send_to(&buffer[..length], caller).unwrap();
    assert_eq!(here.recv_from(&mut buffer).unwrap().0, length);
    let refused = here.send_to(&vec![7u8; fits.len() + 1], there.local_addr().unwrap()).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
}

fn carries(overlay: Overlay) {
    let mut world = World::new(overlay, 3);
    let pods = [world.pod(0, 2), world.pod(0, 3), world.pod(1, 2), world.pod(2, 2)];
    world.converge();
    for node in 0..3 {
        assert_eq!(world.observe(node), world.planned(node).links, "read back equal");
        assert_eq!(world.converge_one(node), 0, "nothing to do");
    }
    tcp(&world, &pods[0], &pods[2], LARGE_BYTES);
    tcp(&world, &pods[2], &pods[0], LARGE_BYTES);
    for (from, to) in [(0, 1), (1, 3), (3, 2), (2, 1)] {
        tcp(&world, &pods[from], &pods[to], SMALL_BYTES);
    }
    let mtu_bytes = pod_mtu_bytes(overlay, &world.underlay(0));
    let sixes = pods.clone().map(|(node, uid, address)| (node, uid, six_of(address)));
    for pods in [&pods, &sixes] {
        for (from, to) in [(0, 1), (0, 2), (2, 0), (3, 0)] {
            datagrams(&world, &pods[from], &pods[to], mtu_bytes);
        }
    }
    tcp(&world, &sixes[0], &sixes[2], LARGE_BYTES);
    for (from, to) in [(0, 1), (1, 3), (3, 2), (2, 1)] {
        tcp(&world, &sixes[from], &sixes[to], SMALL_BYTES);
    }
    // A node itself calls from its own Pod address, on its own and on another node.
    let callees = [&pods[0], &pods[2], &sixes[0], &sixes[2]];
    for pod in callees {
        let listener = world.in_pod(pod, || tcp_server(pod.2));
        let address = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| receive_checked(&listener, SMALL_BYTES));
            world.on_node(0, || send_checked(address, SMALL_BYTES));
            let own = IpAddr::from([10, 42, 1, 1]);
            let own = if pod.2.is_ipv4() { own } else { six_of(own) };
            assert_eq!(receiver.join().unwrap().ip(), own);
        });
    }
    // Cluster DNS has one address on every node: the asking node's answers, and never asks by it.
    for (dns, pod) in [("10.43.0.10", &pods[0]), ("fd43::a", &sixes[0])] {
        let dns: IpAddr = dns.parse().unwrap();
        let listener = world.on_node(0, || tcp_server(dns));
        let address = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| receive_checked(&listener, SMALL_BYTES));
            world.in_pod(pod, || send_checked(address, SMALL_BYTES));
            assert_eq!(receiver.join().unwrap().ip(), pod.2);
        });
    }
    // An address that no node has is refused at once.
    for (nobody, error) in [("10.42.99.9:80", libc::EHOSTUNREACH), ("[fd42:0:0:99::9]:80", libc::ENETUNREACH)]
    {
        let nobody: SocketAddr = nobody.parse().unwrap();
        let refused = world.in_pod(&pods[0], || std::net::TcpStream::connect(nobody).unwrap_err());
        assert_eq!(refused.raw_os_error(), Some(error), "{nobody}");
    }
    if let Some(tunnel) = &mut world.nodes[0].tunnel {
        let stats = tunnel.stats();
        println!("{stats:?}");
        assert!(tunnel.is_running() && stats.sent > 0 && stats.received > 0);
        let started = Instant::now();
        tunnel.stop();
        assert!(started.elapsed() < world::PATIENCE);
    }
    for node in 0..3 {
        world.nodes[node].pods.clear();
        let gone = NetState::new();
        world.with_target(node, async |target| {
            let ops = minisvc_reconcile::diff(&gone, &target.observe().await.unwrap());
            target.apply(&ops).await.unwrap();
        });
        let left: Vec<_> = world.observe(node).into_keys().collect();
        let lasting = |key: &NetKey| matches!(key, NetKey::Sysctl(..)) || key.to_string() == "host link lo";
        assert!(left.iter().all(lasting), "left behind: {left:?}");
        assert_eq!(world.nodes[node].netns.list().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn vxlan_carries_pods_traffic() {
    in_namespaces("vxlan_carries_pods_traffic", || carries(Overlay::Vxlan));
}

#[test]
fn host_gw_carries_pods_traffic() {
    in_namespaces("host_gw_carries_pods_traffic", || carries(Overlay::HostGw));
}

#[test]
fn tun_carries_pods_traffic() {
    in_namespaces("tun_carries_pods_traffic", || {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
            println!("skipped: tun overlay needs /dev/net/tun: {error}");
            return;
        }
        carries(Overlay::Tun);
    });
}

#[test]
fn what_is_wrong_is_put_right_and_what_is_foreign_stays() {
    in_namespaces("what_is_wrong_is_put_right_and_what_is_foreign_stays", || {
        use rtnetlink::{LinkBridge, LinkUnspec, RouteMessageBuilder};
        use std::net::Ipv4Addr;
        let mut world = World::new(Overlay::Vxlan, 2);
        let pods = [world.pod(0, 2), world.pod(1, 2)];
        world.converge();
        let ifname = world.nodes[0].pods[&pods[0].1].ifname.clone();
        world.on_node(0, || {
            block_on(async {
                let host = handle().await;
                host.link().add(LinkBridge::new("foreign0").up().build()).execute().await.unwrap();
                let foreign = index(&host, "foreign0").await;
                host.address().add(foreign, IpAddr::from([198, 51, 100, 1]), 24).execute().await.unwrap();
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(Ipv4Addr::new(203, 0, 113, 0), 24)
                    .output_interface(foreign);
                host.route().add(route.build()).execute().await.unwrap();
                // Ours, broken in four ways: gone, too small, not ours any more, extra.
                let vxlan = index(&host, "msvvx").await;
                host.link().del(vxlan).execute().await.unwrap();
                let veth = index(&host, &ifname).await;
                host.link()
                    .change(LinkUnspec::new_with_index(veth).mtu(600).build())
                    .execute()
                    .await
                    .unwrap();
                host.link().add(LinkBridge::new("msvvx").up().build()).execute().await.unwrap();
                host.link().add(LinkBridge::new("msvextra").up().build()).execute().await.unwrap();
            });
        });
        assert!(world.converge_one(0) > 0);
        assert_eq!(world.converge_one(0), 0);
        tcp(&world, &pods[0], &pods[1], SMALL_BYTES);
        world.on_node(0, || {
            block_on(async {
                let host = handle().await;
                let foreign = index(&host, "foreign0").await;
                let names = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
                assert!(foreign > 0 && !names.contains("msvextra"), "{names}");
                let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap();
                assert!(routes.contains("007100CB") && routes.contains("006433C6"), "{routes}");
            });
        });
        // A foreign route where ours should be is not taken.
        world.nodes[0].pods.clear();
        world.converge_one(0);
        world.on_node(0, || {
            block_on(async {
                let host = handle().await;
                let foreign = index(&host, "foreign0").await;
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(Ipv4Addr::new(10, 42, 1, 9), 32)
                    .output_interface(foreign);
                host.route().add(route.build()).execute().await.unwrap();
            });
        });
        world.pod(0, 9);
        let links = world.planned(0).links;
        let error = world.with_target(0, async |target| target.converge(&links).await.unwrap_err());
        assert!(error.to_string().contains("10.42.1.9/32"), "{error}");
    });
}

#[test]
fn a_pod_is_made_and_removed_quickly() {
    in_namespaces("a_pod_is_made_and_removed_quickly", || {
        let mut world = World::new(Overlay::Vxlan, 1);
        world.converge();
        let (mut made, mut removed) = (Vec::new(), Vec::new());
        let before = world.planned(0).links;
        for n in 2..22 {
            world.pod(0, n);
            let after = world.planned(0).links;
            world.nodes[0].pods.clear();
            let ops = minisvc_reconcile::diff(&after, &before);
            let back = minisvc_reconcile::diff(&before, &after);
            let (up, down) = world.with_target(0, async |target| {
                let started = Instant::now();
                target.apply(&ops).await.unwrap();
                let up = started.elapsed();
                let started = Instant::now();
                target.apply(&back).await.unwrap();
                (up, started.elapsed())
            });
            made.push(up);
            removed.push(down);
        }
        made.sort();
        removed.sort();
        println!("a Pod's network: made in {:?} (median of 20), removed in {:?}", made[10], removed[10]);
        assert_eq!(world.observe(0), before);
    });
}

#[test]
fn an_address_moves_at_once_when_announced() {
    in_namespaces("an_address_moves_at_once_when_announced", || {
        let mut world = World::new(Overlay::HostGw, 2);
        let address = IpAddr::from([192, 0, 2, 200]);
        let range = minisvc_apimachinery::cluster::AddressRange { first: address, last: address };
        world.cluster.load_balancer_pool = vec![range];
        let from_client = |world: &World, to: IpAddr| {
            world
                .nodes_dir
                .run("client", move || send_checked(SocketAddr::new(to, 7000), SMALL_BYTES))
                .unwrap()
        };
        for holder in [0, 1] {
            world.nodes[holder].lb_addresses = vec![address];
            world.nodes[1 - holder].lb_addresses.clear();
            world.converge_one(1 - holder);
            world.converge_one(holder);
            world.on_node(holder, || minisvc_datapath::announce::announce("eth0", address)).unwrap();
            let listener = world.on_node(holder, || std::net::TcpListener::bind((address, 7000)).unwrap());
            std::thread::scope(|scope| {
                let receiver = scope.spawn(|| receive_checked(&listener, SMALL_BYTES));
                let started = Instant::now();
                from_client(&world, address);
                println!("node {holder} answered after {:?}", started.elapsed());
                receiver.join().unwrap();
                assert!(started.elapsed().as_millis() < 900, "no stale neighbour was asked first");
            });
        }
    });
}

#[test]
fn the_tunnel_takes_only_what_is_a_peers_own() {
    in_namespaces("the_tunnel_takes_only_what_is_a_peers_own", || {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
            println!("skipped: tun overlay needs /dev/net/tun: {error}");
            return;
        }
        let mut world = World::new(Overlay::Tun, 2);
        let pods = [world.pod(0, 2), world.pod(1, 2)];
        world.converge();
        world.nodes[1].tunnel = None;
        let before = world.nodes[0].tunnel.as_ref().unwrap().stats();
        // An IPv4 header suffices: what is judged is who sent it and whose its source is.
        let packet = |source: [u8; 4]| {
            let mut packet = vec![0u8; 40];
            packet[0] = 0x45;
            packet[12..16].copy_from_slice(&source);
            packet[16..20].copy_from_slice(&[10, 42, 1, 2]);
            packet
        };
        let throw = |from: std::net::UdpSocket, source: [u8; 4]| {
            from.send_to(&packet(source), "192.0.2.1:51820").unwrap();
        };
        world.nodes_dir.run("client", || throw(udp([192, 0, 2, 100].into()), [10, 42, 2, 2])).unwrap();
        world.on_node(1, || {
            throw(udp([192, 0, 2, 2].into()), [10, 42, 2, 2]);
            let peer = || std::net::UdpSocket::bind("192.0.2.2:51820").unwrap();
            throw(peer(), [10, 42, 1, 3]);
            throw(peer(), [8, 8, 8, 8]);
            throw(peer(), [10, 42, 2, 2]);
        });
        let tunnel = world.nodes[0].tunnel.as_ref().unwrap();
        let started = Instant::now();
        while tunnel.stats().received == before.received {
            assert!(
                started.elapsed() < world::PATIENCE,
                "the peer's own packet never came: {:?}",
                tunnel.stats()
            );
            std::thread::yield_now();
        }
        assert_eq!(tunnel.stats().dropped_received - before.dropped_received, 4);
        // A tunnel that comes back attaches to the link that stayed, and traffic goes on.
        world.converge();
        tcp(&world, &pods[0], &pods[1], SMALL_BYTES);
        // A peer that is no more is not sent to.
        world.nodes[0].tunnel.as_ref().unwrap().set_peers(minisvc_datapath::tun::Peers::default());
        let sent = world.nodes[0].tunnel.as_ref().unwrap().stats();
        world.in_pod(&pods[0], || udp(pods[0].2).send_to(b"x", SocketAddr::new(pods[1].2, 9)).unwrap());
        let started = Instant::now();
        while world.nodes[0].tunnel.as_ref().unwrap().stats().dropped_sent == sent.dropped_sent {
            assert!(started.elapsed() < world::PATIENCE, "not dropped");
            std::thread::yield_now();
        }
    });
}

#[test]
fn without_checksum_offload_every_packet_leaves_with_its_checksum() {
    in_namespaces("without_checksum_offload_every_packet_leaves_with_its_checksum", || {
        let mut world = World::new(Overlay::Vxlan, 2);
        world.hardware = true;
        let pods = [world.pod(0, 2), world.pod(1, 2)];
        world.converge();
        assert!(render(&world.observe(0)).contains("checksum-offload off"));
        assert_eq!(world.converge_one(0), 0);
        // What crosses the bridge is looked at on the wire, as a card would get it.
        let tap = world::raw_capture("to-node1");
        tcp(&world, &pods[0], &pods[1], LARGE_BYTES);
        let (checked, wrong) = world::inner_tcp_checksums(&tap);
        println!("{checked} inner checksums, {wrong} wrong");
        assert!(checked > 10 && wrong == 0, "{wrong} of {checked} inner TCP checksums are wrong");
    });
}

#[test]
fn the_underlay_is_found_from_what_the_kernel_says() {
    in_namespaces("the_underlay_is_found_from_what_the_kernel_says", || {
        let mut world = World::new(Overlay::Vxlan, 2);
        world.pod(0, 2);
        world.converge();
        let (interfaces, routes) =
            world.on_node(0, || block_on(minisvc_datapath::link::underlay_facts())).unwrap();
        let join = Some(IpAddr::from([192, 0, 2, 2]));
        for join in [None, join] {
            let asked = minisvc_podnet::Asked { node_ips: &[], join, primary: Family::Ipv4 };
            let found = minisvc_podnet::choose_underlay(&interfaces, &routes, asked).unwrap();
            assert_eq!(found.second.map(|net| net.to_string()).as_deref(), Some("2001:db8::1/64"));
            assert_eq!((found.ifname.as_str(), found.address), ("eth0", IpAddr::from([192, 0, 2, 1])));
            assert_eq!((found.prefix_len, found.mtu_bytes, found.hardware), (24, 1500, false));
        }
    });
}
