//! Endpoints that people wrote for Services without a selector, as EndpointSlices (source: kubernetes
//! pkg/controller/endpointslicemirroring).
//!
//! In: Endpoints, their Services, present slices with our `managed-by` label. Out: writes to those slices.
//!
//! Invariants: one slice for each set of ports and address family, at most [`ADDRESSES_MAX`] endpoints each; slices are
//! deleted only in a round that changes nothing else of that Service.

use crate::{
    endpoint_slice::{
        MANAGED_BY, SERVICE_NAME,
        desired::{Ports, ports_of},
        dirty_changes, free_name,
    },
    endpoints::{ADDRESSES_MAX, LEADER},
    objects::{name, selector, uid},
    plan::{Notice, Plan, Write},
};
use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, Endpoints, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use minisvc_apimachinery::{
    ObjectKey, Snapshot,
    endpoint_slices::EndpointSlice,
    resource::{ENDPOINT_SLICES, ENDPOINTS},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// Our name as an author of slices.
pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints that are not to be mirrored.
pub const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotations that are the object's own affair.
const NOT_COPIED: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

/// Address family and ports: what a slice has one of.
type Kind = (&'static str, Ports);

/// The Endpoints to plan again. Those of Services with a selector are not among them, so their churn costs nothing here.
pub fn dirty(old: &Snapshot, new: &Snapshot) -> BTreeSet<ObjectKey> {
    let mut dirty = BTreeSet::new();
    for (key, before, after) in dirty_changes(&old.services, &new.services) {
        if [before, after].into_iter().flatten().any(|service| selector(service).is_none()) {
            dirty.insert(key.clone());
        }
    }
    for (key, ..) in dirty_changes(&old.endpoints, &new.endpoints) {
        if new.services.get(key).is_none_or(|service| selector(service).is_none()) {
            dirty.insert(key.clone());
        }
    }
    for (key, before, after) in dirty_changes(&old.endpoint_slices, &new.endpoint_slices) {
        dirty.extend([before, after].into_iter().flatten().filter_map(|slice| mirrored(key, slice)));
    }
    dirty
}

/// Plans the mirrored slices of some Endpoints, by key; those with nothing to write are there too.
pub fn plan_each<'a>(
    snapshot: &Snapshot,
    keys: impl Iterator<Item = &'a ObjectKey>,
) -> BTreeMap<ObjectKey, Plan> {
    let keys: BTreeSet<&ObjectKey> = keys.collect();
    let mut present: BTreeMap<ObjectKey, Vec<(&ObjectKey, &Arc<EndpointSlice>)>> = BTreeMap::new();
    let namespaces: BTreeSet<&str> = keys.iter().map(|key| key.namespace.as_str()).collect();
    for namespace in namespaces {
        let slices = snapshot.endpoint_slices.range(ObjectKey::new(namespace, "")..);
        for (key, slice) in slices.take_while(|(key, _)| key.namespace == namespace) {
            if let Some(of) = mirrored(key, slice).filter(|of| keys.contains(of)) {
                present.entry(of).or_default().push((key, slice));
            }
        }
    }
    keys.into_iter()
        .map(|key| (key.clone(), plan_one(snapshot, key, present.remove(key).unwrap_or_default())))
        .collect()
}

/// The Endpoints a slice of ours mirrors.
fn mirrored(key: &ObjectKey, slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    let name = labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(ObjectKey::new(key.namespace.as_str(), name.as_str()))
}

fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let meta = &endpoints.metadata;
    let skip =
        meta.labels.as_ref().and_then(|labels| labels.get(SKIP_MIRROR)).is_some_and(|skip| skip == "true");
    let lock = meta.annotations.as_ref().is_some_and(|all| all.contains_key(LEADER));
    selector(service).is_none() && !skip && !lock && meta.deletion_timestamp.is_none()
}

fn plan_one(snapshot: &Snapshot, key: &ObjectKey, present: Vec<(&ObjectKey, &Arc<EndpointSlice>)>) -> Plan {
    let mut plan = Plan::default();
    let endpoints = snapshot.endpoints.get(key).zip(snapshot.services.get(key));
    let endpoints = endpoints.filter(|(endpoints, service)| is_mirrored(endpoints, service)).map(|(e, _)| e);
    let mut wanted = match endpoints {
        Some(endpoints) => groups(key, endpoints, &mut plan.notices),
        None => BTreeMap::new(),
    };
    let mut spare = Vec::new();
    let mut replace = |key: &ObjectKey, slice: &EndpointSlice, kind: &Kind, list: Vec<Endpoint>| {
        let Some(endpoints) = endpoints else { return };
        let new = filled(endpoints, key, kind, list);
        if !same(slice, &new) {
            let mut object = json!(new);
            object["metadata"]["resourceVersion"] = json!(slice.metadata.resource_version);
            object["metadata"]["uid"] = json!(slice.metadata.uid);
            plan.writes.push(Write::Replace { resource: &ENDPOINT_SLICES, key: key.clone(), object });
        }
    };
    for (key, slice) in present {
        let family = if slice.address_type == "IPv4" { "IPv4" } else { "IPv6" };
        let kind = (family, ports_of(slice));
        match wanted.remove(&kind) {
            Some(list) => replace(key, slice, &kind, list),
            None => spare.push((key, slice, family)),
        }
    }
    let mut missing = Vec::new();
    for (kind, list) in wanted {
        match spare.iter().position(|(_, _, family)| *family == kind.0) {
            Some(at) => {
                let (key, slice, _) = spare.remove(at);
                replace(key, slice, &kind, list);
            }
            None => missing.push((kind, list)),
        }
    }
    let mut taken = BTreeSet::new();
    if let Some(endpoints) = endpoints {
        for (kind, list) in missing {
            let key = free_name(snapshot, &endpoints.metadata, &format!("mirror {kind:?}"), &taken);
            taken.insert(key.clone());
            let object = json!(filled(endpoints, &key, &kind, list));
            plan.writes.push(Write::Create { resource: &ENDPOINT_SLICES, key, object });
        }
    }
    if plan.writes.is_empty() {
        for (key, slice, _) in spare {
            plan.writes.push(Write::delete(&ENDPOINT_SLICES, key, &slice.metadata));
        }
    }
    plan
}

/// What the slices should hold.
fn groups(
    key: &ObjectKey,
    endpoints: &Endpoints,
    notices: &mut Vec<Notice>,
) -> BTreeMap<Kind, Vec<Endpoint>> {
    let mut groups: BTreeMap<Kind, BTreeMap<(IpAddr, String), Endpoint>> = BTreeMap::new();
    let mut left_out = 0_usize;
    for subset in endpoints.subsets.iter().flatten() {
        let mut ports: Ports = subset.ports.iter().flatten().map(From::from).collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let waiting = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(waiting) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let group = groups.entry((family, ports.clone())).or_default();
            if group.len() >= ADDRESSES_MAX {
                left_out += 1;
                continue;
            }
            let target = address.target_ref.as_ref().and_then(|target| target.uid.clone());
            group.entry((ip, target.unwrap_or_default())).or_insert_with(|| endpoint(address, ready));
        }
    }
    if left_out > 0 {
        let message = format!(
            "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {left_out} addresses were skipped"
        );
        let reason = "TooManyAddressesToMirror";
        notices.push(Notice::warning(&ENDPOINTS, key, &endpoints.metadata, reason, message));
    }
    groups.into_iter().map(|(kind, group)| (kind, group.into_values().collect())).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn filled(endpoints: &Endpoints, key: &ObjectKey, kind: &Kind, list: Vec<Endpoint>) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.remove(SKIP_MIRROR);
    labels.insert(SERVICE_NAME.to_owned(), name(meta).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            labels: Some(labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Endpoints".to_owned(),
                name: name(meta).to_owned(),
                uid: uid(meta).to_owned(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        address_type: kind.0.to_owned(),
        endpoints: list.into_iter().map(Into::into).collect(),
        ports: Some(kind.1.iter().map(EndpointPort::from).collect()),
    }
}

fn same(present: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let none = BTreeMap::new();
    let annotations = |slice: &EndpointSlice| slice.metadata.annotations.as_ref().unwrap_or(&none).clone();
    present.metadata.labels == wanted.metadata.labels
        && annotations(present) == annotations(wanted)
        && present.metadata.owner_references == wanted.metadata.owner_references
        && ports_of(present) == ports_of(wanted)
        && present.endpoints == wanted.endpoints
}

#[cfg(test)]
mod tests;
