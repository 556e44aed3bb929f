//! What every cluster has.
//!
//! Namespaces `default`, `kube-system`, `kube-public`, `kube-node-lease`; Service `default/kubernetes` (the API server, by
//! hand-made Endpoints and a hand-made EndpointSlice) and `kube-system/kube-dns` (cluster DNS; answered on each node, so without endpoints);
//! IngressClass `minisvc`, of what the nodes serve Ingresses by; ServiceCIDR `kubernetes`, of the cluster's own networks.

use crate::{
    endpoint_slice_mirroring::SKIP_MIRROR,
    plan::{Notice, Plan, Write},
};
use k8s_openapi::api::{
    core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Service},
    discovery::v1::EndpointSlice,
};
use minisvc_apimachinery::{
    ClusterConfig, ObjectKey, Snapshot,
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
            let ports =
                json!([{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": api_server.port() }]);
            let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
            service(snapshot, &ObjectKey::new("default", "kubernetes"), address, &labels, &ports, &mut plan);
        }
        api_endpoints(snapshot, api_server, &mut plan);
        api_slice(snapshot, api_server, &mut plan);
    }
    if exists("kube-system")
        && let Some(address) = cluster.dns_address()
    {
        let ports = json!([
            { "name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53 },
            { "name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53 },
        ]);
        let labels = json!({ "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS" });
        service(snapshot, &ObjectKey::new("kube-system", "kube-dns"), address, &labels, &ports, &mut plan);
    }
    plan
}

fn service(
    snapshot: &Snapshot,
    key: &ObjectKey,
    address: IpAddr,
    labels: &Value,
    ports: &Value,
    plan: &mut Plan,
) {
    let text = address.to_string();
    let Some(present) = snapshot.services.get(key) else {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "namespace": key.namespace, "name": key.name, "labels": labels },
            "spec": { "type": "ClusterIP", "clusterIP": text, "clusterIPs": [text], "ports": ports },
        });
        plan.writes.push(Write::Create { resource: &SERVICES, key: key.clone(), object });
        return;
    };
    if cluster_ip(present) != Some(text.as_str()) {
        let message = format!("must have cluster IP {text}: delete it, and it is made anew");
        plan.notices.push(Notice::warning(&SERVICES, key, &present.metadata, "WrongClusterIP", message));
    }
}

fn cluster_ip(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.cluster_ip.as_deref()
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
    let wanted = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": key.namespace, "name": key.name,
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": if api_server.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [api_server.ip().to_string()], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "protocol": "TCP", "port": api_server.port() }],
    });
    match snapshot.endpoint_slices.get(&key) {
        None => plan.writes.push(Write::Create { resource: &ENDPOINT_SLICES, key, object: wanted }),
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
    endpoint.addresses == [address]
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
        assert_eq!(cluster_ip(dns), Some("10.43.0.10"));
        let moved: SocketAddr = "192.168.9.2:6443".parse().unwrap();
        let again = plan(&world.snapshot, &config, moved);
        assert!(matches!(again.writes.as_slice(), [Write::Replace { .. }, Write::Replace { .. }]));
    }
}
