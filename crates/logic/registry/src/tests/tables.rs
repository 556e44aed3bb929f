//! Tables: the cells that kubectl prints.

use crate::{IncludeObject, table};
use minisvc_apimachinery::{
    Resource,
    resource::{
        DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, EVENTS, INGRESS_CLASSES, INGRESSES, IP_ADDRESSES, LEASES,
        NAMESPACES, NODES, PODS, REPLICA_SETS, RESOURCES, SCALE, SECRETS, SERVICE_ACCOUNTS, SERVICE_CIDRS,
        SERVICES,
    },
};
use serde_json::{Value, json};

fn row(r: &Resource, mut object: Value) -> Vec<String> {
    object["metadata"]["name"] = json!("x");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let now = "2026-01-01T00:05:00Z".parse().unwrap();
    let table = table(r, &[&object], now, IncludeObject::Metadata);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), table["columnDefinitions"].as_array().unwrap().len(), "{}", r.kind);
    cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
}

fn workload() -> Value {
    json!({"spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "c", "image": "echo"}, {"name": "d", "image": "y"}]}},
            "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["z", "a"]}, {"key": "b", "operator": "DoesNotExist"}]}},
        "status": {"replicas": 4, "readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}})
}

#[test]
fn rows_are_kubectls() {
    let container = |state: Value| {
        json!({"name": "c", "ready": state.get("running").is_some(), "restartCount": 2, "state": state,
        "lastState": {"terminated": {"finishedAt": "2026-01-01T00:04:00Z"}}})
    };
    let pod = |status: Value| json!({"spec": {"containers": [{}], "nodeName": "n"}, "status": status});
    let table: Vec<(&Resource, Value, &str)> = vec![
        (
            &PODS,
            pod(
                json!({"phase": "Running", "podIP": "10.42.0.2", "containerStatuses": [container(json!({"running": {}}))]}),
            ),
            "x|1/1|Running|2 (60s ago)|5m|10.42.0.2|n|<none>|<none>",
        ),
        (
            &PODS,
            pod(
                json!({"phase": "Pending", "containerStatuses": [container(json!({"waiting": {"reason": "ErrImageNeverPull"}}))]}),
            ),
            "x|0/1|ErrImageNeverPull|2 (60s ago)|5m|<none>|n|<none>|<none>",
        ),
        (
            &PODS,
            pod(
                json!({"phase": "Failed", "containerStatuses": [container(json!({"terminated": {"exitCode": 3}}))]}),
            ),
            "x|0/1|ExitCode:3|2 (60s ago)|5m|<none>|n|<none>|<none>",
        ),
        (
            &PODS,
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": [{}, {}]}, "status": {"phase": "Running"}}),
            "x|0/2|Terminating|0|5m|<none>|<none>|<none>|<none>",
        ),
        (
            &SERVICES,
            json!({"spec": {"type": "NodePort", "clusterIP": "10.43.0.5", "selector": {"b": "2", "a": "1"}, "ports": [{"port": 80, "nodePort": 31940, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
            "x|NodePort|10.43.0.5|<none>|80:31940/TCP,53/UDP|5m|a=1,b=2",
        ),
        (
            &SERVICES,
            json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.5", "ports": []}}),
            "x|LoadBalancer|10.43.0.5|<pending>|<none>|5m|<none>",
        ),
        (
            &SERVICES,
            json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.5", "ports": []}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb"}]}}}),
            "x|LoadBalancer|10.43.0.5|192.0.2.1,lb|<none>|5m|<none>",
        ),
        (
            &SERVICES,
            json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}),
            "x|ExternalName|<none>|example.com|<none>|5m|<none>",
        ),
        (
            &NODES,
            json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "nodeInfo": {"kubeletVersion": "v1", "osImage": "Linux"}}}),
            "x|Ready,SchedulingDisabled|control-plane|5m|v1|192.0.2.1|<none>|Linux|<unknown>|<unknown>",
        ),
        (
            &NODES,
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
            "x|NotReady|<none>|5m||<none>|<none>|<unknown>|<unknown>|<unknown>",
        ),
        (
            &ENDPOINT_SLICES,
            json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "a"}, {}], "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.4"]}]}),
            "x|IPv4|80,a,*|10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...|5m",
        ),
        (&ENDPOINT_SLICES, json!({"addressType": "IPv4"}), "x|IPv4|<unset>|<unset>|5m"),
        (
            &INGRESSES,
            json!({"spec": {"rules": [{"host": "a"}, {"host": "b"}]}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
            "x|<none>|a,b|192.0.2.1|80|5m",
        ),
        (&INGRESSES, json!({"spec": {"ingressClassName": "c", "tls": [{}]}}), "x|c|*||80, 443|5m"),
        (
            &EVENTS,
            json!({"lastTimestamp": "2026-01-01T00:04:00Z", "firstTimestamp": "2026-01-01T00:03:00Z", "type": "Normal", "reason": "Started", "message": "hello\n", "count": 3, "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet", "host": "n"}}),
            "60s|Normal|Started|pod/p||kubelet, n|hello|2m|3|x",
        ),
        (&DEPLOYMENTS, workload(), "x|1/3|2|1|5m|c,d|echo,y|app=web,!b,tier in (a,z)"),
        (&REPLICA_SETS, workload(), "x|3|4|1|5m|c,d|echo,y|app=web,!b,tier in (a,z)"),
        (&SCALE, json!({"spec": {"replicas": 3}, "status": {"replicas": 2}}), "x|3|2|5m"),
        (&LEASES, json!({"spec": {"holderIdentity": "n"}}), "x|n|5m"),
        (&SECRETS, json!({"type": "Opaque", "data": {"a": "", "b": ""}}), "x|Opaque|2|5m"),
        (&SERVICE_ACCOUNTS, json!({"secrets": [{"name": "a"}]}), "x|1|5m"),
        (&NAMESPACES, json!({"status": {"phase": "Active"}}), "x|Active|5m"),
    ];
    for (r, object, expected) in table {
        assert_eq!(row(r, object).join("|"), expected, "{}", r.kind);
    }
}

#[test]
fn rows_of_network_kinds_are_kubectls() {
    let table = [
        (&ENDPOINTS, json!({}), "x|<none>|5m"),
        (
            &ENDPOINTS,
            json!({"subsets": [{"notReadyAddresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]}),
            "x||5m",
        ),
        (
            &ENDPOINTS,
            json!({"subsets": [{"addresses": [{"ip": "192.0.2.1"}]}, {"addresses": [{"ip": "192.0.2.2"}, {"ip": "2001:db8::1"}], "ports": [{"port": 80}, {"port": 81}]}]}),
            "x|192.0.2.1,192.0.2.2:80,[2001:db8::1]:80 + 2 more...|5m",
        ),
        (&INGRESS_CLASSES, json!({"spec": {"controller": "a.b/c"}}), "x|a.b/c|<none>|5m"),
        (
            &SERVICE_CIDRS,
            json!({"spec": {"cidrs": ["10.60.0.0/24", "fd00::/112"]}}),
            "x|10.60.0.0/24,fd00::/112|5m",
        ),
        (
            &IP_ADDRESSES,
            json!({"spec": {"parentRef": {"resource": "services", "namespace": "a", "name": "b"}}}),
            "x|services/a/b|5m",
        ),
        (
            &IP_ADDRESSES,
            json!({"spec": {"parentRef": {"group": "c.d", "resource": "Gateways", "name": "b"}}}),
            "x|gateways.c.d/b|5m",
        ),
        (
            &INGRESS_CLASSES,
            json!({"spec": {"controller": "a.b/c", "parameters": {"apiGroup": "d.e", "kind": "F", "name": "g"}}}),
            "x|a.b/c|F.d.e/g|5m",
        ),
    ];
    for (r, object, expected) in table {
        assert_eq!(row(r, object).join("|"), expected, "{}", r.kind);
    }
}

#[test]
fn wide_columns_have_priority_one() {
    let table = table(&PODS, &[], "2026-01-01T00:00:00Z".parse().unwrap(), IncludeObject::None);
    let columns: Vec<(String, i64)> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["name"].as_str().unwrap().to_ascii_uppercase(), c["priority"].as_i64().unwrap()))
        .collect();
    let shown: Vec<&str> = columns.iter().filter(|(_, p)| *p == 0).map(|(name, _)| name.as_str()).collect();
    assert_eq!(shown, ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(columns.len(), 9);
}

#[test]
fn rows_carry_what_was_asked_for() {
    let object = json!({"metadata": {"name": "x"}, "spec": {"a": 1}});
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    for r in RESOURCES {
        let row = |include| table(r, &[&object], now, include)["rows"][0].clone();
        assert!(row(IncludeObject::None).get("object").is_none());
        assert_eq!(row(IncludeObject::Object)["object"], object);
        let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "x"}});
        assert_eq!(row(IncludeObject::Metadata)["object"], partial);
    }
}
