//! The container's view of the file system, made inside its new mount namespace.
//!
//! In: the node's mounts. Out: the image without devices or set-user-ID; the node's own file system read-only with a
//! `/tmp` and `/run` of the container's, an image with a root directory under a layer for what the container changes
//! ([`super::root`]); own `/proc`, `/sys`, `/dev`, generated files in `/etc`, and the node's secrets covered. Invariant: what a container must
//! not see or write is an error if it cannot be arranged; comfort that cannot be arranged is a note.

use super::{ShimBundle, init::Report, root, volumes};
use crate::sys;
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};
use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Component, Path, PathBuf},
};

/// Devices that every program may expect.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Where Kubernetes has the file for last words, unless a container says otherwise.
const DEFAULT_MESSAGE_TARGET: &str = "/dev/termination-log";
/// Parts of `/proc` through which root could change the node (runc's read-only paths).
const PROC_READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Parts of `/proc` that tell too much about the node (runc's masked paths).
const PROC_MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
];

/// Makes the container's file system around this process.
pub(super) fn set_up(bundle: &ShimBundle, report: &mut Report) -> Result<(), String> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|error| format!("make mounts private: {error}"))?;
    // Taken before anything is covered; they stay valid whatever is mounted over their paths.
    let devices: Vec<(&str, OwnedFd)> = DEVICES
        .into_iter()
        .filter_map(|name| Some((name, sys::open_tree_clone(&format!("/dev/{name}"), false).ok()?)))
        .collect();
    let mut generated = Vec::new();
    for (source, target) in &bundle.generated {
        let source = source.to_str().ok_or_else(|| format!("{}: not UTF-8", source.display()))?;
        let tree = sys::open_tree_clone(source, false)
            .and_then(|fd| {
                sys::mount_setattr(
                    Some(&fd),
                    "",
                    false,
                    sys::RDONLY | sys::NOSUID | sys::NODEV | sys::NOEXEC,
                )?;
                Ok(fd)
            })
            .map_err(|error| format!("mount {source}: {error}"))?;
        generated.push((target, tree));
    }
    let message = if bundle.message_target.is_empty() { None } else { Some(message_file(&bundle.message)?) };
    let volumes = volumes::open(&bundle.mounts)?;
    let node_proc = bundle.root.as_ref().and_then(|_| sys::open_tree_clone("/proc", true).ok());
    let has_layer = match &bundle.root {
        Some(root) => root::enter(root, bundle.changes.as_deref(), report)?,
        None => false,
    };
    let is_read_only = !has_layer || bundle.settings.security.read_only_root;
    if has_layer {
        let files = bundle.generated.iter().map(|(_, target)| target.as_str());
        root::make_places(files, &bundle.settings.working_dir, report);
        volumes::make_places(&volumes)?;
    } else {
        volumes::make_root(&volumes)?;
    }
    let attributes = if is_read_only { sys::RDONLY } else { 0 };
    sys::mount_setattr(None, "/", true, attributes | sys::NOSUID | sys::NODEV)
        .map_err(|error| format!("make the image read-only: {error}"))?;
    dev(&devices, report)?;
    if !has_layer {
        tmpfs("/tmp", "mode=1777", report)?;
        tmpfs("/run", "mode=755,size=64m", report)?;
    }
    proc(node_proc, report)?;
    sys(report);
    for dir in &bundle.masked {
        mask(dir)?;
    }
    for (target, tree) in generated {
        if let Err(error) = bind_file(&tree, target) {
            report.note(&format!("{target} is the image's: {error}"));
        }
    }
    let target = &bundle.message_target;
    match message.map(|tree| bind_file(&tree, target)) {
        // An image without a place for what nobody asked for.
        Some(Err(error)) if target == DEFAULT_MESSAGE_TARGET => report.note(&format!("{target}: {error}")),
        Some(Err(error)) => return Err(format!("mount terminationMessagePath {target}: {error}")),
        Some(Ok(())) | None => {}
    }
    volumes::attach(volumes)
}

/// A mount of the file for last words.
fn message_file(path: &Path) -> Result<OwnedFd, String> {
    let fail = |error: &dyn std::fmt::Display| format!("mount {}: {error}", path.display());
    let text = path.to_str().ok_or_else(|| fail(&"not UTF-8"))?;
    let tree = sys::open_tree_clone(text, false).map_err(|error| fail(&error))?;
    let attributes = sys::NOSUID | sys::NODEV | sys::NOEXEC;
    sys::mount_setattr(Some(&tree), "", false, attributes).map_err(|error| fail(&error))?;
    Ok(tree)
}

fn tmpfs(target: &str, options: &str, report: &mut Report) -> Result<(), String> {
    if !Path::new(target).is_dir() {
        report.note(&format!("no {target} in the image"));
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options))
        .map_err(|error| format!("mount tmpfs on {target}: {error}"))
}

/// A `/sys` of the container's network, without what the node has mounted below it.
fn sys(report: &mut Report) {
    if !Path::new("/sys").is_dir() {
        return;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let mounted = || mount(Some("sysfs"), "/sys", Some("sysfs"), flags, None::<&str>);
    let done = match mounted() {
        // In the node's network it is the very one that is there, which cannot lie on itself.
        Err(Errno::EBUSY) => {
            mount(Some("tmpfs"), "/sys", Some("tmpfs"), flags, None::<&str>).and_then(|()| {
                mounted().inspect_err(|_| {
                    let _ = umount2("/sys", MntFlags::MNT_DETACH);
                })
            })
        }
        done => done,
    };
    if let Err(error) = done {
        report.note(&format!("/sys is the node's, read-only: {error}"));
    }
}

/// A `/dev` with the usual harmless devices only: the node's would give root the node's disks.
fn dev(devices: &[(&str, OwnedFd)], report: &mut Report) -> Result<(), String> {
    if !Path::new("/dev").is_dir() {
        report.note("no /dev in the image");
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), "/dev", Some("tmpfs"), flags, Some("mode=755,size=64k"))
        .map_err(|error| format!("mount tmpfs on /dev: {error}"))?;
    for (name, tree) in devices {
        let target = format!("/dev/{name}");
        File::create(&target)
            .and_then(|_| sys::move_mount(tree, &target))
            .map_err(|error| format!("mount {target}: {error}"))?;
    }
    let mut optional = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            report.note(&format!("{what}: {error}"));
        }
    };
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ] {
        optional(link, symlink(target, link));
    }
    let own = |dir: &str, kind: &str, options: &str| -> io::Result<()> {
        fs::create_dir(dir)?;
        Ok(mount(Some(kind), dir, Some(kind), flags, Some(options))?)
    };
    optional("/dev/pts", own("/dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"));
    optional("/dev/shm", own("/dev/shm", "tmpfs", "mode=1777,size=64m"));
    Ok(())
}

/// A `/proc` of the new pid namespace, with what would change or betray the node covered. `node`: the node's, if the
/// container cannot see it any more.
fn proc(node: Option<OwnedFd>, report: &mut Report) -> Result<(), String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if !Path::new("/proc").is_dir() {
        report.note("no /proc in the image");
        return Ok(());
    }
    if let Err(error) = mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>) {
        // Not permitted where the outer /proc is partly covered, as in an unprivileged container.
        report.note(&format!("/proc is the node's, read-only: {error}"));
        let Some(tree) = node else { return Ok(()) };
        return sys::mount_setattr(Some(&tree), "", true, sys::RDONLY)
            .and_then(|()| sys::move_mount(&tree, "/proc"))
            .map_err(|error| format!("mount the node's /proc: {error}"));
    }
    for path in PROC_READ_ONLY {
        if !Path::new(path).exists() {
            continue;
        }
        sys::open_tree_clone(path, true)
            .and_then(|tree| {
                sys::mount_setattr(Some(&tree), "", true, sys::RDONLY)?;
                sys::move_mount(&tree, path)
            })
            .map_err(|error| format!("make {path} read-only: {error}"))?;
    }
    for path in PROC_MASKED {
        mask(Path::new(path))?;
    }
    Ok(())
}

/// Covers a directory with an empty one, a file with `/dev/null`. What is not there needs no cover.
fn mask(path: &Path) -> Result<(), String> {
    let fail = |error: io::Error| format!("hide {}: {error}", path.display());
    let Ok(meta) = fs::metadata(path) else { return Ok(()) };
    if meta.is_dir() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
        mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("mode=755,size=4k")).map_err(|e| fail(e.into()))
    } else {
        let path = path.to_str().ok_or_else(|| fail(io::Error::from(io::ErrorKind::InvalidFilename)))?;
        sys::open_tree_clone("/dev/null", false).and_then(|tree| sys::move_mount(&tree, path)).map_err(fail)
    }
}

/// Mounts a file at `target`, where links lead to; makes the target if it can be made.
fn bind_file(tree: &OwnedFd, target: &str) -> io::Result<()> {
    let path = make_file(target)?;
    let path = path.to_str().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    sys::move_mount(tree, path)
}

/// Makes an empty file where `target` leads to, if there is none. Returns where that is.
pub(super) fn make_file(target: &str) -> io::Result<PathBuf> {
    let path = follow_links(Path::new(target))?;
    if !path.exists() {
        // `/etc/resolv.conf` is often a link into /run, which is empty.
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        File::create(&path)?;
    }
    Ok(path)
}

/// Where a chain of links ends, be there a file or not.
fn follow_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..16 {
        let Ok(link) = fs::read_link(&path) else { return Ok(path) };
        let joined = path.parent().unwrap_or(Path::new("/")).join(link);
        path = joined.components().fold(PathBuf::from("/"), |mut path, component| {
            match component {
                Component::ParentDir => {
                    path.pop();
                }
                Component::Normal(part) => path.push(part),
                _ => {}
            }
            path
        });
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_to_a_target_that_need_not_exist() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir(base.join("etc")).unwrap();
        symlink("../run/resolve/stub.conf", base.join("etc/resolv.conf")).unwrap();
        assert_eq!(follow_links(&base.join("etc/resolv.conf")).unwrap(), base.join("run/resolve/stub.conf"));
        symlink("loop", base.join("loop")).unwrap();
        assert!(follow_links(&base.join("loop")).is_err());
    }
}
