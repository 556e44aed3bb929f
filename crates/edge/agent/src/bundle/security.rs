//! `securityContext` of a Pod and of a container as one: a pure function.
//!
//! Invariant: what a container says of itself wins over what its Pod says of all (k8s.io/kubernetes
//! pkg/securitycontext, `DetermineEffectiveSecurityContext`).

use k8s_openapi::api::core::v1::{Capabilities, Container, PodSpec, SeccompProfile};
use minisvc_runtime::security::Security;

/// What a container of a Pod is to be run with. Ids and names are those the registry lets through.
pub(super) fn security(pod: Option<&PodSpec>, container: &Container) -> Security {
    let of_pod = pod.and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let id = |number: i64| u32::try_from(number).ok();
    let groups = of_pod.supplemental_groups.iter().flatten().copied().chain(of_pod.fs_group);
    let Capabilities { add, drop } = own.capabilities.unwrap_or_default();
    let default = |profile: SeccompProfile| profile.type_ == "RuntimeDefault";
    let sysctls = of_pod.sysctls.into_iter().flatten();
    Security {
        user: own.run_as_user.or(of_pod.run_as_user).and_then(id),
        group: own.run_as_group.or(of_pod.run_as_group).and_then(id),
        groups: groups.filter_map(id).collect(),
        strict_groups: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        non_root: own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or_default(),
        added: add.unwrap_or_default(),
        dropped: drop.unwrap_or_default(),
        read_only_root: own.read_only_root_filesystem.unwrap_or_default(),
        filtered: own.seccomp_profile.or(of_pod.seccomp_profile).is_some_and(default),
        sysctls: sysctls.map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_s_own_words_win() {
        let pod: PodSpec = serde_json::from_value(json!({
            "securityContext": {
                "runAsUser": 5, "runAsGroup": 6, "runAsNonRoot": true, "fsGroup": 9, "supplementalGroups": [7],
                "supplementalGroupsPolicy": "Strict", "seccompProfile": {"type": "RuntimeDefault"},
                "sysctls": [{"name": "net/ipv4/tcp_syncookies", "value": "0"}],
            },
            "containers": [{"name": "a"}, {"name": "b", "securityContext": {
                "runAsUser": 0, "runAsNonRoot": false, "readOnlyRootFilesystem": true,
                "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "seccompProfile": {"type": "Unconfined"},
            }}],
        }))
        .unwrap();
        let of_pod = Security {
            user: Some(5),
            group: Some(6),
            groups: vec![7, 9],
            strict_groups: true,
            non_root: true,
            filtered: true,
            sysctls: vec![("net.ipv4.tcp_syncookies".into(), "0".into())],
            ..Security::default()
        };
        assert_eq!(security(Some(&pod), &pod.containers[0]), of_pod);
        let own = Security {
            user: Some(0),
            non_root: false,
            filtered: false,
            read_only_root: true,
            added: vec!["NET_ADMIN".into()],
            dropped: vec!["ALL".into()],
            ..of_pod
        };
        assert_eq!(security(Some(&pod), &pod.containers[1]), own);
        assert_eq!(security(None, &Container::default()), Security::default());
    }
}
