//! What is filled into a Service, taken over from its old version, or wiped when its type changes.
//!
//! Invariant: an update that leaves an allocated value out keeps it; one that changes the type away from where
//! the value belongs, and does not touch the value, loses it.
//! Source: kubernetes `pkg/apis/core/v1/defaults.go`, `pkg/registry/core/service/strategy.go`
//! (`patchAllocatedValues`, `dropTypeDependentFields`), `storage/alloc.go` (`initIPFamilyFields`).

use crate::value::{at, fill, int, items, items_mut, object_mut, set, text, unset};
use minisvc_apimachinery::{ClusterConfig, Family};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) const AFFINITY_SECONDS_DEFAULT: i64 = 10800;

/// Fills in what was left out.
pub(super) fn default(object: &mut Value) {
    object_mut(object, "spec");
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    fill(spec, "sessionAffinity", "None");
    fill(spec, "type", "ClusterIP");
    match text(spec, "/sessionAffinity") {
        "None" => {
            if let Some(map) = spec.as_object_mut() {
                map.remove("sessionAffinityConfig");
            }
        }
        "ClientIP" => {
            let seconds = "/sessionAffinityConfig/clientIP/timeoutSeconds";
            if int(spec, seconds).is_none() {
                let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS_DEFAULT}});
                if let Some(map) = spec.as_object_mut() {
                    map.insert("sessionAffinityConfig".to_owned(), config);
                }
            }
        }
        _ => {}
    }
    for port in items_mut(spec, "/ports") {
        fill(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        if port.get("targetPort") == Some(&json!(0)) {
            port["targetPort"] = Value::Null;
        }
        fill(port, "targetPort", number);
    }
    let kind = text(spec, "/type").to_owned();
    if is_externally_accessible(spec) {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    // Empty is not the same as left out, where it would say something else than nothing.
    if at(spec, "/internalTrafficPolicy").is_none()
        && ["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind.as_str())
    {
        fill(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
    for ingress in items_mut(object, "/status/loadBalancer/ingress") {
        if !text(ingress, "/ip").is_empty() && at(ingress, "/ipMode").is_none() {
            fill(ingress, "ipMode", "VIP");
        }
    }
}

/// Whether someone outside the cluster can use the Service, given its spec.
pub(super) fn is_externally_accessible(spec: &Value) -> bool {
    match text(spec, "/type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !items(spec, "/externalIPs").is_empty(),
        _ => false,
    }
}

/// Whether a type has virtual addresses.
pub(super) fn has_cluster_ip(object: &Value) -> bool {
    ["ClusterIP", "NodePort", "LoadBalancer"].contains(&text(object, "/spec/type"))
}

/// Whether a type has node ports.
pub(super) fn has_node_ports(object: &Value) -> bool {
    ["NodePort", "LoadBalancer"].contains(&text(object, "/spec/type"))
}

/// Whether each node answers health checks for the Service.
pub(super) fn has_health_check(object: &Value) -> bool {
    text(object, "/spec/type") == "LoadBalancer" && text(object, "/spec/externalTrafficPolicy") == "Local"
}

/// Whether the Service is without a virtual address by its own wish.
pub(super) fn is_headless(object: &Value) -> bool {
    text(object, "/spec/clusterIPs/0") == "None"
}

/// Whether the Service says itself which Pods are its endpoints.
pub(super) fn has_selector(object: &Value) -> bool {
    at(object, "/spec/selector").and_then(Value::as_object).is_some_and(|selector| !selector.is_empty())
}

fn set_cluster_ips(object: &mut Value, ips: &[Value]) {
    if ips.is_empty() {
        unset(object, "spec", "clusterIPs");
    } else {
        set(object, "spec", "clusterIPs", ips.to_vec());
    }
}

/// Lets `clusterIP` and `clusterIPs` agree when a client wrote only one of them.
pub(super) fn normalize(new: &mut Value, old: Option<&Value>) {
    for field in ["clusterIP", "externalName"] {
        if text(new, &format!("/spec/{field}")).is_empty() {
            unset(new, "spec", field);
        }
    }
    let one = text(new, "/spec/clusterIP").to_owned();
    let single: Vec<Value> = if one.is_empty() { Vec::new() } else { vec![json!(one)] };
    let Some(old) = old else {
        if items(new, "/spec/clusterIPs").is_empty() {
            set_cluster_ips(new, &single);
        }
        return;
    };
    if one != text(old, "/spec/clusterIP") && items(old, "/spec/clusterIPs") == items(new, "/spec/clusterIPs")
    {
        set_cluster_ips(new, &single);
    }
}

/// Takes over addresses and ports that the new version leaves out.
pub(super) fn take_over_allocated(new: &mut Value, old: &Value) {
    if has_cluster_ip(old) && has_cluster_ip(new) {
        let before = text(old, "/spec/clusterIP").to_owned();
        if text(new, "/spec/clusterIP").is_empty() && !before.is_empty() {
            set(new, "spec", "clusterIP", before.as_str());
        }
        if items(new, "/spec/clusterIPs").is_empty() && text(new, "/spec/clusterIP") == before {
            let ips = items(old, "/spec/clusterIPs").to_vec();
            set_cluster_ips(new, &ips);
        }
    }
    if has_node_ports(old) && has_node_ports(new) {
        let used = |object: &Value| -> BTreeSet<i64> {
            items(object, "/spec/ports").iter().filter_map(|port| int(port, "/nodePort")).collect()
        };
        let mut used: BTreeSet<i64> = used(old).intersection(&used(new)).copied().collect();
        for port in items_mut(new, "/spec/ports") {
            if int(port, "/nodePort").unwrap_or(0) != 0 {
                continue;
            }
            let same = items(old, "/spec/ports").iter().find(|was| text(was, "/name") == text(port, "/name"));
            let before = same.and_then(|was| int(was, "/nodePort")).unwrap_or(0);
            if before != 0 && used.insert(before) {
                port["nodePort"] = json!(before);
            }
        }
    }
    if has_health_check(old)
        && has_health_check(new)
        && int(new, "/spec/healthCheckNodePort").unwrap_or(0) == 0
        && let Some(port) = at(old, "/spec/healthCheckNodePort")
    {
        set(new, "spec", "healthCheckNodePort", port.clone());
    }
}

/// Wipes values that belonged to the old type and were left as they were.
pub(super) fn wipe_by_type(new: &mut Value, old: &Value) {
    let same =
        |new: &Value, field: &str| at(new, &format!("/spec/{field}")) == at(old, &format!("/spec/{field}"));
    let wipe = |new: &mut Value, field: &str| {
        if same(new, field) {
            unset(new, "spec", field);
        }
    };
    if has_cluster_ip(old) && !has_cluster_ip(new) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            wipe(new, field);
        }
    }
    if has_node_ports(old) && !has_node_ports(new) {
        let used = |object: &Value| -> BTreeSet<i64> {
            items(object, "/spec/ports").iter().filter_map(|port| int(port, "/nodePort")).collect()
        };
        if used(new).is_subset(&used(old)) {
            for map in items_mut(new, "/spec/ports").filter_map(Value::as_object_mut) {
                map.remove("nodePort");
            }
        }
    }
    if has_health_check(old) && !has_health_check(new) {
        wipe(new, "healthCheckNodePort");
    }
    let accessible = |object: &Value| object.get("spec").is_some_and(is_externally_accessible);
    if accessible(old) && !accessible(new) {
        wipe(new, "externalTrafficPolicy");
    }
    if text(old, "/spec/type") == "LoadBalancer" && text(new, "/spec/type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            wipe(new, field);
        }
        set(new, "status", "loadBalancer", json!({}));
    }
}

/// The families in which the cluster has service networks, the default one first.
pub(super) fn configured(cluster: &ClusterConfig) -> Vec<&'static str> {
    let mut families = Vec::new();
    for cidr in &cluster.service_cidrs {
        let family = Family::of_net(*cidr).name();
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

/// The family of an address, none if it is not one.
pub(super) fn family(ip: &str) -> Option<&'static str> {
    ip.parse().ok().map(|ip| Family::of(ip).name())
}

/// Sets `ipFamilyPolicy` and `ipFamilies` where they were left out. What does not fit is left for validation.
pub(super) fn settle_families(new: &mut Value, old: Option<&Value>, cluster: &ClusterConfig) {
    if !has_cluster_ip(new) {
        return;
    }
    let headless_without_selector = is_headless(new) && !has_selector(new);
    if at(new, "/spec/ipFamilyPolicy").is_none() {
        let policy = match old.map(|old| text(old, "/spec/ipFamilyPolicy")) {
            Some(policy) if !policy.is_empty() => policy.to_owned(),
            _ if headless_without_selector => "RequireDualStack".to_owned(),
            _ => "SingleStack".to_owned(),
        };
        set(new, "spec", "ipFamilyPolicy", policy);
    }
    let single = text(new, "/spec/ipFamilyPolicy") == "SingleStack";
    let (mut may_grow, mut may_infer) = (!single, true);
    if let Some(old) = old {
        let lists = |object: &Value, field: &str| items(object, &format!("/spec/{field}")).to_vec();
        let same = |new: &Value, field: &str| lists(new, field) == lists(old, field);
        // A cluster that has become dual-stack since gives nothing that nobody has asked for.
        let policies = [&*new, old].map(|object| text(object, "/spec/ipFamilyPolicy"));
        if policies == ["PreferDualStack"; 2]
            && text(new, "/spec/type") == text(old, "/spec/type")
            && same(new, "clusterIPs")
            && same(new, "ipFamilies")
        {
            return;
        }
        for field in ["clusterIPs", "ipFamilies"] {
            let given = lists(new, field);
            if single && same(new, field) && given.len() > 1 {
                set(new, "spec", field, given[..1].to_vec());
            }
            // Fewer than before: validation says how to ask for that.
            let fewer = !given.is_empty() && given.len() < lists(old, field).len();
            may_grow &= !fewer;
            may_infer &= !fewer || field != "ipFamilies";
        }
    }
    let known = configured(cluster);
    let mut families: Vec<Value> = items(new, "/spec/ipFamilies").to_vec();
    for ip in items(new, "/spec/clusterIPs").iter().skip(families.len()).filter(|_| may_infer) {
        match family(ip.as_str().unwrap_or_default()) {
            // A second family is for validation to wonder about, if only one is wanted.
            Some(_) if single && !families.is_empty() => break,
            Some(family) if known.contains(&family) && !families.contains(&json!(family)) => {
                families.push(json!(family));
            }
            _ => break,
        }
    }
    // An address of a family that the cluster does not have gets no family: validation names the address.
    let given =
        items(new, "/spec/clusterIPs").iter().filter_map(Value::as_str).any(|ip| family(ip).is_some());
    if families.is_empty()
        && !given
        && let Some(first) = known.first()
    {
        families.push(json!(first));
    }
    // A headless Service without selector may name families that the cluster has no virtual addresses for.
    let all: &[&str] = if headless_without_selector { &["IPv4", "IPv6"] } else { &known };
    if may_grow && families.len() == 1 {
        families.extend(all.iter().find(|family| families[0] != **family).map(|family| json!(family)));
    }
    if let Some(spec) = object_mut(new, "spec") {
        spec.insert("ipFamilies".to_owned(), Value::Array(families));
    }
}
