//! What this machine runs short of, as conditions of its Node.
//!
//! In: the kernel's own figures. Out: `MemoryPressure`, `DiskPressure`, `PIDPressure` in the kubelet's words, which the control
//! plane makes taints of. Thresholds: the kubelet's 100 MiB of memory; of disk an absolute one, for the kubelet's tenth of a
//! large disk is no shortage here, where no images are pulled.

use nix::sys::statvfs::statvfs;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// Less memory than this is a shortage, in KiB (kubelet `memory.available<100Mi`).
const MEMORY_KIB_MIN: u64 = 100 << 10;
/// Less disk than this for volumes and logs is a shortage, in bytes.
const DISK_BYTES_MIN: u64 = 512 << 20;
/// How long a shortage that is over is told of (kubelet `evictionPressureTransitionPeriod`).
const HOLD: Duration = Duration::from_secs(300);
/// Fewer process ids than this are a shortage.
const PIDS_MIN: u64 = 1000;

/// Which of these the machine is short of; what the kernel does not tell is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressures {
    memory: bool,
    disk: bool,
    pids: bool,
}

impl Pressures {
    /// Asks the kernel. `disk`: a directory on the disk for volumes, there yet or not.
    fn read(disk: &Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let there = disk.ancestors().find(|dir| dir.is_dir()).unwrap_or(disk);
        let free = statvfs(there).ok().map(|stat| stat.blocks_available() * stat.fragment_size());
        let pids = pids_left(&text("/proc/loadavg"), &text("/proc/sys/kernel/pid_max"));
        Self {
            memory: available_kib(&text("/proc/meminfo")).is_some_and(|kib| kib < MEMORY_KIB_MIN),
            disk: free.is_some_and(|bytes| bytes < DISK_BYTES_MIN),
            pids: pids.is_some_and(|left| left < PIDS_MIN),
        }
    }

    /// Conditions: type, whether it holds, reason, message.
    pub(super) fn conditions(self) -> [(&'static str, bool, &'static str, &'static str); 3] {
        let say = |kind, holds, [bad, well]: [(&'static str, &'static str); 2]| {
            let (reason, message) = if holds { bad } else { well };
            (kind, holds, reason, message)
        };
        [
            say(
                "MemoryPressure",
                self.memory,
                [
                    ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                    ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                ],
            ),
            say(
                "DiskPressure",
                self.disk,
                [
                    ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                    ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                ],
            ),
            say(
                "PIDPressure",
                self.pids,
                [
                    ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                    ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                ],
            ),
        ]
    }
}

/// Watches for shortages. One that is over is told of for a while yet, or figures near a threshold would make news every
/// second.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// When each was seen last.
    seen: [Option<Instant>; 3],
}

impl Watch {
    /// What the machine is short of, or was a moment ago.
    pub(super) fn look(&mut self, disk: &Path) -> Pressures {
        self.take(Pressures::read(disk), Instant::now())
    }

    fn take(&mut self, read: Pressures, now: Instant) -> Pressures {
        let mut held = [read.memory, read.disk, read.pids];
        for (seen, holds) in self.seen.iter_mut().zip(&mut held) {
            if *holds {
                *seen = Some(now);
            }
            *holds = seen.is_some_and(|seen| now.duration_since(seen) < HOLD);
        }
        let [memory, disk, pids] = held;
        Pressures { memory, disk, pids }
    }
}

fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Threads that there are: the number after the slash in the fourth field of `/proc/loadavg` (proc_loadavg(5)).
fn pids_left(loadavg: &str, pid_max: &str) -> Option<u64> {
    let (_, all) = loadavg.split_whitespace().nth(3)?.split_once('/')?;
    let (all, max) = (all.parse::<u64>().ok()?, pid_max.trim().parse::<u64>().ok()?);
    Some(max.saturating_sub(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read() {
        assert_eq!(available_kib("MemTotal: 9 kB\nMemAvailable:   1234 kB\n"), Some(1234));
        assert_eq!(pids_left("0.1 0.2 0.3 2/345 6789\n", "32768\n"), Some(32423));
        assert_eq!((available_kib(""), pids_left("", "")), (None, None));
        let short = Pressures { disk: true, ..Pressures::default() };
        let said: Vec<_> = short.conditions().into_iter().map(|(kind, holds, ..)| (kind, holds)).collect();
        assert_eq!(said, [("MemoryPressure", false), ("DiskPressure", true), ("PIDPressure", false)]);
    }

    #[test]
    fn a_shortage_that_is_over_is_told_of_for_a_while() {
        let (mut watch, begun) = (Watch::default(), Instant::now());
        let (short, enough) = (Pressures { memory: true, ..Pressures::default() }, Pressures::default());
        let after = |s| begun + Duration::from_secs(s);
        assert_eq!(watch.take(enough, begun), enough);
        assert_eq!(watch.take(short, after(1)), short);
        assert_eq!(watch.take(enough, after(2)), short);
        assert_eq!(watch.take(enough, after(300)), short);
        assert_eq!(watch.take(enough, after(302)), enough);
    }

    #[test]
    fn a_directory_that_is_not_there_is_on_the_disk_of_the_one_above() {
        assert_eq!(Pressures::read(Path::new("/nowhere/at/all")).disk, Pressures::read(Path::new("/")).disk);
    }
}
