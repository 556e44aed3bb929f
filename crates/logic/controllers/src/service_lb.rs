//! Addresses of Services of type LoadBalancer, from the cluster's pool.
//!
//! Invariants: an address belongs to one Service at a time, and stays with it as long as it wants one; a Service has at
//! most one of each of its families, in their order; one that asks for an address by `spec.loadBalancerIP` gets that or
//! none of its family; Services of a foreign `loadBalancerClass` are left alone.

use crate::{
    objects::families,
    plan::{Notice, Plan, Write},
};
use k8s_openapi::api::core::v1::Service;
use minisvc_allocator::RangePool;
use minisvc_apimachinery::{ClusterConfig, Family, ObjectKey, Snapshot, resource::SERVICES};
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

/// The pool, by family.
type Pools = BTreeMap<Family, RangePool>;

fn pools(cluster: &ClusterConfig) -> Pools {
    let of = |family| {
        let ranges = cluster.load_balancer_pool.iter().filter(move |range| Family::of(range.first) == family);
        let ranges: Vec<_> = ranges.map(|range| (range.first, range.last)).collect();
        // A malformed pool is refused at start; here it is as good as none.
        Some((family, RangePool::new(ranges.clone()).ok().filter(|_| !ranges.is_empty())?))
    };
    Family::ALL.into_iter().filter_map(of).collect()
}

/// Plans every Service's addresses. Must not run again before its writes show in the snapshot.
pub fn plan(snapshot: &Snapshot, cluster: &ClusterConfig) -> Plan {
    let mut plan = Plan::default();
    let pools = pools(cluster);
    let mut services: Vec<(&ObjectKey, &Service)> = snapshot
        .services
        .iter()
        .map(|(key, service)| (key, service.as_ref()))
        .filter(|(_, s)| ours(s))
        .collect();
    services.sort_by(|a, b| {
        (&a.1.metadata.creation_timestamp, a.0).cmp(&(&b.1.metadata.creation_timestamp, b.0))
    });
    // Who keeps what it has: an address in the pool for each family, the asked-for one if one was asked for, the oldest
    // first. Held by a foreign Service, or by one of ours until the write that frees it shows: still taken.
    let mut holder: BTreeMap<IpAddr, &ObjectKey> = BTreeMap::new();
    for (key, service) in services.iter().filter(|(_, service)| wants(service)) {
        for address in fitting(service, &pools) {
            holder.entry(address).or_insert(key);
        }
    }
    let mut taken: BTreeMap<IpAddr, ObjectKey> = BTreeMap::new();
    for (key, service) in &snapshot.services {
        taken.extend(held(service).into_iter().map(|address| (address, key.clone())));
    }
    for (key, service) in services {
        let mut kept = if wants(service) { fitting(service, &pools) } else { Vec::new() };
        kept.retain(|address| holder.get(address) == Some(&key));
        if points(service) != kept.len() || held(service) != kept {
            // Freed first; a new address is given once this shows.
            plan.writes.push(point(key, service, &kept));
        } else if wants(service) && service.metadata.deletion_timestamp.is_none() {
            give(&mut plan, (key, service), &kept, &pools, &mut taken);
        }
    }
    plan
}

/// The addresses that a Service has and may keep, in the order of its families.
fn fitting(service: &Service, pools: &Pools) -> Vec<IpAddr> {
    let (held, asked) = (held(service), asked(service));
    let fits = |family: Family, address: &IpAddr| {
        Family::of(*address) == family
            && pools.get(&family).is_some_and(|pool| pool.contains(*address))
            && match asked {
                Some(Some(asked)) => Family::of(asked) != family || asked == *address,
                Some(None) => false,
                None => true,
            }
    };
    families(service)
        .into_iter()
        .filter_map(|family| held.iter().copied().find(|a| fits(family, a)))
        .collect()
}

/// Gives a Service an address for each family that it has none for.
fn give(
    plan: &mut Plan,
    (key, service): (&ObjectKey, &Service),
    kept: &[IpAddr],
    pools: &Pools,
    taken: &mut BTreeMap<IpAddr, ObjectKey>,
) {
    let (mut addresses, mut given, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    match unfit(service, pools) {
        Some(why) => refused.push(why),
        None => {
            for family in families(service) {
                if let Some(address) = kept.iter().find(|address| Family::of(**address) == family) {
                    addresses.push(*address);
                    continue;
                }
                // The other family may have addresses: whether both are needed is for `unfit` to say.
                let Some(pool) = pools.get(&family) else { continue };
                match choose(service, family, pool, taken) {
                    Ok(address) => {
                        taken.insert(address, key.clone());
                        given.push(address.to_string());
                        addresses.push(address);
                    }
                    Err(why) => refused.push(why),
                }
            }
        }
    }
    if !given.is_empty() {
        let message = format!("address {} given", given.join(" and "));
        let notice = Notice::new(&SERVICES, key, &service.metadata, "EnsuredLoadBalancer", message);
        plan.notices.push(notice.with(&SERVICES, key));
        plan.writes.push(point(key, service, &addresses));
    }
    for why in refused {
        plan.notices.push(Notice::warning(&SERVICES, key, &service.metadata, "AllocationFailed", why));
    }
}

/// The address asked for; `Some(None)` if what was asked for is no address.
fn asked(service: &Service) -> Option<Option<IpAddr>> {
    let text = service.spec.as_ref()?.load_balancer_ip.as_deref().filter(|text| !text.is_empty())?;
    Some(text.parse().ok())
}

/// Why the pool cannot give what the Service wants at all.
fn unfit(service: &Service, pools: &Pools) -> Option<String> {
    let families = families(service);
    let names = |families: &[Family]| families.iter().map(|f| f.name()).collect::<Vec<_>>().join(" and ");
    if pools.is_empty() {
        let none = "no load-balancer pool is configured: start the server with --load-balancer-pool";
        return Some(none.to_owned());
    }
    match asked(service) {
        Some(None) => return Some("spec.loadBalancerIP is not an IP address".to_owned()),
        Some(Some(address)) => {
            let family = Family::of(address);
            if !families.contains(&family) {
                let has = names(&families);
                return Some(format!(
                    "spec.loadBalancerIP {address} is {family}; the Service has {has} only"
                ));
            }
            if !pools.get(&family).is_some_and(|pool| pool.contains(address)) {
                return Some(format!("spec.loadBalancerIP {address} is not in the load-balancer pool"));
            }
        }
        None => {}
    }
    let lacking: Vec<Family> = families.iter().copied().filter(|f| !pools.contains_key(f)).collect();
    let policy = service.spec.as_ref().and_then(|spec| spec.ip_family_policy.as_deref());
    let needs_all = policy == Some("RequireDualStack");
    if lacking.is_empty() || (!needs_all && lacking.len() < families.len()) {
        return None;
    }
    let lacks = format!("the load-balancer pool has no {} addresses", names(&lacking));
    Some(if needs_all { format!("{lacks}, and spec.ipFamilyPolicy is RequireDualStack") } else { lacks })
}

fn choose(
    service: &Service,
    family: Family,
    pool: &RangePool,
    taken: &BTreeMap<IpAddr, ObjectKey>,
) -> Result<IpAddr, String> {
    match asked(service).flatten().filter(|address| Family::of(*address) == family) {
        Some(address) => match taken.get(&address) {
            Some(other) => Err(format!("spec.loadBalancerIP {address} is taken by Service {other}")),
            None => Ok(address),
        },
        None => pool.next(|address| taken.contains_key(&address)).ok_or_else(|| {
            let count = taken.keys().filter(|address| Family::of(**address) == family).count();
            format!("the load-balancer pool has no free {family} address ({count} are taken)")
        }),
    }
}

fn point(key: &ObjectKey, service: &Service, addresses: &[IpAddr]) -> Write {
    let points: Vec<_> = addresses.iter().map(|address| json!({ "ip": address, "ipMode": "VIP" })).collect();
    let balancer = if points.is_empty() { json!({ "ingress": null }) } else { json!({ "ingress": points }) };
    Write::status(&SERVICES, key, &service.metadata, json!({ "loadBalancer": balancer }))
}

#[cfg(test)]
mod tests;
