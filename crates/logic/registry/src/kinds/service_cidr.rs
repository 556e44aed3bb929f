//! networking.k8s.io/v1 ServiceCIDR: further networks for the addresses of Services.
//!
//! Invariants: the cluster's own networks have theirs, which stay; one goes only once no address is in no other network;
//! the writer checks both, so nothing is given from a network that is going.
//! Source: kubernetes `pkg/apis/networking/validation`, `pkg/controller/servicecidrs`.

use super::reads_as;
use crate::{
    Status,
    context::Subject,
    strategy::Strategy,
    syntax,
    table::{Column, age, name},
    value::{at, items, keep, object_mut, parse, text},
};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use minisvc_apimachinery::{
    Cause, ClusterConfig, Family,
    cluster::AddressRange,
    resource::{IP_ADDRESSES, NODES, SERVICE_CIDRS},
    service_cidr::{FINALIZER, Networks, own},
    storage::Read,
};
use serde_json::{Value, json};
use std::net::IpAddr;

const CIDRS_MAX: usize = 2;

/// Where addresses come from, as it is stored.
pub(super) fn networks(view: &dyn Read, cluster: &ClusterConfig) -> Networks {
    let mut networks = Networks::new(cluster);
    view.scan(&SERVICE_CIDRS.storage_prefix(None), None, &mut |_, stored| {
        let object = parse(stored);
        let going = at(&object, "/metadata/deletionTimestamp").is_some();
        networks.add(text(&object, "/metadata/name"), cidrs(&object), going);
        true
    });
    networks
}

fn cidrs(object: &Value) -> impl Iterator<Item = &str> {
    items(object, "/spec/cidrs").iter().map(|cidr| cidr.as_str().unwrap_or_default())
}

fn has_finalizer(object: &Value) -> bool {
    items(object, "/metadata/finalizers").iter().any(|finalizer| finalizer == FINALIZER)
}

fn protect(object: &mut Value) {
    if has_finalizer(object) {
        return;
    }
    if let Some(metadata) = object_mut(object, "metadata") {
        let list = metadata.entry("finalizers").or_insert(Value::Null);
        match list.as_array_mut() {
            Some(list) => list.push(json!(FINALIZER)),
            None => *list = json!([FINALIZER]),
        }
    }
}

/// The networks that one of the cluster's own ServiceCIDRs has.
fn own_networks(subject: &Subject<'_>) -> Option<Vec<String>> {
    let mut all = own(subject.cluster).into_iter();
    let (_, nets) = all.find(|(name, _)| *name == subject.key.name)?;
    Some(nets.iter().map(ToString::to_string).collect())
}

/// Why Services cannot have addresses of a network.
fn unusable(net: IpNet, view: &dyn Read, cluster: &ClusterConfig) -> Option<String> {
    let same_family = |other: &IpNet| Family::of_net(*other) == Family::of_net(net);
    if !cluster.service_cidrs.iter().any(same_family) {
        return Some(format!("the cluster has no {} service network", Family::of_net(net)));
    }
    if let Some(other) =
        cluster.cluster_cidrs.iter().find(|other| net.contains(*other) || other.contains(&net))
    {
        return Some(format!("overlaps the network of the Pods {other}"));
    }
    if let Some(AddressRange { first, last }) = cluster.load_balancer_pool.iter().find(|range| {
        net.contains(&range.first)
            || net.contains(&range.last)
            || (range.first..=range.last).contains(&net.network())
    }) {
        return Some(format!("overlaps the load balancers' addresses {first}-{last}"));
    }
    let mut found = None;
    view.scan(&NODES.storage_prefix(None), None, &mut |_, stored| {
        let node = parse(stored);
        let addresses = items(&node, "/status/addresses").iter().map(|address| text(address, "/address"));
        let inside = addresses.filter_map(|text| text.parse::<IpAddr>().ok()).find(|ip| net.contains(ip));
        found =
            inside.map(|ip| format!("contains {ip}, the address of node {}", text(&node, "/metadata/name")));
        found.is_none()
    });
    found
}

/// An address that would be in no network without this object.
fn dependent(view: &dyn Read, subject: &Subject<'_>) -> Option<String> {
    let networks = networks(view, subject.cluster);
    let mut found = None;
    view.scan(&IP_ADDRESSES.storage_prefix(None), None, &mut |_, stored| {
        let object = parse(stored);
        let address = text(&object, "/metadata/name");
        let depends = |ip| networks.depends(ip, &subject.key.name);
        if address.parse().is_ok_and(depends) && super::ip_address::holder(&object, view).is_some() {
            found = Some(address.to_owned());
        }
        found.is_none()
    });
    found
}

pub(crate) struct ServiceCidrs;

impl Strategy for ServiceCidrs {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<ServiceCIDR>(object)
    }

    fn prepare_create(&self, object: &mut Value, _subject: &Subject<'_>) {
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
        }
        protect(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _subject: &Subject<'_>) {
        keep(new, old, "status");
        if at(old, "/metadata/deletionTimestamp").is_none() {
            protect(new);
        }
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        let all: Vec<&str> = cidrs(object).collect();
        if all.is_empty() {
            return vec![Cause::required("spec.cidrs", "at least one CIDR required")];
        }
        if all.len() > CIDRS_MAX {
            let given = object.get("spec").cloned().unwrap_or_default();
            return vec![Cause::invalid("spec.cidrs", given, "may only hold up to 2 values")];
        }
        let mut causes = Vec::new();
        let mut families = Vec::new();
        for (i, text) in all.iter().enumerate() {
            let field = format!("spec.cidrs[{i}]");
            let Ok(net) = text.parse::<IpNet>() else {
                causes.extend(syntax::cidr(text).iter().map(|fault| Cause::invalid(&field, *text, fault)));
                continue;
            };
            if net.addr() != net.network() {
                causes.push(Cause::invalid(field, *text, "must not have bits set beyond the prefix length"));
            } else if net.to_string() != *text {
                causes.push(Cause::invalid(
                    field,
                    *text,
                    &format!("must be in canonical form ({:?})", net.to_string()),
                ));
            }
            families.push(Family::of_net(net));
        }
        if families.len() == CIDRS_MAX && families[0] == families[1] {
            let words =
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            causes.push(Cause::invalid("spec.cidrs", json!(all), words));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        const IMMUTABLE: &str = "field is immutable";
        let (after, before): (Vec<&str>, Vec<&str>) = (cidrs(new).collect(), cidrs(old).collect());
        // A second family may be added.
        if after.len() != before.len() && (before.len(), after.len()) != (1, CIDRS_MAX) {
            return vec![Cause::invalid("spec.cidrs", json!(after), IMMUTABLE)];
        }
        let pairs = before.iter().zip(&after).enumerate().filter(|(_, (before, after))| before != after);
        pairs.map(|(i, (_, after))| Cause::invalid(format!("spec.cidrs[{i}]"), *after, IMMUTABLE)).collect()
    }

    fn admit(
        &self,
        view: &dyn Read,
        new: &Value,
        old: Option<&Value>,
        subject: &Subject<'_>,
    ) -> Result<(), Status> {
        let refuse = |cause| Err(Status::invalid(subject.resource, &subject.key.name, vec![cause]));
        let all: Vec<&str> = cidrs(new).collect();
        if let Some(own) = own_networks(subject) {
            if all != own {
                let words = format!("must be the cluster's own service networks: {}", own.join(","));
                return refuse(Cause::invalid("spec.cidrs", json!(all), &words));
            }
        } else {
            let before: Vec<&str> = old.map(|old| cidrs(old).collect()).unwrap_or_default();
            for (i, text) in all.iter().enumerate().filter(|(_, text)| !before.contains(text)) {
                let net = text.parse::<IpNet>().ok();
                if let Some(why) = net.and_then(|net| unusable(net, view, subject.cluster)) {
                    return refuse(Cause::invalid(format!("spec.cidrs[{i}]"), *text, &why));
                }
            }
        }
        if old.is_some_and(has_finalizer)
            && !has_finalizer(new)
            && let Some(address) = dependent(view, subject)
        {
            let words = format!("{FINALIZER} stays while Services have addresses of it, such as {address}");
            return refuse(Cause::forbidden("metadata.finalizers", &words));
        }
        Ok(())
    }

    fn undeletable(&self, _object: &Value, _view: &dyn Read, subject: &Subject<'_>) -> Option<String> {
        own_networks(subject).map(|_| "it has the cluster's own service networks, which stay".to_owned())
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::name(), Column::new("CIDRs", "string"), Column::new("Age", "string")] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(object), json!(cidrs(object).collect::<Vec<_>>().join(",")), age(object, now)]
    }
}
