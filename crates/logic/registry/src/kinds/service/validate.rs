//! What a Service may say, in the words of kubernetes `ValidateService`.

use super::{
    addresses,
    fields::{has_health_check, has_node_ports, is_externally_accessible, is_headless},
};
use crate::kinds::ingress::load_balancer_status;
use crate::{
    meta, syntax,
    value::{at, int, is_blank, items, strings, text},
};
use minisvc_apimachinery::{Cause, ClusterConfig};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::IpAddr};

const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// The port of the nodes' own servers; clouds are known to open what a load balancer says.
const KUBELET_PORT: i64 = 10250;
const AFFINITY_SECONDS_MAX: i64 = 86400;
const PORTS_MAX: usize = 1000;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const IP_MODES: [&str; 2] = ["Proxy", "VIP"];
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

/// Faults of a Service by itself, on this cluster. Values still to be allocated may be absent.
pub(super) fn service(object: &Value, cluster: &ClusterConfig) -> Vec<Cause> {
    let mut causes = Vec::new();
    annotations(object, &mut causes);
    by_type(object, &mut causes);
    ports(object, &mut causes);
    meta::labels(object, "/spec/selector", "spec.selector", &mut causes);
    affinity(object, &mut causes);
    addresses::check(object, cluster, &mut causes);
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

/// Faults of the annotations that are fields of a kind.
fn annotations(object: &Value, causes: &mut Vec<Cause>) {
    let (mode, hints) = (annotation(object, TOPOLOGY_MODE), annotation(object, TOPOLOGY_HINTS));
    if let (Some(mode), Some(hints)) = (mode, hints)
        && mode != hints
    {
        let words = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        causes.push(Cause::invalid(annotation_field(TOPOLOGY_MODE), mode, &words));
    }
    // The older way to say it, for controllers of clouds; here it only has to be well formed.
    if items(object, "/spec/loadBalancerSourceRanges").is_empty()
        && let Some(list) = annotation(object, SOURCE_RANGES)
    {
        let field = annotation_field(SOURCE_RANGES);
        if text(object, "/spec/type") != "LoadBalancer" {
            causes.push(Cause::forbidden(&field, ONLY_LOAD_BALANCER));
        }
        for range in list.split(',').filter(|_| !list.trim().is_empty()) {
            check_range(&field, range, causes);
        }
    }
}

fn check_range(field: &str, range: &str, causes: &mut Vec<Cause>) {
    let range = range.trim();
    causes.extend(syntax::cidr(range).iter().map(|fault| Cause::invalid(field, range, fault)));
}

fn annotation<'v>(object: &'v Value, name: &str) -> Option<&'v str> {
    strings(object, "/metadata/annotations").find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn annotation_field(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

fn by_type(object: &Value, causes: &mut Vec<Cause>) {
    let kind = text(object, "/spec/type");
    if items(object, "/spec/ports").is_empty() && !is_headless(object) && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    if kind == "LoadBalancer" {
        for (i, port) in items(object, "/spec/ports").iter().enumerate() {
            if int(port, "/port") == Some(KUBELET_PORT) {
                let words =
                    format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
                causes.push(Cause::invalid(format!("spec.ports[{i}]"), KUBELET_PORT, &words));
            }
        }
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
        if given.is_some_and(|value| !value.as_array().is_some_and(Vec::is_empty)) {
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
    if int(port, "/nodePort").unwrap_or(0) != 0 && text(object, "/spec/type") == "ClusterIP" {
        causes
            .push(Cause::forbidden(format!("{path}.nodePort"), "may not be used when `type` is 'ClusterIP'"));
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

fn load_balancer(object: &Value, causes: &mut Vec<Cause>) {
    let is_load_balancer = text(object, "/spec/type") == "LoadBalancer";
    let ranges = items(object, "/spec/loadBalancerSourceRanges");
    if !ranges.is_empty() && !is_load_balancer {
        causes.push(Cause::forbidden("spec.loadBalancerSourceRanges", ONLY_LOAD_BALANCER));
    }
    for (i, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
        check_range(&format!("spec.loadBalancerSourceRanges[{i}]"), range, causes);
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
    for (field, supported) in [
        ("internalTrafficPolicy", policies.as_slice()),
        ("trafficDistribution", &["PreferClose", "PreferSameNode", "PreferSameZone"]),
    ] {
        if let Some(given) = at(object, &format!("/spec/{field}")).and_then(Value::as_str)
            && !supported.contains(&given)
        {
            causes.push(Cause::not_supported(format!("spec.{field}"), given, supported));
        }
    }
}

/// Faults of `status.loadBalancer`.
pub(super) fn status(object: &Value) -> Vec<Cause> {
    let ingress = items(object, "/status/loadBalancer/ingress");
    if !ingress.is_empty() && text(object, "/spec/type") != "LoadBalancer" {
        let words = "may only be used when `spec.type` is 'LoadBalancer'";
        return vec![Cause::forbidden("status.loadBalancer.ingress", words)];
    }
    let mut causes = load_balancer_status(object);
    for (i, ingress) in ingress.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{i}].ipMode");
        let Some(mode) = at(ingress, "/ipMode").and_then(Value::as_str) else { continue };
        if is_blank(ingress.get("ip")) {
            causes.push(Cause::forbidden(field, "may not be specified when `ip` is not set"));
        } else if !IP_MODES.contains(&mode) {
            causes.push(Cause::not_supported(field, mode, &IP_MODES));
        }
    }
    causes
}

/// Faults of a change.
pub(super) fn update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    addresses::check_update(new, old, &mut causes);
    if new.get("spec") == old.get("spec")
        && new.pointer("/metadata/annotations") != old.pointer("/metadata/annotations")
    {
        annotations(new, &mut causes); // a change of the spec has them looked at with all the rest
    }
    let class = |object: &Value| at(object, "/spec/loadBalancerClass").cloned();
    let both = text(old, "/spec/type") == "LoadBalancer" && text(new, "/spec/type") == "LoadBalancer";
    if both && class(old) != class(new) {
        let given = class(new).unwrap_or(Value::Null);
        causes.push(Cause::invalid("spec.loadBalancerClass", given, "may not change once set"));
    }
    let port = |object: &Value| int(object, "/spec/healthCheckNodePort");
    if has_health_check(old) && has_health_check(new) && port(old) != port(new) {
        causes.push(Cause::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
    causes
}
