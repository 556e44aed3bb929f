//! Addresses of load balancers: who gets which, and who keeps it.

use super::*;
use crate::world::World;
use minisvc_apimachinery::cluster::AddressRange;
use proptest::prelude::*;
use std::collections::BTreeSet;

const V4: (&str, &str) = ("192.168.9.200", "192.168.9.204");
const V6: (&str, &str) = ("2001:db8::200", "2001:db8::202");

fn of(ranges: &[(&str, &str)]) -> ClusterConfig {
    let range = |(first, last): &(&str, &str)| AddressRange {
        first: first.parse().unwrap(),
        last: last.parse().unwrap(),
    };
    ClusterConfig { load_balancer_pool: ranges.iter().map(range).collect(), ..ClusterConfig::default() }
}

fn config() -> ClusterConfig {
    of(&[V4, V6])
}

/// Of IPv4, unless `spec` says its families.
fn put(world: &mut World, name: &str, mut spec: serde_json::Value) {
    if spec["ipFamilies"].is_null() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    let key = ObjectKey::new("default", name);
    let mut object = world
        .get(&SERVICES, &key)
        .unwrap_or_else(|| json!({ "metadata": { "namespace": "default", "name": name } }));
    object["spec"] = spec;
    world.add(&SERVICES, object);
}

fn addresses(world: &World, name: &str) -> Vec<String> {
    let held = held(&world.snapshot.services[&ObjectKey::new("default", name)]);
    held.iter().map(ToString::to_string).collect()
}

fn address(world: &World, name: &str) -> Option<String> {
    addresses(world, name).into_iter().next()
}

fn settle_by(world: &mut World, config: &ClusterConfig) -> Plan {
    for _ in 0..4 {
        let planned = plan(&world.snapshot, config);
        world.apply(&planned);
    }
    let last = plan(&world.snapshot, config);
    assert!(last.is_settled());
    last
}

fn settle(world: &mut World) -> Plan {
    settle_by(world, &config())
}

/// A LoadBalancer of these families.
fn dual(families: &[&str], policy: &str) -> serde_json::Value {
    json!({ "type": "LoadBalancer", "ipFamilies": families, "ipFamilyPolicy": policy })
}

#[test]
fn one_address_for_each_family_in_the_services_order() {
    let mut world = World::default();
    put(&mut world, "a", dual(&["IPv6", "IPv4"], "RequireDualStack"));
    put(&mut world, "b", dual(&["IPv6"], "SingleStack"));
    let mut c = dual(&["IPv4", "IPv6"], "PreferDualStack");
    c["loadBalancerIP"] = json!("2001:db8:0::202");
    put(&mut world, "c", c);
    assert_eq!(settle(&mut world).notices, []);
    assert_eq!(addresses(&world, "a"), ["2001:db8::200", "192.168.9.200"]);
    assert_eq!(addresses(&world, "b"), ["2001:db8::201"]);
    assert_eq!(addresses(&world, "c"), ["192.168.9.201", "2001:db8::202"]);
    // A family comes and goes; the address of the other one stays.
    put(&mut world, "a", dual(&["IPv6"], "SingleStack"));
    settle(&mut world);
    assert_eq!(addresses(&world, "a"), ["2001:db8::200"]);
    put(&mut world, "a", dual(&["IPv6", "IPv4"], "PreferDualStack"));
    settle(&mut world);
    assert_eq!(addresses(&world, "a"), ["2001:db8::200", "192.168.9.200"]);
    // An address of one family does not become free by being written beside the other.
    put(&mut world, "d", dual(&["IPv4", "IPv6"], "PreferDualStack"));
    let full = settle(&mut world);
    assert_eq!(addresses(&world, "d"), ["192.168.9.202"]);
    assert_eq!(full.notices[0].message, "the load-balancer pool has no free IPv6 address (3 are taken)");
    world.remove(&SERVICES, &ObjectKey::new("default", "b"));
    assert_eq!(settle(&mut world).notices, []);
    assert_eq!(addresses(&world, "d"), ["192.168.9.202", "2001:db8::201"]);
}

#[test]
fn what_a_pool_of_one_family_cannot_give_is_said() {
    let mut world = World::default();
    put(&mut world, "prefers", dual(&["IPv6", "IPv4"], "PreferDualStack"));
    put(&mut world, "requires", dual(&["IPv4", "IPv6"], "RequireDualStack"));
    put(&mut world, "v6", dual(&["IPv6"], "SingleStack"));
    let mut asks = dual(&["IPv4"], "SingleStack");
    asks["loadBalancerIP"] = json!("2001:db8::202");
    put(&mut world, "asks", asks);
    let said: BTreeSet<String> = settle_by(&mut world, &of(&[V4]))
        .notices
        .iter()
        .map(|notice| format!("{} {}: {}", notice.reason, notice.key.name, notice.message))
        .collect();
    let none = "the load-balancer pool has no IPv6 addresses";
    let expected = [
        "AllocationFailed asks: spec.loadBalancerIP 2001:db8::202 is IPv6; the Service has IPv4 only"
            .to_owned(),
        format!("AllocationFailed requires: {none}, and spec.ipFamilyPolicy is RequireDualStack"),
        format!("AllocationFailed v6: {none}"),
    ];
    assert_eq!(said.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(addresses(&world, "prefers"), ["192.168.9.200"]);
    assert_eq!(addresses(&world, "requires"), Vec::<String>::new());
}

#[test]
fn asked_for_addresses_are_given_or_refused_and_freed_ones_return() {
    let mut world = World::default();
    put(&mut world, "a", json!({ "type": "LoadBalancer", "loadBalancerIP": "192.168.9.202" }));
    put(&mut world, "b", json!({ "type": "LoadBalancer" }));
    put(&mut world, "foreign", json!({ "type": "LoadBalancer", "loadBalancerClass": "example.com/lb" }));
    put(&mut world, "outside", json!({ "type": "LoadBalancer", "loadBalancerIP": "10.0.0.1" }));
    put(&mut world, "second", json!({ "type": "LoadBalancer", "loadBalancerIP": "192.168.9.202" }));
    let planned = settle(&mut world);
    assert!(planned.is_settled());
    let refused: Vec<_> = planned.notices.iter().map(|notice| notice.key.name.as_str()).collect();
    assert_eq!(refused, ["outside", "second"]);
    assert_eq!(address(&world, "a").as_deref(), Some("192.168.9.202"));
    assert_eq!(address(&world, "b").as_deref(), Some("192.168.9.200"));
    assert_eq!((address(&world, "foreign"), address(&world, "second")), (None, None));
    put(&mut world, "a", json!({ "type": "ClusterIP" }));
    settle(&mut world);
    assert_eq!(address(&world, "a"), None);
    assert_eq!(address(&world, "second").as_deref(), Some("192.168.9.202"));
}

proptest! {
    #[test]
    fn no_address_is_held_twice_and_none_moves(steps in prop::collection::vec((0_u8..9, 0_u8..6), 1..40)) {
        let mut world = World::default();
        for (n, what) in steps {
            let name = format!("s{n}");
            let before = world.snapshot.clone();
            match what {
                0 => world.remove(&SERVICES, &ObjectKey::new("default", name.as_str())),
                1 => put(&mut world, &name, json!({ "type": "ClusterIP" })),
                2 => put(&mut world, &name, json!({ "type": "LoadBalancer" })),
                3 => put(&mut world, &name, dual(&["IPv4", "IPv6"], "PreferDualStack")),
                4 => put(&mut world, &name, dual(&["IPv6"], "SingleStack")),
                _ => put(&mut world, &name, json!({ "type": "LoadBalancer", "loadBalancerIP": format!("192.168.9.{}", 200 + n) })),
            }
            for _ in 0..3 {
                let planned = plan(&world.snapshot, &config());
                world.apply(&planned);
                let all: Vec<IpAddr> = world.snapshot.services.values().flat_map(|s| held(s)).collect();
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
            }
            prop_assert!(plan(&world.snapshot, &config()).is_settled());
            for (key, service) in before.services.iter().filter(|(key, _)| key.name != name) {
                let had = held(service);
                let has = held(&world.snapshot.services[key]);
                    prop_assert!(had.iter().all(|address| has.contains(address)));
            }
        }
    }
}
