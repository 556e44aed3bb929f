//! A whole world for tests: a snapshot to which plans are applied as the API server would.

use crate::plan::{Plan, Write};
use minisvc_apimachinery::{
    ObjectKey, Resource, Snapshot,
    resource::{NODES, PODS, SERVICES},
};
use serde_json::{Value, json};

#[derive(Default)]
pub(crate) struct World {
    pub snapshot: Snapshot,
    revision: u64,
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

impl World {
    pub fn add(&mut self, resource: &Resource, mut object: Value) {
        self.revision += 1;
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = self.revision.to_string().into();
        if meta["uid"].is_null() {
            meta["uid"] = format!("uid-{}", self.revision).into();
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = ObjectKey::new(text(&meta["namespace"]), text(&meta["name"]));
        self.snapshot.set(resource, key, Some(object)).unwrap();
    }

    pub fn get(&self, resource: &Resource, key: &ObjectKey) -> Option<Value> {
        self.snapshot.value(resource, key)
    }

    pub fn remove(&mut self, resource: &Resource, key: &ObjectKey) {
        self.snapshot.set(resource, key.clone(), None).unwrap();
    }

    /// Applies every write, checking what the API server would check.
    pub fn apply(&mut self, plan: &Plan) {
        for write in &plan.writes {
            let (resource, key) = write.target();
            let key = key.clone();
            let present = self.get(resource, &key);
            match write {
                Write::Create { object, .. } => {
                    assert!(present.is_none(), "{key} exists");
                    self.add(resource, object.clone());
                }
                Write::Replace { object, .. } => {
                    let present = present.unwrap();
                    assert_eq!(object["metadata"]["resourceVersion"], present["metadata"]["resourceVersion"]);
                    self.add(resource, object.clone());
                }
                Write::Patch { patch, .. } | Write::Adopt { patch, .. } => {
                    let mut object = present.unwrap();
                    assert_eq!(patch["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
                    merge(&mut object, patch);
                    self.add(resource, object);
                }
                Write::Bind { node, uid, .. } => {
                    let mut object = present.unwrap();
                    assert_eq!(object["metadata"]["uid"], json!(uid));
                    object["spec"]["nodeName"] = node.as_str().into();
                    self.add(resource, object);
                }
                Write::Delete { how, .. } => {
                    assert_eq!(present.unwrap()["metadata"]["uid"], json!(how.uid));
                    self.remove(resource, &key);
                }
                Write::Empty { .. } => self.remove(resource, &key),
            }
        }
    }

    /// Node `nodeN` has address 192.168.9.N.
    pub fn node(&mut self, name: &str, ready: bool) {
        let number: String = name.chars().filter(char::is_ascii_digit).collect();
        let old = self.get(&NODES, &ObjectKey::cluster(name)).unwrap_or_else(|| json!({ "spec": {} }));
        let uid = old["metadata"]["uid"].clone();
        let mut object = json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
            "spec": old["spec"],
            "status": {
                "addresses": [{ "type": "InternalIP", "address": format!("192.168.9.{number}") }],
                "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
            },
        });
        object["metadata"]["uid"] = uid;
        self.add(&NODES, object);
    }

    pub fn remove_node(&mut self, name: &str) {
        self.remove(&NODES, &ObjectKey::cluster(name));
    }

    /// A Pod with label `app`, on a node if one is given, with an address if one is given (then ready).
    pub fn pod(&mut self, name: &str, app: &str, node: Option<&str>, address: Option<&str>) {
        let mut object = json!({
            "metadata": { "namespace": "default", "name": name, "labels": { "app": app } },
            "spec": {
                "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": 8080 }] }],
                "tolerations": [{ "key": "node.kubernetes.io/unreachable", "operator": "Exists" }],
            },
            "status": { "phase": "Pending" },
        });
        if let Some(node) = node {
            object["spec"]["nodeName"] = node.into();
        }
        if let Some(address) = address {
            object["status"] = json!({
                "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
                "conditions": [{ "type": "Ready", "status": "True" }],
            });
        }
        self.add(&PODS, object);
    }

    /// A Service for Pods with label `app`, port 80 to the named port `http`.
    pub fn service(&mut self, name: &str, app: &str) {
        self.add(
            &SERVICES,
            json!({
                "metadata": { "namespace": "default", "name": name },
                "spec": {
                    "type": "ClusterIP", "clusterIP": "10.43.0.99", "selector": { "app": app },
                    "ports": [{ "name": "web", "port": 80, "targetPort": "http", "protocol": "TCP" }],
                },
            }),
        );
    }
}
