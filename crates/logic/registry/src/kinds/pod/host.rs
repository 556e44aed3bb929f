//! What a Pod may say of its node: to be in the node's own network, and to have ports of the node.
//!
//! Source: kubernetes `pkg/apis/core/validation` (`validateHostNetwork`, `AccumulateUniqueHostPorts`),
//! `pkg/apis/core/v1/defaults.go` (`defaultHostNetworkPorts`).
//! Invariant: in a Pod that is in its node's network, each port of a container is that port of the node.

use crate::{
    syntax,
    value::{at, int, items, items_mut, text},
};
use minisvc_apimachinery::Cause;
use serde_json::Value;
use std::{collections::BTreeSet, net::IpAddr};

/// Whether the Pod of this spec is in its node's own network.
pub(super) fn is_in_node_network(spec: &Value) -> bool {
    at(spec, "/hostNetwork").and_then(Value::as_bool).unwrap_or(false)
}

/// In a Pod in its node's network the node's ports are the containers'; in templates they are left open.
pub(super) fn default(spec: &mut Value) {
    if !is_in_node_network(spec) {
        return;
    }
    for list in ["/containers", "/initContainers"] {
        for container in items_mut(spec, list) {
            for port in items_mut(container, "/ports") {
                let number = int(port, "/containerPort").unwrap_or(0);
                if number != 0 && int(port, "/hostPort").unwrap_or(0) == 0 {
                    port["hostPort"] = number.into();
                }
            }
        }
    }
}

/// Faults of the node's ports of the spec at `path`. `of_pod`: it is a Pod's own, no template.
pub(super) fn check(spec: &Value, path: &str, of_pod: bool, causes: &mut Vec<Cause>) {
    let shared = is_in_node_network(spec);
    for list in ["containers", "initContainers"] {
        let mut known = BTreeSet::new();
        for (i, container) in items(spec, &format!("/{list}")).iter().enumerate() {
            for (n, port) in items(container, "/ports").iter().enumerate() {
                let path = format!("{path}.{list}[{i}].ports[{n}]");
                port_of_node(port, &path, shared, causes);
                let (given, own) = (int(port, "/hostPort").unwrap_or(0), int(port, "/containerPort"));
                let whole = format!("{}/{}/{given}", text(port, "/protocol"), text(port, "/hostIP"));
                if given != 0 && !known.insert(whole.clone()) {
                    causes.push(Cause::duplicate(format!("{path}.hostPort"), whole));
                }
                let open = given == 0 && !of_pod;
                if shared && list == "containers" && !open && own != Some(given) {
                    let words = "must match `containerPort` when `hostNetwork` is true";
                    causes.push(Cause::invalid(format!("{path}.hostPort"), given, words));
                }
            }
        }
    }
}

fn port_of_node(port: &Value, path: &str, shared: bool, causes: &mut Vec<Cause>) {
    let number = int(port, "/hostPort").unwrap_or(0);
    if number != 0 {
        for fault in syntax::port_number(number) {
            causes.push(Cause::invalid(format!("{path}.hostPort"), number, &fault));
        }
    }
    let ip = text(port, "/hostIP");
    if !ip.is_empty() {
        let field = format!("{path}.hostIP");
        causes.extend(syntax::ip(ip).iter().map(|fault| Cause::invalid(&field, ip, fault)));
        // What is sent to the loopback never meets the table that leads elsewhere.
        if !shared && ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            let words = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
            causes.push(Cause::invalid(field, ip, words));
        }
    }
}
