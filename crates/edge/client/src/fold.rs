//! Watch events of one kind, folded into a map of objects.
//!
//! Invariant: between `Init` and `InitDone` readers see the old objects; at `InitDone` what the new list did not
//! hold is gone. Objects whose version did not change keep their place in memory, so comparing two snapshots
//! stays cheap after a relist.

use kube::{Resource as KubeResource, runtime::watcher::Event};
use minisvc_apimachinery::{ObjectKey, snapshot::Objects};
use std::{collections::BTreeSet, sync::Arc};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A relist under way: what it has named so far.
#[derive(Default)]
pub(crate) struct Relist {
    listed: Option<BTreeSet<ObjectKey>>,
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
fn strip<T: KubeResource>(object: &mut T) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

fn put<T: KubeResource>(objects: &mut Objects<T>, key: ObjectKey, mut object: T) -> bool {
    let version = &object.meta().resource_version;
    if version.is_some() && objects.get(&key).is_some_and(|old| old.meta().resource_version == *version) {
        return false;
    }
    strip(&mut object);
    objects.insert(key, Arc::new(object));
    true
}

impl Relist {
    /// Folds one event into `staged`, the kind's own map; the caller shows it to readers unless told `Nothing`.
    pub(crate) fn fold<T: KubeResource>(&mut self, staged: &mut Objects<T>, event: Event<T>) -> Folded {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                Folded::Nothing
            }
            Event::InitApply(object) => {
                let key = key_of(&object);
                put(staged, key.clone(), object);
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
                if put(staged, key, object) { Folded::Changed } else { Folded::Nothing }
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
    use k8s_openapi::api::core::v1::Service;

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
}
