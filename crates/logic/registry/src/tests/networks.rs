//! ServiceCIDRs and IPAddresses: where addresses come from, and who has them.

use super::{World, key, says};
use crate::{DeleteOptions, upgrade};
use bytes::Bytes;
use minisvc_apimachinery::{
    resource::{IP_ADDRESSES, SERVICE_CIDRS, SERVICES},
    storage::Change,
};
use serde_json::{Value, json};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

fn cidr(name: &str, cidrs: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": cidrs}})
}

fn service(name: &str, address: Option<&str>) -> Value {
    let mut spec = json!({"ports": [{"port": 1}]});
    if let Some(address) = address {
        spec["clusterIP"] = json!(address);
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn address(name: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": name},
        "spec": {"parentRef": {"group": "a.b", "resource": "gateways", "namespace": "default", "name": "g"}}})
}

#[test]
fn an_address_is_an_object_while_its_service_has_it() {
    let mut world = World::new();
    let made = world.create(service("web", Some("10.43.0.7"))).unwrap();
    let object = world.get(&IP_ADDRESSES, "10.43.0.7").unwrap();
    assert_eq!(
        object["metadata"]["resourceVersion"],
        world.get(&SERVICES, "web").unwrap()["metadata"]["resourceVersion"]
    );
    assert_ne!(object["metadata"]["uid"], made.object["metadata"]["uid"]);
    assert_eq!(
        object["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    let parent = json!({"group": "", "resource": "services", "namespace": "default", "name": "web"});
    assert_eq!(object["spec"]["parentRef"], parent);
    let refused = world.delete(&IP_ADDRESSES, "10.43.0.7", &DeleteOptions::default()).unwrap_err();
    assert_eq!(
        refused.message,
        "ipaddresses.networking.k8s.io \"10.43.0.7\" is forbidden: the address is held by Service default/web: it goes with the Service"
    );
    let moved = world.change(&IP_ADDRESSES, "10.43.0.7", None, |object| {
        object["spec"]["parentRef"]["name"] = json!("other");
    });
    says(&moved.unwrap_err().message, "spec.parentRef: Invalid value");
    world.change(&IP_ADDRESSES, "10.43.0.7", None, |o| o["metadata"]["labels"]["a"] = json!("b")).unwrap();
    world.delete(&SERVICES, "web", &DeleteOptions::default()).unwrap();
    assert_eq!(world.get(&IP_ADDRESSES, "10.43.0.7"), None);
}

#[test]
fn an_address_that_somebody_keeps_is_not_given() {
    let mut world = World::new();
    world.create(address("10.43.0.7")).unwrap();
    says(&world.refused(service("web", Some("10.43.0.7"))), "provided IP is already allocated");
    world.delete(&IP_ADDRESSES, "10.43.0.7", &DeleteOptions::default()).unwrap();
    world.create(service("web", Some("10.43.0.7"))).unwrap();
    says(&world.refused(address("10.43.0.7")), "already exists");
    // A finalizer keeps an address that its Service gave back.
    let held = |object: &mut Value| object["metadata"]["finalizers"] = json!(["a/b"]);
    world.change(&IP_ADDRESSES, "10.43.0.7", None, held).unwrap();
    world.delete(&SERVICES, "web", &DeleteOptions::default()).unwrap();
    assert!(world.get(&IP_ADDRESSES, "10.43.0.7").unwrap()["metadata"]["deletionTimestamp"].is_string());
    says(&world.refused(service("web", Some("10.43.0.7"))), "provided IP is already allocated");
    world.change(&IP_ADDRESSES, "10.43.0.7", None, |o| o["metadata"]["finalizers"] = json!([])).unwrap();
    world.create(service("web", Some("10.43.0.7"))).unwrap();
}

#[test]
fn a_further_network_gives_addresses_until_it_goes() {
    let mut world = World::new();
    world.cluster.service_cidrs = vec!["10.43.0.0/28".parse().unwrap()];
    says(&world.refused(service("a", Some("10.50.0.9"))), "The range of valid IPs is 10.43.0.0/28");
    let made = world.create(cidr("more", json!(["10.50.0.0/28"]))).unwrap().object;
    assert_eq!(made["metadata"]["finalizers"], json!([FINALIZER]));
    world.create(service("a", Some("10.50.0.10"))).unwrap();
    says(&world.refused(service("b", Some("10.51.0.9"))), "valid IPs is 10.43.0.0/28,10.50.0.0/28");
    for i in 0..25 {
        world.create(service(&format!("s{i}"), None)).unwrap();
    }
    let full = "Internal error occurred: failed to allocate a serviceIP: range is full";
    assert_eq!(world.refused(service("b", None)), full);
    assert!(
        world.get(&IP_ADDRESSES, "10.50.0.1").is_some(),
        "only two addresses of the first network are kept"
    );
    let took =
        world.change(&SERVICE_CIDRS, "more", None, |o| o["metadata"]["finalizers"] = json!([])).unwrap();
    assert_eq!(took.object["metadata"]["finalizers"], json!([FINALIZER]), "it stays protected");
    let going = world.delete(&SERVICE_CIDRS, "more", &DeleteOptions::default()).unwrap();
    assert!(!going.deleted);
    let release = |world: &mut World| {
        world.change(&SERVICE_CIDRS, "more", None, |object| object["metadata"]["finalizers"] = json!([]))
    };
    says(
        &release(&mut world).unwrap_err().message,
        "metadata.finalizers: Forbidden: networking.k8s.io/service-cidr-finalizer stays while Services have addresses of it, such as 10.50.0.1",
    );
    // What is going gives nothing new.
    world.delete(&SERVICES, "a", &DeleteOptions::default()).unwrap();
    assert_eq!(world.refused(service("b", None)), full);
    for i in 0..25 {
        world.delete(&SERVICES, &format!("s{i}"), &DeleteOptions::default()).unwrap();
    }
    assert!(release(&mut world).unwrap().deleted);
    assert_eq!(world.get(&SERVICE_CIDRS, "more"), None);
}

#[test]
fn the_clusters_own_networks_stay() {
    let mut world = World::new();
    says(
        &world.refused(cidr("kubernetes", json!(["10.60.0.0/24"]))),
        "spec.cidrs: Invalid value: [\"10.60.0.0/24\"]: must be the cluster's own service networks: 10.43.0.0/16",
    );
    world.create(cidr("kubernetes", json!(["10.43.0.0/16"]))).unwrap();
    let refused = world.delete(&SERVICE_CIDRS, "kubernetes", &DeleteOptions::default()).unwrap_err();
    says(&refused.message, "is forbidden: it has the cluster's own service networks, which stay");
    // One within it is as good as none, and goes at once.
    world.create(cidr("inside", json!(["10.43.7.0/24"]))).unwrap();
    world.create(service("web", Some("10.43.7.7"))).unwrap();
    world.delete(&SERVICE_CIDRS, "inside", &DeleteOptions::default()).unwrap();
    let done = world.change(&SERVICE_CIDRS, "inside", None, |o| o["metadata"]["finalizers"] = json!([]));
    assert!(done.unwrap().deleted);
}

#[test]
fn networks_in_use_elsewhere_are_refused_and_a_second_family_can_come_later() {
    let mut world = World::new();
    world.cluster.service_cidrs.push("fd00:43::/112".parse().unwrap());
    let range = |first: [u8; 4], last: [u8; 4]| minisvc_apimachinery::cluster::AddressRange {
        first: first.into(),
        last: last.into(),
    };
    world.cluster.load_balancer_pool = vec![range([192, 0, 2, 100], [192, 0, 2, 200])];
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.7"}]}});
    world.create(node).unwrap();
    for (net, why) in [
        ("198.51.100.0/24", "contains 198.51.100.7, the address of node n1"),
        ("192.0.2.0/25", "overlaps the load balancers' addresses 192.0.2.100-192.0.2.200"),
        ("192.0.2.128/28", "overlaps the load balancers' addresses 192.0.2.100-192.0.2.200"),
    ] {
        says(
            &world.refused(cidr("more", json!([net]))),
            &format!("spec.cidrs[0]: Invalid value: \"{net}\": {why}"),
        );
    }
    world.create(cidr("more", json!(["10.60.0.0/24"]))).unwrap();
    let mut to = |cidrs: Value| {
        world.change(&SERVICE_CIDRS, "more", None, |object| object["spec"]["cidrs"] = cidrs.clone())
    };
    says(
        &to(json!(["10.61.0.0/24"])).unwrap_err().message,
        "spec.cidrs[0]: Invalid value: \"10.61.0.0/24\": field is immutable",
    );
    to(json!(["10.60.0.0/24", "fd00:60::/112"])).unwrap();
    says(
        &to(json!(["10.60.0.0/24"])).unwrap_err().message,
        "spec.cidrs: Invalid value: [\"10.60.0.0/24\"]: field is immutable",
    );
}

#[test]
fn records_of_older_versions_become_objects() {
    let mut world = World::new();
    let record =
        |key: &str, owner: &'static str| Change::PutRecord { key: key.to_owned(), value: Bytes::from(owner) };
    world.store.commit(&[
        record("_clusterips/10.43.0.7", "services/default/web"),
        record("_nodeports/30001", "services/default/web"),
    ]);
    let outcome = world.run(|ctx, view| upgrade(ctx, view));
    world.store.commit(&outcome.changes);
    assert_eq!(world.holder("10.43.0.7").as_deref(), Some("services/default/web"));
    assert!(world.record("_clusterips/10.43.0.7").is_none() && world.record("_nodeports/30001").is_some());
    assert!(world.run(|ctx, view| upgrade(ctx, view)).changes.is_empty());
    assert_eq!(key(&IP_ADDRESSES, "10.43.0.7").namespace, "");
}
