//! v1 Endpoints: all endpoints of a Service in one object, as clients older than EndpointSlices read them.
//!
//! Source: kubernetes `pkg/apis/core/validation` (`ValidateEndpoints`), `pkg/printers/internalversion`.

use super::reads_as;
use crate::{
    context::Subject,
    strategy::Strategy,
    syntax,
    table::{Column, age, name},
    value::{at, fill, int, items, text},
};
use k8s_openapi::api::core::v1::Endpoints;
use minisvc_apimachinery::Cause;
use serde_json::{Value, json};
use std::net::IpAddr;

const SHOWN_MAX: usize = 3;

pub(crate) struct EndpointsStrategy;

impl Strategy for EndpointsStrategy {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Endpoints>(object)
    }

    fn default(&self, object: &mut Value) {
        let subsets = object.get_mut("subsets").and_then(Value::as_array_mut);
        for subset in subsets.into_iter().flatten() {
            for port in subset.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                fill(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        for (i, subset) in items(object, "/subsets").iter().enumerate() {
            let path = format!("subsets[{i}]");
            let lists =
                ["addresses", "notReadyAddresses"].map(|list| (list, items(subset, &format!("/{list}"))));
            if lists.iter().all(|(_, addresses)| addresses.is_empty()) {
                let words = "must specify `addresses` or `notReadyAddresses`";
                causes.push(Cause::required(path.as_str(), words));
            }
            for (list, addresses) in lists {
                for (j, address) in addresses.iter().enumerate() {
                    check_address(address, &format!("{path}.{list}[{j}]"), &mut causes);
                }
            }
            let ports = items(subset, "/ports");
            for (j, port) in ports.iter().enumerate() {
                check_port(port, ports.len() > 1, &format!("{path}.ports[{j}]"), &mut causes);
            }
        }
        causes
    }

    fn may_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::name(), Column::new("Endpoints", "string"), Column::new("Age", "string")] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(object), json!(shown(object)), age(object, now)]
    }
}

/// The first few ready endpoints, and how many more there are.
fn shown(object: &Value) -> String {
    let subsets = items(object, "/subsets");
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut list = Vec::new();
    let mut count = 0;
    let mut add = |words: &dyn Fn() -> String| {
        if list.len() < SHOWN_MAX {
            list.push(words());
        }
        count += 1;
    };
    for subset in subsets {
        let ports = items(subset, "/ports");
        let addresses = items(subset, "/addresses");
        if ports.is_empty() {
            addresses.iter().for_each(|address| add(&|| text(address, "/ip").to_owned()));
        }
        for port in ports.iter().filter_map(|port| int(port, "/port")) {
            addresses.iter().for_each(|address| add(&|| host_port(text(address, "/ip"), port)));
        }
    }
    match count - list.len() {
        0 => list.join(","),
        more => format!("{} + {more} more...", list.join(",")),
    }
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn check_address(address: &Value, path: &str, causes: &mut Vec<Cause>) {
    let ip = text(address, "/ip");
    let faults = ip.parse::<IpAddr>().map_or_else(|_| syntax::ip(ip), syntax::ordinary_ip);
    causes.extend(faults.iter().map(|fault| Cause::invalid(format!("{path}.ip"), ip, fault)));
    let hostname = text(address, "/hostname");
    for fault in if hostname.is_empty() { Vec::new() } else { syntax::label(hostname) } {
        causes.push(Cause::invalid(format!("{path}.hostname"), hostname, &fault));
    }
    if let Some(node) = at(address, "/nodeName").and_then(Value::as_str) {
        for fault in syntax::subdomain(node) {
            causes.push(Cause::invalid(format!("{path}.nodeName"), node, &fault));
        }
    }
}

fn check_port(port: &Value, needs_name: bool, path: &str, causes: &mut Vec<Cause>) {
    let name = text(port, "/name");
    if name.is_empty() {
        if needs_name {
            causes.push(Cause::required(format!("{path}.name"), ""));
        }
    } else {
        for fault in syntax::label(name) {
            causes.push(Cause::invalid(format!("{path}.name"), name, &fault));
        }
    }
    let number = int(port, "/port").unwrap_or(0);
    for fault in syntax::port_number(number) {
        causes.push(Cause::invalid(format!("{path}.port"), number, &fault));
    }
    let (protocol, protocols) = (text(port, "/protocol"), ["SCTP", "TCP", "UDP"]);
    if !protocols.contains(&protocol) {
        causes.push(Cause::not_supported(format!("{path}.protocol"), protocol, &protocols));
    }
    if let Some(app) = at(port, "/appProtocol").and_then(Value::as_str) {
        for fault in syntax::qualified_name(app) {
            causes.push(Cause::invalid(format!("{path}.appProtocol"), app, &fault));
        }
    }
}
