//! An image's root directory as a container's root: below, the image, which stays as it is; above, a layer of the
//! container's own (overlayfs), which goes with it.
//!
//! Invariants: nothing is ever written to the image's directory, nor to what the node has mounted in it; without a layer
//! the root is read-only.

use super::{init::Report, mounts::make_file};
use crate::{
    mountinfo::{self, MountPoint},
    sys,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::pivot_root,
};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

/// Directories that every program may expect, and that images made of one file have not.
const PLACES: [&str; 4] = ["/dev", "/etc", "/proc", "/sys"];
/// Most mounts of the node within an image's directory.
const MOUNTS_MAX: usize = 256;

/// Makes `root` the root directory and leaves the node's file system behind. True: it may be written to, in a layer kept
/// in the directory `changes`.
pub(super) fn enter(root: &Path, changes: Option<&Path>, report: &mut Report) -> Result<bool, String> {
    let fail = |what: &str, error: &dyn std::fmt::Display| format!("{what} {}: {error}", root.display());
    let path = root.to_str().ok_or_else(|| fail("image directory", &"not UTF-8"))?;
    let within = mounts_within(root).map_err(|error| fail("find mounts in", &error))?;
    let layered = match changes.map(|changes| lay(path, changes)) {
        None => false,
        Some(Ok(())) => true,
        Some(Err(error)) => {
            report.note(&format!("the root directory is read-only: {error}"));
            false
        }
    };
    if layered {
        for (place, tree) in &within {
            let place = place.to_str().ok_or_else(|| fail("mount in", &"not UTF-8"))?;
            sys::move_mount(tree, place).map_err(|error| fail("mount in", &error))?;
        }
    } else {
        let tree = sys::open_tree_clone(path, true).map_err(|error| fail("open image directory", &error))?;
        sys::move_mount(&tree, path).map_err(|error| fail("mount image directory", &error))?;
    }
    std::env::set_current_dir(path).map_err(|error| fail("enter image directory", &error))?;
    // Both on one place: the old root ends up on top of the new one, and is taken off.
    pivot_root(".", ".").map_err(|error| fail("make root of", &error))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(|error| fail("leave the node's root for", &error))?;
    std::env::set_current_dir("/").map_err(|error| fail("enter", &error))?;
    Ok(layered)
}

/// What the node has mounted below the image's directory, read-only: a layer would hide it.
fn mounts_within(root: &Path) -> io::Result<Vec<(PathBuf, OwnedFd)>> {
    let mut found = Vec::new();
    for MountPoint { place, .. } in mountinfo::own()? {
        if place == root || !place.starts_with(root) {
            continue;
        }
        if found.len() >= MOUNTS_MAX {
            return Err(io::Error::other(format!("more than {MOUNTS_MAX}")));
        }
        let path = place.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
        let tree = sys::open_tree_clone(path, false)?;
        sys::mount_setattr(Some(&tree), "", false, sys::RDONLY)?;
        found.push((place, tree));
    }
    Ok(found)
}

/// Lays a layer over `root`: on disk if its file system can carry one, else in memory.
fn lay(root: &str, changes: &Path) -> io::Result<()> {
    // The second: in a user namespace of the node's (labs without root).
    let tried = || overlay(root, changes, "").or_else(|_| overlay(root, changes, ",userxattr"));
    tried().or_else(|_| {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), changes, Some("tmpfs"), flags, Some("mode=700"))?;
        tried()
    })
}

fn overlay(root: &str, changes: &Path, options: &str) -> io::Result<()> {
    let open = |name: &str| {
        let dir = changes.join(name);
        match DirBuilder::new().mode(0o755).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        File::open(dir)
    };
    let (lower, upper, work) = (File::open(root)?, open("upper")?, open("work")?);
    // By descriptor: paths would need to be escaped, and are bounded in length all together.
    let of = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    let options = format!("lowerdir={},upperdir={},workdir={}{options}", of(&lower), of(&upper), of(&work));
    Ok(mount(Some("overlay"), root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?)
}

/// Makes what is mounted upon later, and the directory that the container starts in, as other runtimes do.
pub(super) fn make_places<'a>(files: impl Iterator<Item = &'a str>, working_dir: &str, report: &mut Report) {
    for dir in PLACES.into_iter().chain([working_dir]) {
        if let Err(error) = fs::create_dir_all(dir) {
            report.note(&format!("make {dir}: {error}"));
        }
    }
    for file in files {
        if let Err(error) = make_file(file) {
            report.note(&format!("make {file}: {error}"));
        }
    }
}
