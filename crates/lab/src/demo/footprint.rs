//! What a lab costs, and whether any of it is left.
//!
//! Invariant: a process of a lab is a descendant of the lab's first one, for the first processes of its pid
//! namespaces adopt what is orphaned in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A process, told apart from a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId {
    pid: u32,
    started: u64,
}

#[derive(Clone, Debug)]
struct Process {
    id: ProcessId,
    parent: u32,
    rss_kib: u64,
    command: Vec<String>,
}

fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what counts comes after its end (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    if *fields.first()? == "Z" {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss_kib = rss.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command =
        command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let id = ProcessId { pid, started: fields.get(19)?.parse().ok()? };
    Some(Process { id, parent: fields.get(1)?.parse().ok()?, rss_kib, command })
}

fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(read).collect()
}

/// `root` and everything below it.
fn below(root: u32, all: &[Process]) -> Vec<&Process> {
    let mut children = BTreeMap::<u32, Vec<&Process>>::new();
    for process in all {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found: Vec<&Process> = all.iter().filter(|process| process.id.pid == root).collect();
    let mut at = 0;
    while let Some(process) = found.get(at) {
        found.extend(children.get(&process.id.pid).into_iter().flatten().copied());
        at += 1;
    }
    found
}

/// Every process of the lab below `root`.
pub fn processes(root: u32) -> BTreeSet<ProcessId> {
    below(root, &all()).into_iter().map(|process| process.id).collect()
}

/// Those of them that still run.
pub fn still_running(known: &BTreeSet<ProcessId>) -> usize {
    known.iter().filter(|id| read(id.pid).is_some_and(|process| process.id == **id)).count()
}

/// Resident memory of a node, MiB.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeMemory {
    /// `minisvc server`, and the process of its tunnel if it has one.
    pub server_mib: f64,
    /// Shims and programs of its Pods.
    pub pods_mib: f64,
    /// How many these are.
    pub pod_processes: usize,
}

/// Resident memory of each node of the lab below `root`, by name.
pub fn memory(root: u32, nodes: &[String]) -> BTreeMap<String, NodeMemory> {
    let all = all();
    let lab = below(root, &all);
    let argument = |process: &Process, word: &str| process.command.get(1).is_some_and(|first| first == word);
    nodes
        .iter()
        .map(|node| {
            let mut memory = NodeMemory::default();
            let machine = lab.iter().filter(|process| {
                argument(process, "lab-member") && process.command.windows(2).any(|w| w == ["--member", node])
            });
            let inside: BTreeMap<u32, &Process> = machine
                .flat_map(|process| below(process.id.pid, &all))
                .map(|process| (process.id.pid, process))
                .collect();
            for process in inside.values() {
                #[allow(clippy::cast_precision_loss)] // sizes of processes are far below 2^52 KiB
                let mib = process.rss_kib as f64 / 1024.0;
                if ["server", "tunnel-worker"].iter().any(|word| argument(process, word)) {
                    memory.server_mib += mib;
                } else if ["pod-shim", "pod-echo"].iter().any(|word| argument(process, word)) {
                    memory.pods_mib += mib;
                    memory.pod_processes += 1;
                }
            }
            (node.clone(), memory)
        })
        .collect()
}

/// What the host has that a lab could leave behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    links: BTreeSet<String>,
    mounts: BTreeSet<PathBuf>,
}

impl HostState {
    /// As it is now.
    pub fn now() -> Self {
        let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            links: links.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
            mounts: mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect(),
        }
    }

    /// What is here that was not there `before` and could be a lab's, in words.
    pub fn beyond(&self, before: &Self, lab: &Path) -> Vec<String> {
        let links = self
            .links
            .difference(&before.links)
            .filter(|link| link.starts_with("msv") || link.starts_with("u-"));
        let mounts = self.mounts.difference(&before.mounts).filter(|mount| mount.starts_with(lab));
        links
            .map(|link| format!("link {link}"))
            .chain(mounts.map(|at| format!("mount {}", at.display())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_and_missed() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let known = processes(std::process::id());
        assert!(known.iter().any(|id| id.pid == child.id()));
        assert!(still_running(&known) >= 2);
        let own: BTreeSet<_> = known.into_iter().filter(|id| id.pid == child.id()).collect();
        child.kill().unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // What waits for its parent to reap it does not run.
        while still_running(&own) > 0 {
            assert!(std::time::Instant::now() < end, "a killed process still counts");
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
