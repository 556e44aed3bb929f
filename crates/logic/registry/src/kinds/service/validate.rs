//! What a Service may say, in the words of kubernetes `ValidateService`.

use super::fields::{
    configured, family, has_cluster_ip, has_health_check, has_node_ports, is_externally_accessible,
    is_headless,
};
use crate::{
    meta, syntax,
    value::{at, int, items, text},
};
use minisvc_apimachinery::{Cause, ClusterConfig};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::IpAddr};

const AFFINITY_SECONDS_MAX: i64 = 86400;
const PORTS_MAX: usize = 1000;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

/// Faults of a Service by itself, on this cluster. Values still to be allocated may be absent.
pub(super) fn service(object: &Value, cluster: &ClusterConfig) -> Vec<Cause> {
    let mut causes = Vec::new();
    by_type(object, &mut causes);
    ports(object, &mut causes);
    meta::labels(object, "/spec/selector", "spec.selector", &mut causes);
    affinity(object, &mut causes);
    if has_cluster_ip(object) {
        cluster_ips(object, &mut causes);
        if causes.is_empty() {
            families(object, cluster, &mut causes);
        }
    }
    for (i, ip) in items(object, "/spec/externalIPs").iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        let faults = match ip.parse::<IpAddr>() {
            Ok(address) => syntax::ordinary_ip(address),
            Err(_) => syntax::ip(ip),
        };
        causes.extend(faults.iter().map(|fault| Cause::invalid(format!("spec.externalIPs[{i}]"), ip, fault)));
    }
    let kind = text(object, "/spec/type");
    if !TYPES.contains(&kind) {
        causes.push(Cause::not_supported("spec.type", kind, &TYPES));
    }
    load_balancer(object, &mut causes);
    traffic(object, &mut causes);
    causes
}

fn by_type(object: &Value, causes: &mut Vec<Cause>) {
    let kind = text(object, "/spec/type");
    if items(object, "/spec/ports").is_empty() && !is_headless(object) && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    if has_node_ports(object) && is_headless(object) {
        let words = format!("may not be set to 'None' for {kind} services");
        causes.push(Cause::invalid("spec.clusterIPs[0]", "None", &words));
    }
    if kind != "ExternalName" {
        return;
    }
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let given = at(object, &format!("/spec/{field}"));
        let empty = given.is_none_or(|value| value == "" || value.as_array().is_some_and(Vec::is_empty));
        if !empty {
            causes
                .push(Cause::forbidden(format!("spec.{field}"), "may not be set for ExternalName services"));
        }
    }
    let target = text(object, "/spec/externalName");
    let target = target.strip_suffix('.').unwrap_or(target);
    if target.is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    } else {
        for fault in syntax::subdomain(target) {
            causes.push(Cause::invalid("spec.externalName", target, &fault));
        }
    }
}

fn ports(object: &Value, causes: &mut Vec<Cause>) {
    let ports = items(object, "/spec/ports");
    if ports.len() > PORTS_MAX {
        causes.push(Cause::too_many("spec.ports", ports.len(), PORTS_MAX));
        return;
    }
    let (mut names, mut seen, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        let name = text(port, "/name");
        if name.is_empty() && ports.len() > 1 {
            causes.push(Cause::required(format!("{path}.name"), ""));
        } else if !name.is_empty() {
            for fault in syntax::label(name) {
                causes.push(Cause::invalid(format!("{path}.name"), name, &fault));
            }
            if !names.insert(name) {
                causes.push(Cause::duplicate(format!("{path}.name"), name));
            }
        }
        one_port(object, port, &path, causes);
        let (protocol, number) = (text(port, "/protocol"), int(port, "/port").unwrap_or(0));
        let node_port = int(port, "/nodePort").unwrap_or(0);
        if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            causes.push(Cause::duplicate(format!("{path}.nodePort"), node_port));
        }
        if !seen.insert((protocol, number)) {
            causes.push(Cause::duplicate(path, json!({"port": number, "protocol": protocol})));
        }
    }
}

fn one_port(object: &Value, port: &Value, path: &str, causes: &mut Vec<Cause>) {
    let number = int(port, "/port").unwrap_or(0);
    for fault in syntax::port_number(number) {
        causes.push(Cause::invalid(format!("{path}.port"), number, &fault));
    }
    let protocol = text(port, "/protocol");
    if !PROTOCOLS.contains(&protocol) {
        causes.push(Cause::not_supported(format!("{path}.protocol"), protocol, &PROTOCOLS));
    }
    let target = at(port, "/targetPort");
    let faults = match target {
        Some(Value::String(name)) => syntax::port_name(name),
        Some(number) => syntax::port_number(number.as_i64().unwrap_or(0)),
        None => Vec::new(),
    };
    for fault in faults {
        let value = target.cloned().unwrap_or(Value::Null);
        causes.push(Cause::invalid(format!("{path}.targetPort"), value, &fault));
    }
    if let Some(app) = at(port, "/appProtocol").and_then(Value::as_str) {
        for fault in syntax::qualified_name(app) {
            causes.push(Cause::invalid(format!("{path}.appProtocol"), app, &fault));
        }
    }
    let kind = text(object, "/spec/type");
    if int(port, "/nodePort").unwrap_or(0) != 0 && ["ClusterIP", "ExternalName"].contains(&kind) {
        let words = format!("may not be used when `type` is '{kind}'");
        causes.push(Cause::forbidden(format!("{path}.nodePort"), &words));
    }
}

fn affinity(object: &Value, causes: &mut Vec<Cause>) {
    match text(object, "/spec/sessionAffinity") {
        "None" => {}
        "ClientIP" => {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            let seconds = int(object, "/spec/sessionAffinityConfig/clientIP/timeoutSeconds").unwrap_or(0);
            if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) {
                let words = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                causes.push(Cause::invalid(field, seconds, &words));
            }
        }
        other => {
            causes.push(Cause::not_supported("spec.sessionAffinity", other, &["ClientIP", "None"]));
        }
    }
}

fn cluster_ips(object: &Value, causes: &mut Vec<Cause>) {
    let ips = items(object, "/spec/clusterIPs");
    let one = text(object, "/spec/clusterIP");
    let all = || Value::Array(ips.to_vec());
    if !ips.is_empty() && one.is_empty() {
        causes.push(Cause::required("spec.clusterIP", "must be set when `clusterIPs` is"));
    } else if !ips.is_empty() && ips[0] != one {
        causes.push(Cause::invalid("spec.clusterIPs", all(), "first value must match `clusterIP`"));
    }
    for (i, ip) in ips.iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        if ip == "None" {
            if ips.len() > 1 {
                let words = "'None' must be the first and only value";
                causes.push(Cause::invalid("spec.clusterIPs", all(), words));
            }
            continue;
        }
        for fault in syntax::ip(ip) {
            causes.push(Cause::invalid(format!("spec.clusterIPs[{i}]"), ip, &fault));
        }
        let expected = text(object, &format!("/spec/ipFamilies/{i}"));
        if let Some(given) = family(ip)
            && !expected.is_empty()
            && given != expected
        {
            let words = format!("expected an {expected} value as indicated by `ipFamilies[{i}]`");
            causes.push(Cause::invalid(format!("spec.clusterIPs[{i}]"), ip, &words));
        }
    }
    if ips.len() > 2 {
        causes.push(Cause::invalid("spec.clusterIPs", all(), "may only hold up to 2 values"));
    } else if let [first, second] = ips
        && family(first.as_str().unwrap_or_default()) == family(second.as_str().unwrap_or_default())
    {
        let words = "may specify no more than one IP for each IP family";
        causes.push(Cause::invalid("spec.clusterIPs", all(), words));
    }
}

fn families(object: &Value, cluster: &ClusterConfig, causes: &mut Vec<Cause>) {
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    let policy = text(object, "/spec/ipFamilyPolicy");
    let families = items(object, "/spec/ipFamilies");
    let ips = items(object, "/spec/clusterIPs");
    if !policies.contains(&policy) {
        causes.push(Cause::not_supported("spec.ipFamilyPolicy", policy, &policies));
    }
    if policy == "SingleStack" {
        for (many, what) in [(ips.len() > 1, "cluster IPs"), (families.len() > 1, "IP families")] {
            if many {
                let words = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                );
                causes.push(Cause::invalid("spec.ipFamilyPolicy", policy, &words));
            }
        }
    }
    let known = configured(cluster);
    let mut seen = BTreeSet::new();
    let no_selector =
        at(object, "/spec/selector").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    let free_choice = is_headless(object) && no_selector;
    for (i, given) in families.iter().enumerate() {
        let name = given.as_str().unwrap_or_default();
        let field = format!("spec.ipFamilies[{i}]");
        if !["IPv4", "IPv6"].contains(&name) {
            causes.push(Cause::not_supported(field, name, &["IPv4", "IPv6"]));
        } else if !seen.insert(name) {
            causes.push(Cause::duplicate(field, name));
        } else if !known.contains(&name) && !free_choice {
            causes.push(Cause::invalid(field, name, "not configured on this cluster"));
        }
    }
    for (i, ip) in ips.iter().enumerate().skip(families.len().min(ips.len())) {
        if let Some(family) = family(ip.as_str().unwrap_or_default()) {
            let words = format!("{family} is not configured on this cluster");
            causes.push(Cause::invalid(format!("spec.clusterIPs[{i}]"), Value::Array(ips.to_vec()), &words));
        }
    }
    if policy == "RequireDualStack" && known.len() < 2 && !free_choice {
        let words = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", policy, words));
    }
}

fn load_balancer(object: &Value, causes: &mut Vec<Cause>) {
    let is_load_balancer = text(object, "/spec/type") == "LoadBalancer";
    let ranges = items(object, "/spec/loadBalancerSourceRanges");
    if !ranges.is_empty() && !is_load_balancer {
        causes.push(Cause::forbidden("spec.loadBalancerSourceRanges", ONLY_LOAD_BALANCER));
    }
    for (i, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or_default().trim();
        for fault in syntax::cidr(range) {
            causes.push(Cause::invalid(format!("spec.loadBalancerSourceRanges[{i}]"), range, &fault));
        }
    }
    if at(object, "/spec/allocateLoadBalancerNodePorts").is_some() && !is_load_balancer {
        causes.push(Cause::forbidden("spec.allocateLoadBalancerNodePorts", ONLY_LOAD_BALANCER));
    }
    if let Some(class) = at(object, "/spec/loadBalancerClass").and_then(Value::as_str) {
        if is_load_balancer {
            for fault in syntax::qualified_name(class) {
                causes.push(Cause::invalid("spec.loadBalancerClass", class, &fault));
            }
        } else {
            causes.push(Cause::forbidden("spec.loadBalancerClass", ONLY_LOAD_BALANCER));
        }
    }
    let ip = text(object, "/spec/loadBalancerIP");
    for fault in if ip.is_empty() { Vec::new() } else { syntax::ip(ip) } {
        causes.push(Cause::invalid("spec.loadBalancerIP", ip, &fault));
    }
}

fn traffic(object: &Value, causes: &mut Vec<Cause>) {
    let policies = ["Cluster", "Local"];
    let external = text(object, "/spec/externalTrafficPolicy");
    if !object.get("spec").is_some_and(is_externally_accessible) {
        if !external.is_empty() {
            let words = "may only be set for externally-accessible services";
            causes.push(Cause::invalid("spec.externalTrafficPolicy", external, words));
        }
    } else if !policies.contains(&external) {
        causes.push(Cause::not_supported("spec.externalTrafficPolicy", external, &policies));
    }
    let port = int(object, "/spec/healthCheckNodePort").unwrap_or(0);
    if port != 0 && !has_health_check(object) {
        let words = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.push(Cause::invalid("spec.healthCheckNodePort", port, words));
    } else if port != 0 {
        for fault in syntax::port_number(port) {
            causes.push(Cause::invalid("spec.healthCheckNodePort", port, &fault));
        }
    }
    let internal = text(object, "/spec/internalTrafficPolicy");
    if !internal.is_empty() && !policies.contains(&internal) {
        causes.push(Cause::not_supported("spec.internalTrafficPolicy", internal, &policies));
    }
    let spread = text(object, "/spec/trafficDistribution");
    let spreads = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    if !spread.is_empty() && !spreads.contains(&spread) {
        causes.push(Cause::not_supported("spec.trafficDistribution", spread, &spreads));
    }
}

/// Faults of a change.
pub(super) fn update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let once = "may not change once set";
    if has_cluster_ip(old) && has_cluster_ip(new) {
        for field in ["clusterIPs", "ipFamilies"] {
            let pointer = format!("/spec/{field}");
            let (was, is) = (items(old, &pointer), items(new, &pointer));
            if was.is_empty() {
                continue;
            }
            if is.is_empty() {
                let words = format!("primary {field} can not be unset");
                causes.push(Cause::invalid(format!("spec.{field}[0]"), Value::Array(is.to_vec()), &words));
                continue;
            }
            for (i, (was, is_now)) in was.iter().zip(is).enumerate() {
                if was != is_now {
                    let all = Value::Array(is.to_vec());
                    causes.push(Cause::invalid(format!("spec.{field}[{i}]"), all, once));
                }
            }
        }
    }
    let class = |object: &Value| at(object, "/spec/loadBalancerClass").cloned();
    let both = text(old, "/spec/type") == "LoadBalancer" && text(new, "/spec/type") == "LoadBalancer";
    if both && class(old) != class(new) {
        let given = class(new).unwrap_or(Value::Null);
        causes.push(Cause::invalid("spec.loadBalancerClass", given, once));
    }
    let port = |object: &Value| int(object, "/spec/healthCheckNodePort");
    if has_health_check(old) && has_health_check(new) && port(old) != port(new) {
        causes.push(Cause::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
    causes
}
