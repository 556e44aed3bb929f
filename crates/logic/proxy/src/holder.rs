//! Which node answers for a load balancer's address.
//!
//! In: the snapshot. Out: the same node on every node, by rendezvous hashing: when a node comes or goes, only the
//! addresses that it wins or held move.

use crate::service::load_balancer_ips;
use k8s_openapi::api::core::v1::{Node, Service};
use minisvc_apimachinery::{
    ObjectKey, Snapshot,
    endpoint_slices::Endpoint,
    service_changes::{ServiceChanges, service_of},
    snapshot::Objects,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Nodes with this label hold addresses only if no other node can.
pub const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The load balancer addresses that a node must hold, followed from snapshot to snapshot.
///
/// Invariant: after any sequence of updates they are those of the last snapshot; changes of other Services cost nothing.
#[derive(Clone, Debug)]
pub struct Held {
    node_name: String,
    nodes: Objects<Node>,
    changes: ServiceChanges,
    /// The Services of type LoadBalancer.
    balanced: BTreeSet<ObjectKey>,
    addresses: BTreeSet<IpAddr>,
}

impl Held {
    /// None yet.
    pub fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            nodes: Objects::new(),
            changes: ServiceChanges::default(),
            balanced: BTreeSet::new(),
            addresses: BTreeSet::new(),
        }
    }

    /// Takes in a snapshot; whether that may have changed the addresses.
    pub fn update(&mut self, snapshot: &Snapshot) -> bool {
        let mut changed = !self.nodes.ptr_eq(&snapshot.nodes);
        self.nodes = snapshot.nodes.clone();
        for key in self.changes.take_in(snapshot) {
            let is_balanced = snapshot.services.get(&key).is_some_and(|service| is_balanced(service));
            let was_balanced =
                if is_balanced { !self.balanced.insert(key) } else { self.balanced.remove(&key) };
            changed |= is_balanced || was_balanced;
        }
        if changed {
            let holders = Holders::of(snapshot, &self.balanced);
            let mine = |address: &&IpAddr| holders.holder(**address).as_deref() == Some(&self.node_name);
            self.addresses = holders.services.keys().filter(mine).copied().collect();
        }
        changed
    }

    /// The addresses, sorted.
    pub fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }
}

/// The load balancer addresses that a node must hold, sorted.
pub fn load_balancer_addresses_of(node_name: &str, snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let mut held = Held::new(node_name);
    held.update(snapshot);
    held.addresses
}

/// The node that holds an address; None if no Service has it, or no Ready node may answer for it.
pub fn lb_holder(address: IpAddr, snapshot: &Snapshot) -> Option<String> {
    let balanced = snapshot.services.iter().filter(|(_, service)| is_balanced(service));
    Holders::of(snapshot, &balanced.map(|(key, _)| key.clone()).collect()).holder(address)
}

fn is_balanced(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    kind == Some("LoadBalancer")
}

/// Who may answer for which address.
struct Holders<'a> {
    /// The Services of an address.
    services: BTreeMap<IpAddr, Vec<&'a ObjectKey>>,
    /// Nodes that are ready, and whether they hold addresses only if no other node can.
    ready: Vec<(&'a str, bool)>,
    /// Of Services of policy Local: the nodes with an endpoint that is ready, or still serves.
    with_endpoints: BTreeMap<ObjectKey, BTreeSet<&'a str>>,
}

impl<'a> Holders<'a> {
    fn of(snapshot: &'a Snapshot, balanced: &BTreeSet<ObjectKey>) -> Self {
        let mut services: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut with_endpoints = BTreeMap::new();
        for key in balanced {
            let Some((key, service)) = snapshot.services.get_key_value(key) else { continue };
            let v4 = load_balancer_ips::<Ipv4Addr>(service, &mut Vec::new()).into_iter().map(IpAddr::from);
            let v6 = load_balancer_ips::<Ipv6Addr>(service, &mut Vec::new()).into_iter().map(IpAddr::from);
            for address in v4.chain(v6) {
                services.entry(address).or_default().push(key);
            }
            let policy = service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref());
            if policy == Some("Local") {
                with_endpoints.insert(key.clone(), BTreeSet::new());
            }
        }
        if !with_endpoints.is_empty() {
            for slice in snapshot.endpoint_slices.values() {
                let nodes = service_of(slice).and_then(|service| with_endpoints.get_mut(&service));
                if let Some(nodes) = nodes {
                    nodes.extend(slice.endpoints.iter().filter(|end| answers(end)).filter_map(node_of));
                }
            }
        }
        let ready = snapshot.nodes.iter().filter(|(_, node)| is_ready(node));
        let ready = ready.map(|(key, node)| (key.name.as_str(), is_excluded(node))).collect();
        Self { services, ready, with_endpoints }
    }

    fn holder(&self, address: IpAddr) -> Option<String> {
        let services = self.services.get(&address)?;
        let local = || services.iter().filter_map(|key| self.with_endpoints.get(*key));
        // Where there is no endpoint anywhere, somebody must still refuse the clients.
        let local = || local().filter(|nodes| !nodes.is_empty());
        let able = || self.ready.iter().filter(|(name, _)| local().all(|nodes| nodes.contains(name)));
        let only_excluded = able().all(|(_, excluded)| *excluded);
        able()
            .filter(|(_, excluded)| only_excluded || !excluded)
            .max_by_key(|(name, _)| (score(address, name), *name))
            .map(|(name, _)| (*name).to_owned())
    }
}

fn node_of(endpoint: &Endpoint) -> Option<&str> {
    endpoint.node_name.as_deref()
}

/// Whether an endpoint is ready, or still serves.
fn answers(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    ready || conditions.and_then(|c| c.serving).unwrap_or(false)
}

/// Whether a node says it is ready.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_excluded(node: &Node) -> bool {
    node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDE_LABEL))
}

/// FNV-1a with a final mix: the same on every node and in every version.
fn score(address: IpAddr, node: &str) -> u64 {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let bytes = octets.into_iter().chain(node.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ mixed >> 33
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn node(ready: bool, excluded: bool) -> Value {
        let labels = if excluded { json!({ EXCLUDE_LABEL: "" }) } else { json!({}) };
        let status = if ready { "True" } else { "Unknown" };
        json!({ "metadata": { "labels": labels }, "status": { "conditions": [{ "type": "Ready", "status": status }] } })
    }

    fn service(kind: &str, policy: &str, address: u8) -> Value {
        let ingress = json!([{ "ip": format!("192.0.2.{address}") }]);
        json!({ "spec": { "type": kind, "externalTrafficPolicy": policy }, "status": { "loadBalancer": { "ingress": ingress } } })
    }

    fn slice(service: u8, node: u8, ready: bool) -> Value {
        let end = json!({ "addresses": ["10.42.0.1"], "nodeName": format!("n{node}"), "conditions": { "ready": ready } });
        let labels = json!({ "kubernetes.io/service-name": format!("s{service}") });
        json!({ "metadata": { "namespace": "ns", "labels": labels }, "addressType": "IPv4", "endpoints": [end] })
    }

    /// One change of one object: it comes, becomes another, or goes.
    fn change() -> impl Strategy<Value = (u8, u8, Option<Value>)> {
        let flag = any::<bool>;
        let node = (flag(), flag()).prop_map(|(ready, excluded)| (0, node(ready, excluded)));
        let kinds = prop::sample::select(vec!["ClusterIP", "LoadBalancer"]);
        let policies = prop::sample::select(vec!["Cluster", "Local"]);
        let service = (kinds, policies, 1..3_u8).prop_map(|(kind, policy, n)| (1, service(kind, policy, n)));
        let slice = (0..3_u8, 0..3_u8, flag()).prop_map(|(of, node, ready)| (2, slice(of, node, ready)));
        let object = prop_oneof![node, service, slice];
        (object, 0..3_u8, prop::bool::weighted(0.8))
            .prop_map(|((kind, object), name, there)| (kind, name, there.then_some(object)))
    }

    proptest! {
        #[test]
        fn followed_step_by_step_it_is_what_the_last_snapshot_says(
            changes in prop::collection::vec(change(), 1..40),
        ) {
            use minisvc_apimachinery::resource::{ENDPOINT_SLICES, NODES, SERVICES};
            let mut snapshot = Snapshot::default();
            let mut held: Vec<Held> = (0..3).map(|n| Held::new(&format!("n{n}"))).collect();
            for (kind, name, object) in changes {
                let (kind, key) = match kind {
                    0 => (&NODES, ObjectKey::cluster(format!("n{name}"))),
                    1 => (&SERVICES, ObjectKey::new("ns", format!("s{name}"))),
                    _ => (&ENDPOINT_SLICES, ObjectKey::new("ns", format!("x{name}"))),
                };
                snapshot.set(kind, key, object).unwrap();
                for held in &mut held {
                    held.update(&snapshot);
                    for address in [1, 2].map(|n| IpAddr::from([192, 0, 2, n])) {
                        let holder = lb_holder(address, &snapshot);
                        prop_assert_eq!(
                            held.addresses().contains(&address),
                            holder.as_deref() == Some(&*held.node_name)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_others_do_is_no_reason_to_look_again() {
        let mut snapshot = Snapshot::default();
        let mut put = |name: &str, object: Value| {
            let service = Arc::new(serde_json::from_value(object).unwrap());
            snapshot.services.insert(ObjectKey::new("ns", name), service);
            snapshot.clone()
        };
        let mut held = Held::new("n1");
        held.update(&put("s1", service("LoadBalancer", "Cluster", 1)));
        assert!(!held.update(&put("s2", service("ClusterIP", "Cluster", 2))));
        assert!(held.update(&put("s1", service("LoadBalancer", "Cluster", 2))));
        assert!(held.update(&put("s1", service("ClusterIP", "Cluster", 2))));
        assert!(!held.update(&snapshot));
    }
}
