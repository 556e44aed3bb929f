//! Services: what is filled in, allocated and refused on creation.

use super::{World, says};
use minisvc_apimachinery::resource::SERVICES;
use serde_json::{Value, json};

pub(super) fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
}

#[test]
fn a_plain_service_gets_its_defaults_an_address_and_a_record() {
    let mut world = World::new();
    let outcome = world
        .create(service(json!({"selector": {"app": "web"}, "ports": [{"port": 80}], "later": 1})))
        .unwrap();
    let spec = &outcome.object["spec"];
    let ip = spec["clusterIP"].as_str().unwrap();
    let expected = json!({
        "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
        "selector": {"app": "web"}, "clusterIP": ip, "clusterIPs": [ip], "later": 1,
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
    });
    assert_eq!(*spec, expected);
    assert_eq!(outcome.object["status"], json!({"loadBalancer": {}}));
    assert!(outcome.created && outcome.written);
    assert_eq!(world.holder(ip).as_deref(), Some("services/default/web"));
}

#[test]
fn load_balancers_get_node_ports_and_a_health_check_port() {
    let mut world = World::new();
    let object = world
        .create(service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "ports": [{"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53}]})))
        .unwrap()
        .object;
    let spec = &object["spec"];
    assert_eq!(spec["allocateLoadBalancerNodePorts"], true);
    let ports: Vec<i64> = (0..2).map(|i| spec["ports"][i]["nodePort"].as_i64().unwrap()).collect();
    assert_eq!(ports[0], ports[1], "one node port for both protocols of a port");
    let health = spec["healthCheckNodePort"].as_i64().unwrap();
    assert_ne!(health, ports[0]);
    for port in [ports[0], health] {
        assert!((30086..=32767).contains(&port), "{port} is not in the upper band");
        assert!(world.record(&format!("_nodeports/{port}")).is_some());
    }
    let none = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bare"},
        "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                 "ports": [{"port": 80}]}});
    assert!(world.create(none).unwrap().object["spec"]["ports"][0].get("nodePort").is_none());
}

/// CVE-2020-8554: none are allowed unless the cluster says of which networks.
#[test]
fn external_ips_may_be_of_the_networks_that_the_cluster_allows() {
    let mut world = World::new();
    world.cluster.external_ip_cidrs =
        ["192.0.2.0/24", "2001:db8::/64"].map(|net| net.parse().unwrap()).to_vec();
    let with = |ips: Value| service(json!({"ports": [{"port": 80}], "externalIPs": ips}));
    let spec = world.create(with(json!(["192.0.2.1", "2001:db8::7"]))).unwrap().object["spec"].clone();
    assert_eq!(spec["externalTrafficPolicy"], "Cluster", "it can be used from outside");
    let refused = world.create(with(json!(["192.0.2.1", "198.51.100.1"]))).unwrap_err().to_string();
    let why =
        "spec.externalIPs: 198.51.100.1 is in none of the networks that this cluster allows external IPs of";
    says(&refused, why);
}

#[test]
fn client_ip_affinity_lasts_three_hours_by_default() {
    let mut world = World::new();
    let object =
        world.create(service(json!({"sessionAffinity": "ClientIP", "ports": [{"port": 1}]}))).unwrap().object;
    assert_eq!(object.pointer("/spec/sessionAffinityConfig/clientIP/timeoutSeconds"), Some(&json!(10800)));
}

#[test]
fn headless_and_external_names_get_no_address() {
    let mut world = World::new();
    let headless = json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": []});
    let object = world.create(service(headless)).unwrap().object;
    assert_eq!(object["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(object["spec"]["ipFamilies"], json!(["IPv4"]));
    let external = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "out"},
        "spec": {"type": "ExternalName", "externalName": "example.com."}});
    let object = world.create(external).unwrap().object;
    assert!(object["spec"].get("clusterIP").is_none() && object["spec"].get("ipFamilies").is_none());
    assert!(!world.store.entries.keys().any(|key| key.starts_with("ipaddresses")));
}

#[test]
fn a_given_address_or_port_is_taken_once() {
    let mut world = World::new();
    let first =
        json!({"type": "NodePort", "clusterIP": "10.43.0.5", "ports": [{"port": 80, "nodePort": 30080}]});
    world.create(service(first)).unwrap();
    let mut other = service(json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]}));
    other["metadata"]["name"] = json!("other");
    assert_eq!(
        world.refused(other),
        "Service \"other\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.5\"]: failed to allocate IP 10.43.0.5: provided IP is already allocated"
    );
    let mut other = service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}));
    other["metadata"]["name"] = json!("other");
    assert_eq!(
        world.refused(other.clone()),
        "Service \"other\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
    );
    world.delete(&SERVICES, "web", &Default::default()).unwrap();
    assert!(world.holder("10.43.0.5").is_none(), "deleting frees");
    world.create(other).unwrap();
}

#[test]
fn the_addresses_of_the_api_and_of_dns_wait_for_their_owners() {
    let mut world = World::new();
    for ip in ["10.43.0.1", "10.43.0.10"] {
        says(
            &world.refused(service(json!({"clusterIP": ip, "ports": [{"port": 1}]}))),
            "provided IP is already allocated",
        );
    }
    let dns = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": "10.43.0.10", "ports": [{"port": 53, "protocol": "UDP"}]}});
    world.create(dns).unwrap();
}

#[test]
fn a_full_range_says_so_and_a_freed_address_is_given_again() {
    let mut world = World::new();
    world.cluster.service_cidrs = vec!["10.43.0.0/28".parse().unwrap()];
    (world.cluster.node_port_first, world.cluster.node_port_last) = (30000, 30001);
    for i in 0..12 {
        let mut object = service(json!({"ports": [{"port": 1}]}));
        object["metadata"]["name"] = json!(format!("s{i}"));
        world.create(object).unwrap();
    }
    let more = service(json!({"ports": [{"port": 1}]}));
    assert_eq!(
        world.refused(more.clone()),
        "Internal error occurred: failed to allocate a serviceIP: range is full"
    );
    world.delete(&SERVICES, "s3", &Default::default()).unwrap();
    world.create(more).unwrap();
    world.delete(&SERVICES, "s4", &Default::default()).unwrap();
    let mut ports = service(
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}, {"name": "c", "port": 3}]}),
    );
    ports["metadata"]["name"] = json!("ports");
    assert_eq!(world.refused(ports), "Internal error occurred: failed to allocate a nodePort: range is full");
}

#[test]
fn a_dry_run_shows_everything_and_stores_nothing() {
    let mut world = World::new();
    world.dry_run = true;
    let before = world.store.entries.clone();
    let outcome = world.create(service(json!({"type": "NodePort", "ports": [{"port": 80}]}))).unwrap();
    assert!(outcome.object["spec"]["ports"][0]["nodePort"].is_i64() && outcome.changes.is_empty());
    assert_eq!(world.store.entries, before);
}

#[test]
fn a_thousand_services_have_a_thousand_addresses_and_ports() {
    let mut world = World::new();
    let mut held = std::collections::BTreeSet::new();
    for i in 0..1000 {
        let mut object = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        object["metadata"]["name"] = json!(format!("s{i}"));
        let object = world.create(object).unwrap().object;
        assert!(held.insert(object["spec"]["clusterIP"].to_string()));
        assert!(held.insert(object["spec"]["ports"][0]["nodePort"].to_string()));
    }
    assert_eq!(held.len(), 2000);
}

#[test]
fn wrong_types_are_bad_requests() {
    let mut world = World::new();
    for spec in
        [json!({"ports": "80"}), json!({"ports": [null]}), json!({"ports": [{"port": "http"}]}), json!([])]
    {
        let status = world.create(service(spec)).unwrap_err();
        assert_eq!(status.code, 400, "{status}");
        says(&status.message, "cannot be handled as a Service");
    }
}
