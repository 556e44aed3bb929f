//! Services, nodes and Pods of a cluster of both families.

use super::{World, key, says, services::service};
use crate::{DeleteOptions, bind};
use minisvc_apimachinery::resource::{IP_ADDRESSES, NODES, PODS, SERVICE_CIDRS, SERVICES};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv6Addr};

fn dual_stack() -> World {
    let mut world = World::new();
    world.cluster.cluster_cidrs.push("fd42::/56".parse().unwrap());
    world.cluster.service_cidrs.push("fd43::/64".parse().unwrap());
    world
}

fn addresses(object: &Value) -> Vec<IpAddr> {
    let all = object["spec"]["clusterIPs"].as_array().unwrap();
    all.iter().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect()
}

fn with(world: &mut World, policy: &str) -> Value {
    let change = |object: &mut Value| object["spec"]["ipFamilyPolicy"] = json!(policy);
    world.change(&SERVICES, "web", None, change).unwrap().object
}

#[test]
fn a_second_address_comes_and_goes_with_the_policy() {
    let mut world = dual_stack();
    let single = world.create(service(json!({"ports": [{"port": 80}]}))).unwrap().object;
    assert_eq!(single["spec"]["ipFamilyPolicy"], "SingleStack");
    let first = addresses(&single);
    assert!(first.len() == 1 && first[0].is_ipv4());
    for policy in ["PreferDualStack", "RequireDualStack"] {
        let both = with(&mut world, policy);
        let ips = addresses(&both);
        assert_eq!(
            (ips.len(), ips[0], both["spec"]["clusterIP"].as_str()),
            (2, first[0], Some(&*first[0].to_string()))
        );
        assert_eq!(both["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        let object = world.get(&IP_ADDRESSES, &ips[1].to_string()).unwrap();
        assert_eq!(object["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv6");
        let again = with(&mut world, "SingleStack");
        assert_eq!((addresses(&again), &again["spec"]["ipFamilies"]), (first.clone(), &json!(["IPv4"])));
        assert_eq!(world.get(&IP_ADDRESSES, &ips[1].to_string()), None, "it is free again");
    }
    world.dry_run = true;
    let tried = with(&mut world, "RequireDualStack");
    assert_eq!(addresses(&tried).len(), 2);
    world.dry_run = false;
    assert_eq!(addresses(&world.get(&SERVICES, "web").unwrap()), first, "a dry run changes nothing");
}

#[test]
fn addresses_of_a_large_network_are_outside_its_static_band_and_canonical() {
    let mut world = dual_stack();
    let given =
        world.create(service(json!({"ipFamilies": ["IPv6"], "ports": [{"port": 80}]}))).unwrap().object;
    let IpAddr::V6(address) = addresses(&given)[0] else { panic!("{given}") };
    // The lowest 256 are for those who choose theirs.
    assert!(address > "fd43::100".parse::<Ipv6Addr>().unwrap(), "{address}");
    assert_eq!(given["spec"]["clusterIP"], json!(address.to_string()));
    let mut chosen = service(json!({"clusterIP": "FD43:0::0:7", "ports": [{"port": 80}]}));
    chosen["metadata"]["name"] = json!("chosen");
    let chosen = world.create(chosen).unwrap().object;
    assert_eq!(chosen["spec"]["ipFamilies"], json!(["IPv6"]));
    assert_eq!(world.holder("fd43::7").as_deref(), Some("services/default/chosen"));
    let mut other = service(json!({"clusterIP": "fd43::7", "ports": [{"port": 80}]}));
    other["metadata"]["name"] = json!("other");
    says(&world.refused(other), "provided IP is already allocated");
    world.delete(&SERVICES, "chosen", &DeleteOptions::default()).unwrap();
    assert_eq!(world.holder("fd43::7"), None);
}

#[test]
fn what_is_kept_is_kept_in_both_networks() {
    let mut world = dual_stack();
    for address in ["10.43.0.1", "10.43.0.10", "fd43::1", "fd43::a"] {
        let refused = world.refused(service(json!({"clusterIP": address, "ports": [{"port": 80}]})));
        says(&refused, "provided IP is already allocated");
        let kept = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": address},
            "spec": {"parentRef": {"group": "a.b", "resource": "gateways", "namespace": "default", "name": "g"}}});
        says(&world.refused(kept), "the address is kept for Service");
    }
    let dns = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "kube-system", "name": "kube-dns"},
        "spec": {"clusterIPs": ["10.43.0.10", "fd43::a"], "clusterIP": "10.43.0.10",
            "ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 53, "protocol": "UDP"}]}});
    world.create(dns).unwrap();
    assert_eq!(world.holder("fd43::a").as_deref(), Some("services/kube-system/kube-dns"));
}

#[test]
fn a_cluster_of_one_family_refuses_what_needs_both() {
    let mut world = World::new();
    let refused =
        world.refused(service(json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]})));
    says(
        &refused,
        "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
    );
    let refused = world.refused(service(json!({"ipFamilies": ["IPv6"], "ports": [{"port": 80}]})));
    says(&refused, "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster");
    let prefers = json!({"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}]});
    assert_eq!(addresses(&world.create(service(prefers)).unwrap().object).len(), 1);
    // A cluster of IPv6 only gives that to who does not say.
    let mut world = World::new();
    world.cluster.cluster_cidrs = vec!["fd42::/56".parse().unwrap()];
    world.cluster.service_cidrs = vec!["fd43::/112".parse().unwrap()];
    let given = world.create(service(json!({"ports": [{"port": 80}]}))).unwrap().object;
    assert!(addresses(&given)[0].is_ipv6());
    let headless = json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]});
    let mut headless = service(headless);
    headless["metadata"]["name"] = json!("headless");
    assert_eq!(world.create(headless).unwrap().object["spec"]["ipFamilies"], json!(["IPv6"]));
}

#[test]
fn a_further_network_gives_second_addresses_too() {
    let mut world = dual_stack();
    world.cluster.service_cidrs[1] = "fd43::/124".parse().unwrap();
    let cidr = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"},
        "spec": {"cidrs": ["fd44::/120"]}});
    world.create(cidr).unwrap();
    let mut of_more = 0;
    for i in 0..20 {
        let mut object = service(json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}));
        object["metadata"]["name"] = json!(format!("s{i}"));
        let ips = addresses(&world.create(object).unwrap().object);
        of_more += usize::from(ips[1] >= "fd44::".parse::<IpAddr>().unwrap());
    }
    // Of 15 addresses two are kept.
    assert_eq!(of_more, 20 - 13);
    world.delete(&SERVICE_CIDRS, "more", &DeleteOptions::default()).unwrap();
    let release = |object: &mut Value| object["metadata"]["finalizers"] = json!([]);
    let refused = world.change(&SERVICE_CIDRS, "more", None, release).unwrap_err();
    says(&refused.message, "stays while Services have addresses of it, such as fd44::");
}

#[test]
fn a_node_has_one_network_of_each_family_and_may_be_given_the_second_later() {
    let mut world = dual_stack();
    let node =
        |spec: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": spec});
    for (nets, why) in [
        (json!(["10.42.0.0/24", "10.42.1.0/24"]), "may specify no more than one CIDR for each IP family"),
        (
            json!(["10.42.0.0/24", "fd42::/64", "fd42:0:0:1::/64"]),
            "may specify no more than one CIDR for each",
        ),
        (json!(["10.42.0.0/24", "fd52::/64"]), "must be within the cluster's Pod network"),
    ] {
        says(&world.refused(node(json!({"podCIDRs": nets}))), why);
    }
    let made = world.create(node(json!({"podCIDR": "10.42.0.0/24"}))).unwrap().object;
    assert_eq!(made["spec"]["podCIDRs"], json!(["10.42.0.0/24"]));
    let mut to = |nets: Value| {
        world.change(&NODES, "n1", None, |node| {
            node["spec"]["podCIDR"] = nets[0].clone();
            node["spec"]["podCIDRs"] = nets.clone();
        })
    };
    let both = to(json!(["10.42.0.0/24", "fd42::/64"])).unwrap().object;
    assert_eq!(both["spec"]["podCIDR"], both["spec"]["podCIDRs"][0]);
    for nets in [
        json!(["10.42.0.0/24"]),
        json!(["fd42::/64", "10.42.0.0/24"]),
        json!(["10.42.0.0/24", "fd42:0:0:1::/64"]),
    ] {
        says(&to(nets).unwrap_err().message, "node updates may not change podCIDR except from");
    }
}

#[test]
fn a_pod_has_one_address_of_each_family_the_primary_one_first() {
    let mut world = dual_stack();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "echo"}]}});
    world.create(pod).unwrap();
    let binding = json!({"target": {"kind": "Node", "name": "node1"}});
    let bound = world.run(|ctx, view| bind(ctx, view, &key(&PODS, "p"), &binding)).unwrap();
    world.store.commit(&bound.changes);
    let mut to = |status: Value| {
        world.change(&PODS, "p", Some("status"), |pod| {
            for (field, value) in status.as_object().unwrap() {
                pod["status"][field] = value.clone();
            }
        })
    };
    let both = json!([{"ip": "10.42.0.2"}, {"ip": "fd42::2"}]);
    let said = to(json!({"podIP": null, "podIPs": both})).unwrap().object;
    assert_eq!(said["status"]["podIP"], "10.42.0.2");
    let moved = to(json!({"podIP": "fd42::3"})).unwrap().object;
    assert_eq!(moved["status"]["podIPs"], json!([{"ip": "fd42::3"}]));
    for (status, why) in [
        (
            json!({"podIP": "10.42.0.2", "podIPs": [{"ip": "10.42.0.2"}, {"ip": "10.42.0.3"}]}),
            "status.podIPs: Invalid value: [{\"ip\":\"10.42.0.2\"},{\"ip\":\"10.42.0.3\"}]: may specify no more than one IP for each IP family",
        ),
        (
            json!({"podIP": "10.42.0.300"}),
            "status.podIPs[0]: Invalid value: \"10.42.0.300\": must be a valid IP address",
        ),
        (
            json!({"hostIP": "192.0.2.1", "hostIPs": [{"ip": "2001:db8::1"}]}),
            "status.hostIPs[0].ip: Invalid value: \"2001:db8::1\": must be equal to `hostIP`",
        ),
    ] {
        says(&to(status).unwrap_err().message, why);
    }
}
