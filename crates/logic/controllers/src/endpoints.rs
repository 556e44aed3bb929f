//! The Endpoints object of every Service with a selector (source: kubernetes pkg/controller/endpoint).
//!
//! In: Services, Pods, present Endpoints. Out: writes to the Endpoints of the Services' names. Those of Services without
//! a selector are people's own and never touched, until their Service is deleted.
//!
//! Invariants: the addresses are those of the EndpointSlices of the Service's primary family, without Pods that are
//! ending; sorted, at most [`ADDRESSES_MAX`], those that are ready first.

use crate::{
    endpoint_slice::{self, HEADLESS, desired},
    objects::{families, selector},
    plan::Write,
};
use imbl::ordmap::DiffItem;
use k8s_openapi::api::{
    core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service},
    discovery::v1::Endpoint,
};
use minisvc_apimachinery::{ObjectKey, Snapshot, resource::ENDPOINTS};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Most addresses of one object.
pub const ADDRESSES_MAX: usize = 1000;
/// Label that names the author of an Endpoints object.
pub const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Our name as an author.
pub const MANAGER: &str = "endpoint-controller";
/// Annotation of objects that hold a lock and no endpoints.
pub(crate) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// The Services to plan again, of those whose sources changed (`endpoint_slice::sources`) or whose Endpoints did.
pub fn dirty(sources: &BTreeSet<ObjectKey>, old: &Snapshot, new: &Snapshot) -> BTreeSet<ObjectKey> {
    let mut dirty = sources.clone();
    dirty.extend(old.endpoints.diff(&new.endpoints).map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => {
            key.clone()
        }
    }));
    dirty
}

/// The Services that are gone: what people wrote as their Endpoints goes too.
pub fn vanished<'a>(old: &'a Snapshot, new: &'a Snapshot) -> impl Iterator<Item = ObjectKey> + 'a {
    old.services.diff(&new.services).filter_map(|item| match item {
        DiffItem::Remove(key, _) => Some(key.clone()),
        _ => None,
    })
}

/// Plans the Endpoints of one Service; `vanished`: the Service was there before.
pub fn plan_one(snapshot: &Snapshot, key: &ObjectKey, vanished: bool) -> Vec<Write> {
    let present = snapshot.endpoints.get(key);
    let Some(service) = snapshot.services.get(key) else {
        return present
            .filter(|e| vanished || is_ours(e))
            .filter(|e| !is_lock(e))
            .map(|e| delete(key, e))
            .into_iter()
            .collect();
    };
    let external = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    if selector(service).is_none() || external || service.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut subsets = subsets(snapshot, service);
    let truncated = truncate(&mut subsets);
    let labels = labels(service);
    let Some(present) = present else {
        return vec![create(key, &subsets, truncated, &labels)];
    };
    let none = BTreeMap::new();
    let old_labels = present.metadata.labels.as_ref().unwrap_or(&none);
    let marked = present.metadata.annotations.as_ref().and_then(|all| all.get(OVER_CAPACITY));
    let is_marked = marked.is_some_and(|mark| mark == "truncated");
    let marks_fit = if truncated { is_marked } else { marked.is_none() };
    if *old_labels == labels && marks_fit && present.subsets.as_deref().unwrap_or_default() == subsets {
        return Vec::new();
    }
    let mut changed = json!(labels);
    for key in old_labels.keys().filter(|key| !labels.contains_key(*key)) {
        changed[key.as_str()] = Value::Null;
    }
    let mark = json!({ OVER_CAPACITY: truncated.then_some("truncated") });
    let patch = json!({ "metadata": { "labels": changed, "annotations": mark }, "subsets": subsets });
    vec![Write::patch(&ENDPOINTS, key, &present.metadata, None, patch)]
}

fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().and_then(|all| all.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
}

fn is_lock(endpoints: &Endpoints) -> bool {
    endpoints.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(LEADER))
}

fn delete(key: &ObjectKey, endpoints: &Endpoints) -> Write {
    Write::delete(&ENDPOINTS, key, &endpoints.metadata)
}

fn create(
    key: &ObjectKey,
    subsets: &[EndpointSubset],
    truncated: bool,
    labels: &BTreeMap<String, String>,
) -> Write {
    let mut metadata = json!({ "namespace": key.namespace, "name": key.name, "labels": labels });
    if truncated {
        metadata["annotations"] = json!({ OVER_CAPACITY: "truncated" });
    }
    let object = json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets });
    Write::Create { resource: &ENDPOINTS, key: key.clone(), object }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if endpoint_slice::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// One subset for each way the Service's ports resolve, as one slice group each.
fn subsets(snapshot: &Snapshot, service: &Service) -> Vec<EndpointSubset> {
    let has_ports =
        service.spec.as_ref().is_some_and(|spec| spec.ports.as_ref().is_some_and(|p| !p.is_empty()));
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let mut subsets = Vec::new();
    let Some(family) = families(service).first().copied() else { return subsets };
    for (ports, group) in desired::desired(snapshot, service, family) {
        // Only a headless Service may be without ports; else none of them is one of these Pods'.
        if ports.is_empty() && (has_ports || !endpoint_slice::is_headless(service)) {
            continue;
        }
        let (mut ready, mut waiting) = (Vec::new(), Vec::new());
        for endpoint in group.values() {
            let says = |flag: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>| {
                endpoint.conditions.as_ref().and_then(flag).unwrap_or(false)
            };
            if says(|c| c.ready) {
                ready.push(address(endpoint));
            } else if publish || !says(|c| c.terminating) {
                waiting.push(address(endpoint));
            }
        }
        if ready.is_empty() && waiting.is_empty() {
            continue;
        }
        let ports: Vec<EndpointPort> = ports.iter().map(EndpointPort::from).collect();
        subsets.push(EndpointSubset {
            addresses: sorted(ready),
            not_ready_addresses: sorted(waiting),
            ports: Some(ports).filter(|ports| !ports.is_empty()),
        });
    }
    subsets
}

fn address(endpoint: &Endpoint) -> EndpointAddress {
    EndpointAddress {
        ip: endpoint.addresses.first().cloned().unwrap_or_default(),
        hostname: endpoint.hostname.clone(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    }
}

fn sorted(mut addresses: Vec<EndpointAddress>) -> Option<Vec<EndpointAddress>> {
    let uid = |address: &EndpointAddress| address.target_ref.as_ref().and_then(|target| target.uid.clone());
    addresses.sort_by_cached_key(|address| (address.ip.parse::<IpAddr>().ok(), uid(address)));
    Some(addresses).filter(|addresses| !addresses.is_empty())
}

/// Leaves at most [`ADDRESSES_MAX`] addresses: of those that are ready, else of the others, each subset its share.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let len = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| len(&subset.addresses)).sum();
    let waiting: usize = subsets.iter().map(|subset| len(&subset.not_ready_addresses)).sum();
    if ready + waiting <= ADDRESSES_MAX {
        return false;
    }
    let too_many_ready = ready > ADDRESSES_MAX;
    let (room, total) =
        if too_many_ready { (ADDRESSES_MAX, ready) } else { (ADDRESSES_MAX - ready, waiting) };
    let mut left = room;
    for subset in subsets {
        if too_many_ready {
            subset.not_ready_addresses = None;
        }
        let list = if too_many_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let share = (len(list) * room).div_ceil(total).min(left);
        left -= share;
        if let Some(addresses) = list {
            addresses.truncate(share);
        }
        if len(list) == 0 {
            *list = None;
        }
    }
    true
}

#[cfg(test)]
mod tests;
