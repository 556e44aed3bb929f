//! v1 Node. Source: kubernetes `pkg/apis/core/validation` (`ValidateNode`, `ValidateNodeUpdate`).

use super::reads_as;
use crate::{
    Status,
    context::Subject,
    strategy::Strategy,
    syntax,
    table::{Column, age, name},
    value::{at, items, keep_amounts, parse, set, strings, text},
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use minisvc_apimachinery::{Cause, Family, resource::NODES, storage::Read};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

pub(crate) struct Nodes;

impl Strategy for Nodes {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<Node>(object)
    }

    fn default(&self, object: &mut Value) {
        // podCIDR is the first of podCIDRs; whichever is given makes the other.
        let one = text(object, "/spec/podCIDR").to_owned();
        let first = text(object, "/spec/podCIDRs/0").to_owned();
        if !one.is_empty() && one != first {
            set(object, "spec", "podCIDRs", json!([one]));
        } else if one.is_empty() && !first.is_empty() {
            set(object, "spec", "podCIDR", first);
        }
        ["/status/capacity", "/status/allocatable"].iter().for_each(|list| keep_amounts(object, list));
    }

    fn prepare_create(&self, _object: &mut Value, _subject: &Subject<'_>) {
        // A node registers itself with its addresses: status stays.
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let cidrs = items(object, "/spec/podCIDRs");
        let mut families = BTreeSet::new();
        for (i, cidr) in cidrs.iter().enumerate() {
            let cidr = cidr.as_str().unwrap_or_default();
            for fault in syntax::cidr(cidr) {
                causes.push(Cause::invalid(format!("spec.podCIDRs[{i}]"), cidr, &fault));
            }
            if let Ok(net) = cidr.parse::<IpNet>()
                && !families.insert(Family::of_net(net))
            {
                let words = "may specify no more than one CIDR for each IP family";
                causes.push(Cause::invalid("spec.podCIDRs", Value::Array(cidrs.to_vec()), words));
                break;
            }
        }
        taints(object, &mut causes);
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let (before, after) = (items(old, "/spec/podCIDRs"), items(new, "/spec/podCIDRs"));
        // A network of the other family may be added to the one that is there.
        if !after.starts_with(before) {
            let words = "node updates may not change podCIDR except from \"\" to valid";
            causes.push(Cause::forbidden("spec.podCIDRs", words));
        }
        let provider = text(old, "/spec/providerID");
        if !provider.is_empty() && provider != text(new, "/spec/providerID") {
            let words = "node updates may not change providerID except from \"\" to valid";
            causes.push(Cause::forbidden("spec.providerID", words));
        }
        causes
    }

    fn admit(
        &self,
        view: &dyn Read,
        new: &Value,
        old: Option<&Value>,
        subject: &Subject<'_>,
    ) -> Result<(), Status> {
        let given = items(new, "/spec/podCIDRs");
        if given == old.map(|old| items(old, "/spec/podCIDRs")).unwrap_or_default() {
            return Ok(());
        }
        let causes = misplaced_nets(view, given, subject);
        if causes.is_empty() {
            Ok(())
        } else {
            Err(Status::invalid(subject.resource, &subject.key.name, causes))
        }
    }

    fn validate_subresource(&self, _name: &str, new: &Value, _old: &Value) -> Vec<Cause> {
        let mut seen = Vec::new();
        let mut causes = Vec::new();
        for (i, address) in items(new, "/status/addresses").iter().enumerate() {
            if seen.contains(&address) {
                causes.push(Cause::duplicate(format!("status.addresses[{i}]"), address.clone()));
            }
            seen.push(address);
        }
        causes
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::name(),
                Column::new("Status", "string"),
                Column::new("Roles", "string"),
                Column::new("Age", "string"),
                Column::new("Version", "string"),
                Column::wide("Internal-IP", "string"),
                Column::wide("External-IP", "string"),
                Column::wide("OS-Image", "string"),
                Column::wide("Kernel-Version", "string"),
                Column::wide("Container-Runtime", "string"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let info = |field: &str| match text(object, &format!("/status/nodeInfo/{field}")) {
            "" => json!("<unknown>"),
            words => json!(words),
        };
        vec![
            name(object),
            json!(state(object)),
            json!(roles(object)),
            age(object, now),
            json!(text(object, "/status/nodeInfo/kubeletVersion")),
            json!(address(object, "InternalIP")),
            json!(address(object, "ExternalIP")),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    }
}

/// Faults of the networks of a node's Pods. A node may write its own Node, and all others send there what is for these
/// networks: it must not take more than its own part (CVE-2021-25740 is of this sort).
fn misplaced_nets(view: &dyn Read, given: &[Value], subject: &Subject<'_>) -> Vec<Cause> {
    let net = |text: &Value| text.as_str()?.parse::<IpNet>().ok();
    let mut causes = Vec::new();
    for (i, net) in given.iter().enumerate().filter_map(|(i, text)| Some((i, net(text)?))) {
        if !subject.cluster.cluster_cidrs.iter().any(|cluster| cluster.contains(&net)) {
            let words = "must be within the cluster's Pod network";
            causes.push(Cause::invalid(format!("spec.podCIDRs[{i}]"), net.to_string(), words));
        }
    }
    view.scan(&NODES.storage_prefix(None), None, &mut |_, stored| {
        let node = parse(stored);
        let name = text(&node, "/metadata/name");
        for other in
            items(&node, "/spec/podCIDRs").iter().filter_map(net).filter(|_| name != subject.key.name)
        {
            for (i, net) in given.iter().enumerate().filter_map(|(i, text)| Some((i, net(text)?))) {
                if net.contains(&other) || other.contains(&net) {
                    let words = format!("overlaps {other} of node {name:?}");
                    causes.push(Cause::invalid(format!("spec.podCIDRs[{i}]"), net.to_string(), &words));
                }
            }
        }
        causes.is_empty()
    });
    causes
}

fn taints(object: &Value, causes: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    for (i, taint) in items(object, "/spec/taints").iter().enumerate() {
        let field = format!("spec.taints[{i}]");
        let (key, value, effect) = (text(taint, "/key"), text(taint, "/value"), text(taint, "/effect"));
        for fault in syntax::qualified_name(key) {
            causes.push(Cause::invalid(format!("{field}.key"), key, &fault));
        }
        for fault in syntax::label_value(value) {
            causes.push(Cause::invalid(format!("{field}.value"), value, &fault));
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if effect.is_empty() {
            causes.push(Cause::required(format!("{field}.effect"), ""));
        } else if !effects.contains(&effect) {
            causes.push(Cause::not_supported(format!("{field}.effect"), effect, &effects));
        }
        if !seen.insert((key, effect)) {
            causes.push(Cause::duplicate(field, taint.clone()));
        }
    }
}

fn state(object: &Value) -> String {
    let ready = items(object, "/status/conditions").iter().find(|c| text(c, "/type") == "Ready");
    let mut words = vec![match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if at(object, "/spec/unschedulable") == Some(&Value::Bool(true)) {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(object: &Value) -> String {
    let mut roles: Vec<&str> = strings(object, "/metadata/labels")
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) if !role.is_empty() => Some(role),
            _ => (key == "kubernetes.io/role" && !value.is_empty()).then_some(value),
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address<'v>(object: &'v Value, kind: &str) -> &'v str {
    let addresses = items(object, "/status/addresses");
    addresses.iter().find(|a| text(a, "/type") == kind).map_or("<none>", |a| text(a, "/address"))
}
