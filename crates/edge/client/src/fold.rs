//! Watch events of one kind, folded into a map of objects.
//!
//! Invariant: between `Init` and `InitDone` readers see the old objects; at `InitDone` what the new list did not
//! hold is gone. Objects whose version did not change keep their place in memory, so comparing two snapshots
//! stays cheap after a relist.

use k8s_openapi::api::core::v1::Service;
use kube::{Resource as KubeResource, runtime::watcher::Event};
use minisvc_apimachinery::{ObjectKey, endpoint_slices::EndpointSlice, snapshot::Objects};
use std::{any::Any, collections::BTreeSet, sync::Arc};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How the objects of a kind are folded.
#[derive(Default)]
pub(crate) struct Relist {
    /// A relist under way: what it has named so far.
    listed: Option<BTreeSet<ObjectKey>>,
    /// The node whose endpoints alone keep their targets; none: all do.
    targets_of: Option<String>,
}

/// What a fold did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Folded {
    /// Readers see nothing new.
    Nothing,
    /// Objects changed.
    Changed,
    /// A list ended.
    Complete,
}

fn key_of<T: KubeResource>(object: &T) -> ObjectKey {
    let meta = object.meta();
    ObjectKey::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Drops what no loop reads and what would otherwise be most of the memory.
fn strip<T: KubeResource + 'static>(object: &mut T, targets_of: Option<&str>) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
    let object: &mut dyn Any = object;
    if let (Some(node), Some(slice)) = (targets_of, object.downcast_mut::<EndpointSlice>()) {
        let others =
            slice.endpoints.iter_mut().filter(|endpoint| endpoint.node_name.as_deref() != Some(node));
        others.for_each(|endpoint| endpoint.target_ref = None);
    }
    compact(object);
}

/// Gives back what lists were given while they grew: of the kinds that clusters have most of, nearly half of their size.
fn compact(object: &mut dyn Any) {
    if let Some(slice) = object.downcast_mut::<EndpointSlice>() {
        slice.ports.as_mut().map(Vec::shrink_to_fit);
        slice.metadata.owner_references.as_mut().map(Vec::shrink_to_fit);
    } else if let Some(spec) = object.downcast_mut::<Service>().and_then(|service| service.spec.as_mut()) {
        spec.ports.as_mut().map(Vec::shrink_to_fit);
        let lists = [&mut spec.cluster_ips, &mut spec.ip_families, &mut spec.external_ips];
        lists.into_iter().flatten().for_each(Vec::shrink_to_fit);
    }
}

impl Relist {
    /// Nothing listed yet.
    pub(crate) fn new(targets_of: Option<String>) -> Self {
        Self { listed: None, targets_of }
    }

    fn put<T: KubeResource + 'static>(
        &self,
        objects: &mut Objects<T>,
        key: ObjectKey,
        mut object: T,
    ) -> bool {
        let version = &object.meta().resource_version;
        if version.is_some() && objects.get(&key).is_some_and(|old| old.meta().resource_version == *version) {
            return false;
        }
        strip(&mut object, self.targets_of.as_deref());
        objects.insert(key, Arc::new(object));
        true
    }

    /// Folds one event into `staged`, the kind's own map; the caller shows it to readers unless told `Nothing`.
    pub(crate) fn fold<T: KubeResource + 'static>(
        &mut self,
        staged: &mut Objects<T>,
        event: Event<T>,
    ) -> Folded {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                Folded::Nothing
            }
            Event::InitApply(object) => {
                let key = key_of(&object);
                self.put(staged, key.clone(), object);
                self.listed.get_or_insert_default().insert(key);
                Folded::Nothing
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<ObjectKey> =
                    staged.keys().filter(|key| !listed.contains(key)).cloned().collect();
                for key in gone {
                    staged.remove(&key);
                }
                Folded::Complete
            }
            Event::Apply(object) => {
                let key = key_of(&object);
                if self.put(staged, key, object) { Folded::Changed } else { Folded::Nothing }
            }
            Event::Delete(object) => match staged.remove(&key_of(&object)) {
                Some(_) => Folded::Changed,
                None => Folded::Nothing,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(name: &str, version: &str) -> Service {
        let mut service = Service::default();
        service.metadata.name = Some(name.to_owned());
        service.metadata.namespace = Some("default".to_owned());
        service.metadata.resource_version = Some(version.to_owned());
        service.metadata.annotations =
            Some([(LAST_APPLIED.to_owned(), "{}".to_owned()), ("kept".to_owned(), "yes".to_owned())].into());
        service
    }

    #[test]
    fn what_a_relist_does_not_name_is_gone_at_its_end_and_not_before() {
        let (mut relist, mut staged) = (Relist::default(), Objects::new());
        for event in [Event::Init, Event::InitApply(service("a", "1")), Event::InitApply(service("b", "2"))] {
            assert_eq!(relist.fold(&mut staged, event), Folded::Nothing);
        }
        assert_eq!(relist.fold(&mut staged, Event::InitDone), Folded::Complete);
        let before = staged.clone();
        assert_eq!(relist.fold(&mut staged, Event::Init), Folded::Nothing);
        assert_eq!(relist.fold(&mut staged, Event::InitApply(service("b", "2"))), Folded::Nothing);
        assert_eq!(staged.len(), 2);
        assert_eq!(relist.fold(&mut staged, Event::InitDone), Folded::Complete);
        let b = ObjectKey::new("default", "b");
        assert_eq!(staged.keys().collect::<Vec<_>>(), [&b]);
        assert!(Arc::ptr_eq(&staged[&b], &before[&b]));
    }

    #[test]
    fn changes_replace_and_delete_and_are_stripped() {
        let (mut relist, mut staged) = (Relist::default(), Objects::new());
        assert_eq!(relist.fold(&mut staged, Event::Apply(service("a", "1"))), Folded::Changed);
        assert_eq!(relist.fold(&mut staged, Event::Apply(service("a", "1"))), Folded::Nothing);
        assert_eq!(relist.fold(&mut staged, Event::Apply(service("a", "2"))), Folded::Changed);
        let annotations = staged[&ObjectKey::new("default", "a")].metadata.annotations.clone().unwrap();
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["kept"]);
        assert_eq!(relist.fold(&mut staged, Event::Delete(service("a", "3"))), Folded::Changed);
        assert_eq!(relist.fold(&mut staged, Event::Delete(service("a", "3"))), Folded::Nothing);
        assert!(staged.is_empty());
    }

    #[test]
    fn endpoints_of_other_nodes_lose_their_targets_where_that_is_asked_for() {
        let end = |node: &str| json!({ "addresses": ["10.42.0.2"], "nodeName": node, "targetRef": { "kind": "Pod", "uid": "u" } });
        let slice = json!({ "metadata": { "name": "a" }, "addressType": "IPv4", "endpoints": [end("one"), end("two")] });
        let kept = |targets_of: Option<&str>| -> Vec<bool> {
            let mut staged = Objects::new();
            let slice: EndpointSlice = serde_json::from_value(slice.clone()).unwrap();
            Relist::new(targets_of.map(str::to_owned)).fold(&mut staged, Event::Apply(slice));
            staged[&ObjectKey::new("", "a")].endpoints.iter().map(|end| end.target_ref.is_some()).collect()
        };
        assert_eq!((kept(None), kept(Some("two"))), (vec![true, true], vec![false, true]));
    }

    #[test]
    fn lists_keep_no_more_room_than_they_need() {
        let ports = (1..=10).map(|n| json!({ "name": format!("p{n}"), "port": n })).collect::<Vec<_>>();
        let slice =
            json!({ "metadata": { "name": "a" }, "addressType": "IPv4", "endpoints": [], "ports": ports });
        let text = slice.to_string();
        let decoded: EndpointSlice = serde_json::from_str(&text).unwrap();
        let room = |slice: &EndpointSlice| slice.ports.as_ref().map_or(0, Vec::capacity);
        assert!(room(&decoded) > 10, "nothing to be given back");
        let (mut relist, mut staged) = (Relist::default(), Objects::new());
        relist.fold(&mut staged, Event::Apply(decoded.clone()));
        let kept = &staged[&ObjectKey::new("", "a")];
        assert_eq!(**kept, decoded);
        assert_eq!(room(kept), 10);
    }
}
