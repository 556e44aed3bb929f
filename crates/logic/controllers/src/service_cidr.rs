//! Whether addresses may come from a ServiceCIDR, and letting it go once none depends on it (source: kubernetes
//! pkg/controller/servicecidrs).
//!
//! Invariant: the API server refuses to let one go while addresses depend on it, so a snapshot that is late does no harm.

use crate::plan::{Plan, Write};
use jiff::Timestamp;
use k8s_openapi::{
    api::networking::v1::ServiceCIDR,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use minisvc_apimachinery::{
    ClusterConfig, ObjectKey, Snapshot,
    resource::SERVICE_CIDRS,
    service_cidr::{DEFAULT_NAME, FINALIZER, Networks},
};
use serde_json::json;
use std::net::IpAddr;

const READY: &str = "Ready";

/// Plans every ServiceCIDR's condition, and the end of those that may go.
pub fn plan(snapshot: &Snapshot, cluster: &ClusterConfig, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let networks = Networks::of(cluster, &snapshot.service_cidrs);
    for (key, cidr) in &snapshot.service_cidrs {
        if cidr.metadata.deletion_timestamp.is_none() {
            let message = if key.name == DEFAULT_NAME {
                "Kubernetes default Service CIDR is ready"
            } else {
                "Kubernetes Service CIDR is ready"
            };
            plan.writes.extend(condition(key, cidr, ("True", "", message), now));
        } else if addresses(snapshot).any(|address| networks.depends(address, &key.name)) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            plan.writes.extend(condition(key, cidr, ("False", "Terminating", message), now));
        } else {
            plan.writes.extend(release(key, cidr));
        }
    }
    plan
}

/// The virtual addresses of all Services.
fn addresses(snapshot: &Snapshot) -> impl Iterator<Item = IpAddr> {
    let specs = snapshot.services.values().filter_map(|service| service.spec.as_ref());
    specs.filter_map(|spec| spec.cluster_ips.as_deref()).flatten().filter_map(|text| text.parse().ok())
}

fn condition(
    key: &ObjectKey,
    cidr: &ServiceCIDR,
    (status, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> Option<Write> {
    let present = cidr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let old = present.iter().find(|condition| condition.type_ == READY);
    if old.is_some_and(|old| old.status == status && old.reason == reason) {
        return None;
    }
    let ready = Condition {
        type_: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(now),
        observed_generation: None,
    };
    let mut conditions: Vec<&Condition> = present.iter().filter(|c| c.type_ != READY).collect();
    conditions.push(&ready);
    Some(Write::status(&SERVICE_CIDRS, key, &cidr.metadata, json!({ "conditions": conditions })))
}

fn release(key: &ObjectKey, cidr: &ServiceCIDR) -> Option<Write> {
    let held = cidr.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    held.then(|| Write::lift(&SERVICE_CIDRS, key, &cidr.metadata, FINALIZER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use minisvc_apimachinery::resource::SERVICES;
    use serde_json::Value;

    fn ready(world: &mut World, name: &str) -> Vec<Value> {
        let key = ObjectKey::cluster(name);
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        for _ in 0..2 {
            world.apply(&plan(&world.snapshot, &ClusterConfig::default(), now));
        }
        assert!(plan(&world.snapshot, &ClusterConfig::default(), now).is_settled());
        let object = world.get(&SERVICE_CIDRS, &key).unwrap();
        let fields =
            ["status", "reason", "message"].map(|field| object["status"]["conditions"][0][field].clone());
        [fields.to_vec(), vec![object["metadata"]["finalizers"].clone()]].concat()
    }

    #[test]
    fn one_is_ready_until_it_is_asked_to_go_and_goes_when_nothing_depends_on_it() {
        let mut world = World::default();
        let mut more = json!({
            "metadata": { "name": "more", "finalizers": [FINALIZER, "a/b"] }, "spec": { "cidrs": ["10.50.0.0/24"] }
        });
        world.add(&SERVICE_CIDRS, more.clone());
        world.service("web", "web");
        assert_eq!(ready(&mut world, "more")[..3], ["True", "", "Kubernetes Service CIDR is ready"]);
        let service = ObjectKey::new("default", "held");
        world.add(
            &SERVICES,
            json!({
                "metadata": { "namespace": "default", "name": "held" },
                "spec": { "clusterIPs": ["10.50.0.7"], "ports": [{ "port": 80 }] },
            }),
        );
        more["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
        world.add(&SERVICE_CIDRS, more);
        assert_eq!(ready(&mut world, "more")[..2], ["False", "Terminating"]);
        world.remove(&SERVICES, &service);
        assert_eq!(ready(&mut world, "more")[3], json!(["a/b"]), "the others' finalizers stay");
    }
}
