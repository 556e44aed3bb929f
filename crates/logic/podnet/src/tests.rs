use super::*;
use k8s_openapi::api::core::v1::{NodeAddress, NodeSpec, NodeStatus};
use minisvc_netstate::link::render;
use minisvc_reconcile::{Op, State, diff};
use proptest::prelude::*;
use std::sync::Arc;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(cidr: Option<&str>, address: Option<&str>) -> Node {
    let internal =
        |address: &str| NodeAddress { address: address.to_owned(), type_: "InternalIP".to_owned() };
    Node {
        spec: Some(NodeSpec { pod_cidr: cidr.map(str::to_owned), ..NodeSpec::default() }),
        status: Some(NodeStatus { addresses: address.map(|a| vec![internal(a)]), ..NodeStatus::default() }),
        ..Node::default()
    }
}

fn snapshot(nodes: &[(&str, Node)]) -> Snapshot {
    let nodes = nodes.iter().map(|(name, node)| (ObjectKey::cluster(*name), Arc::new(node.clone())));
    Snapshot { nodes: nodes.collect(), ..Snapshot::default() }
}

fn three() -> Vec<(&'static str, Node)> {
    vec![
        ("node1", node(Some("10.42.0.0/24"), Some("192.0.2.1"))),
        ("node2", node(Some("10.42.1.0/24"), Some("192.0.2.2"))),
        ("node3", node(Some("10.42.2.0/24"), Some("198.51.100.3"))),
    ]
}

fn underlay(hardware: bool) -> Underlay {
    Underlay {
        ifname: "eth0".into(),
        address: ip("192.0.2.1"),
        prefix_len: 24,
        second: None,
        mtu_bytes: 1500,
        hardware,
    }
}

fn plan(overlay: Overlay, nodes: &[(&str, Node)], pods: &BTreeMap<String, LocalPod>) -> Planned<PodNetwork> {
    let cluster = ClusterConfig { overlay, ..ClusterConfig::default() };
    let lb_addresses = [ip("192.0.2.200")];
    let (node_name, underlay) = ("node1", &underlay(overlay == Overlay::Vxlan));
    let view = NodeView { node_name, cluster: &cluster, underlay, lb_addresses: &lb_addresses };
    desired(&snapshot(nodes), &view, pods).unwrap()
}

fn pods() -> BTreeMap<String, LocalPod> {
    [("uid-a", 2), ("uid-b", 3)]
        .map(|(uid, n)| {
            (uid.to_owned(), LocalPod::new(uid, "default", uid, vec![IpAddr::from([10, 42, 0, n])]))
        })
        .into()
}

fn golden(name: &str, planned: &Planned<PodNetwork>, expected: &str) {
    let mut text = render(&planned.desired.links);
    if let Some(tunnel) = &planned.desired.tunnel {
        text.push_str(&format!(
            "tunnel {} mtu {} peers {:?}\n",
            tunnel.local, tunnel.mtu_bytes, tunnel.peers
        ));
    }
    for rejection in &planned.rejected {
        let Rejection { kind, name, reason, message, .. } = rejection;
        text.push_str(&format!("rejected {kind} {name}: {reason}: {message}\n"));
    }
    if text != expected {
        // Kept beside the golden, so that a wanted change is one move away.
        std::fs::write(format!("{}/src/tests/{name}.actual", env!("CARGO_MANIFEST_DIR")), &text).unwrap();
    }
    assert_eq!(text, expected, "golden {name}");
}

#[test]
fn three_nodes_and_two_pods_by_each_overlay() {
    golden("vxlan.txt", &plan(Overlay::Vxlan, &three(), &pods()), include_str!("tests/vxlan.txt"));
    golden("host-gw.txt", &plan(Overlay::HostGw, &three(), &pods()), include_str!("tests/host-gw.txt"));
    golden("tun.txt", &plan(Overlay::Tun, &three(), &pods()), include_str!("tests/tun.txt"));
}

fn dual_node(cidrs: &[&str], addresses: &[&str]) -> Node {
    let internal =
        |address: &&str| NodeAddress { address: (*address).to_owned(), type_: "InternalIP".to_owned() };
    let texts: Vec<String> = cidrs.iter().map(|cidr| (*cidr).to_owned()).collect();
    Node {
        spec: Some(NodeSpec {
            pod_cidr: texts.first().cloned(),
            pod_cidrs: Some(texts),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(addresses.iter().map(internal).collect()),
            ..NodeStatus::default()
        }),
        ..Node::default()
    }
}

/// Two nodes on an underlay of both families, and one that has IPv4 only.
fn dual_plan(overlay: Overlay, six_first: bool) -> Planned<PodNetwork> {
    let ordered = |mut pair: Vec<IpNet>| {
        if six_first {
            pair.reverse();
        }
        pair
    };
    let pair = |v4: &str, v6: &str| ordered(vec![v4.parse().unwrap(), v6.parse().unwrap()]);
    let cluster = ClusterConfig {
        overlay,
        cluster_cidrs: pair("10.42.0.0/16", "fd42::/56"),
        service_cidrs: pair("10.43.0.0/16", "fd43::/112"),
        ..ClusterConfig::default()
    };
    let node = |n: u8, addresses: &[&str]| {
        let mut cidrs = [format!("10.42.{n}.0/24"), format!("fd42:0:0:{n}::/64")];
        if six_first {
            cidrs.reverse();
        }
        dual_node(&cidrs.each_ref().map(String::as_str), addresses)
    };
    let nodes = [
        ("node1", node(0, &["192.0.2.1", "2001:db8::1"])),
        ("node2", node(1, &["192.0.2.2", "2001:db8::2"])),
        ("node3", node(2, &["192.0.2.3"])),
    ];
    let mut underlay = Underlay { second: Some("2001:db8::1/64".parse().unwrap()), ..underlay(false) };
    if six_first {
        (underlay.address, underlay.prefix_len) = (ip("2001:db8::1"), 64);
        underlay.second = Some("192.0.2.1/24".parse().unwrap());
    }
    let lb_addresses = [ip("192.0.2.200"), ip("2001:db8::200")];
    let view =
        NodeView { node_name: "node1", cluster: &cluster, underlay: &underlay, lb_addresses: &lb_addresses };
    let mut addresses = vec![ip("10.42.0.2"), ip("fd42::2")];
    if six_first {
        addresses.reverse();
    }
    let pods = BTreeMap::from([("uid-a".to_owned(), LocalPod::new("uid-a", "default", "a", addresses))]);
    desired(&snapshot(&nodes), &view, &pods).unwrap()
}

#[test]
fn two_families_by_each_overlay_and_with_either_first() {
    golden("dual-vxlan.txt", &dual_plan(Overlay::Vxlan, false), include_str!("tests/dual-vxlan.txt"));
    golden("dual-host-gw.txt", &dual_plan(Overlay::HostGw, false), include_str!("tests/dual-host-gw.txt"));
    golden("dual-tun.txt", &dual_plan(Overlay::Tun, false), include_str!("tests/dual-tun.txt"));
    // By IPv6 between the nodes, node3 cannot be reached.
    golden("dual-six-first.txt", &dual_plan(Overlay::Vxlan, true), include_str!("tests/dual-six-first.txt"));
}

#[test]
fn bad_nodes_and_pods_are_left_out_with_a_reason() {
    let mut nodes = three();
    nodes.extend([
        ("new", node(None, Some("192.0.2.9"))),
        ("outside", node(Some("10.99.0.0/24"), Some("192.0.2.10"))),
        ("thief", node(Some("10.42.1.0/25"), Some("192.0.2.11"))),
        ("thief-of-ours", node(Some("10.42.0.128/25"), Some("192.0.2.12"))),
        ("nowhere", node(Some("10.42.8.0/24"), None)),
        ("text", node(Some("ten"), Some("192.0.2.13"))),
        ("twin", node(Some("10.42.9.0/24"), Some("192.0.2.1"))),
        ("loop", node(Some("10.42.10.0/24"), Some("127.0.0.1"))),
    ]);
    let mut pods = pods();
    for (uid, address) in
        [("uid-c", "10.42.0.2"), ("uid-d", "10.42.0.1"), ("uid-e", "10.42.1.9"), ("../x", "10.42.0.9")]
    {
        pods.insert(uid.to_owned(), LocalPod::new(uid, "default", uid, vec![ip(address)]));
    }
    let planned = plan(Overlay::Vxlan, &nodes, &pods);
    let reasons: Vec<_> = planned.rejected.iter().map(|r| (r.name.as_str(), r.reason)).collect();
    assert_eq!(
        reasons,
        [
            ("loop", "InvalidAddress"),
            // "nowhere" has not said its addresses yet, as "new" has no podCIDR yet: both only wait.
            ("outside", "InvalidPodCIDR"),
            ("text", "InvalidPodCIDR"),
            ("thief", "PodCIDRConflict"),
            ("thief-of-ours", "PodCIDRConflict"),
            ("twin", "AddressConflict"),
            ("../x", "InvalidName"),
            ("uid-c", "AddressConflict"),
            ("uid-d", "InvalidAddress"),
            ("uid-e", "InvalidAddress"),
        ]
    );
    assert_eq!(
        planned.desired,
        plan(Overlay::Vxlan, &three(), &self::pods()).desired,
        "nobody else is harmed"
    );
}

#[test]
fn a_node_without_a_pod_network_changes_nothing() {
    let cluster = ClusterConfig::default();
    let underlay = underlay(false);
    let view = NodeView { node_name: "node1", cluster: &cluster, underlay: &underlay, lb_addresses: &[] };
    let ask = |nodes: &[(&str, Node)]| desired(&snapshot(nodes), &view, &BTreeMap::new()).unwrap_err();
    assert_eq!(ask(&[]), NotReady::NodeMissing("node1".into()));
    assert_eq!(ask(&[("node1", node(None, None))]), NotReady::PodCidrMissing("node1".into()));
    assert!(matches!(ask(&[("node1", node(Some("10.9.0.0/24"), None))]), NotReady::PodCidrInvalid { .. }));
}

/// Applies a difference as the kernel does: what needs a missing link, or a missing namespace, fails.
fn apply(ops: Vec<Op<NetKey, NetSpec>>, state: &mut NetState) {
    for op in ops {
        match op {
            Op::Delete(key) => {
                state.remove(&key);
            }
            Op::Put(key, spec) | Op::Replace(key, spec) => {
                if let Some(namespace) = key.pod_namespace() {
                    assert!(state.contains_key(&NetKey::Namespace(namespace.to_owned())), "{key}");
                }
                let has = |scope: &Scope, link: &str| {
                    link == "eth0" && *scope == Scope::Host
                        || state.contains_key(&NetKey::Link(scope.clone(), link.to_owned()))
                };
                match (&key, &spec) {
                    (NetKey::Address(scope, link, _) | NetKey::Neighbour(scope, link, _), _) => {
                        assert!(has(scope, link), "{key}");
                    }
                    (NetKey::Fdb(link, _), _) => assert!(has(&Scope::Host, link), "{key}"),
                    (NetKey::Route(scope, _), NetSpec::Route(RouteSpec::Via { link, .. })) => {
                        assert!(has(scope, link), "{key}");
                    }
                    _ => {}
                }
                state.insert(key, spec);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_order_of_input_gives_the_same_state_and_any_change_converges(
        order in Just((0..12u8).collect::<Vec<_>>()).prop_shuffle(),
        before in proptest::collection::btree_set(2..12u8, 0..10),
        after in proptest::collection::btree_set(2..12u8, 0..10),
        overlays in (0..3usize, 0..3usize),
    ) {
        let nodes: Vec<_> = (0..12u8).map(|n| {
            let name = if n == 0 { "node1".to_owned() } else { format!("peer{n}") };
            (name, node(Some(&format!("10.42.{n}.0/24")), Some(&format!("192.0.2.{}", n + 1))))
        }).collect();
        let named = |order: &[u8]| -> Vec<(&str, Node)> {
            order.iter().map(|n| &nodes[usize::from(*n)]).map(|(name, node)| (name.as_str(), node.clone())).collect()
        };
        let pods = |set: &std::collections::BTreeSet<u8>| -> BTreeMap<String, LocalPod> {
            set.iter().map(|n| {
                let uid = format!("uid-{n}");
                (uid.clone(), LocalPod::new(&uid, "default", &uid, vec![IpAddr::from([10, 42, 0, *n])]))
            }).collect()
        };
        let kinds = [Overlay::Vxlan, Overlay::HostGw, Overlay::Tun];
        let sorted: Vec<u8> = (0..12).collect();
        let first = plan(kinds[overlays.0], &named(&order), &pods(&before));
        prop_assert_eq!(&first, &plan(kinds[overlays.0], &named(&sorted), &pods(&before)));
        let second = plan(kinds[overlays.1], &named(&sorted[..6]), &pods(&after).into_iter().take(9).collect());
        let _: &State<NetKey, NetSpec> = &second.desired.links;
        let mut kernel = NetState::new();
        for wanted in [&first.desired.links, &second.desired.links, &NetState::new()] {
            apply(diff(wanted, &kernel), &mut kernel);
            prop_assert_eq!(&kernel, wanted);
        }
    }
}

#[test]
fn the_way_is_that_of_the_longest_prefix() {
    let by = |link: &str, gateway: Option<&str>, source: &str| Way::Link {
        link: link.to_owned(),
        gateway: gateway.map(ip),
        source: Some(ip(source)),
    };
    for (overlay, to_node2, to_node3) in [
        (
            Overlay::Vxlan,
            by("msvvx", Some("10.42.1.0"), "10.42.0.1"),
            by("msvvx", Some("10.42.2.0"), "10.42.0.1"),
        ),
        (Overlay::Tun, by("msvtun", None, "10.42.0.1"), by("msvtun", None, "10.42.0.1")),
        // node3 is on another link, so host-gw has no route to its Pods.
        (Overlay::HostGw, by("eth0", Some("192.0.2.2"), "10.42.0.1"), Way::Unreachable),
    ] {
        let links = plan(overlay, &three(), &pods()).desired.links;
        let way = |to: &str| way(&links, &underlay(false), ip(to));
        assert_eq!(way("10.42.1.7"), to_node2, "{overlay:?}");
        assert_eq!(way("10.42.2.7"), to_node3, "{overlay:?}");
        assert_eq!(way("10.42.0.2"), by(&link_name("uid-a"), None, "10.42.0.1"));
        for own in ["10.42.0.1", "192.0.2.1", "192.0.2.200", "10.43.0.10"] {
            assert_eq!(way(own), Way::Here, "{own}");
        }
        assert_eq!(way("10.42.77.1"), Way::Unreachable, "no node has it");
        assert_eq!(way("192.0.2.9"), by("eth0", None, "192.0.2.1"));
        assert_eq!(way("203.0.113.9"), Way::Outside);
    }
}
