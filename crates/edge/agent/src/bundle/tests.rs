//! What of a Pod's spec, its node and the objects it names becomes what.

use super::*;
use minisvc_apimachinery::ObjectKey;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The bundle of a Pod `shop/web`, and the files of its volumes.
fn bundle_of(spec: Value, sources: &Sources, services: &[Value]) -> Result<(PodBundle, Contents), Missing> {
    let labels = json!({"app": "web", "tier": "a\"b"});
    let pod = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": labels}, "spec": spec});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let services: Objects<Service> = services
        .iter()
        .map(|service| {
            let service: Service = serde_json::from_value(service.clone()).unwrap();
            let meta = &service.metadata;
            let key = ObjectKey::new(meta.namespace.clone().unwrap(), meta.name.clone().unwrap());
            (key, Arc::new(service))
        })
        .collect();
    let addresses = ["10.42.1.5", "fd42:0:0:1::5"].map(|address| address.parse().unwrap());
    let local = LocalPod::new("u1", "shop", "web", addresses.to_vec());
    let cluster = ClusterConfig::default();
    let node_addresses = [IpAddr::from([192, 0, 2, 1])];
    let allocatable =
        [("cpu", "4"), ("memory", "1000Ki")].map(|(k, v)| (k.to_owned(), resource::Quantity(v.to_owned())));
    let facts = NodeFacts {
        node_name: "node1",
        hostname: "machine1",
        node_addresses: &node_addresses,
        allocatable: &allocatable.into(),
        cluster: &cluster,
    };
    let given = Given { pod: &pod, local: &local, facts: &facts, sources, services: &services };
    let shared = pod_dns::is_in_node_network(pod.spec.as_ref());
    let netns = (!shared).then(|| "/run/minisvc/netns/u1".into());
    bundle(&given, "u1", netns, PodDns::default())
}

fn sources() -> Sources {
    let object = |value: Value| serde_json::from_value(value).unwrap();
    Sources {
        config_maps: [(
            "c".to_owned(),
            object(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"raw": "AAE="}})),
        )]
        .into(),
        secrets: [("s".to_owned(), serde_json::from_value(json!({"data": {"k": "aHVzaA=="}})).unwrap())]
            .into(),
        tokens: BTreeMap::new(),
    }
}

#[test]
fn a_bundle_has_the_pods_names_environment_and_expanded_arguments() {
    let spec = json!({
        "hostname": "db-0", "subdomain": "db", "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["foo", "bar.example"]}],
        "containers": [{"name": "c", "image": "host", "command": ["sh", "-c", "echo $(WHO) $$(X) $(NOBODY) $5"],
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "stdin": true, "tty": true,
            "ports": [{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]}]});
    let (bundle, _) = bundle_of(spec.clone(), &Sources::default(), &[]).unwrap();
    assert_eq!(bundle.hostname, "db-0");
    let names = "db-0.db.shop.svc.cluster.local\tdb-0";
    let own = format!("10.42.1.5\t{names}\nfd42:0:0:1::5\t{names}\n");
    let aliases = "\n# Entries added by HostAliases.\n192.0.2.9\tfoo\tbar.example\n";
    assert!(
        bundle.hosts("").ends_with(&format!("fe00::2\tip6-allrouters\n{own}{aliases}")),
        "{}",
        bundle.hosts("")
    );
    let container = &bundle.containers[0];
    assert_eq!(container.command[2], "echo 10.42.1.5 $(X) $(NOBODY) $5");
    assert_eq!(container.ports[1].protocol, "UDP");
    assert_eq!((container.stdin, container.stdin_once, container.tty), (true, false, true));
    let mut spec = spec;
    spec["hostNetwork"] = true.into();
    let (shared, _) = bundle_of(spec, &Sources::default(), &[]).unwrap();
    assert_eq!((shared.hostname.as_str(), shared.domain.as_deref()), ("machine1", None));
    let of_node = "127.0.0.1\tlocalhost\n";
    let text = format!("# Kubernetes-managed hosts file (host network).\n{of_node}{aliases}");
    assert_eq!(shared.hosts(of_node), text);
}

fn container(more: Value) -> Value {
    let mut container = json!({"name": "c", "image": "host"});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

#[test]
fn the_environment_is_of_services_objects_and_fields() {
    let service = |namespace: &str, name: &str, ip: &str, ports: Value| json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": ip, "ports": ports}});
    let services = [
        service("default", "kubernetes", "10.43.0.1", json!([{"name": "https", "port": 443}])),
        service("default", "other", "10.43.0.9", json!([{"port": 1}])),
        service(
            "shop",
            "my-db",
            "fd43::7",
            json!([{"port": 53, "protocol": "UDP"}, {"name": "web-ui", "port": 80}]),
        ),
        service("shop", "headless", "None", json!([{"port": 1}])),
    ];
    let env = json!([
        {"name": "A", "value": "$(P_a)-$(MY_DB_SERVICE_PORT)"},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "b"}}},
        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "D", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": true}}},
        {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
    ]);
    let lists = json!([{"prefix": "P_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "none", "optional": true}}]);
    let spec = |links: bool| json!({"enableServiceLinks": links, "containers": [container(json!({"env": env, "envFrom": lists}))]});
    let lines = |links: bool| -> Vec<String> {
        let (bundle, _) = bundle_of(spec(links), &sources(), &services).unwrap();
        bundle.containers[0].env.iter().map(|(name, value)| format!("{name}={value}")).collect()
    };
    let all = lines(true);
    for line in [
        "KUBERNETES_SERVICE_HOST=10.43.0.1",
        "KUBERNETES_SERVICE_PORT_HTTPS=443",
        "KUBERNETES_PORT_443_TCP_ADDR=10.43.0.1",
        "MY_DB_SERVICE_HOST=fd43::7",
        "MY_DB_PORT=udp://[fd43::7]:53",
        "MY_DB_SERVICE_PORT_WEB_UI=80",
        "MY_DB_PORT_80_TCP_PROTO=tcp",
        "P_a=1",
        "A=1-53",
        "B=2",
        "C=hush",
        "E=web",
        "F=10.42.1.5,fd42:0:0:1::5",
    ] {
        assert!(all.iter().any(|found| found == line), "{line}: {all:#?}");
    }
    assert!(
        !all.iter().any(|line| line.starts_with("D=") || line.contains("OTHER") || line.contains("HEADLESS"))
    );
    let few = lines(false);
    assert!(
        few.iter().any(|line| line.starts_with("KUBERNETES_"))
            && !few.iter().any(|line| line.starts_with("MY_DB"))
    );
}

#[test]
fn what_is_missing_is_told_in_the_kubelets_words() {
    let said = |more: Value, volumes: Value| {
        let spec = json!({"containers": [container(more)], "volumes": volumes});
        match bundle_of(spec, &sources(), &[]) {
            Ok((bundle, _)) => bundle.containers[0].lacks.clone().unwrap(),
            Err(error) => error.to_string(),
        }
    };
    let from = |source: Value| json!({"env": [{"name": "A", "valueFrom": source}]});
    assert_eq!(
        said(from(json!({"configMapKeyRef": {"name": "x", "key": "k"}})), json!([])),
        "configmap \"x\" not found"
    );
    assert_eq!(
        said(from(json!({"secretKeyRef": {"name": "s", "key": "x"}})), json!([])),
        "couldn't find key x in Secret shop/s"
    );
    assert_eq!(
        said(json!({}), json!([{"name": "v", "secret": {"secretName": "x"}}])),
        "MountVolume.SetUp failed for volume \"v\" : secret \"x\" not found"
    );
    assert_eq!(
        said(
            json!({}),
            json!([{"name": "v", "configMap": {"name": "c", "items": [{"key": "x", "path": "y"}]}}])
        ),
        "MountVolume.SetUp failed for volume \"v\" : references non-existent config key: x"
    );
}

#[test]
fn volumes_hold_what_they_are_of() {
    let volumes = json!([
        {"name": "scratch", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "all", "configMap": {"name": "c", "defaultMode": 256}},
        {"name": "none", "configMap": {"name": "x", "optional": true}},
        {"name": "mixed", "projected": {"sources": [
            {"secret": {"name": "s", "items": [{"key": "k", "path": "deep/key", "mode": 384}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}},
    ]);
    let mounts = json!([
        {"name": "scratch", "mountPath": "/data/", "subPathExpr": "$(WHO)/x"},
        {"name": "all", "mountPath": "/etc/all"},
    ]);
    let env = json!([{"name": "WHO", "value": "me"}]);
    let spec = json!({"containers": [container(json!({"volumeMounts": mounts, "env": env}))], "volumes": volumes,
        "securityContext": {"fsGroup": 7}});
    let (bundle, contents) = bundle_of(spec, &sources(), &[]).unwrap();
    assert_eq!(bundle.volume_group, Some(7));
    let kind = |n: usize| format!("{:?}", bundle.volumes[n].kind);
    assert_eq!(kind(1), "Scratch { memory: true, bytes_max: Some(1048576) }");
    let files = |name: &str| -> Vec<(String, u32, String)> {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        contents[name].iter().map(|file| (file.path.clone(), file.mode, shown(&file.data))).collect()
    };
    let named = |path: &str, mode: u32, data: &str| (path.to_owned(), mode, data.to_owned());
    assert_eq!(files("all"), [named("a", 256, "1"), named("b", 256, "2"), named("raw", 256, "\0\u{1}")]);
    assert_eq!(files("none"), []);
    let labels = "app=\"web\"\ntier=\"a\\\"b\"";
    assert_eq!(files("mixed"), [named("deep/key", 384, "hush"), named("labels", 420, labels)]);
    let mounts = &bundle.containers[0].mounts;
    assert_eq!(
        (mounts[0].path.as_str(), mounts[0].sub_path.as_str(), mounts[0].read_only),
        ("/data", "me/x", false)
    );
    assert!(mounts[1].read_only);
}

#[test]
fn programs_are_told_what_they_may_use() {
    let of = |resource: &str, divisor: &str| json!({"resource": resource, "divisor": divisor});
    let variable = |name: &str, of: Value| json!({"name": name, "valueFrom": {"resourceFieldRef": of}});
    let mut other = of("limits.cpu", "1m");
    other["containerName"] = "other".into();
    let spec = json!({
        "containers": [
            container(json!({
                "resources": {"limits": {"cpu": "1500m"}, "requests": {"cpu": "1"}},
                "env": [variable("A", of("limits.cpu", "0")), variable("B", of("limits.cpu", "1m")),
                    variable("C", of("limits.memory", "1Ki")), variable("D", of("requests.cpu", "1")),
                    variable("E", of("requests.memory", "1")), variable("F", other.clone())]})),
            {"name": "other", "image": "host", "resources": {"limits": {"cpu": "10m"}}}],
        "volumes": [{"name": "v", "downwardAPI": {"items": [{"path": "cpu", "resourceFieldRef": other}]}}]});
    let (bundle, contents) = bundle_of(spec.clone(), &Sources::default(), &[]).unwrap();
    let env: Vec<String> = bundle.containers[0].env.iter().map(|(_, value)| value.clone()).collect();
    // Rounded up; without a limit the node's; without a request nothing.
    assert_eq!(env, ["2", "1500", "1000", "1", "0", "10"]);
    assert_eq!(contents["v"][0].data, b"10");
    let mut spec = spec;
    spec["volumes"][0]["downwardAPI"]["items"][0]["resourceFieldRef"]["containerName"] = "nobody".into();
    let missing = bundle_of(spec, &Sources::default(), &[]).unwrap_err();
    assert_eq!(missing.message, "container nobody not found");
}
