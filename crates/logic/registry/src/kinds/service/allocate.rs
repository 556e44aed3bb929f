//! Addresses and ports of Services, and the record of each: who holds it. The record of an address is its IPAddress.
//!
//! Invariant: after every commit the records are exactly what [`held`] says of the stored Services, each with one
//! owner, and the IPAddresses that people made to keep an address. So "taken" is one lookup, and nothing can leak or be given twice.

use super::super::ip_address;
use super::fields::{family, has_cluster_ip, has_health_check, has_node_ports};
use crate::{
    Context, Status,
    context::Subject,
    value::{int, items, items_mut, set, text},
};
use bytes::Bytes;
use minisvc_allocator::{AddressPool, PortPool};
use minisvc_apimachinery::{
    Cause, ClusterConfig, Family, ObjectKey,
    resource::IP_ADDRESSES,
    storage::{Change, Read},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::IpAddr};

/// Prefix of the records of node ports: `_nodeports/30080` → storage key of the Service.
pub const NODE_PORT_RECORDS: &str = "_nodeports/";

const TAKEN_IP: &str = "provided IP is already allocated";
const TAKEN_PORT: &str = "provided port is already allocated";

/// The address that a record is of; none for one of a port.
fn address_of(record: &str) -> Option<IpAddr> {
    record.strip_prefix(&IP_ADDRESSES.storage_prefix(None))?.parse().ok()
}

fn port_record(port: u16) -> String {
    format!("{NODE_PORT_RECORDS}{port}")
}

fn number(value: &Value, pointer: &str) -> Option<u16> {
    int(value, pointer).and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

/// The record keys of what a Service holds.
pub(crate) fn held(object: &Value) -> BTreeSet<String> {
    let mut records = BTreeSet::new();
    if has_cluster_ip(object) {
        let ips = items(object, "/spec/clusterIPs").iter().filter_map(Value::as_str);
        records.extend(ips.filter_map(|ip| ip.parse().ok()).map(ip_address::key));
    }
    if has_node_ports(object) {
        let ports = items(object, "/spec/ports").iter().filter_map(|port| number(port, "/nodePort"));
        records.extend(ports.map(port_record));
    }
    if has_health_check(object) {
        records.extend(number(object, "/spec/healthCheckNodePort").map(port_record));
    }
    records
}

/// Gives the new version what it lacks, checks what it asks for, and says how the records change.
pub(super) fn allocate(
    ctx: &mut Context<'_>,
    view: &dyn Read,
    new: Option<&mut Value>,
    old: Option<&Value>,
    subject: &Subject<'_>,
) -> Result<Vec<Change>, Status> {
    let before = old.map(held).unwrap_or_default();
    let mut after = BTreeSet::new();
    if let Some(new) = new {
        let desk = Desk { view, before: &before, subject };
        addresses(ctx, &desk, new)?;
        ports(ctx, &desk, new)?;
        after = held(new);
    }
    let owner = Bytes::from(subject.resource.storage_key(subject.key));
    let mut changes = Vec::new();
    for key in before.difference(&after) {
        changes.push(match address_of(key) {
            Some(_) => ip_address::freed(ctx, view, key),
            None => Change::Delete { key: key.clone() },
        });
    }
    for key in after.difference(&before) {
        changes.push(match address_of(key) {
            Some(address) => ip_address::taken(ctx, address, subject.key),
            None => Change::PutRecord { key: key.clone(), value: owner.clone() },
        });
    }
    Ok(changes)
}

/// What the steps of one allocation look up.
struct Desk<'a> {
    view: &'a dyn Read,
    before: &'a BTreeSet<String>,
    subject: &'a Subject<'a>,
}

impl Desk<'_> {
    /// Whether someone else has it; what the Service has already is its own.
    fn is_taken(&self, record: &str) -> bool {
        !self.before.contains(record) && self.view.get(record).is_some()
    }

    fn invalid(&self, field: String, value: Value, words: &str) -> Status {
        let cause = Cause::invalid(field, value, words);
        Status::invalid(self.subject.resource, &self.subject.key.name, vec![cause])
    }
}

/// The Service that an address is kept for: some have their owners before these exist, so that nobody can be faster.
pub(crate) fn kept_for(cluster: &ClusterConfig, ip: IpAddr) -> Option<ObjectKey> {
    if cluster.api_addresses().contains(&ip) {
        return Some(ObjectKey::new("default", "kubernetes"));
    }
    cluster.dns_addresses().contains(&ip).then(|| ObjectKey::new("kube-system", "kube-dns"))
}

fn addresses(ctx: &mut Context<'_>, desk: &Desk<'_>, object: &mut Value) -> Result<(), Status> {
    if !has_cluster_ip(object) || text(object, "/spec/clusterIPs/0") == "None" {
        return Ok(());
    }
    let given = items(object, "/spec/clusterIPs").to_vec();
    let families = items(object, "/spec/ipFamilies").to_vec();
    let mut ips = Vec::new();
    let networks = super::super::service_cidr::networks(desk.view, ctx.cluster);
    for (i, wanted) in families.iter().enumerate() {
        let wanted = wanted.as_str().unwrap_or_default();
        let pools: Vec<AddressPool> = networks
            .own()
            .iter()
            .copied()
            .chain(networks.usable())
            .filter(|net| Family::of_net(*net).name() == wanted)
            .map(AddressPool::new)
            .collect();
        if pools.is_empty() {
            return Err(Status::internal(format!("no service network for {wanted}")));
        }
        let text = given.get(i).and_then(Value::as_str).unwrap_or_default();
        let refuse = |why: &str| {
            let words = format!("failed to allocate IP {text}: {why}");
            Err(desk.invalid("spec.clusterIPs".to_owned(), Value::Array(given.clone()), &words))
        };
        if text.is_empty() {
            let is_used = |ip: IpAddr| {
                let key = ip_address::key(ip);
                kept_for(ctx.cluster, ip).is_some() || desk.is_taken(&key) || desk.before.contains(&key)
            };
            let seed = (ctx.random)();
            let ip = pools
                .iter()
                .find_map(|pool| pool.next(is_used, seed))
                .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
            ips.push(json!(ip.to_string()));
            continue;
        }
        match text.parse::<IpAddr>() {
            Err(_) => return refuse("not a valid IP address"),
            Ok(ip) if desk.before.contains(&ip_address::key(ip)) => {}
            Ok(ip) if !pools.iter().any(|pool| pool.contains(ip)) => {
                let nets: Vec<String> = pools.iter().map(|pool| pool.net().to_string()).collect();
                return refuse(&format!(
                    "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                    nets.join(",")
                ));
            }
            Ok(ip) => {
                let taken = desk.is_taken(&ip_address::key(ip));
                if taken || kept_for(ctx.cluster, ip).is_some_and(|owner| owner != *desk.subject.key) {
                    return refuse(TAKEN_IP);
                }
            }
        }
        debug_assert_eq!(family(text), Some(wanted));
        ips.push(json!(text));
    }
    if let Some(first) = ips.first() {
        set(object, "spec", "clusterIP", first.clone());
        set(object, "spec", "clusterIPs", ips);
    }
    Ok(())
}

fn ports(ctx: &mut Context<'_>, desk: &Desk<'_>, object: &mut Value) -> Result<(), Status> {
    let (first, last) = (ctx.cluster.node_port_first, ctx.cluster.node_port_last);
    let pool = PortPool::new(first, last).map_err(Status::internal)?;
    let check = |port: u16| {
        if desk.before.contains(&port_record(port)) {
            Ok(())
        } else if !pool.contains(port) {
            Err(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            ))
        } else if desk.is_taken(&port_record(port)) {
            Err(TAKEN_PORT.to_owned())
        } else {
            Ok(())
        }
    };
    let mut used = BTreeSet::new();
    if has_node_ports(object) {
        for (i, port) in items(object, "/spec/ports").iter().enumerate() {
            let Some(given) = int(port, "/nodePort").filter(|given| *given != 0) else { continue };
            let field = || format!("spec.ports[{i}].nodePort");
            let given = u16::try_from(given).map_err(|_| {
                let words = format!(
                    "provided port is not in the valid range. The range of valid ports is {first}-{last}"
                );
                desk.invalid(field(), json!(given), &words)
            })?;
            check(given).map_err(|words| desk.invalid(field(), json!(given), &words))?;
            used.insert(given);
        }
    }
    let health = number(object, "/spec/healthCheckNodePort").filter(|_| has_health_check(object));
    if let Some(port) = health {
        let field = "spec.healthCheckNodePort".to_owned();
        let outcome = if used.contains(&port) { Err(TAKEN_PORT.to_owned()) } else { check(port) };
        outcome.map_err(|words| desk.invalid(field, json!(port), &words))?;
        used.insert(port);
    }
    let mut next = |used: &mut BTreeSet<u16>, what: &str| {
        let is_used = |port| {
            used.contains(&port)
                || desk.before.contains(&port_record(port))
                || desk.is_taken(&port_record(port))
        };
        let port = pool
            .next(is_used, (ctx.random)())
            .ok_or_else(|| Status::internal(format!("failed to allocate a {what}: range is full")))?;
        used.insert(port);
        Ok::<u16, Status>(port)
    };
    let wanted = text(object, "/spec/type") == "NodePort"
        || object.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
    if has_node_ports(object) && wanted {
        for i in 0..items(object, "/spec/ports").len() {
            let all = items(object, "/spec/ports");
            if number(&all[i], "/nodePort").is_some() {
                continue;
            }
            let port = match shared(all, i) {
                Some(port) => port,
                None => next(&mut used, "nodePort")?,
            };
            if let Some(slot) = items_mut(object, "/spec/ports").nth(i) {
                slot["nodePort"] = json!(port);
            }
        }
    }
    if has_health_check(object) && health.is_none() {
        let port = next(&mut used, "HealthCheck NodePort")?;
        set(object, "spec", "healthCheckNodePort", port);
    }
    Ok(())
}

/// The node port of the same Service port in another protocol, if it is free in this one.
fn shared(ports: &[Value], i: usize) -> Option<u16> {
    let (port, protocol) = (int(&ports[i], "/port"), text(&ports[i], "/protocol"));
    let other = |p: &&Value| int(p, "/port") == port && text(p, "/protocol") != protocol;
    let candidate = ports.iter().filter(other).find_map(|p| number(p, "/nodePort"))?;
    let clash =
        ports.iter().any(|p| text(p, "/protocol") == protocol && number(p, "/nodePort") == Some(candidate));
    (!clash).then_some(candidate)
}
