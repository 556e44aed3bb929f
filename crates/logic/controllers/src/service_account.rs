//! What every namespace has for its Pods to know themselves and the API server by: the ServiceAccount `default` and the
//! ConfigMap `kube-root-ca.crt` (source: kubernetes pkg/controller/serviceaccount, pkg/controller/certificates/rootcacertpublisher).

use crate::plan::{Plan, Write};
use minisvc_apimachinery::{
    ObjectKey, Snapshot,
    resource::{CONFIG_MAPS, SERVICE_ACCOUNTS},
};
use serde_json::json;

/// The account of Pods that name none.
pub const DEFAULT: &str = "default";
/// The ConfigMap that holds the CA's certificates, under [`CA_KEY`].
pub const ROOT_CA: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const WORDS: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as \
    the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// The namespaces that stay: in one that goes nothing can be made.
fn namespaces(snapshot: &Snapshot) -> impl Iterator<Item = &str> {
    let staying =
        snapshot.namespaces.iter().filter(|(_, object)| object.metadata.deletion_timestamp.is_none());
    staying.map(|(key, _)| key.name.as_str())
}

/// Plans the default account of each namespace that has none.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let missing = namespaces(snapshot)
        .map(|namespace| ObjectKey::new(namespace, DEFAULT))
        .filter(|key| !snapshot.service_accounts.contains_key(key));
    let writes = missing.map(|key| Write::Create {
        object: json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "namespace": key.namespace, "name": key.name },
        }),
        resource: &SERVICE_ACCOUNTS,
        key,
    });
    Plan { writes: writes.collect(), notices: Vec::new() }
}

/// Plans the CA's certificates, PEM, into each namespace, and mends what holds anything else.
pub fn plan_root_ca(snapshot: &Snapshot, ca: &str) -> Plan {
    let writes = namespaces(snapshot).filter_map(|namespace| {
        let key = ObjectKey::new(namespace, ROOT_CA);
        let mut object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": key.namespace, "name": key.name, "annotations": { DESCRIPTION: WORDS } },
            "data": { CA_KEY: ca },
        });
        let resource = &CONFIG_MAPS;
        let Some(present) = snapshot.config_maps.get(&key) else {
            return Some(Write::Create { resource, key, object });
        };
        let said = present.metadata.annotations.as_ref().and_then(|all| all.get(DESCRIPTION));
        let data = present.data.as_ref().filter(|data| data.len() == 1).and_then(|data| data.get(CA_KEY));
        if data.is_some_and(|data| data == ca) && said.is_some_and(|words| !words.is_empty()) {
            return None;
        }
        if present.immutable == Some(true) {
            // Cannot be mended: made anew once it is gone.
            return Some(Write::delete(resource, &key, &present.metadata));
        }
        let mut metadata = json!(present.metadata);
        metadata["annotations"][DESCRIPTION] = WORDS.into();
        object["metadata"] = metadata;
        Some(Write::Replace { resource, key, object })
    });
    Plan { writes: writes.collect(), notices: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use minisvc_apimachinery::resource::NAMESPACES;

    fn world() -> World {
        let mut world = World::default();
        world.add(&NAMESPACES, json!({ "metadata": { "name": "a" } }));
        let gone = json!({ "metadata": { "name": "gone", "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        world.add(&NAMESPACES, gone);
        world
    }

    #[test]
    fn each_namespace_that_stays_has_an_account() {
        let mut world = world();
        let key = ObjectKey::new("a", DEFAULT);
        for _ in 0..2 {
            world.apply(&plan(&world.snapshot));
            let found: Vec<_> = world.snapshot.service_accounts.keys().cloned().collect();
            assert_eq!(found, std::slice::from_ref(&key));
            assert!(plan(&world.snapshot).is_settled());
            world.remove(&SERVICE_ACCOUNTS, &key);
        }
    }

    #[test]
    fn each_namespace_that_stays_has_the_certificates_and_they_are_mended() {
        let mut world = world();
        let key = ObjectKey::new("a", ROOT_CA);
        let broken = [
            json!({}),
            json!({ "data": { "ca.crt": "other" } }),
            json!({ "data": { "ca.crt": "PEM", "more": "x" } }),
            json!({ "data": { "ca.crt": "PEM" }, "metadata": { "annotations": { DESCRIPTION: "" } } }),
        ];
        for broken in broken {
            let mut object = broken;
            object["metadata"]["namespace"] = "a".into();
            object["metadata"]["name"] = ROOT_CA.into();
            object["metadata"]["labels"] = json!({ "mine": "yes" });
            if world.snapshot.config_maps.contains_key(&key) {
                world.add(&CONFIG_MAPS, object);
            }
            world.apply(&plan_root_ca(&world.snapshot, "PEM"));
            assert_eq!(world.snapshot.config_maps.len(), 1);
            let present = world.get(&CONFIG_MAPS, &key).unwrap();
            assert_eq!(present["data"], json!({ "ca.crt": "PEM" }));
            assert_eq!(present["metadata"]["annotations"][DESCRIPTION], WORDS);
            assert!(plan_root_ca(&world.snapshot, "PEM").is_settled());
        }
        let labels = &world.get(&CONFIG_MAPS, &key).unwrap()["metadata"]["labels"];
        assert_eq!(*labels, json!({ "mine": "yes" }), "what others said of it stays");
        assert!(!plan_root_ca(&world.snapshot, "NEW").is_settled());
        let metadata = json!({ "namespace": "a", "name": ROOT_CA });
        world.add(&CONFIG_MAPS, json!({ "metadata": metadata, "immutable": true }));
        for count in [0, 1] {
            world.apply(&plan_root_ca(&world.snapshot, "PEM"));
            assert_eq!(world.snapshot.config_maps.len(), count, "made anew, as it cannot be changed");
        }
    }
}
