//! networking.k8s.io/v1 Ingress. Source: kubernetes `pkg/apis/networking/validation`.

use super::reads_as;
use crate::{
    context::Subject,
    strategy::Strategy,
    syntax,
    table::{Column, age, name},
    value::{at, int, items, set, text},
};
use k8s_openapi::api::networking::v1::Ingress;
use minisvc_apimachinery::{Cause, ingress_class::CLASS_ANNOTATION, storage::Read};
use serde_json::{Value, json};
use std::net::IpAddr;

const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const SHOWN_MAX: usize = 3;

pub(crate) struct Ingresses;

impl Strategy for Ingresses {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Ingress>(object)
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let rules = items(object, "/spec/rules");
        match at(object, "/spec/defaultBackend") {
            Some(backend) => check_backend(backend, "spec.defaultBackend", &mut causes),
            None if rules.is_empty() => {
                let words = "either `defaultBackend` or `rules` must be specified";
                causes.push(Cause::invalid("spec", Value::Array(Vec::new()), words));
            }
            None => {}
        }
        for (i, rule) in rules.iter().enumerate() {
            check_rule(rule, &format!("spec.rules[{i}]"), &mut causes);
        }
        for (i, tls) in items(object, "/spec/tls").iter().enumerate() {
            let path = format!("spec.tls[{i}]");
            for (j, host) in items(tls, "/hosts").iter().enumerate() {
                check_host(host.as_str().unwrap_or_default(), &format!("{path}.hosts[{j}]"), &mut causes);
            }
            let secret = text(tls, "/secretName");
            for fault in if secret.is_empty() { Vec::new() } else { syntax::subdomain(secret) } {
                causes.push(Cause::invalid(format!("{path}.secretName"), secret, &fault));
            }
        }
        let class = text(object, "/spec/ingressClassName");
        // Left out is no class; empty is a name, and a wrong one.
        if at(object, "/spec/ingressClassName").is_some_and(Value::is_string) {
            for fault in syntax::subdomain(class) {
                causes.push(Cause::invalid("spec.ingressClassName", class, &fault));
            }
        }
        causes
    }

    fn validate_create(&self, object: &Value) -> Vec<Cause> {
        let class = text(object, "/spec/ingressClassName");
        let Some(annotated) = class_annotation(object).and_then(Value::as_str) else { return Vec::new() };
        if class.is_empty() || annotated == class {
            return Vec::new();
        }
        let words = "must match `ingressClassName` when both are specified";
        vec![Cause::invalid(format!("annotations.{CLASS_ANNOTATION}"), annotated, words)]
    }

    /// An Ingress that names no class gets the default one.
    fn mutate(&self, object: &mut Value, view: &dyn Read) {
        if at(object, "/spec/ingressClassName").is_none()
            && class_annotation(object).is_none()
            && let Some(class) = super::ingress_class::default_name(view)
        {
            set(object, "spec", "ingressClassName", class);
        }
    }

    fn validate_subresource(&self, _name: &str, new: &Value, _old: &Value) -> Vec<Cause> {
        load_balancer_status(new)
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::name(),
                Column::new("Class", "string"),
                Column::new("Hosts", "string"),
                Column::new("Address", "string"),
                Column::new("Ports", "string"),
                Column::new("Age", "string"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let class = match text(object, "/spec/ingressClassName") {
            "" => "<none>",
            class => class,
        };
        let ports = if items(object, "/spec/tls").is_empty() { "80" } else { "80, 443" };
        vec![
            name(object),
            json!(class),
            json!(hosts(object)),
            json!(super::service::status_addresses(object).join(",")),
            json!(ports),
            age(object, now),
        ]
    }
}

/// Faults of `status.loadBalancer`, alike for Ingresses and Services.
pub(super) fn load_balancer_status(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (i, ingress) in items(object, "/status/loadBalancer/ingress").iter().enumerate() {
        let path = format!("status.loadBalancer.ingress[{i}]");
        let (ip, host) = (text(ingress, "/ip"), text(ingress, "/hostname"));
        if !ip.is_empty() {
            let faults = syntax::ip(ip);
            causes.extend(faults.iter().map(|fault| Cause::invalid(format!("{path}.ip"), ip, fault)));
        }
        if host.is_empty() {
            continue;
        }
        for fault in syntax::subdomain(host) {
            causes.push(Cause::invalid(format!("{path}.hostname"), host, &fault));
        }
        if host.parse::<IpAddr>().is_ok() {
            let words = "must be a DNS name, not an IP address";
            causes.push(Cause::invalid(format!("{path}.hostname"), host, words));
        }
    }
    causes
}

fn class_annotation(object: &Value) -> Option<&Value> {
    object.pointer("/metadata/annotations")?.get(CLASS_ANNOTATION)
}

fn hosts(object: &Value) -> String {
    let hosts: Vec<&str> =
        items(object, "/spec/rules").iter().map(|r| text(r, "/host")).filter(|h| !h.is_empty()).collect();
    match hosts.len() {
        0 => "*".to_owned(),
        len if len > SHOWN_MAX => format!("{} + {} more...", hosts[..SHOWN_MAX].join(","), len - SHOWN_MAX),
        _ => hosts.join(","),
    }
}

fn check_host(host: &str, field: &str, causes: &mut Vec<Cause>) {
    let faults = if host.contains('*') { syntax::wildcard_subdomain(host) } else { syntax::subdomain(host) };
    for fault in faults {
        causes.push(Cause::invalid(field, host, &fault));
    }
}

fn check_rule(rule: &Value, path: &str, causes: &mut Vec<Cause>) {
    let host = text(rule, "/host");
    if host.parse::<IpAddr>().is_ok() {
        let words = "must be a DNS name, not an IP address";
        causes.push(Cause::invalid(format!("{path}.host"), host, words));
    } else if !host.is_empty() {
        check_host(host, &format!("{path}.host"), causes);
    }
    let Some(http) = at(rule, "/http") else { return };
    let paths = items(http, "/paths");
    if paths.is_empty() {
        causes.push(Cause::required(format!("{path}.http.paths"), ""));
    }
    for (i, item) in paths.iter().enumerate() {
        check_path(item, &format!("{path}.http.paths[{i}]"), causes);
    }
}

fn check_path(item: &Value, field: &str, causes: &mut Vec<Cause>) {
    let path = text(item, "/path");
    let at_path = format!("{field}.path");
    match text(item, "/pathType") {
        "" => causes.push(Cause::required(format!("{field}.pathType"), "pathType must be specified")),
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                causes.push(Cause::invalid(at_path, path, "must be an absolute path"));
            }
        }
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                causes.push(Cause::invalid(at_path.as_str(), path, "must be an absolute path"));
            }
            for inner in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.contains(inner) {
                    let words = format!("must not contain '{inner}'");
                    causes.push(Cause::invalid(at_path.as_str(), path, &words));
                }
            }
            for end in ["/..", "/."] {
                if path.ends_with(end) {
                    let words = format!("cannot end with '{end}'");
                    causes.push(Cause::invalid(at_path.as_str(), path, &words));
                }
            }
        }
        other => causes.push(Cause::not_supported(format!("{field}.pathType"), other, &PATH_TYPES)),
    }
    match at(item, "/backend") {
        Some(backend) => check_backend(backend, &format!("{field}.backend"), causes),
        None => causes.push(Cause::required(format!("{field}.backend"), "")),
    }
}

fn check_backend(backend: &Value, field: &str, causes: &mut Vec<Cause>) {
    let service = match (at(backend, "/service"), at(backend, "/resource")) {
        (Some(_), Some(_)) => {
            causes.push(Cause::invalid(field, "", "cannot set both resource and service backends"));
            return;
        }
        (None, Some(_)) => {
            causes.push(Cause::forbidden(format!("{field}.resource"), "not supported by minisvc yet"));
            return;
        }
        (None, None) => {
            causes.push(Cause::invalid(field, "", "resource or service backend is required"));
            return;
        }
        (Some(service), None) => service,
    };
    let name = text(service, "/name");
    if name.is_empty() {
        causes.push(Cause::required(format!("{field}.service.name"), ""));
    } else {
        for fault in syntax::label_1035(name) {
            causes.push(Cause::invalid(format!("{field}.service.name"), name, &fault));
        }
    }
    let (port, number) = (text(service, "/port/name"), int(service, "/port/number").unwrap_or(0));
    match (port.is_empty(), number) {
        (true, 0) => causes.push(Cause::required(field, "port name or number is required")),
        (true, number) => {
            for fault in syntax::port_number(number) {
                causes.push(Cause::invalid(format!("{field}.service.port.number"), number, &fault));
            }
        }
        (false, 0) => {
            for fault in syntax::port_name(port) {
                causes.push(Cause::invalid(format!("{field}.service.port.name"), port, &fault));
            }
        }
        (false, _) => causes.push(Cause::invalid(field, "", "cannot set both port name & port number")),
    }
}
