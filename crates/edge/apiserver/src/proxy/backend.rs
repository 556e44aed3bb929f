//! Whom `pods/proxy` and `services/proxy` mean: the address of one Pod, and a port.
//!
//! In: the names of a URL, as `[SCHEME:]NAME[:PORT]`. Out: a socket address and what is spoken there. Source: kubernetes
//! `pkg/registry/core/{pod,service}/…/ResourceLocation`. Invariants: the address is the one a Pod has in its
//! status, within the cluster CIDRs and its node's podCIDRs, or its node's for a Pod in the node's network, never loopback or
//! link-local; nothing is looked up by name, and the
//! address that was checked is the one that is dialled (CVE-2020-8555, CVE-2020-8562, CVE-2022-3294).

use crate::path::Target;
use ipnet::IpNet;
use minisvc_apimachinery::{
    ClusterConfig, ObjectKey, Status,
    resource::{ENDPOINT_SLICES, NODES, PODS, SERVICES},
    storage::Read,
};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "/metadata/labels/kubernetes.io~1service-name";

/// What is spoken to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    pub(super) scheme: Scheme,
}

/// `[SCHEME:]NAME[:PORT]`.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    scheme: Scheme,
    name: &'a str,
    port: &'a str,
}

fn named<'a>(kind: &str, word: &'a str) -> Result<Named<'a>, Status> {
    let parts: Vec<&str> = word.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] if !port.is_empty() => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return Err(Status::bad_request(format!("invalid {kind} request {word:?}"))),
    };
    match scheme {
        "" | "http" if !name.is_empty() => Ok(Named { scheme: Scheme::Http, name, port }),
        "https" if !name.is_empty() => Ok(Named { scheme: Scheme::Https, name, port }),
        _ => Err(Status::bad_request(format!("invalid {kind} request {word:?}"))),
    }
}

/// The backend of a `proxy` request to a Pod or a Service. `pick` chooses one of so many.
///
/// # Errors
/// In Kubernetes' words: 400 for a bad name or address, 404 without the object, 503 without a ready endpoint.
pub(super) fn find(
    view: &dyn Read,
    cluster: &ClusterConfig,
    target: &Target,
    pick: impl Fn(usize) -> usize,
) -> Result<Backend, Status> {
    match target.resource.kind {
        "Pod" => pod(view, cluster, target),
        _ => service(view, cluster, target, pick),
    }
}

fn object(stored: &minisvc_apimachinery::storage::Stored) -> Result<Value, Status> {
    serde_json::from_slice(&stored.value).map_err(Status::internal)
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

fn pod(view: &dyn Read, cluster: &ClusterConfig, target: &Target) -> Result<Backend, Status> {
    let Named { scheme, name, port } = named("pod", &target.name)?;
    let stored = view.get(&PODS.storage_key(&ObjectKey::new(&*target.namespace, name)));
    let pod = object(&*stored.ok_or_else(|| Status::not_found(&PODS, name))?)?;
    let first = || {
        let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
        let ports = containers.into_iter().flatten().filter_map(|container| container.pointer("/ports/0"));
        let port = ports.filter_map(|port| port.get("containerPort")?.as_u64()).next();
        port.map_or(Some(80), |port| u16::try_from(port).ok())
    };
    let port = if port.is_empty() { first() } else { number(port) };
    let port =
        port.ok_or_else(|| Status::bad_request(format!("invalid pod request {:?}: its port", target.name)))?;
    let address = pod.pointer("/status/podIP").and_then(Value::as_str).unwrap_or_default();
    let address = address.parse().ok().filter(|address| is_allowed(view, cluster, &pod, *address));
    let address = address.ok_or_else(|| Status::bad_request("address not allowed"))?;
    Ok(Backend { address: SocketAddr::new(address, port), scheme })
}

/// Whether this is an address that the cluster has given to this Pod, or its node's, if it is in the node's network.
fn is_allowed(view: &dyn Read, cluster: &ClusterConfig, pod: &Value, address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_loopback() || link_local || address.is_unspecified() || address.is_multicast() {
        return false;
    }
    // A node says the addresses of its Pods; it may not lead callers to other networks, nor to another's Pods.
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    let node = view.get(&NODES.storage_key(&ObjectKey::cluster(node)));
    let node: Option<Value> = node.and_then(|stored| serde_json::from_slice(&stored.value).ok());
    if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        let known = node.as_ref().and_then(|node| node.pointer("/status/addresses")?.as_array());
        let internal = known.into_iter().flatten().filter(|known| known["type"] == "InternalIP");
        let mut own = internal.filter_map(|known| known["address"].as_str()?.parse::<IpAddr>().ok());
        return own.any(|own| own == address);
    }
    let nets = node.as_ref().and_then(|node| node.pointer("/spec/podCIDRs")?.as_array());
    let mut nets = nets.into_iter().flatten().filter_map(|net| net.as_str()?.parse::<IpNet>().ok());
    cluster.cluster_cidrs.iter().any(|net| net.contains(&address)) && nets.any(|net| net.contains(&address))
}

fn service(
    view: &dyn Read,
    cluster: &ClusterConfig,
    target: &Target,
    pick: impl Fn(usize) -> usize,
) -> Result<Backend, Status> {
    let Named { scheme, name, port } = named("service", &target.name)?;
    let stored = view.get(&SERVICES.storage_key(&ObjectKey::new(&*target.namespace, name)));
    let service = object(&*stored.ok_or_else(|| Status::not_found(&SERVICES, name))?)?;
    let ports =
        service.pointer("/spec/ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let name_of = |port: &Value| port.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let wanted = match number(port) {
        None => port.to_owned(),
        Some(number) => {
            let found =
                ports.iter().find(|port| port.get("port").and_then(Value::as_u64) == Some(number.into()));
            found.map(name_of).ok_or_else(|| {
                Status::unavailable(format!("no service port {number} found for service {name:?}"))
            })?
        }
    };
    let backends = endpoints(view, cluster, &target.namespace, name, &wanted);
    let chosen = (!backends.is_empty()).then(|| backends.get(pick(backends.len())).copied()).flatten();
    let address =
        chosen.ok_or_else(|| Status::unavailable(format!("no endpoints available for service {name:?}")))?;
    Ok(Backend { address, scheme })
}

/// The ready endpoints of a Service's port that are Pods, at those Pods' own addresses.
fn endpoints(
    view: &dyn Read,
    cluster: &ClusterConfig,
    namespace: &str,
    service: &str,
    port: &str,
) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    view.scan(&ENDPOINT_SLICES.storage_prefix(Some(namespace)), None, &mut |_, stored| {
        // Most slices are another Service's: the label is looked for before anything else.
        let Ok(slice) = serde_json::from_slice::<Value>(&stored.value) else { return true };
        if slice.pointer(SERVICE_NAME).and_then(Value::as_str) != Some(service) {
            return true;
        }
        let ports = slice.get("ports").and_then(Value::as_array).into_iter().flatten();
        let number = ports
            .filter(|of| of.get("name").and_then(Value::as_str).unwrap_or_default() == port)
            .filter_map(|of| u16::try_from(of.get("port")?.as_u64()?).ok())
            .next();
        let Some(number) = number else { return true };
        for endpoint in slice.get("endpoints").and_then(Value::as_array).into_iter().flatten() {
            if endpoint.pointer("/conditions/ready").and_then(Value::as_bool) == Some(false) {
                continue;
            }
            if let Some(address) = address_of(view, cluster, namespace, endpoint) {
                found.push(SocketAddr::new(address, number));
            }
        }
        true
    });
    found
}

/// The address of an endpoint, if it is that of the Pod that it names.
fn address_of(view: &dyn Read, cluster: &ClusterConfig, namespace: &str, endpoint: &Value) -> Option<IpAddr> {
    let address = endpoint.pointer("/addresses/0")?.as_str()?;
    if endpoint.pointer("/targetRef/kind")?.as_str()? != "Pod" {
        return None;
    }
    let name = endpoint.pointer("/targetRef/name")?.as_str()?;
    let stored = view.get(&PODS.storage_key(&ObjectKey::new(namespace, name)))?;
    let pod: Value = serde_json::from_slice(&stored.value).ok()?;
    let parsed = |text: &str| text.parse::<IpAddr>().ok();
    let address = parsed(address)?;
    let mut own =
        pod.pointer("/status/podIPs")?.as_array()?.iter().filter_map(|ip| parsed(ip["ip"].as_str()?));
    (own.any(|ip| ip == address) && is_allowed(view, cluster, &pod, address)).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::storage::Stored;
    use serde_json::json;
    use std::{collections::BTreeMap, sync::Arc};

    /// Objects by storage key.
    struct Objects(BTreeMap<String, Arc<Stored>>);

    impl Read for Objects {
        fn revision(&self) -> u64 {
            1
        }

        fn get(&self, key: &str) -> Option<Arc<Stored>> {
            self.0.get(key).cloned()
        }

        fn scan(&self, prefix: &str, _: Option<&str>, visit: &mut dyn FnMut(&str, &Arc<Stored>) -> bool) {
            let mut inside = self.0.iter().filter(|(key, _)| key.starts_with(prefix));
            let _all = inside.all(|(key, stored)| visit(key, stored));
        }
    }

    #[test]
    fn a_service_of_either_family_leads_to_its_pods_addresses_of_that_family() {
        let pod_ips = json!([{ "ip": "10.42.1.2" }, { "ip": "fd42:0:0:1::2" }]);
        let slice = |name: &str, addresses: [&str; 2]| {
            let target = json!({ "kind": "Pod", "name": "p" });
            let endpoints = addresses.map(|ip| json!({ "addresses": [ip], "targetRef": target }));
            let object = json!({ "metadata": { "labels": { "kubernetes.io/service-name": "web" } },
                "ports": [{ "name": "", "port": 8080 }], "endpoints": endpoints });
            (ENDPOINT_SLICES.storage_key(&ObjectKey::new("default", name)), object)
        };
        let objects = [
            (
                NODES.storage_key(&ObjectKey::cluster("n")),
                json!({ "spec": { "podCIDR": "10.42.1.0/24",
                "podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"] },
                "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] } }),
            ),
            (
                PODS.storage_key(&ObjectKey::new("default", "p")),
                json!({ "spec": { "nodeName": "n" },
                "status": { "podIP": "10.42.1.2", "podIPs": pod_ips } }),
            ),
            (
                PODS.storage_key(&ObjectKey::new("default", "shared")),
                json!({ "spec": { "nodeName": "n", "hostNetwork": true },
                "status": { "podIP": "192.0.2.1", "podIPs": [{ "ip": "192.0.2.1" }, { "ip": "10.42.1.9" }] } }),
            ),
            slice("four", ["10.42.1.2", "10.42.1.3"]),
            slice("six", ["fd42:0:0:1:0::2", "fd42:0:0:2::2"]),
        ];
        let stored = |object: Value| Arc::new(Stored { revision: 1, value: object.to_string().into() });
        let view = Objects(objects.into_iter().map(|(key, object)| (key, stored(object))).collect());
        let nets = ["10.42.0.0/16", "fd42::/56"].map(|net| net.parse().unwrap()).to_vec();
        let cluster = ClusterConfig { cluster_cidrs: nets, ..ClusterConfig::default() };
        let found = endpoints(&view, &cluster, "default", "web", "");
        let expected = ["10.42.1.2:8080", "[fd42:0:0:1::2]:8080"].map(|text| text.parse().unwrap());
        assert_eq!(found, expected);
        // A Pod in its node's network has the node's address, and no other.
        let shared = |address: &str| {
            let target = json!({ "kind": "Pod", "name": "shared" });
            let endpoint = json!({ "addresses": [address], "targetRef": target });
            address_of(&view, &cluster, "default", &endpoint)
        };
        assert_eq!((shared("192.0.2.1"), shared("10.42.1.9")), ("192.0.2.1".parse().ok(), None));
    }

    #[test]
    fn names_have_a_scheme_and_a_port_or_not() {
        let of = |word| {
            let named = named("service", word).map_err(|status| status.message)?;
            Ok((named.scheme, named.name.to_owned(), named.port.to_owned()))
        };
        let is = |name: &str, port: &str| Ok((Scheme::Http, name.to_owned(), port.to_owned()));
        assert_eq!(of("web"), is("web", ""));
        assert_eq!(of("web:80"), is("web", "80"));
        assert_eq!(of("http:web:http"), is("web", "http"));
        assert_eq!(of("http:web:"), is("web", ""));
        for (word, port) in [("https:web:443", "443"), ("https:web:", "")] {
            assert_eq!(of(word), Ok((Scheme::Https, "web".to_owned(), port.to_owned())));
        }
        for bad in ["web:", ":80", "ftp:web:80", "a:b:c:d", "::", "https::443", "HTTPS:web:443"] {
            assert_eq!(of(bad), Err(format!("invalid service request {bad:?}")));
        }
    }
}
