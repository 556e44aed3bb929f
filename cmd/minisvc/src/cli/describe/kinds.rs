//! Nodes, Ingresses, ConfigMaps, Secrets, and whatever has no page of its own.

use super::{
    Surroundings,
    text::{Text, age, items, or_none, str_of, time},
};
use serde_json::Value;

pub fn node(object: &Value, around: &Surroundings, text: &mut Text) {
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let roles = metadata["labels"].as_object().into_iter().flatten();
    let roles: Vec<&str> =
        roles.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")).collect();
    text.line(0, "Roles", or_none(roles.join(",")));
    text.line(0, "CreationTimestamp", time(&str_of(&metadata["creationTimestamp"])));
    let taint = |taint: &Value| {
        let value = str_of(&taint["value"]);
        let value = if value.is_empty() { value } else { format!("={value}") };
        format!("{}{value}:{}", str_of(&taint["key"]), str_of(&taint["effect"]))
    };
    text.list(0, "Taints", items(&spec["taints"]).iter().map(taint).collect());
    text.line(0, "Unschedulable", spec["unschedulable"].as_bool().unwrap_or(false).to_string());
    text.heading(0, "Conditions");
    let condition = |condition: &Value| {
        let at = |field: &str| time(&str_of(&condition[field]));
        let field = |field: &str| str_of(&condition[field]);
        vec![
            field("type"),
            field("status"),
            at("lastHeartbeatTime"),
            at("lastTransitionTime"),
            field("reason"),
            field("message"),
        ]
    };
    let headers = ["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"];
    text.table(1, &headers, items(&status["conditions"]).iter().map(condition).collect());
    text.heading(0, "Addresses");
    for address in items(&status["addresses"]) {
        text.line(1, &str_of(&address["type"]), str_of(&address["address"]));
    }
    let info = status["nodeInfo"].as_object();
    if let Some(info) = info.filter(|info| !info.is_empty()) {
        text.heading(0, "System Info");
        for (name, value) in info.iter().filter(|(_, value)| *value != "") {
            text.line(1, name, str_of(value));
        }
    }
    text.line(0, "PodCIDR", or_none(str_of(&spec["podCIDR"])));
    let cidrs: Vec<String> = items(&spec["podCIDRs"]).iter().map(str_of).collect();
    text.line(0, "PodCIDRs", or_none(cidrs.join(",")));
    let ended = |pod: &&Value| matches!(str_of(&pod["status"]["phase"]).as_str(), "Succeeded" | "Failed");
    let pods: Vec<&Value> = around.related.iter().filter(|pod| !ended(pod)).collect();
    text.line(0, "Non-terminated Pods", format!("({} in total)", pods.len()));
    let row = |pod: &&Value| {
        let metadata = &pod["metadata"];
        let created = age(&str_of(&metadata["creationTimestamp"]), around.now);
        vec![
            str_of(&metadata["namespace"]),
            str_of(&metadata["name"]),
            str_of(&pod["status"]["podIP"]),
            created,
        ]
    };
    text.table(1, &["Namespace", "Name", "IP", "Age"], pods.iter().map(row).collect());
}

fn backend(backend: &Value) -> String {
    let service = &backend["service"];
    if service.is_object() {
        let port = &service["port"];
        let port = if port["name"].is_string() { str_of(&port["name"]) } else { str_of(&port["number"]) };
        return format!("{}:{port}", str_of(&service["name"]));
    }
    let resource = &backend["resource"];
    format!("{}/{}", str_of(&resource["kind"]), str_of(&resource["name"]))
}

pub fn ingress(object: &Value, text: &mut Text) {
    let spec = &object["spec"];
    let address = |entry: &Value| {
        if entry["ip"].is_string() { str_of(&entry["ip"]) } else { str_of(&entry["hostname"]) }
    };
    let addresses: Vec<String> =
        items(&object["status"]["loadBalancer"]["ingress"]).iter().map(address).collect();
    text.line(0, "Address", addresses.join(","));
    text.line(0, "Ingress Class", or_none(str_of(&spec["ingressClassName"])));
    let default = &spec["defaultBackend"];
    text.line(
        0,
        "Default backend",
        if default.is_object() { backend(default) } else { "<default>".to_owned() },
    );
    if !items(&spec["tls"]).is_empty() {
        text.heading(0, "TLS");
        for entry in items(&spec["tls"]) {
            let hosts: Vec<String> = items(&entry["hosts"]).iter().map(str_of).collect();
            text.raw(1, format!("{} terminates {}", str_of(&entry["secretName"]), hosts.join(",")));
        }
    }
    text.heading(0, "Rules");
    let mut rows = Vec::new();
    for rule in items(&spec["rules"]) {
        let host = str_of(&rule["host"]);
        rows.push(vec![if host.is_empty() { "*".to_owned() } else { host }, String::new(), String::new()]);
        for path in items(&rule["http"]["paths"]) {
            rows.push(vec![String::new(), str_of(&path["path"]), backend(&path["backend"])]);
        }
    }
    text.table(1, &["Host", "Path", "Backends"], rows);
}

pub fn config_map(object: &Value, text: &mut Text) {
    text.raw(0, "");
    text.raw(0, "Data");
    text.raw(0, "====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        text.raw(0, format!("{key}:"));
        text.raw(0, "----");
        str_of(value).lines().for_each(|line| text.raw(0, line));
        text.raw(0, "");
    }
    text.raw(0, "BinaryData");
    text.raw(0, "====");
    sizes(&object["binaryData"], text);
}

pub fn secret(object: &Value, text: &mut Text) {
    text.raw(0, "");
    text.line(0, "Type", str_of(&object["type"]));
    text.raw(0, "");
    text.raw(0, "Data");
    text.raw(0, "====");
    sizes(&object["data"], text);
}

/// Base64 values are shown by size only: they may be secret.
fn sizes(map: &Value, text: &mut Text) {
    for (key, value) in map.as_object().into_iter().flatten() {
        let encoded = str_of(value);
        let data = encoded.bytes().filter(|byte| !matches!(byte, b'=' | b'\n' | b'\r')).count();
        text.line(0, key, format!("{} bytes", data * 3 / 4));
    }
}

/// Every field, in the order of its name.
pub fn anything(object: &Value, text: &mut Text) {
    let known = ["apiVersion", "kind", "metadata"];
    for (key, value) in object.as_object().into_iter().flatten() {
        if !known.contains(&key.as_str()) {
            field(0, key, value, text);
        }
    }
}

/// Indentation that is still aligned; what lies deeper is shown as JSON.
const DEPTH_MAX: usize = 6;

fn field(indent: usize, key: &str, value: &Value, text: &mut Text) {
    let mut title = String::new();
    for (at, c) in key.chars().enumerate() {
        if at == 0 {
            title.extend(c.to_uppercase());
        } else {
            if c.is_uppercase() && !title.ends_with(char::is_uppercase) {
                title.push(' ');
            }
            title.push(c);
        }
    }
    match value {
        Value::Object(map) if indent < DEPTH_MAX => {
            text.heading(indent, &title);
            map.iter().for_each(|(key, value)| field(indent + 1, key, value, text));
        }
        Value::Array(list) if indent < DEPTH_MAX && list.iter().any(Value::is_object) => {
            text.heading(indent, &title);
            list.iter().for_each(|item| text.raw(indent + 1, format!("- {item}")));
        }
        Value::Array(list) => text.list(indent, &title, list.iter().map(str_of).collect()),
        other => text.line(indent, &title, str_of(other)),
    }
}
