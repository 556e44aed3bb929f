//! As whom a container's processes run, and what they may.
//!
//! In: a container's settings, already merged with its Pod's (the container's own win). Invariants: no container gains
//! privileges by executing a program; none has a capability that reaches beyond its Pod's namespaces, whatever its
//! settings say ([`Security::capability_mask`]).

use serde::{Deserialize, Serialize};

/// Capabilities by number, as the kernel has them (linux/capability.h), without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
/// What containers have that ask for nothing: containerd's `defaultUnixCaps` without MKNOD, which is useless on nodev mounts.
const USUAL: [&str; 13] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SYS_CHROOT",
    "AUDIT_WRITE",
    "SETFCAP",
];
/// What may be added: it works on the Pod's own namespaces alone.
const ADDABLE: [&str; 6] = ["IPC_LOCK", "IPC_OWNER", "LEASE", "NET_ADMIN", "NET_BROADCAST", "SYS_PTRACE"];

/// A container's `securityContext` and what its Pod's adds to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Security {
    /// User id; none: the image's.
    pub user: Option<u32>,
    /// Primary group id; none: the user's in the image, else 0.
    pub group: Option<u32>,
    /// Supplementary group ids, beside those the image gives the user.
    pub groups: Vec<u32>,
    /// The image gives no further groups (`supplementalGroupsPolicy: Strict`).
    pub strict_groups: bool,
    /// It is not started as user 0.
    pub non_root: bool,
    /// Capabilities beside the usual ones.
    pub added: Vec<String>,
    /// Capabilities it has not; `ALL` for those not added.
    pub dropped: Vec<String>,
    /// Its root file system is not writable.
    pub read_only_root: bool,
    /// System calls that no program of a container needs are refused (`seccompProfile` `RuntimeDefault`).
    pub filtered: bool,
    /// Settings of the Pod's namespaces, by their dotted name.
    pub sysctls: Vec<(String, String)>,
}

impl Security {
    /// The capabilities of its processes of user 0, bit by number; others lose them when they are executed.
    pub fn capability_mask(&self) -> u64 {
        let all = self.dropped.iter().any(|name| name == "ALL");
        let usual = USUAL.into_iter().filter(|_| !all);
        let added =
            ADDABLE.into_iter().chain(USUAL).filter(|name| self.added.iter().any(|added| added == name));
        let has = usual.chain(added).filter(|name| !self.dropped.iter().any(|dropped| dropped == name));
        has.filter_map(number).fold(0, |mask, number| mask | 1 << number)
    }

    /// Why it may not be started in an image whose user is `image_user`, in the kubelet's words; none if it may.
    pub fn refusal(&self, image_user: &str, pod: &str, container: &str) -> Option<String> {
        let who = || format!("(pod: {pod:?}, container: {container})");
        let (user, _) = image_user.split_once(':').unwrap_or((image_user, ""));
        match (self.user, user.parse::<u32>()) {
            _ if !self.non_root => None,
            (Some(0), _) => Some(format!("container's runAsUser breaks non-root policy {}", who())),
            (Some(_), _) => None,
            (None, Ok(0)) => Some(format!("container has runAsNonRoot and image will run as root {}", who())),
            (None, Ok(_)) => None,
            (None, Err(_)) if user.is_empty() => {
                Some(format!("container has runAsNonRoot and image will run as root {}", who()))
            }
            (None, Err(_)) => Some(format!(
                "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {}",
                who()
            )),
        }
    }
}

fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(added: &[&str], dropped: &[&str]) -> u64 {
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        Security { added: own(added), dropped: own(dropped), ..Security::default() }.capability_mask()
    }

    #[test]
    fn capabilities_are_the_usual_ones_less_and_more() {
        // As containerd has it, without bit 27 (MKNOD).
        assert_eq!(mask(&[], &[]), 0xa004_25fb);
        assert_eq!(mask(&[], &["ALL"]), 0);
        assert_eq!(mask(&["NET_BIND_SERVICE"], &["ALL"]), 1 << 10);
        assert_eq!(mask(&["NET_ADMIN"], &["NET_RAW"]), (mask(&[], &[]) | 1 << 12) & !(1 << 13));
        // What would reach beyond the Pod is not given, even if a record says so.
        assert_eq!(mask(&["SYS_ADMIN", "ALL", "BPF", "MKNOD"], &[]), mask(&[], &[]));
    }

    #[test]
    fn root_is_refused_where_it_is_not_wanted() {
        let security = |user| Security { user, non_root: true, ..Security::default() };
        for (user, image, words) in [
            (Some(7), "", None),
            (Some(7), "web", None),
            (Some(0), "7", Some("breaks non-root policy")),
            (None, "", Some("image will run as root")),
            (None, "0:7", Some("image will run as root")),
            (None, "7:0", None),
            (None, "web", Some("non-numeric user (web)")),
        ] {
            let refusal = security(user).refusal(image, "p", "c");
            assert_eq!(refusal.is_some(), words.is_some(), "{refusal:?}");
            assert!(refusal.unwrap_or_default().contains(words.unwrap_or_default()));
        }
    }
}
