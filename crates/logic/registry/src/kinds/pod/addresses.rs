//! What a Pod's status may say of the addresses of the Pod and of its node: at most one of each family, the primary
//! one first and also by itself.
//!
//! Source: kubernetes `pkg/apis/core/v1/conversion.go` (`PodStatus`), `pkg/apis/core/validation` (`validatePodIPs`,
//! `validateHostIPs`).

use crate::{
    syntax,
    value::{items, set, text},
};
use minisvc_apimachinery::{Cause, Family};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Lets `podIP` and `podIPs` agree when a client wrote only one of them; `podIP` decides.
pub(super) fn default(pod: &mut Value) {
    let one = text(pod, "/status/podIP").to_owned();
    let first = text(pod, "/status/podIPs/0/ip").to_owned();
    if !one.is_empty() && one != first {
        set(pod, "status", "podIPs", json!([{ "ip": one }]));
    } else if one.is_empty() && !first.is_empty() {
        set(pod, "status", "podIP", first);
    }
}

/// Faults of the addresses.
pub(super) fn check(pod: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let host = text(pod, "/status/hostIP");
    let first = text(pod, "/status/hostIPs/0/ip");
    if !items(pod, "/status/hostIPs").is_empty() && host != first {
        causes.push(Cause::invalid("status.hostIPs[0].ip", first, "must be equal to `hostIP`"));
    }
    for list in ["hostIPs", "podIPs"] {
        let all = items(pod, &format!("/status/{list}"));
        let texts: Vec<&str> = all.iter().map(|entry| text(entry, "/ip")).collect();
        let before = causes.len();
        for (i, ip) in texts.iter().enumerate() {
            let field = format!("status.{list}[{i}]");
            causes.extend(syntax::ip(ip).iter().map(|fault| Cause::invalid(field.as_str(), *ip, fault)));
        }
        if causes.len() > before {
            continue;
        }
        let families = texts.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(Family::of);
        let families: Vec<Family> = families.collect();
        if Family::ALL.iter().any(|family| families.iter().filter(|of| *of == family).count() > 1) {
            let words = "may specify no more than one IP for each IP family";
            causes.push(Cause::invalid(format!("status.{list}"), Value::Array(all.to_vec()), words));
        }
    }
    causes
}
