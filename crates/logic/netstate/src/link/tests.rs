use super::*;
use crate::family::Family;
use minisvc_reconcile::{Op, diff};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_is_needed_is_made_first_and_removed_last() {
    let pod = || Scope::Pod("p".to_owned());
    let route =
        RouteSpec::Via { link: "eth0".into(), gateway: Some(ip("169.254.1.1")), onlink: true, source: None };
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let desired: NetState = [
        (NetKey::Route(pod(), net("0.0.0.0/0")), NetSpec::Route(route)),
        (NetKey::Neighbour(pod(), "eth0".into(), ip("169.254.1.1")), NetSpec::Neighbour(mac)),
        (NetKey::Address(pod(), "eth0".into(), net("10.42.0.2/32")), NetSpec::Address(AddressScope::Global)),
        (
            NetKey::Link(Scope::Host, "msv1".into()),
            NetSpec::Link(LinkSpec {
                kind: LinkKind::Veth { mac, peer_namespace: Some("p".into()) },
                mtu_bytes: 1450,
                up: true,
            }),
        ),
        (NetKey::Sysctl(pod(), Sysctl::DefaultAcceptRa), NetSpec::Sysctl(0)),
        (NetKey::Namespace("p".into()), NetSpec::Namespace),
    ]
    .into();
    let kinds = |ops: Vec<Op<NetKey, NetSpec>>| -> Vec<String> {
        let word = |key: &NetKey| {
            key.to_string().split(' ').find(|w| !w.contains('/') && *w != "host").map(str::to_owned)
        };
        ops.iter().filter_map(|op| word(op.key())).collect()
    };
    let order = ["namespace", "sysctl", "link", "address", "neighbour", "route"];
    assert_eq!(kinds(diff(&desired, &NetState::new())), order);
    let mut reverse = order;
    reverse.reverse();
    assert_eq!(kinds(diff(&NetState::new(), &desired)), reverse);
}

#[test]
fn only_single_addresses_of_ours_are_ours() {
    let owned = Owned {
        networks: vec![net("10.42.0.0/16"), net("10.43.0.0/16"), net("fd43::/112")],
        ranges: vec![(ip("192.168.0.200"), ip("192.168.0.210")), (ip("fd00::200"), ip("fd00::2ff"))],
        ..Owned::default()
    };
    assert!(owned.address("lo", &net("10.43.0.10/32")));
    assert!(owned.address("msvvx", &net("172.16.0.1/24")));
    assert!(owned.address("eth0", &net("192.168.0.210/32")));
    assert!(
        !owned.address("eth0", &net("192.168.0.205/24")),
        "a node's own address inside the pool is not ours"
    );
    assert!(!owned.address("eth0", &net("192.168.0.211/32")));
    assert!(!owned.address("eth0", &net("10.42.0.1/32")));
    assert!(!owned.address("lo", &net("127.0.0.1/8")));
    assert!(owned.address("lo", &net("fd43::a/128")));
    assert!(owned.address("eth0", &net("fd00::201/128")));
    assert!(!owned.address("eth0", &net("fd00::11/64")));
    assert!(!owned.address("lo", &net("::1/128")));
    assert!(!owned.address("msvvx", &net("fe80::1/64")), "the kernel's own");
}

#[test]
fn advertisements_are_kept_before_the_node_forwards() {
    let both = Sysctl::host(&[Family::Ipv6, Family::Ipv4], "eth0");
    let [kept, forwarding, _] = both.as_slice() else { panic!("{both:?}") };
    assert!(kept < forwarding, "set in this order");
    assert_eq!(kept.path(), "net/ipv6/conf/eth0/accept_ra");
    assert_eq!([0, 1, 2].map(|value| kept.is_met_by(value)), [true, false, true]);
    assert_eq!(Sysctl::host(&[Family::Ipv4], "eth0"), [Sysctl::Forwarding], "nothing of IPv6");
}
