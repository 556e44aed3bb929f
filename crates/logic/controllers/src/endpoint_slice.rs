//! Which Pods answer for which Service (source: kubernetes pkg/controller/endpointslice, staging endpointslice).
//!
//! In: Services with a selector, Pods, Nodes (for zones and podCIDRs), present slices. Out: writes to the slices that
//! carry our `managed-by` label; others' slices are never touched.
//!
//! Invariants: a Service has slices of its own for each of its families; an endpoint stays in the slice it is in; a slice that is no longer needed is reused before one is made;
//! slices are deleted only in a round that changes nothing else of that Service, so an endpoint never vanishes on its
//! way from one slice to another.

pub(crate) mod desired;
mod dirty;
#[cfg(test)]
mod tests;

pub(crate) use dirty::changed as dirty_changes;
pub use dirty::{dirty, sources};

use crate::{
    objects::{families, hash, name, selector, uid},
    plan::{Plan, Write},
};
use desired::{Ports, desired, ports_of};
use k8s_openapi::{
    api::{
        core::v1::Service,
        discovery::v1::{Endpoint, EndpointPort},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use minisvc_apimachinery::{
    Family, ObjectKey, Snapshot,
    endpoint_slices::{self, EndpointSlice},
    resource::ENDPOINT_SLICES,
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Label that names a slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that names a slice's author.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Our name as an author.
pub const MANAGER: &str = "endpointslice-controller.minisvc.io";
/// Label of the slices of headless Services.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
/// Most endpoints of one slice.
pub const ENDPOINTS_MAX: usize = 100;

type Slices<'a> = BTreeMap<&'a ObjectKey, &'a Arc<EndpointSlice>>;

/// Plans the slices of all Services.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut services: BTreeSet<ObjectKey> = snapshot.services.keys().cloned().collect();
    services.extend(snapshot.endpoint_slices.iter().filter_map(|(key, slice)| owner_of(key, slice)));
    plan_services(snapshot, services.iter())
}

/// Plans the slices of some Services: those of [`dirty`].
pub fn plan_services<'a>(snapshot: &Snapshot, services: impl Iterator<Item = &'a ObjectKey>) -> Plan {
    let writes = plan_each(snapshot, services).into_values().flatten().collect();
    Plan { writes, notices: Vec::new() }
}

/// As [`plan_services`], Service by Service; those with nothing to write are there too.
pub fn plan_each<'a>(
    snapshot: &Snapshot,
    services: impl Iterator<Item = &'a ObjectKey>,
) -> BTreeMap<ObjectKey, Vec<Write>> {
    let wanted: BTreeSet<&ObjectKey> = services.collect();
    let mut present: BTreeMap<ObjectKey, Slices<'_>> = BTreeMap::new();
    let namespaces: BTreeSet<&str> = wanted.iter().map(|key| key.namespace.as_str()).collect();
    for namespace in namespaces {
        let from = ObjectKey::new(namespace, "");
        for (key, slice) in
            snapshot.endpoint_slices.range(from..).take_while(|(key, _)| key.namespace == namespace)
        {
            if let Some(service) = owner_of(key, slice).filter(|service| wanted.contains(service)) {
                present.entry(service).or_default().insert(key, slice);
            }
        }
    }
    let one = |key: &ObjectKey| plan_one(snapshot, key, &present.get(key).cloned().unwrap_or_default());
    wanted.into_iter().map(|key| (key.clone(), one(key))).collect()
}

/// The Service of a slice of ours.
pub(crate) fn owner_of(key: &ObjectKey, slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    ours.then(|| labels.get(SERVICE_NAME))
        .flatten()
        .map(|name| ObjectKey::new(key.namespace.as_str(), name.as_str()))
}

fn plan_one(snapshot: &Snapshot, key: &ObjectKey, present: &Slices<'_>) -> Vec<Write> {
    let service = snapshot.services.get(key).filter(|service| {
        let external = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
        selector(service).is_some() && !external && service.metadata.deletion_timestamp.is_none()
    });
    let Some(service) = service else {
        return present.iter().map(|(key, slice)| delete(key, slice)).collect();
    };
    let mut rest = present.clone();
    let (mut changes, mut spare, mut taken) = (Vec::new(), Vec::new(), BTreeSet::new());
    for family in families(service) {
        let of_family = |slice: &EndpointSlice| slice.address_type == family.name();
        let (own, others): (Slices<'_>, Slices<'_>) = rest.into_iter().partition(|(_, s)| of_family(s));
        rest = others;
        let layout = Layout::new(snapshot, service, family, &own);
        changes.extend(layout.changes(snapshot, service, &own, &mut taken));
        spare.extend(layout.spare.iter().filter_map(|key| own.get_key_value(key)).map(|(key, s)| (*key, *s)));
    }
    if !changes.is_empty() {
        return changes;
    }
    // Those of families that the Service no longer has go with those that nobody needs.
    spare.into_iter().chain(rest).map(|(key, slice)| delete(key, slice)).collect()
}

fn delete(key: &ObjectKey, slice: &EndpointSlice) -> Write {
    Write::delete(&ENDPOINT_SLICES, key, &slice.metadata)
}

/// Which endpoints of one family go into which of its slices.
struct Layout<'a> {
    family: Family,
    /// Slices to keep, with what they should hold.
    kept: BTreeMap<&'a ObjectKey, (Ports, Vec<Endpoint>)>,
    /// Slices to make.
    new: Vec<(Ports, Vec<Endpoint>)>,
    /// Slices nobody needs.
    spare: Vec<&'a ObjectKey>,
}

impl<'a> Layout<'a> {
    fn new(snapshot: &Snapshot, service: &Service, family: Family, present: &Slices<'a>) -> Self {
        let mut groups = desired(snapshot, service, family);
        if groups.is_empty() {
            // A Service without Pods still shows one slice, as in Kubernetes.
            groups.insert(Vec::new(), BTreeMap::new());
        }
        let mut layout = Self { family, kept: BTreeMap::new(), new: Vec::new(), spare: Vec::new() };
        let mut unused: Vec<&'a ObjectKey> = Vec::new();
        for (key, slice) in present {
            let ports = ports_of(slice);
            let Some(group) = groups.get_mut(&ports) else {
                unused.push(key);
                continue;
            };
            let mut endpoints = Vec::new();
            for endpoint in &slice.endpoints {
                if endpoints.len() < ENDPOINTS_MAX
                    && let Some(new) = identity(endpoint).and_then(|id| group.remove(&id))
                {
                    endpoints.push(new);
                }
            }
            layout.kept.insert(key, (ports, endpoints));
        }
        for (ports, group) in groups {
            layout.place(ports, group.into_values().collect(), &mut unused);
        }
        layout.drop_empty(&mut unused);
        layout.spare = unused;
        layout
    }

    /// Places the endpoints that are in no slice yet: in kept slices with room, in unused ones, in new ones.
    fn place(&mut self, ports: Ports, endpoints: Vec<Endpoint>, unused: &mut Vec<&'a ObjectKey>) {
        let mut rest = endpoints.into_iter().peekable();
        let mut held = false;
        for (kept, slot) in self.kept.values_mut() {
            if *kept == ports {
                held = true;
                while slot.len() < ENDPOINTS_MAX && rest.peek().is_some() {
                    slot.extend(rest.next());
                }
            }
        }
        while rest.peek().is_some() || !held {
            held = true;
            let part: Vec<Endpoint> = rest.by_ref().take(ENDPOINTS_MAX).collect();
            if unused.is_empty() {
                self.new.push((ports.clone(), part));
            } else {
                self.kept.insert(unused.remove(0), (ports.clone(), part));
            }
        }
    }

    /// Lets go of empty slices, but never of the last one.
    fn drop_empty(&mut self, unused: &mut Vec<&'a ObjectKey>) {
        let full = self.kept.values().chain(&self.new).any(|(_, endpoints)| !endpoints.is_empty());
        let spared = if full { None } else { self.kept.keys().next().copied() };
        self.kept.retain(|key, (_, endpoints)| {
            let keep = !endpoints.is_empty() || spared == Some(*key);
            if !keep {
                unused.push(key);
            }
            keep
        });
        if full || spared.is_some() {
            self.new.retain(|(_, endpoints)| !endpoints.is_empty());
        }
    }

    fn changes(
        &self,
        snapshot: &Snapshot,
        service: &Service,
        present: &Slices<'_>,
        taken: &mut BTreeSet<ObjectKey>,
    ) -> Vec<Write> {
        let mut writes = Vec::new();
        for (key, (ports, endpoints)) in &self.kept {
            let Some(slice) = present.get(key) else { continue };
            let wanted = self.filled(service, key, ports, endpoints.clone());
            if !same(slice, &wanted) {
                let mut object = json!(wanted);
                object["metadata"]["resourceVersion"] = json!(slice.metadata.resource_version);
                object["metadata"]["uid"] = json!(slice.metadata.uid);
                writes.push(Write::Replace { resource: &ENDPOINT_SLICES, key: (*key).clone(), object });
            }
        }
        for (ports, endpoints) in &self.new {
            let key = free_name(snapshot, &service.metadata, &format!("{} {ports:?}", self.family), taken);
            let object = json!(self.filled(service, &key, ports, endpoints.clone()));
            taken.insert(key.clone());
            writes.push(Write::Create { resource: &ENDPOINT_SLICES, key, object });
        }
        writes
    }

    fn filled(
        &self,
        service: &Service,
        key: &ObjectKey,
        ports: &[desired::Port],
        endpoints: Vec<Endpoint>,
    ) -> EndpointSlice {
        let meta = &service.metadata;
        let mut labels = meta.labels.clone().unwrap_or_default();
        labels.remove(HEADLESS);
        labels.insert(SERVICE_NAME.to_owned(), name(meta).to_owned());
        labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        if is_headless(service) {
            labels.insert(HEADLESS.to_owned(), String::new());
        }
        EndpointSlice {
            metadata: ObjectMeta {
                namespace: Some(key.namespace.clone()),
                name: Some(key.name.clone()),
                labels: Some(labels),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Service".to_owned(),
                    name: name(meta).to_owned(),
                    uid: uid(meta).to_owned(),
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                }]),
                ..ObjectMeta::default()
            },
            address_type: self.family.name().to_owned(),
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ports: Some(ports.iter().map(EndpointPort::from).collect()),
        }
    }
}

/// What an endpoint is the same by: its Pod.
fn identity(endpoint: &endpoint_slices::Endpoint) -> Option<String> {
    endpoint.target_ref.as_ref()?.uid.clone()
}

fn same(present: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    present.metadata.labels == wanted.metadata.labels
        && present.metadata.owner_references == wanted.metadata.owner_references
        && ports_of(present) == ports_of(wanted)
        && present.endpoints == wanted.endpoints
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// `<owner>-<5 characters>`: the same for the same owner, contents and number of tries.
pub(crate) fn free_name(
    snapshot: &Snapshot,
    owner: &ObjectMeta,
    contents: &str,
    taken: &BTreeSet<ObjectKey>,
) -> ObjectKey {
    // Kubernetes' alphabet for names: no vowels, so no words.
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let namespace = owner.namespace.as_deref().unwrap_or_default();
    let mut attempt = 0_u32;
    loop {
        let mut hash = hash(&[uid(owner), contents, &attempt.to_string()]);
        let mut text = format!("{}-", name(owner));
        for _ in 0..5 {
            let digit = usize::try_from(hash % 27).unwrap_or_default();
            text.push(char::from(ALPHABET[digit]));
            hash /= 27;
        }
        let key = ObjectKey::new(namespace, text);
        // There are 14 million names for an owner's few slices: this ends.
        if !snapshot.endpoint_slices.contains_key(&key) && !taken.contains(&key) {
            return key;
        }
        attempt += 1;
    }
}
