//! discovery.k8s.io/v1 EndpointSlice.
//!
//! Source: kubernetes `pkg/apis/discovery/validation`; addresses that no other machine can have are refused because
//! of CVE-2021-25737.

use super::reads_as;
use crate::{
    context::Subject,
    strategy::Strategy,
    syntax,
    table::{Column, age, name},
    value::{at, fill, int, items, items_mut, text},
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use minisvc_apimachinery::Cause;
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::IpAddr};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 100;
const HINTS_MAX: usize = 8;
const SHOWN_MAX: usize = 3;

pub(crate) struct EndpointSlices;

impl Strategy for EndpointSlices {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<EndpointSlice>(object)
    }

    fn default(&self, object: &mut Value) {
        for port in items_mut(object, "/ports") {
            fill(port, "name", "");
            fill(port, "protocol", "TCP");
        }
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let kind = text(object, "/addressType");
        let kinds = ["FQDN", "IPv4", "IPv6"];
        if kind.is_empty() {
            causes.push(Cause::required("addressType", ""));
        } else if !kinds.contains(&kind) {
            causes.push(Cause::not_supported("addressType", kind, &kinds));
        }
        let endpoints = items(object, "/endpoints");
        if endpoints.len() > ENDPOINTS_MAX {
            causes.push(Cause::too_many("endpoints", endpoints.len(), ENDPOINTS_MAX));
            return causes;
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            check_endpoint(kind, endpoint, &format!("endpoints[{i}]"), &mut causes);
        }
        check_ports(object, &mut causes);
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let kind = text(new, "/addressType");
        if kind == text(old, "/addressType") {
            return Vec::new();
        }
        vec![Cause::invalid("addressType", kind, "field is immutable")]
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::name(),
                Column::new("AddressType", "string"),
                Column::new("Ports", "string"),
                Column::new("Endpoints", "string"),
                Column::new("Age", "string"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let ports: Vec<String> = items(object, "/ports")
            .iter()
            .map(|port| match int(port, "/port") {
                Some(number) => number.to_string(),
                None if text(port, "/name").is_empty() => "*".to_owned(),
                None => text(port, "/name").to_owned(),
            })
            .collect();
        let addresses: Vec<String> = items(object, "/endpoints")
            .iter()
            .flat_map(|endpoint| items(endpoint, "/addresses"))
            .filter_map(|address| address.as_str().map(str::to_owned))
            .collect();
        vec![
            name(object),
            json!(text(object, "/addressType")),
            json!(shown(&ports, "<unset>")),
            json!(shown(&addresses, "<unset>")),
            age(object, now),
        ]
    }
}

/// The first few, and how many more there are.
fn shown(list: &[String], none: &str) -> String {
    match list.len() {
        0 => none.to_owned(),
        len if len > SHOWN_MAX => format!("{} + {} more...", list[..SHOWN_MAX].join(","), len - SHOWN_MAX),
        _ => list.join(","),
    }
}

fn check_endpoint(kind: &str, endpoint: &Value, path: &str, causes: &mut Vec<Cause>) {
    let addresses = items(endpoint, "/addresses");
    if addresses.is_empty() {
        causes.push(Cause::required(format!("{path}.addresses"), "must contain at least 1 address"));
    } else if addresses.len() > ADDRESSES_MAX {
        causes.push(Cause::too_many(format!("{path}.addresses"), addresses.len(), ADDRESSES_MAX));
    }
    for (i, address) in addresses.iter().enumerate().take(ADDRESSES_MAX) {
        let address = address.as_str().unwrap_or_default();
        for fault in address_faults(kind, address) {
            causes.push(Cause::invalid(format!("{path}.addresses[{i}]"), address, &fault));
        }
    }
    for (field, check) in
        [("nodeName", syntax::subdomain as fn(&str) -> syntax::Faults), ("hostname", syntax::label)]
    {
        if let Some(value) = at(endpoint, &format!("/{field}")).and_then(Value::as_str) {
            for fault in check(value) {
                causes.push(Cause::invalid(format!("{path}.{field}"), value, &fault));
            }
        }
    }
    for field in ["forZones", "forNodes"] {
        let hints = items(endpoint, &format!("/hints/{field}"));
        if hints.len() > HINTS_MAX {
            causes.push(Cause::too_many(format!("{path}.hints.{field}"), hints.len(), HINTS_MAX));
        }
    }
}

fn address_faults(kind: &str, address: &str) -> syntax::Faults {
    match (kind, address.parse::<IpAddr>()) {
        ("FQDN", _) => syntax::subdomain(address),
        ("IPv4", Ok(ip @ IpAddr::V4(_))) | ("IPv6", Ok(ip @ IpAddr::V6(_))) => syntax::ordinary_ip(ip),
        ("IPv4" | "IPv6", _) => vec![format!("must be a valid {kind} address")],
        _ => Vec::new(),
    }
}

fn check_ports(object: &Value, causes: &mut Vec<Cause>) {
    let ports = items(object, "/ports");
    if ports.len() > PORTS_MAX {
        causes.push(Cause::too_many("ports", ports.len(), PORTS_MAX));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("ports[{i}]");
        let name = text(port, "/name");
        for fault in if name.is_empty() { Vec::new() } else { syntax::label(name) } {
            causes.push(Cause::invalid(format!("{path}.name"), name, &fault));
        }
        if !names.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), name));
        }
        if let Some(number) = int(port, "/port") {
            for fault in syntax::port_number(number) {
                causes.push(Cause::invalid(format!("{path}.port"), number, &fault));
            }
        }
        let protocol = text(port, "/protocol");
        let protocols = ["SCTP", "TCP", "UDP"];
        if !protocols.contains(&protocol) {
            causes.push(Cause::not_supported(format!("{path}.protocol"), protocol, &protocols));
        }
        if let Some(app) = at(port, "/appProtocol").and_then(Value::as_str) {
            for fault in syntax::qualified_name(app) {
                causes.push(Cause::invalid(format!("{path}.appProtocol"), app, &fault));
            }
        }
    }
}
