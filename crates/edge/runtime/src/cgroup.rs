//! What containers may use at most, by the kernel's control groups.
//!
//! In: a container's [`Limits`]. Out: a group for it, which its processes join before their program runs, and words for what
//! this node's groups cannot hold. Both hierarchies are known: one for all (v2, `cpu` and `memory` in
//! `cgroup.subtree_control`) and one a controller (v1). Invariants: a container without limits costs nothing; a group lives
//! no longer than its Pod; every group is below one directory of this node's name.
//!
//! Source: kernel `admin-guide/cgroup-v2.rst`, `cgroup-v1/memory.rst`; kubelet `pkg/kubelet/cm/helpers_linux.go`.

use crate::mountinfo::{self, MountPoint};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// A period of the CPU quota, in microseconds (the kubelet's).
const PERIOD_US: u64 = 100_000;
/// The kernel takes no smaller quota, in microseconds.
const QUOTA_US_MIN: u64 = 1000;
/// Nor a larger one (`max_bw_runtime_us` of kernel/sched/core.c); it is more than any machine has.
const QUOTA_US_MAX: u64 = (1 << 44) / 1000;
/// Longest file of a group that is read, in bytes.
const FILE_BYTES_MAX: usize = 64 << 10;

/// What a container may use at most, and its share when there is not enough for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// CPU time, in thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// Requested CPU time, in thousandths of a CPU: its share beside others.
    pub cpu_request_millis: Option<u64>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
}

/// Where a node's groups are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mounted {
    /// One hierarchy for all controllers.
    Unified(PathBuf),
    /// One for each.
    Single { cpu: Option<PathBuf>, memory: Option<PathBuf> },
}

/// The groups of this node's containers.
#[derive(Clone, Debug)]
pub struct Groups {
    mounted: Mounted,
    name: String,
}

/// The groups of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Directories; a process joins each.
    pub(crate) dirs: Vec<PathBuf>,
    /// A file that counts the processes the kernel has killed for want of memory.
    pub(crate) kills: Option<PathBuf>,
}

impl Groups {
    /// Finds out what this machine has. `name`: of the directory for all of this node's groups.
    pub fn find(name: &str) -> Self {
        let table = mountinfo::own().unwrap_or_default();
        let controllers = |dir: &Path| read(&dir.join("cgroup.controllers")).unwrap_or_default();
        Self { mounted: mounted(&table, controllers), name: name.to_owned() }
    }

    /// Makes the groups of a container anew. Returns them, and what of its limits is not kept, in words.
    pub(crate) fn make(&self, uid: &str, container: &str, limits: Limits) -> (Group, Vec<String>) {
        let mut group = Group::default();
        let mut lacking = Vec::new();
        let mut dirs: Vec<(PathBuf, Vec<Setting>)> = Vec::new();
        match &self.mounted {
            Mounted::Unified(root) => {
                dirs.push((root.clone(), [cpu(limits, true), memory(limits, true)].concat()))
            }
            Mounted::Single { cpu: of_cpu, memory: of_memory } => {
                for (controller, root, settings) in
                    [("cpu", of_cpu, cpu(limits, false)), ("memory", of_memory, memory(limits, false))]
                {
                    match root {
                        Some(root) => dirs.push((root.clone(), settings)),
                        None if settings.is_empty() => {}
                        None => lacking.push(format!("this node has no cgroup controller {controller}")),
                    }
                }
            }
        }
        for (root, settings) in dirs.into_iter().filter(|(_, settings)| !settings.is_empty()) {
            let is_unified = matches!(self.mounted, Mounted::Unified(_));
            // Another Pod that goes may take an empty directory above away meanwhile.
            let make = || self.dir(&root, &[uid, container], is_unified);
            let dir = match make().or_else(|_| make()) {
                Ok(dir) => dir,
                Err(error) => {
                    lacking.push(format!("no control group below {}: {error}", root.display()));
                    continue;
                }
            };
            for Setting { file, value, needed } in settings {
                if let Err(error) = fs::write(dir.join(file), &value)
                    && needed
                {
                    lacking.push(format!("{file} {value}: {error}"));
                }
            }
            let kills = if is_unified { "memory.events" } else { "memory.oom_control" };
            group.kills = group.kills.or_else(|| Some(dir.join(kills)).filter(|file| file.exists()));
            group.dirs.push(dir);
        }
        (group, lacking)
    }

    /// A fresh directory below this node's own.
    fn dir(&self, root: &Path, parts: &[&str], is_unified: bool) -> io::Result<PathBuf> {
        let mut dir = root.to_owned();
        for part in std::iter::once(self.name.as_str()).chain(parts.iter().copied()) {
            if is_unified {
                // Fails where it is set already, and where it cannot be; the settings then say so.
                let _ = fs::write(dir.join("cgroup.subtree_control"), "+cpu +memory");
            }
            dir.push(part);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        // What was counted in the run before counts no more.
        fs::remove_dir(&dir)?;
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// Takes away the groups of a Pod. Those in which something still runs stay.
    pub(crate) fn remove(&self, uid: &str) {
        for root in self.roots() {
            remove_below(&root.join(&self.name).join(uid));
            let _others_there = fs::remove_dir(root.join(&self.name));
        }
    }

    /// Takes away every group of this node in which nothing runs.
    pub fn sweep(&self) {
        for root in self.roots() {
            remove_below(&root.join(&self.name));
        }
    }

    fn roots(&self) -> Vec<&Path> {
        match &self.mounted {
            Mounted::Unified(root) => vec![root],
            Mounted::Single { cpu, memory } => cpu.iter().chain(memory).map(PathBuf::as_path).collect(),
        }
    }
}

impl Group {
    /// The way in, while the directories are in sight.
    pub(crate) fn open(&self) -> io::Result<Entrance> {
        let open = |dir: &PathBuf| File::options().write(true).open(dir.join("cgroup.procs"));
        self.dirs.iter().map(open).collect::<io::Result<_>>().map(Entrance)
    }

    /// How many processes the kernel has killed for want of memory.
    pub(crate) fn kills(&self) -> u64 {
        let text = self.kills.as_deref().and_then(|file| read(file).ok()).unwrap_or_default();
        let number = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
        text.lines().find_map(number).unwrap_or(0)
    }
}

/// The files by which a process joins a group.
pub(crate) struct Entrance(Vec<File>);

impl Entrance {
    /// Makes this process one of the group's.
    pub(crate) fn join(&self) -> io::Result<()> {
        self.0.iter().try_for_each(|mut file| file.write_all(b"0"))
    }
}

/// A line for a file of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    file: &'static str,
    value: String,
    /// Whether a limit is not kept without it.
    needed: bool,
}

fn setting(file: &'static str, value: impl ToString, needed: bool) -> Setting {
    Setting { file, value: value.to_string(), needed }
}

fn cpu(limits: Limits, is_unified: bool) -> Vec<Setting> {
    let mut all = Vec::new();
    if let Some(millis) = limits.cpu_request_millis {
        let shares = (millis.saturating_mul(1024) / 1000).clamp(2, 262_144);
        all.push(match is_unified {
            // kubelet `CPUSharesToCPUWeight`.
            true => setting("cpu.weight", 1 + (shares - 2) * 9999 / 262_142, false),
            false => setting("cpu.shares", shares, false),
        });
    }
    if let Some(millis) = limits.cpu_millis.filter(|millis| *millis > 0) {
        let quota = (millis.saturating_mul(PERIOD_US) / 1000).clamp(QUOTA_US_MIN, QUOTA_US_MAX);
        match is_unified {
            true => all.push(setting("cpu.max", format!("{quota} {PERIOD_US}"), true)),
            false => all.extend([
                setting("cpu.cfs_period_us", PERIOD_US, true),
                setting("cpu.cfs_quota_us", quota, true),
            ]),
        }
    }
    all
}

fn memory(limits: Limits, is_unified: bool) -> Vec<Setting> {
    let Some(bytes) = limits.memory_bytes.filter(|bytes| *bytes > 0) else { return Vec::new() };
    match is_unified {
        // Without swap, and all of a container ends at once when it wants too much, as the kubelet has it; a kernel without
        // swap has no file for it.
        true => vec![
            setting("memory.max", bytes, true),
            setting("memory.swap.max", 0, false),
            setting("memory.oom.group", 1, false),
        ],
        false => vec![
            setting("memory.limit_in_bytes", bytes, true),
            setting("memory.memsw.limit_in_bytes", bytes, false),
        ],
    }
}

/// The name of the directory for the groups of a node with this data directory: nodes of labs share a kernel.
pub fn name_for(data_dir: &Path) -> String {
    if data_dir == Path::new("/var/lib/minisvc") {
        return "minisvc".to_owned();
    }
    // FNV-1a, which stays the same for ever.
    let hash =
        data_dir.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("minisvc-{hash:016x}")
}

/// Which of the mounts are of groups; `controllers` tells those of a unified hierarchy.
fn mounted(mounts: &[MountPoint], controllers: impl Fn(&Path) -> String) -> Mounted {
    let mut single = (None, None);
    for MountPoint { place, kind, options } in mounts {
        let has = |name: &str| options.split(',').any(|option| option == name);
        match kind.as_str() {
            "cgroup2" => {
                let text = controllers(place);
                let controls = |name: &str| text.split_whitespace().any(|known| known == name);
                if controls("cpu") && controls("memory") {
                    return Mounted::Unified(place.clone());
                }
            }
            "cgroup" if has("cpu") => single.0 = single.0.or(Some(place.clone())),
            "cgroup" if has("memory") => single.1 = single.1.or(Some(place.clone())),
            _ => {}
        }
    }
    Mounted::Single { cpu: single.0, memory: single.1 }
}

/// Removes a directory and those in it, the innermost first; the kernel keeps those that are in use.
fn remove_below(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
        }
    }
    let _in_use_or_gone = fs::remove_dir(dir);
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = fs::read_to_string(path)?;
    text.truncate(FILE_BYTES_MAX);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_apart() {
        let v1 = "1 0 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  2 0 0:2 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n\
                  3 0 0:3 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n\
                  4 0 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let dir = |name: &str| Some(PathBuf::from(format!("/sys/fs/cgroup/{name}")));
        let single = Mounted::Single { cpu: dir("cpu"), memory: dir("memory") };
        let mounted = |table, controllers: fn(&Path) -> String| mounted(&mountinfo::read(table), controllers);
        assert_eq!(mounted(v1, |_| String::new()), single);
        let v2 = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            mounted(v2, |_| "cpuset cpu io memory pids".to_owned()),
            Mounted::Unified("/sys/fs/cgroup".into())
        );
        assert_eq!(mounted(v2, |_| "pids".to_owned()), Mounted::Single { cpu: None, memory: None });
    }

    #[test]
    fn limits_are_what_the_kernel_is_told() {
        let limits =
            Limits { cpu_millis: Some(1500), cpu_request_millis: Some(500), memory_bytes: Some(64 << 20) };
        let said = |settings: Vec<Setting>| -> Vec<String> {
            settings.into_iter().map(|s| format!("{} {}", s.file, s.value)).collect()
        };
        assert_eq!(said(cpu(limits, true)), ["cpu.weight 20", "cpu.max 150000 100000"]);
        assert_eq!(
            said(cpu(limits, false)),
            ["cpu.shares 512", "cpu.cfs_period_us 100000", "cpu.cfs_quota_us 150000"]
        );
        assert_eq!(
            said(memory(limits, true)),
            ["memory.max 67108864", "memory.swap.max 0", "memory.oom.group 1"]
        );
        assert_eq!(said(memory(limits, false))[0], "memory.limit_in_bytes 67108864");
        let little = Limits { cpu_millis: Some(1), ..Limits::default() };
        assert_eq!(said(cpu(little, true)), ["cpu.max 1000 100000"]);
        let much =
            Limits { cpu_millis: Some(u64::MAX), cpu_request_millis: Some(u64::MAX), memory_bytes: None };
        assert_eq!(said(cpu(much, true)), ["cpu.weight 10000", "cpu.max 17592186044 100000"]);
        assert!(cpu(Limits::default(), true).is_empty() && memory(Limits::default(), false).is_empty());
    }

    #[test]
    fn what_a_node_cannot_hold_is_told() {
        let groups = Groups { mounted: Mounted::Single { cpu: None, memory: None }, name: "none".into() };
        let limits = Limits { memory_bytes: Some(1), ..Limits::default() };
        let (group, lacking) = groups.make("u", "c", limits);
        assert_eq!((group, lacking.len()), (Group::default(), 1));
        assert!(lacking[0].contains("no cgroup controller memory"), "{lacking:?}");
        assert!(groups.make("u", "c", Limits::default()).1.is_empty());
    }
}
