//! What every cluster has.
//!
//! Namespaces `default`, `kube-system`, `kube-public`, `kube-node-lease`; Service `default/kubernetes` (the API server, by
//! hand-made Endpoints and a hand-made EndpointSlice) and `kube-system/kube-dns` (cluster DNS; answered on each node, so without endpoints);
//! IngressClass `minisvc`, of what the nodes serve Ingresses by; ServiceCIDR `kubernetes`, of the cluster's own networks.

use crate::{
    endpoint_slice_mirroring::SKIP_MIRROR,
    plan::{Notice, Plan, Write},
};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Service};
use minisvc_apimachinery::{
    ClusterConfig, Family, ObjectKey, Snapshot,
    endpoint_slices::EndpointSlice,
    ingress_class::{CLASS, CONTROLLER},
    resource::{ENDPOINT_SLICES, ENDPOINTS, INGRESS_CLASSES, NAMESPACES, SERVICE_CIDRS, SERVICES},
    service_cidr,
};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// Namespaces that every cluster has.
pub const NAMESPACE_NAMES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Plans what is missing. `api_server` is the address at which nodes and Pods reach the API server.
pub fn plan(snapshot: &Snapshot, cluster: &ClusterConfig, api_server: SocketAddr) -> Plan {
    let mut plan = Plan::default();
    for name in NAMESPACE_NAMES {
        let key = ObjectKey::cluster(name);
        if !snapshot.namespaces.contains_key(&key) {
            let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            plan.writes.push(Write::Create { resource: &NAMESPACES, key, object });
        }
    }
    let key = ObjectKey::cluster(CLASS);
    if !snapshot.ingress_classes.contains_key(&key) {
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": { "name": CLASS }, "spec": { "controller": CONTROLLER },
        });
        plan.writes.push(Write::Create { resource: &INGRESS_CLASSES, key, object });
    }
    for (name, nets) in service_cidr::own(cluster) {
        let key = ObjectKey::cluster(&name);
        if !snapshot.service_cidrs.contains_key(&key) {
            let object = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": { "name": name }, "spec": { "cidrs": nets },
            });
            plan.writes.push(Write::Create { resource: &SERVICE_CIDRS, key, object });
        }
    }
    let exists = |namespace: &str| snapshot.namespaces.contains_key(&ObjectKey::cluster(namespace));
    if exists("default") {
        if let Some(address) = cluster.api_address() {
            let wanted = Wanted {
                addresses: vec![address],
                // Of the primary family only, as in Kubernetes: it has no endpoints of the other.
                policy: "SingleStack",
                labels: json!({ "component": "apiserver", "provider": "kubernetes" }),
                ports: json!([
                    { "name": "https", "protocol": "TCP", "port": 443, "targetPort": api_server.port() },
                ]),
            };
            service(snapshot, &ObjectKey::new("default", "kubernetes"), &wanted, &mut plan);
        }
        api_endpoints(snapshot, api_server, &mut plan);
        api_slice(snapshot, api_server, &mut plan);
    }
    let dns = cluster.dns_addresses();
    if exists("kube-system") && !dns.is_empty() {
        let wanted = Wanted {
            addresses: dns,
            policy: "PreferDualStack",
            labels: json!({ "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS" }),
            ports: json!([
                { "name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53 },
                { "name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53 },
            ]),
        };
        service(snapshot, &ObjectKey::new("kube-system", "kube-dns"), &wanted, &mut plan);
    }
    plan
}

/// A Service that every cluster has.
struct Wanted {
    /// One of each of its families.
    addresses: Vec<IpAddr>,
    policy: &'static str,
    labels: Value,
    ports: Value,
}

fn service(snapshot: &Snapshot, key: &ObjectKey, wanted: &Wanted, plan: &mut Plan) {
    let texts: Vec<String> = wanted.addresses.iter().map(ToString::to_string).collect();
    let Some(present) = snapshot.services.get(key) else {
        let families: Vec<&str> = wanted.addresses.iter().map(|ip| Family::of(*ip).name()).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "namespace": key.namespace, "name": key.name, "labels": wanted.labels },
            "spec": {
                "type": "ClusterIP", "clusterIP": texts.first(), "clusterIPs": texts,
                "ipFamilies": families, "ipFamilyPolicy": wanted.policy, "ports": wanted.ports,
            },
        });
        plan.writes.push(Write::Create { resource: &SERVICES, key: key.clone(), object });
        return;
    };
    if cluster_ips(present) != wanted.addresses {
        let what = if texts.len() > 1 { "cluster IPs" } else { "cluster IP" };
        let message = format!("must have {what} {}: delete it, and it is made anew", texts.join(" and "));
        plan.notices.push(Notice::warning(&SERVICES, key, &present.metadata, "WrongClusterIP", message));
    }
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let all = service.spec.as_ref().and_then(|spec| spec.cluster_ips.as_deref()).unwrap_or_default();
    all.iter().filter_map(|text| text.parse().ok()).collect()
}

fn api_endpoints(snapshot: &Snapshot, api_server: SocketAddr, plan: &mut Plan) {
    let key = ObjectKey::new("default", "kubernetes");
    let subset = EndpointSubset {
        addresses: Some(vec![EndpointAddress {
            ip: api_server.ip().to_string(),
            ..EndpointAddress::default()
        }]),
        ports: Some(vec![EndpointPort {
            name: Some("https".to_owned()),
            port: i32::from(api_server.port()),
            protocol: Some("TCP".to_owned()),
            app_protocol: None,
        }]),
        not_ready_addresses: None,
    };
    let mut object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        // Its slice is our own, see `api_slice`.
        "metadata": { "namespace": key.namespace, "name": key.name, "labels": { SKIP_MIRROR: "true" } },
        "subsets": [subset],
    });
    match snapshot.endpoints.get(&key) {
        None => plan.writes.push(Write::Create { resource: &ENDPOINTS, key, object }),
        Some(present) if present.subsets.as_deref() != Some(&[subset]) => {
            object["metadata"]["resourceVersion"] = json!(present.metadata.resource_version);
            plan.writes.push(Write::Replace { resource: &ENDPOINTS, key, object });
        }
        Some(_) => {}
    }
}

fn api_slice(snapshot: &Snapshot, api_server: SocketAddr, plan: &mut Plan) {
    let key = ObjectKey::new("default", "kubernetes");
    let family = Family::of(api_server.ip()).name();
    let wanted = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": key.namespace, "name": key.name,
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": family,
        "endpoints": [{ "addresses": [api_server.ip().to_string()], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "protocol": "TCP", "port": api_server.port() }],
    });
    match snapshot.endpoint_slices.get(&key) {
        None => plan.writes.push(Write::Create { resource: &ENDPOINT_SLICES, key, object: wanted }),
        // A slice stays of the family it was made for.
        Some(present) if present.address_type != family => {
            plan.writes.push(Write::delete(&ENDPOINT_SLICES, &key, &present.metadata));
        }
        Some(present) if !serves(present, api_server) => {
            let mut object = wanted;
            object["metadata"]["resourceVersion"] = json!(present.metadata.resource_version);
            plan.writes.push(Write::Replace { resource: &ENDPOINT_SLICES, key, object });
        }
        Some(_) => {}
    }
}

fn serves(slice: &EndpointSlice, api_server: SocketAddr) -> bool {
    let address = api_server.ip().to_string();
    let [endpoint] = slice.endpoints.as_slice() else { return false };
    let Some([port]) = slice.ports.as_deref() else { return false };
    *endpoint.addresses == [address.into_boxed_str()]
        && port.port == Some(i32::from(api_server.port()))
        && port.name.as_deref() == Some("https")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn an_empty_cluster_gets_what_every_cluster_has_and_then_nothing_more() {
        let config = ClusterConfig::default();
        let api: SocketAddr = "192.168.9.1:6443".parse().unwrap();
        let mut world = World::default();
        for _ in 0..3 {
            let plan = plan(&world.snapshot, &config, api);
            world.apply(&plan);
        }
        assert!(plan(&world.snapshot, &config, api).is_settled());
        assert_eq!(world.snapshot.namespaces.len(), 4);
        assert!(world.snapshot.service_cidrs.contains_key(&ObjectKey::cluster("kubernetes")));
        assert!(world.snapshot.ingress_classes.contains_key(&ObjectKey::cluster("minisvc")));
        let dns = &world.snapshot.services[&ObjectKey::new("kube-system", "kube-dns")];
        assert_eq!(cluster_ips(dns), cluster_ips_of(&["10.43.0.10"]));
        let moved: SocketAddr = "192.168.9.2:6443".parse().unwrap();
        let again = plan(&world.snapshot, &config, moved);
        assert!(matches!(again.writes.as_slice(), [Write::Replace { .. }, Write::Replace { .. }]));
    }

    fn cluster_ips_of(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn of_two_families_dns_has_both_and_the_api_the_primary_one() {
        let nets = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
        let config = ClusterConfig {
            cluster_cidrs: nets(["fd42::/56", "10.42.0.0/16"]),
            service_cidrs: nets(["fd43::/112", "10.43.0.0/16"]),
            ..ClusterConfig::default()
        };
        let api: SocketAddr = "[2001:db8::1]:6443".parse().unwrap();
        let mut world = World::default();
        for _ in 0..3 {
            world.apply(&plan(&world.snapshot, &config, api));
        }
        let settled = plan(&world.snapshot, &config, api);
        assert!(settled.is_settled() && settled.notices.is_empty(), "{settled:?}");
        let of = |namespace: &str, name: &str| {
            let service = &world.snapshot.services[&ObjectKey::new(namespace, name)];
            let spec = service.spec.clone().unwrap();
            (cluster_ips(service), spec.ip_families.unwrap().join(","), spec.ip_family_policy.unwrap())
        };
        let (policy, families) = ("PreferDualStack".to_owned(), "IPv6,IPv4".to_owned());
        let dns = (cluster_ips_of(&["fd43::a", "10.43.0.10"]), families, policy);
        assert_eq!(of("kube-system", "kube-dns"), dns);
        let single = (cluster_ips_of(&["fd43::1"]), "IPv6".to_owned(), "SingleStack".to_owned());
        assert_eq!(of("default", "kubernetes"), single);
        let slice = &world.snapshot.endpoint_slices[&ObjectKey::new("default", "kubernetes")];
        assert_eq!((slice.address_type.as_str(), &*slice.endpoints[0].addresses[0]), ("IPv6", "2001:db8::1"));
        let cidr = &world.snapshot.service_cidrs[&ObjectKey::cluster("kubernetes")];
        let cidrs = cidr.spec.as_ref().and_then(|spec| spec.cidrs.clone()).unwrap();
        assert_eq!(cidrs, ["fd43::/112", "10.43.0.0/16"]);
        let other = plan(&world.snapshot, &config, "192.0.2.1:6443".parse().unwrap());
        assert!(matches!(other.writes.as_slice(), [Write::Replace { .. }, Write::Delete { .. }]));
    }
}
