//! The filter of `seccompProfile: {type: RuntimeDefault}`: system calls that act on the machine rather than on the
//! container, as container runtimes refuse them to containers without the capability for them (Docker's default profile;
//! io_uring and userfaultfd as there).
//!
//! Invariant: what is refused gives EPERM, `clone3` ENOSYS, whose flags a filter cannot see: programs then use `clone`.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};
use std::collections::BTreeMap;

const REFUSED: [libc::c_long; 45] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];
/// New namespaces by `clone`.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];
/// `__X32_SYSCALL_BIT`: the same calls under other numbers.
#[cfg(target_arch = "x86_64")]
const ALIASES: [libc::c_long; 2] = [0, 0x4000_0000];
#[cfg(not(target_arch = "x86_64"))]
const ALIASES: [libc::c_long; 1] = [0];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Filters this process and all it executes, which may gain no privileges by that already.
pub(super) fn apply() -> Result<(), String> {
    let fail = |error: &dyn std::fmt::Display| format!("filter system calls: {error}");
    for (rules, errno) in [(refused().map_err(|e| fail(&e))?, libc::EPERM), (newer(), libc::ENOSYS)] {
        let program = program(rules, errno).map_err(|error| fail(&error))?;
        apply_filter(&program).map_err(|error| fail(&error))?;
    }
    Ok(())
}

fn program(rules: Rules, errno: libc::c_int) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno.cast_unsigned()), arch)?
        .try_into()
}

fn refused() -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for alias in ALIASES {
        rules.extend(REFUSED.map(|call| (call | alias, Vec::new())));
        let clone = NAMESPACES.map(|flag| {
            let flag = u64::from(flag.cast_unsigned());
            let asked = SeccompCmpOp::MaskedEq(flag);
            SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, asked, flag)?])
        });
        rules.insert(libc::SYS_clone | alias, clone.into_iter().collect::<Result<_, _>>()?);
    }
    Ok(rules)
}

fn newer() -> Rules {
    ALIASES.map(|alias| (libc::SYS_clone3 | alias, Vec::new())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_ones_the_kernel_takes() {
        for (rules, errno) in [(refused().unwrap(), libc::EPERM), (newer(), libc::ENOSYS)] {
            let program = program(rules, errno).unwrap();
            assert!((3..4096).contains(&program.len()), "{}", program.len());
        }
    }
}
