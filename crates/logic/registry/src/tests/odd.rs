//! Whatever stands where: a request is answered, never a panic; what is stored too.

use super::{World, key};
use crate::{DeleteOptions, IncludeObject, create, delete, patch, table, update};
use bytes::Bytes;
use minisvc_apimachinery::{
    resource::{RESOURCES, by_kind},
    storage::Stored,
};
use serde_json::{Value, json};
use std::sync::Arc;

fn workload(kind: &str, meta: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": meta,
        "spec": {"replicas": 2, "minReadySeconds": 1,
            "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}},
        "status": {"replicas": 1, "readyReplicas": 1, "observedGeneration": 1}});
    if kind == "Deployment" {
        object["spec"]["strategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "10%"}});
        object["spec"]["progressDeadlineSeconds"] = json!(10);
    }
    object
}

fn samples() -> Vec<Value> {
    let meta = json!({"name": "a", "namespace": "default", "labels": {"a": "b"}, "annotations": {"a": "b"},
        "finalizers": ["a/b"], "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]});
    // The same objects as v1 Events, so another name.
    let mut renamed = meta.clone();
    renamed["name"] = json!("b");
    let mut address = meta.clone();
    address["name"] = json!("192.0.2.7");
    vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta,
            "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"], "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack", "selector": {"a": "b"}, "externalTrafficPolicy": "Local", "healthCheckNodePort": 30002,
                "ports": [{"name": "a", "port": 1, "targetPort": "b", "nodePort": 30001, "protocol": "TCP", "appProtocol": "http"}],
                "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
                "loadBalancerSourceRanges": ["10.0.0.0/8"], "loadBalancerClass": "a/b", "externalIPs": []},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta,
            "spec": {"containers": [{"name": "a", "image": "b", "ports": [{"name": "a", "containerPort": 1}],
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
                "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "nodeName": "n", "hostname": "h",
                "dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["a"], "options": [{"name": "b", "value": "c"}]},
                "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a"]}],
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{
                            "matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}],
                            "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]},
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}}},
            "status": {"phase": "Running", "containerStatuses": [{"name": "a", "image": "b", "imageID": "", "ready": true,
                "restartCount": 1, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}}}]}}),
        workload("Deployment", meta.clone()),
        workload("ReplicaSet", meta.clone()),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"],
            "taints": [{"key": "a", "effect": "NoSchedule"}]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"osImage": "x"}}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": meta, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": {"a": "YQ=="}, "stringData": {"b": "c"}, "immutable": true}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": false,
            "secrets": [{"name": "a", "namespace": "b"}], "imagePullSecrets": [{"name": "a"}]}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": "b"}, "binaryData": {"c": "YQ=="}, "immutable": true}),
        json!({"apiVersion": "v1", "kind": "Event", "metadata": meta, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
            "message": "m", "count": 1, "lastTimestamp": "2026-01-01T00:00:00Z", "source": {"component": "c", "host": "h"}}),
        json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": renamed, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
            "note": "m", "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c/d", "reportingInstance": "i", "action": "a",
            "reason": "r", "type": "Normal", "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta,
            "spec": {"holderIdentity": "a", "leaseDurationSeconds": 4, "renewTime": "2026-01-01T00:00:00.000000Z"}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.42.0.5"], "hostname": "h", "nodeName": "n", "hints": {"forZones": [{"name": "z"}]}}],
            "ports": [{"name": "a", "port": 1, "protocol": "TCP", "appProtocol": "http"}]}),
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": [{
            "addresses": [{"ip": "10.42.0.5", "hostname": "h", "nodeName": "n", "targetRef": {"kind": "Pod", "name": "p"}}],
            "notReadyAddresses": [{"ip": "10.42.0.6"}], "ports": [{"name": "a", "port": 1, "protocol": "TCP", "appProtocol": "http"}]}]}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta,
            "spec": {"ingressClassName": "c", "tls": [{"hosts": ["a"], "secretName": "s"}],
                "defaultBackend": {"service": {"name": "a", "port": {"name": "b"}}},
                "rules": [{"host": "a.b", "http": {"paths": [{"path": "/", "pathType": "Exact", "backend": {"service": {"name": "a", "port": {"number": 1}}}}]}}]},
            "status": {"loadBalancer": {"ingress": [{"hostname": "h"}]}}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": meta, "spec": {"cidrs": ["10.60.0.0/24"]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": address, "spec": {"parentRef": {
            "group": "a.b", "resource": "c", "namespace": "d", "name": "e"}}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": meta,
            "spec": {"controller": "a.b/c", "parameters": {"apiGroup": "d.e", "kind": "F", "name": "g", "scope": "Namespace", "namespace": "h"}}}),
    ]
}

/// Pointers to every value in a value, itself included.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                pointers(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), all);
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                pointers(value, &format!("{at}/{i}"), all);
            }
        }
        _ => {}
    }
}

#[test]
fn the_samples_are_good_and_of_every_kind() {
    let mut world = World::new();
    let samples = samples();
    for r in RESOURCES {
        assert!(
            samples.iter().any(|sample| sample["kind"] == r.kind && sample["apiVersion"] == r.api_version()),
            "{}",
            r.kind
        );
    }
    for sample in samples {
        world.create(sample).unwrap();
    }
}

#[test]
fn any_value_in_any_place_is_answered() {
    let odd = [json!(null), json!({}), json!("\u{e9}/"), json!(-1), json!([null, {"a": []}])];
    let mut world = World::new();
    for sample in samples() {
        let r = by_kind(sample["apiVersion"].as_str().unwrap(), sample["kind"].as_str().unwrap()).unwrap();
        let key = key(r, sample["metadata"]["name"].as_str().unwrap());
        let mut places = Vec::new();
        pointers(&sample, "", &mut places);
        for (place, odd) in places.iter().flat_map(|place| odd.iter().map(move |odd| (place, odd))) {
            let mut object = sample.clone();
            *object.pointer_mut(place).unwrap() = odd.clone();
            let made = world.run(|ctx, view| create(ctx, view, r, Some("default"), object.clone()));
            assert!(made.is_err() || !place.is_empty(), "no {} is made of {odd}", r.kind);
            let _ = table(r, &[&object], world.now, IncludeObject::Object);
            // As if the odd one had been stored, and then as a change of the good one.
            for (stored, sent) in [(&object, &sample), (&sample, &object)] {
                let value = Bytes::from(serde_json::to_vec(stored).unwrap());
                let stored = Arc::new(Stored { revision: 1, value });
                world.store.entries.insert(r.storage_key(&key), stored);
                let apply = |_: &Value| Ok(sent.clone());
                let _ = world.run(|ctx, view| update(ctx, view, r, &key, sent.clone(), None));
                for subresource in [None, Some("status"), Some("scale"), Some("finalize")] {
                    let _ = world.run(|ctx, view| patch(ctx, view, r, &key, &apply, subresource));
                }
                let _ = world.run(|ctx, view| delete(ctx, view, r, &key, &DeleteOptions::default()));
            }
            world.store.entries.remove(&r.storage_key(&key));
        }
    }
}
