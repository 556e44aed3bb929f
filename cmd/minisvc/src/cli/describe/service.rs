//! Services and EndpointSlices.

use super::{
    Surroundings,
    text::{Text, items, or_none, str_of},
};
use serde_json::Value;

/// Endpoints shown of one port, as kubectl has it.
const ENDPOINTS_SHOWN: usize = 3;

pub fn describe(object: &Value, around: &Surroundings, text: &mut Text) {
    let spec = &object["spec"];
    let join = |value: &Value| items(value).iter().map(str_of).collect::<Vec<_>>().join(",");
    let selector = spec["selector"].as_object().into_iter().flatten();
    let selector: Vec<String> = selector.map(|(key, value)| format!("{key}={}", str_of(value))).collect();
    text.line(0, "Selector", or_none(selector.join(",")));
    text.line(0, "Type", str_of(&spec["type"]));
    text.maybe(0, "IP Family Policy", &spec["ipFamilyPolicy"]);
    text.line(0, "IP Families", or_none(join(&spec["ipFamilies"])));
    text.line(0, "IP", str_of(&spec["clusterIP"]));
    text.line(0, "IPs", or_none(join(&spec["clusterIPs"])));
    if !items(&spec["externalIPs"]).is_empty() {
        text.line(0, "External IPs", join(&spec["externalIPs"]));
    }
    text.maybe(0, "Desired LoadBalancer IP", &spec["loadBalancerIP"]);
    text.maybe(0, "External Name", &spec["externalName"]);
    let ingress: Vec<String> = items(&object["status"]["loadBalancer"]["ingress"])
        .iter()
        .map(|entry| {
            let mode = str_of(&entry["ipMode"]);
            let address =
                if entry["ip"].is_string() { str_of(&entry["ip"]) } else { str_of(&entry["hostname"]) };
            if mode.is_empty() { address } else { format!("{address} ({mode})") }
        })
        .collect();
    if !ingress.is_empty() {
        text.line(0, "LoadBalancer Ingress", ingress.join(", "));
    }
    for port in items(&spec["ports"]) {
        let name = str_of(&port["name"]);
        let name = if name.is_empty() { "<unset>".to_owned() } else { name };
        let protocol = str_of(&port["protocol"]);
        text.line(0, "Port", format!("{name}  {}/{protocol}", str_of(&port["port"])));
        text.line(0, "TargetPort", format!("{}/{protocol}", str_of(&port["targetPort"])));
        if port["nodePort"].as_i64().unwrap_or(0) != 0 {
            text.line(0, "NodePort", format!("{name}  {}/{protocol}", str_of(&port["nodePort"])));
        }
        text.line(0, "Endpoints", endpoints(&around.related, port));
    }
    text.line(0, "Session Affinity", str_of(&spec["sessionAffinity"]));
    text.maybe(0, "External Traffic Policy", &spec["externalTrafficPolicy"]);
    text.maybe(0, "Internal Traffic Policy", &spec["internalTrafficPolicy"]);
    if spec["healthCheckNodePort"].as_i64().unwrap_or(0) != 0 {
        text.maybe(0, "HealthCheck NodePort", &spec["healthCheckNodePort"]);
    }
    let ranges = join(&spec["loadBalancerSourceRanges"]);
    if !ranges.is_empty() {
        text.line(0, "LoadBalancer Source Ranges", ranges);
    }
}

/// `10.42.0.5:8080,10.42.1.4:8080 + 2 more...`: ready endpoints of a port.
fn endpoints(slices: &[Value], port: &Value) -> String {
    let mut found = Vec::new();
    for slice in slices {
        let name = |value: &Value| str_of(&value["name"]);
        for slice_port in items(&slice["ports"]).iter().filter(|slice_port| name(slice_port) == name(port)) {
            let ready = |endpoint: &&Value| endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
            for endpoint in items(&slice["endpoints"]).iter().filter(ready) {
                for address in items(&endpoint["addresses"]) {
                    let (address, port) = (str_of(address), str_of(&slice_port["port"]));
                    let address = if address.contains(':') { format!("[{address}]") } else { address };
                    found.push(format!("{address}:{port}"));
                }
            }
        }
    }
    let more = found.len().saturating_sub(ENDPOINTS_SHOWN);
    found.truncate(ENDPOINTS_SHOWN);
    let shown = found.join(",");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

pub fn endpoint_slice(object: &Value, text: &mut Text) {
    text.line(0, "AddressType", str_of(&object["addressType"]));
    let unset = |value: &Value| if str_of(value).is_empty() { "<unset>".to_owned() } else { str_of(value) };
    let ports = items(&object["ports"]);
    if ports.is_empty() {
        text.line(0, "Ports", "<unset>");
    } else {
        text.heading(0, "Ports");
        let row = |port: &Value| vec![unset(&port["name"]), unset(&port["port"]), str_of(&port["protocol"])];
        text.table(1, &["Name", "Port", "Protocol"], ports.iter().map(row).collect());
    }
    let endpoints = items(&object["endpoints"]);
    if endpoints.is_empty() {
        return text.line(0, "Endpoints", "<none>");
    }
    text.heading(0, "Endpoints");
    for endpoint in endpoints {
        let addresses: Vec<String> = items(&endpoint["addresses"]).iter().map(str_of).collect();
        text.raw(1, format!("- Addresses: {}", addresses.join(",")));
        text.heading(2, "Conditions");
        for condition in ["ready", "serving", "terminating"] {
            let value = &endpoint["conditions"][condition];
            let mut name = condition.to_owned();
            name[..1].make_ascii_uppercase();
            if !value.is_null() || condition == "ready" {
                text.line(3, &name, unset(value));
            }
        }
        text.line(2, "Hostname", unset(&endpoint["hostname"]));
        let target = &endpoint["targetRef"];
        if target.is_object() {
            text.line(2, "TargetRef", format!("{}/{}", str_of(&target["kind"]), str_of(&target["name"])));
        }
        text.line(2, "NodeName", unset(&endpoint["nodeName"]));
        text.line(2, "Zone", unset(&endpoint["zone"]));
    }
}
