//! What a Pod may say of its users and privileges.
//!
//! Source: kubernetes `pkg/apis/core/validation`, `ValidatePodSecurityContext`, `ValidateSecurityContext`, `validateSysctls`.
//! Invariant: nothing is taken that would reach beyond the Pod's own namespaces: no privileged containers, no such
//! capability, no setting of the kernel that is not the Pod's own.

use super::{
    host,
    validate::{choice, refuse_unsupported},
};
use crate::value::{at, items, text};
use minisvc_apimachinery::Cause;
use serde_json::Value;
use std::collections::BTreeSet;

const OF_POD: [&str; 9] = [
    "fsGroup",
    "fsGroupChangePolicy",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seccompProfile",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "sysctls",
];
const OF_CONTAINER: [&str; 9] = [
    "allowPrivilegeEscalation",
    "capabilities",
    "privileged",
    "procMount",
    "readOnlyRootFilesystem",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seccompProfile",
];
/// Of the capabilities, those that act on the Pod's namespaces alone.
const CAPABILITIES: [&str; 19] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "SYS_PTRACE",
];
/// Settings that each Pod has of its own (the kubelet's safe ones).
const SYSCTLS: [&str; 13] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
const SYSCTLS_MAX: usize = 64;
const GROUPS_MAX: usize = 256;
/// Longest value of a setting, in bytes.
const VALUE_BYTES_MAX: usize = 4096;

/// Faults of the Pod's own `securityContext`, in the spec at `path`.
pub(super) fn of_pod(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(context) = at(spec, "/securityContext").and_then(Value::as_object) else { return };
    let path = format!("{path}.securityContext");
    refuse_unsupported(context, &path, &OF_POD, causes);
    let context = &Value::Object(context.clone());
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(context.get(field), &format!("{path}.{field}"), causes);
    }
    let groups = items(context, "/supplementalGroups");
    if groups.len() > GROUPS_MAX {
        causes.push(Cause::too_many(format!("{path}.supplementalGroups"), groups.len(), GROUPS_MAX));
    }
    for (i, group) in groups.iter().enumerate() {
        id(Some(group), &format!("{path}.supplementalGroups[{i}]"), causes);
    }
    let of = |field: &str| (format!("/{field}"), format!("{path}.{field}"));
    for (field, known) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
    ] {
        let (pointer, path) = of(field);
        choice(context, &pointer, &path, &known, causes);
    }
    seccomp(context, &path, causes);
    sysctls(spec, context, &format!("{path}.sysctls"), causes);
}

/// Faults of a container's `securityContext`; the container stands at `path`.
pub(super) fn of_container(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(context) = at(container, "/securityContext").and_then(Value::as_object) else { return };
    let path = format!("{path}.securityContext");
    refuse_unsupported(context, &path, &OF_CONTAINER, causes);
    let context = &Value::Object(context.clone());
    for field in ["runAsUser", "runAsGroup"] {
        id(context.get(field), &format!("{path}.{field}"), causes);
    }
    for field in ["privileged", "allowPrivilegeEscalation"] {
        if context.get(field) == Some(&Value::Bool(true)) {
            causes.push(Cause::forbidden(format!("{path}.{field}"), "no container gains privileges here"));
        }
    }
    choice(context, "/procMount", &format!("{path}.procMount"), &["Default"], causes);
    seccomp(context, &path, causes);
    for (list, may_be_all) in [("add", false), ("drop", true)] {
        for (i, name) in items(context, &format!("/capabilities/{list}")).iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let path = format!("{path}.capabilities.{list}[{i}]");
            if may_be_all && (name == "ALL" || is_capability(name)) || CAPABILITIES.contains(&name) {
                continue;
            }
            match is_capability(name) || name == "ALL" {
                true => causes.push(Cause::forbidden(path, &format!("{name} reaches beyond the Pod"))),
                false => causes.push(Cause::invalid(path, name, "unknown capability")),
            }
        }
    }
}

/// Whether it looks like the name of a capability: which there are depends on the kernel, and not to have one is easy.
fn is_capability(name: &str) -> bool {
    !name.is_empty() && !name.starts_with("CAP_") && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
}

fn id(value: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    let Some(id) = value.and_then(Value::as_i64) else { return };
    if !(0..=i64::from(i32::MAX)).contains(&id) {
        causes.push(Cause::invalid(path, id, "must be between 0 and 2147483647, inclusive"));
    }
}

fn seccomp(context: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(profile) = context.get("seccompProfile").and_then(Value::as_object) else { return };
    let path = format!("{path}.seccompProfile");
    match text(context, "/seccompProfile/type") {
        "" => causes.push(Cause::required(format!("{path}.type"), "")),
        _ => choice(
            context,
            "/seccompProfile/type",
            &format!("{path}.type"),
            &["RuntimeDefault", "Unconfined"],
            causes,
        ),
    }
    refuse_unsupported(profile, &path, &["type"], causes);
}

fn sysctls(spec: &Value, context: &Value, path: &str, causes: &mut Vec<Cause>) {
    let list = items(context, "/sysctls");
    if list.len() > SYSCTLS_MAX {
        causes.push(Cause::too_many(path, list.len(), SYSCTLS_MAX));
        return;
    }
    let shared = host::is_in_node_network(spec);
    let mut names = BTreeSet::new();
    for (i, sysctl) in list.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let (name, value) = (text(sysctl, "/name"), text(sysctl, "/value"));
        let dotted = name.replace('/', ".");
        if name.is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        } else if !SYSCTLS.contains(&dotted.as_str()) {
            causes.push(Cause::forbidden(format!("{path}.name"), &format!("{name} is not a Pod's own")));
        } else if shared && dotted.starts_with("net.") {
            causes.push(Cause::forbidden(
                format!("{path}.name"),
                &format!("sysctl '{name}' is not allowed when the host network is used"),
            ));
        }
        if !names.insert(dotted) {
            causes.push(Cause::duplicate(format!("{path}.name"), name));
        }
        if value.len() > VALUE_BYTES_MAX {
            causes.push(Cause::invalid(format!("{path}.value"), "", "too long"));
        }
    }
}

/// That a Pod in its node's network leaves that as it is.
pub(super) fn of_shared_network(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !host::is_in_node_network(spec) {
        return;
    }
    for list in ["containers", "initContainers"] {
        for (i, container) in items(spec, &format!("/{list}")).iter().enumerate() {
            for (n, name) in items(container, "/securityContext/capabilities/add").iter().enumerate() {
                if ["NET_ADMIN", "NET_BROADCAST"].iter().any(|known| name == known) {
                    let path = format!("{path}.{list}[{i}].securityContext.capabilities.add[{n}]");
                    causes.push(Cause::forbidden(path, "the network is the node's"));
                }
            }
        }
    }
}
