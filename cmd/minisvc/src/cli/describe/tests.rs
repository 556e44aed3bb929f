use super::*;
use minisvc_apimachinery::resource::{INGRESSES, LEASES, NODES, PODS, SECRETS, SERVICES};
use serde_json::json;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn described(resource: &Resource, object: Value, related: Vec<Value>) -> String {
    describe(resource, &object, &Surroundings { now: at("2026-01-02T03:04:05Z"), related }).render()
}

#[test]
fn a_service_shows_its_endpoints() {
    let service = json!({"metadata": {"name": "web", "namespace": "default", "labels": {"a": "b", "c": "d"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "spec": {"type": "NodePort", "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30001}]}});
    let endpoint =
        |address: &str, ready: bool| json!({"addresses": [address], "conditions": {"ready": ready}});
    let slice = json!({"ports": [{"name": "http", "port": 8080}], "endpoints": [endpoint("10.42.0.2", true),
        endpoint("10.42.0.3", false), endpoint("10.42.0.4", true), endpoint("10.42.0.5", true), endpoint("10.42.0.6", true)]});
    let text = described(&SERVICES, service, vec![slice]);
    let line = |key: &str, value: &str| format!("{key:<19}{value}\n");
    let head = [
        line("Name:", "web"),
        line("Namespace:", "default"),
        line("Labels:", "a=b"),
        line("", "c=d"),
        line("Annotations:", "<none>"),
        line("Selector:", "app=web"),
        line("Type:", "NodePort"),
    ];
    assert!(text.starts_with(&head.concat()), "{text}");
    let port = [
        line("Port:", "http  80/TCP"),
        line("TargetPort:", "8080/TCP"),
        line("NodePort:", "http  30001/TCP"),
        line("Endpoints:", "10.42.0.2:8080,10.42.0.4:8080,10.42.0.5:8080 + 1 more..."),
    ];
    assert!(text.contains(&port.concat()), "{text}");
}

#[test]
fn both_families_are_shown() {
    let service = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": "fd43::7", "clusterIPs": ["fd43::7", "10.43.0.7"],
            "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}});
    let slice = |address: &str| json!({"ports": [{"name": "", "port": 8080}], "endpoints": [{"addresses": [address]}]});
    let text = described(&SERVICES, service, vec![slice("10.42.0.2"), slice("fd42::2")]);
    let line = |key: &str, value: &str| format!("{key:<19}{value}\n");
    let families = [
        line("IP Family Policy:", "PreferDualStack"),
        line("IP Families:", "IPv6,IPv4"),
        line("IP:", "fd43::7"),
        line("IPs:", "fd43::7,10.43.0.7"),
    ];
    assert!(text.contains(&families.concat()), "{text}");
    assert!(text.contains(&line("Endpoints:", "10.42.0.2:8080,[fd42::2]:8080")), "{text}");
    let node = json!({"metadata": {"name": "n1"},
        "spec": {"podCIDR": "fd42::/64", "podCIDRs": ["fd42::/64", "10.42.0.0/24"]}});
    let text = described(&NODES, node, vec![]);
    let values: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("PodCIDR"))
        .filter_map(|l| l.split_whitespace().nth(1))
        .collect();
    assert_eq!(values, ["fd42::/64", "fd42::/64,10.42.0.0/24"]);
}

#[test]
fn every_kind_has_something_to_say() {
    let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "n1",
        "readinessGates": [{"conditionType": "x/y"}], "initContainers": [{"name": "first", "image": "host"}], "containers":
        [{"name": "main", "livenessProbe": {"httpGet": {"port": "web", "path": "/x", "scheme": "HTTP"}, "periodSeconds": 10}, "image": "echo", "command": ["/bin/x"], "env": [{"name": "A", "value": "1"}]}]},
        "status": {"phase": "Running", "hostIP": "1.2.3.4", "podIP": "10.42.0.2", "containerStatuses":
            [{"name": "main", "ready": true, "restartCount": 2, "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}}}]}});
    let text = described(&PODS, pod, vec![]);
    for expected in [
        "Node:",
        "n1/1.2.3.4",
        "State:",
        "Running",
        "Fri, 02 Jan 2026 03:04:05 +0000",
        "Restart Count:  2",
        "Init Containers:",
        "first:",
        "http-get http://:web/x delay=0s timeout=0s period=10s #success=0 #failure=0",
        "Readiness Gates:",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"rules": [{"host": "a.example", "http": {"paths":
        [{"path": "/x", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}});
    let text = described(&INGRESSES, ingress, vec![]);
    assert!(text.contains("a.example") && text.contains("web:80"), "{text}");
    let secret = json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"password": "aGVsbG8="}});
    let text = described(&SECRETS, secret, vec![]);
    assert!(text.contains("password:") && text.contains("5 bytes") && !text.contains("aGVsbG8"), "{text}");
    let lease =
        json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "x", "leaseDurationSeconds": 4}});
    let text = described(&LEASES, lease, vec![]);
    assert!(text.contains("Lease Duration Seconds:  4"), "{text}");
    let pod = json!({"metadata": {"namespace": "n", "name": "p", "creationTimestamp": "2026-01-02T03:02:05Z"}, "status": {}});
    let text = described(
        &NODES,
        json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.42.0.0/24"}}),
        vec![pod],
    );
    assert!(text.contains("(1 in total)") && text.contains("2m"), "{text}");
}

#[test]
fn events_are_listed_oldest_first() {
    let event = |name: &str, time: &str, count: i64| {
        json!({"type": "Normal", "reason": name, "message": "m", "count": count, "firstTimestamp": "2026-01-02T02:04:05Z",
            "lastTimestamp": time, "source": {"component": "kubelet"}})
    };
    let mut text = Text::default();
    let list = [event("Second", "2026-01-02T03:04:00Z", 3), event("First", "2026-01-02T03:00:05Z", 1)];
    events(&list, at("2026-01-02T03:04:05Z"), &mut text);
    assert_eq!(
        text.render(),
        "Events:\n  Type     Reason   Age                From      Message\n  ----     ------   ---                ----      -------\n  Normal   First    4m                 kubelet   m\n  Normal   Second   5s (x3 over 60m)   kubelet   m\n"
    );
    let mut text = Text::default();
    events(&[], at("2026-01-02T03:04:05Z"), &mut text);
    assert_eq!(text.render(), "Events:  <none>\n");
}

#[test]
fn ages_are_told_as_kubectl_tells_them() {
    let now = at("2026-06-01T00:00:00Z");
    for (seconds, expected) in [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (185, "3m5s"),
        (700, "11m"),
        (11_000, "3h3m"),
        (30_000, "8h"),
        (180_000, "2d2h"),
        (864_000, "10d"),
        (80_000_000, "2y195d"),
    ] {
        let then = Timestamp::from_second(now.as_second() - seconds).unwrap().to_string();
        assert_eq!(age(&then, now), expected);
    }
    assert_eq!(age("never", now), "<unknown>");
}
