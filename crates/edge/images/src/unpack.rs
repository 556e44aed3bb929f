//! The layers of an archive, one upon the other, in one root directory.
//!
//! Source: OCI image-spec v1.1 `layer.md`. Invariants: whiteouts hide what lower layers brought and nothing of their own;
//! each layer is what its diff ID says; the whole is no larger than [`Bounds`] allow.

use crate::{
    Error,
    archive::Archive,
    layer::{Found, Owner, Root},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};
use tar::EntryType;

/// What marks a file that is not there any more.
const WHITEOUT: &[u8] = b".wh.";
/// What marks a directory of which nothing lower is there any more.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Most layers of an image (the kernel's overlays had this limit, and builders keep it).
const LAYERS_MAX: usize = 128;

/// How large an image may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// All files together, in bytes.
    pub(crate) bytes: u64,
    /// Files, directories and links.
    pub(crate) entries: u64,
}

impl Default for Bounds {
    /// 32 GiB, 4 million.
    fn default() -> Self {
        Self { bytes: 32 << 30, entries: 4_000_000 }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Bytes written.
    pub(crate) bytes: u64,
    entries: u64,
}

/// Unpacks `layers` of an archive into `dir`; `diff_ids` say what they are when unpacked.
pub(crate) fn unpack(
    archive: &Archive,
    layers: &[String],
    diff_ids: &[String],
    dir: &Path,
    bounds: Bounds,
) -> Result<Unpacked, Error> {
    if layers.len() != diff_ids.len() || layers.len() > LAYERS_MAX {
        let (layers, ids) = (layers.len(), diff_ids.len());
        return Err(archive.wrong(format!("has {layers} layers and {ids} diff_ids, at most {LAYERS_MAX}")));
    }
    let root = Root::open(dir).map_err(Error::disk("open", dir))?;
    let mut done = Unpacked::default();
    for (number, (layer, diff_id)) in layers.iter().zip(diff_ids).enumerate() {
        let fail = |(entry, problem): (String, String)| Error::Layer {
            path: archive.path().to_owned(),
            layer: number + 1,
            entry,
            problem,
        };
        let mut source = Hashed { source: archive.read(layer)?, hash: Sha256::new() };
        Layer { root: &root, bounds, done: &mut done, brought: BTreeSet::new() }
            .apply(&mut source)
            .map_err(fail)?;
        // What follows the end of the archive belongs to the layer all the same.
        io::copy(&mut (&mut source).take(bounds.bytes), &mut io::sink())
            .map_err(|error| fail((String::new(), error.to_string())))?;
        let found = format!("sha256:{}", hex::encode(source.hash.finalize()));
        if found != *diff_id {
            return Err(fail((String::new(), format!("has digest {found}, not {diff_id}"))));
        }
    }
    Ok(done)
}

/// Reads, and remembers the digest of what was read.
struct Hashed<R> {
    source: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

struct Layer<'r> {
    root: &'r Root,
    bounds: Bounds,
    done: &'r mut Unpacked,
    /// Paths that this layer has brought, and the directories above them.
    brought: BTreeSet<PathBuf>,
}

impl Layer<'_> {
    /// Applies the layer. An error names the entry.
    fn apply(&mut self, source: &mut impl Read) -> Result<(), (String, String)> {
        let whole = |error: io::Error| (String::new(), error.to_string());
        let mut archive = tar::Archive::new(source);
        for entry in archive.entries().map_err(whole)? {
            let mut entry = entry.map_err(whole)?;
            let path = entry.path().map_err(whole)?.into_owned();
            let fail = |error: io::Error| (path.display().to_string(), error.to_string());
            self.count(entry.size()).map_err(fail)?;
            let path = within(&path).map_err(fail)?;
            match path.file_name().map(OsStr::as_bytes) {
                // The root directory itself stays root's and open to all, or nobody else could run there.
                None if entry.header().entry_type() == EntryType::Directory => {}
                None => return Err(fail(io::ErrorKind::InvalidFilename.into())),
                Some(OPAQUE) => self.clear(path.parent().unwrap_or(Path::new(""))).map_err(fail)?,
                Some(name) if name.starts_with(WHITEOUT) => {
                    let hidden = OsStr::from_bytes(name.get(WHITEOUT.len()..).unwrap_or_default());
                    self.hide(&path.with_file_name(hidden)).map_err(fail)?;
                }
                Some(_) => self.bring(&path, &mut entry).map_err(fail)?,
            }
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> io::Result<()> {
        self.done.entries += 1;
        self.done.bytes = self.done.bytes.saturating_add(bytes);
        if self.done.entries > self.bounds.entries {
            return Err(io::Error::other(format!("more than {} files", self.bounds.entries)));
        }
        if self.done.bytes > self.bounds.bytes {
            return Err(io::Error::other(format!("the image is larger than {} bytes", self.bounds.bytes)));
        }
        Ok(())
    }

    fn bring(&mut self, path: &Path, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<()> {
        let header = entry.header();
        let kind = header.entry_type();
        let owner = Owner { uid: id(header.uid()?), gid: id(header.gid()?), mode: header.mode()? & 0o7777 };
        let modified = header.mtime().unwrap_or_default();
        let spot = self.root.spot(path)?;
        match kind {
            EntryType::Directory => self.root.dir(&spot, owner)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = self.root.file(&spot, owner)?;
                io::copy(entry, &mut file)?;
                let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(modified));
                file.set_modified(time.unwrap_or(SystemTime::UNIX_EPOCH))?;
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidFilename)?;
                self.root.symlink(&spot, &target, owner)?;
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidFilename)?;
                let target = within(&target)?;
                if target == path {
                    return Err(io::ErrorKind::InvalidFilename.into());
                }
                self.root.hard_link(&spot, &self.root.spot(&target)?)?;
            }
            EntryType::Fifo => self.root.fifo(&spot, owner)?,
            // Containers have no devices but those of `/dev`, which they are given.
            EntryType::Char | EntryType::Block => return Ok(()),
            EntryType::XGlobalHeader => return Ok(()),
            other => return Err(io::Error::other(format!("a kind of file that is not known: {other:?}"))),
        }
        self.brought.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    /// Takes away what lower layers have at `path`.
    fn hide(&self, path: &Path) -> io::Result<()> {
        let spot = self.root.spot(path)?;
        if !self.brought.contains(path) {
            return spot.remove();
        }
        match spot.found()? {
            Found::Dir => self.clear(path),
            _ => Ok(()),
        }
    }

    /// Takes away what lower layers have below `path`.
    fn clear(&self, path: &Path) -> io::Result<()> {
        let is_root = path.as_os_str().is_empty();
        let names = if is_root { self.root.names()? } else { self.root.spot(path)?.names()? };
        for name in names {
            self.hide(&path.join(name))?;
        }
        Ok(())
    }
}

/// A path of a layer, from its root.
fn within(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other("the path leaves the image"));
            }
        }
    }
    Ok(clean)
}

/// A user or group id; those that the kernel does not have are root's.
fn id(said: u64) -> u32 {
    u32::try_from(said).ok().filter(|id| *id != u32::MAX).unwrap_or(0)
}
