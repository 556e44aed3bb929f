use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_upper_band_of_a_16_starts_after_256_addresses() {
    let pool = AddressPool::new(net("10.43.0.0/16"));
    assert_eq!(pool.next(|_| false, 0), Some(ip("10.43.1.1")));
    let upper_is_used = |ip: IpAddr| ip >= "10.43.1.1".parse::<IpAddr>().unwrap();
    assert_eq!(pool.next(upper_is_used, 1), Some(ip("10.43.0.2")));
    assert!(!pool.contains(ip("10.43.0.0")), "network");
    assert!(!pool.contains(ip("10.43.255.255")), "broadcast");
    assert!(!pool.contains(ip("10.44.0.1")) && !pool.contains(ip("fd00::1")));
}

#[test]
fn an_ipv6_network_has_no_broadcast_address() {
    let pool = AddressPool::new(net("fd00:43::/112"));
    assert_eq!(pool.next(|_| false, 0), Some(ip("fd00:43::101")));
    assert!(pool.contains(ip("fd00:43::ffff")) && !pool.contains(ip("fd00:43::")));
    assert!(AddressPool::new(net("::/0")).contains(ip("1::")));
}

#[test]
fn networks_too_small_have_no_members() {
    for text in ["10.43.0.0/32", "10.43.0.0/31", "fd00::/128"] {
        let pool = AddressPool::new(net(text));
        assert_eq!(pool.next(|_| false, 7), None, "{text}");
    }
}

#[test]
fn the_default_node_ports_keep_86_for_static_use() {
    let pool = PortPool::new(30000, 32767).unwrap();
    assert_eq!(pool.next(|_| false, 0), Some(30086));
    assert_eq!(pool.next(|port| port >= 30086, 0), Some(30000));
    assert_eq!(pool.next(|_| true, 3), None);
    assert_eq!(PortPool::new(30000, 30015).unwrap().next(|_| false, 0), Some(30000), "no band in 16 ports");
    assert!(PortPool::new(2, 1).is_err());
}

#[test]
fn pod_networks_are_counted_from_the_cluster_network() {
    let cluster = net("10.42.0.0/16");
    assert_eq!(subnet(cluster, 24, 0), Some(net("10.42.0.0/24")));
    assert_eq!(subnet(cluster, 24, 255), Some(net("10.42.255.0/24")));
    assert_eq!(subnet(cluster, 24, 256), None);
    assert_eq!(subnet(cluster, 8, 0), None, "larger than the cluster");
    assert_eq!(subnet(cluster, 33, 0), None);
    assert_eq!(subnet(net("fd00:42::/48"), 64, 2), Some(net("fd00:42:0:2::/64")));
    let used = [net("10.42.0.0/23"), net("10.42.3.0/24")];
    let overlaps = |n: IpNet| used.iter().any(|u| u.contains(&n) || n.contains(u));
    assert_eq!(next_subnet(cluster, 24, overlaps), Some(net("10.42.2.0/24")));
    assert_eq!(next_subnet(cluster, 24, |_| true), None);
}

#[test]
fn load_balancer_ranges_are_used_in_order() {
    let pool =
        RangePool::new([(ip("192.0.2.250"), ip("192.0.2.251")), (ip("198.51.100.1"), ip("198.51.100.1"))])
            .unwrap();
    let mut used = BTreeSet::new();
    while let Some(ip) = pool.next(|ip| used.contains(&ip)) {
        assert!(pool.contains(ip));
        used.insert(ip);
    }
    assert_eq!(used, BTreeSet::from([ip("192.0.2.250"), ip("192.0.2.251"), ip("198.51.100.1")]));
    assert!(!pool.contains(ip("192.0.2.252")) && !pool.contains(ip("::1")));
    assert!(RangePool::new([(ip("192.0.2.2"), ip("192.0.2.1"))]).is_err());
    assert!(RangePool::new([(ip("192.0.2.2"), ip("fd00::1"))]).is_err());
}

proptest! {
    #[test]
    fn an_address_is_found_iff_one_is_free(prefix in 24_u8..=32, used in prop::collection::btree_set(0_u8.., 0..256), seed: u64) {
        let pool = AddressPool::new(IpNet::new(ip("10.43.0.0"), prefix).unwrap());
        let used: BTreeSet<IpAddr> = used.into_iter().map(|n| IpAddr::from([10, 43, 0, n])).collect();
        let free = (0..=255_u8)
            .map(|n| IpAddr::from([10, 43, 0, n]))
            .any(|ip| pool.contains(ip) && !used.contains(&ip));
        let found = pool.next(|ip| used.contains(&ip), seed);
        prop_assert_eq!(found.is_some(), free);
        if let Some(ip) = found {
            prop_assert!(pool.contains(ip) && !used.contains(&ip));
        }
    }

    #[test]
    fn a_pool_can_be_used_up(first in 1_u16..60_000, size in 1_u16..200, seed: u64) {
        let pool = PortPool::new(first, first + size - 1).unwrap();
        let mut used = BTreeSet::new();
        while let Some(port) = pool.next(|port| used.contains(&port), seed.wrapping_mul(used.len() as u64 + 1)) {
            prop_assert!(pool.contains(port) && used.insert(port));
        }
        prop_assert_eq!(used.len(), usize::from(size));
    }
}
