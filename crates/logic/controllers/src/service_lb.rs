//! Addresses of Services of type LoadBalancer, from the cluster's pool.
//!
//! Invariants: an address belongs to one Service at a time, and stays with it as long as it wants one; a Service that
//! asks for an address by `spec.loadBalancerIP` gets that or none; Services of a foreign `loadBalancerClass` are left alone.

use crate::plan::{Notice, Plan, Write};
use k8s_openapi::api::core::v1::Service;
use minisvc_allocator::RangePool;
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot, resource::SERVICES};
use serde_json::json;
use std::{collections::BTreeMap, net::IpAddr};

/// Our `spec.loadBalancerClass`; Services without one are ours too.
pub const CLASS: &str = "minisvc";

fn wants(service: &Service) -> bool {
    let Some(spec) = service.spec.as_ref() else { return false };
    spec.type_.as_deref() == Some("LoadBalancer") && ours(service)
}

fn ours(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    class.is_none_or(|class| class.is_empty() || class == CLASS)
}

fn held(service: &Service) -> Vec<IpAddr> {
    let points = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref());
    points.unwrap_or_default().iter().filter_map(|point| point.ip.as_deref()?.parse().ok()).collect()
}

fn points(service: &Service) -> usize {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.as_ref()).map_or(0, Vec::len)
}

/// Plans every Service's address. Must not run again before its writes show in the snapshot.
pub fn plan(snapshot: &Snapshot, cluster: &ClusterConfig) -> Plan {
    let mut plan = Plan::default();
    let ranges = cluster.load_balancer_pool.iter().map(|range| (range.first, range.last));
    // A malformed pool is refused at start; here it is as good as none.
    let pool = RangePool::new(ranges).ok().filter(|_| !cluster.load_balancer_pool.is_empty());
    let in_pool = |address: &IpAddr| pool.as_ref().is_some_and(|pool| pool.contains(*address));
    let mut services: Vec<(&ObjectKey, &Service)> = snapshot
        .services
        .iter()
        .map(|(key, service)| (key, service.as_ref()))
        .filter(|(_, s)| ours(s))
        .collect();
    services.sort_by(|a, b| {
        (&a.1.metadata.creation_timestamp, a.0).cmp(&(&b.1.metadata.creation_timestamp, b.0))
    });
    // Who keeps what it has: one address in the pool, the asked-for one if one was asked for, the oldest first.
    // Held by a foreign Service, or by one of ours until the write that frees it shows: still taken.
    let mut holder: BTreeMap<IpAddr, &ObjectKey> = BTreeMap::new();
    for (key, service) in &services {
        if wants(service)
            && let [address] = held(service).as_slice()
            && points(service) == 1
            && in_pool(address)
            && asked(service).is_none_or(|asked| asked == Some(*address))
        {
            holder.entry(*address).or_insert(key);
        }
    }
    let mut taken: BTreeMap<IpAddr, ObjectKey> = BTreeMap::new();
    for (key, service) in &snapshot.services {
        taken.extend(held(service).into_iter().map(|address| (address, key.clone())));
    }
    for (key, service) in services {
        let keeps = held(service).first().is_some_and(|address| holder.get(address) == Some(&key));
        if keeps {
            continue;
        }
        if points(service) > 0 {
            // Freed first; a new address is given once this shows.
            plan.writes.push(point(key, service, None));
            continue;
        }
        if !wants(service) || service.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match choose(service, pool.as_ref(), &taken) {
            Ok(address) => {
                taken.insert(address, key.clone());
                plan.notices.push(notice(
                    key,
                    service,
                    false,
                    "EnsuredLoadBalancer",
                    format!("address {address} given"),
                ));
                plan.writes.push(point(key, service, Some(address)));
            }
            Err(why) => plan.notices.push(notice(key, service, true, "AllocationFailed", why)),
        }
    }
    plan
}

/// The address asked for; `Some(None)` if what was asked for is no address.
fn asked(service: &Service) -> Option<Option<IpAddr>> {
    let text = service.spec.as_ref()?.load_balancer_ip.as_deref().filter(|text| !text.is_empty())?;
    Some(text.parse().ok())
}

fn choose(
    service: &Service,
    pool: Option<&RangePool>,
    taken: &BTreeMap<IpAddr, ObjectKey>,
) -> Result<IpAddr, String> {
    let none = "no load-balancer pool is configured: start the server with --load-balancer-pool";
    let pool = pool.ok_or_else(|| none.to_owned())?;
    match asked(service) {
        Some(None) => Err("spec.loadBalancerIP is not an IP address".to_owned()),
        Some(Some(address)) if !pool.contains(address) => {
            Err(format!("spec.loadBalancerIP {address} is not in the load-balancer pool"))
        }
        Some(Some(address)) => match taken.get(&address) {
            Some(other) => Err(format!("spec.loadBalancerIP {address} is taken by Service {other}")),
            None => Ok(address),
        },
        None => pool
            .next(|address| taken.contains_key(&address))
            .ok_or_else(|| format!("the load-balancer pool has no free address ({} are taken)", taken.len())),
    }
}

fn point(key: &ObjectKey, service: &Service, address: Option<IpAddr>) -> Write {
    let points: Vec<_> = address.iter().map(|address| json!({ "ip": address, "ipMode": "VIP" })).collect();
    let balancer = if points.is_empty() { json!({ "ingress": null }) } else { json!({ "ingress": points }) };
    Write::status(&SERVICES, key, &service.metadata, json!({ "loadBalancer": balancer }))
}

fn notice(
    key: &ObjectKey,
    service: &Service,
    warning: bool,
    reason: &'static str,
    message: String,
) -> Notice {
    match warning {
        true => Notice::warning(&SERVICES, key, &service.metadata, reason, message),
        false => Notice::new(&SERVICES, key, &service.metadata, reason, message).with(&SERVICES, key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use minisvc_apimachinery::cluster::AddressRange;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn config() -> ClusterConfig {
        let ip = |last| IpAddr::from([192, 168, 9, last]);
        let load_balancer_pool = vec![AddressRange { first: ip(200), last: ip(204) }];
        ClusterConfig { load_balancer_pool, ..ClusterConfig::default() }
    }

    fn put(world: &mut World, name: &str, spec: serde_json::Value) {
        let key = ObjectKey::new("default", name);
        let mut object = world
            .get(&SERVICES, &key)
            .unwrap_or_else(|| json!({ "metadata": { "namespace": "default", "name": name } }));
        object["spec"] = spec;
        world.add(&SERVICES, object);
    }

    fn address(world: &World, name: &str) -> Option<String> {
        held(&world.snapshot.services[&ObjectKey::new("default", name)]).first().map(ToString::to_string)
    }

    fn settle(world: &mut World) -> Plan {
        for _ in 0..4 {
            let planned = plan(&world.snapshot, &config());
            world.apply(&planned);
        }
        plan(&world.snapshot, &config())
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
        fn no_address_is_held_twice_and_none_moves(steps in prop::collection::vec((0_u8..9, 0_u8..4), 1..40)) {
            let mut world = World::default();
            for (n, what) in steps {
                let name = format!("s{n}");
                let before = world.snapshot.clone();
                match what {
                    0 => world.remove(&SERVICES, &ObjectKey::new("default", name.as_str())),
                    1 => put(&mut world, &name, json!({ "type": "ClusterIP" })),
                    2 => put(&mut world, &name, json!({ "type": "LoadBalancer" })),
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
                    prop_assert!(had.is_empty() || held(&world.snapshot.services[key]) == had);
                }
            }
        }
    }
}
