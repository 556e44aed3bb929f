//! The way into a root directory that is being made: every change goes through a directory that was looked up within
//! the root, whatever links the layers have put there.
//!
//! Invariant: no name is followed out of the root (`openat2` with `RESOLVE_IN_ROOT`), and the last part of a path is
//! never followed at all.

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, fstatat, mkdirat},
    unistd::Uid,
};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{OpenOptionsExt, PermissionsExt, lchown},
    },
    path::{Path, PathBuf},
};

/// A directory that becomes the root of containers.
pub(crate) struct Root {
    dir: File,
    /// Whether files can be given to others; not outside of the first user namespace.
    gives_away: bool,
}

/// What lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Dir,
    Other,
}

/// Who a file belongs to, and who may use it how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

/// A name in an open directory. Paths through it need `/proc`.
pub(crate) struct Spot {
    parent: File,
    name: PathBuf,
}

impl Spot {
    fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.parent.as_raw_fd().to_string()).join(&self.name)
    }

    /// What lies there; a link is not followed.
    pub(crate) fn found(&self) -> io::Result<Found> {
        match fstatat(&self.parent, &self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR => Ok(Found::Dir),
            Ok(_) => Ok(Found::Other),
            Err(Errno::ENOENT) => Ok(Found::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes away what lies there, with all that is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match self.found()? {
            Found::Nothing => Ok(()),
            Found::Dir => fs::remove_dir_all(self.path()),
            Found::Other => fs::remove_file(self.path()),
        }
    }

    /// The names in the directory that lies there; none if there is no directory.
    pub(crate) fn names(&self) -> io::Result<Vec<PathBuf>> {
        if self.found()? != Found::Dir {
            return Ok(Vec::new());
        }
        names(&self.path())
    }
}

fn names(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into())).collect()
}

impl Root {
    /// The root directory at `path`, which is there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { dir: File::open(path)?, gives_away: Uid::effective().is_root() })
    }

    fn within(&self, path: &Path) -> nix::Result<File> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(File::from(openat2(&self.dir, path, how)?))
    }

    /// The last part of `path`, in its directory, which is made if it is not there.
    pub(crate) fn spot(&self, path: &Path) -> io::Result<Spot> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        let mut reached = PathBuf::from(".");
        let mut parent = match self.within(&reached.join(above)) {
            Ok(parent) => return Ok(Spot { parent, name: name.into() }),
            Err(Errno::ENOENT) => self.within(&reached)?,
            Err(error) => return Err(error.into()),
        };
        for part in above.components() {
            reached.push(part);
            parent = match self.within(&reached) {
                Err(Errno::ENOENT) => {
                    // A link to nothing stays one; this then says that there is something.
                    mkdirat(&parent, part.as_os_str(), Mode::from_bits_truncate(0o755))?;
                    self.within(&reached)?
                }
                other => other?,
            };
        }
        Ok(Spot { parent, name: name.into() })
    }

    /// The names in the root directory itself.
    pub(crate) fn names(&self) -> io::Result<Vec<PathBuf>> {
        names(&Path::new("/proc/self/fd").join(self.dir.as_raw_fd().to_string()))
    }

    /// Makes a directory, or makes the one that is there this one's.
    pub(crate) fn dir(&self, spot: &Spot, owner: Owner) -> io::Result<()> {
        if spot.found()? == Found::Other {
            spot.remove()?;
        }
        if spot.found()? == Found::Nothing {
            fs::create_dir(spot.path())?;
        }
        let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
        let made = OpenOptions::new().read(true).custom_flags(flags).open(spot.path())?;
        self.own(spot, owner)?;
        made.set_permissions(Permissions::from_mode(owner.mode))
    }

    /// Makes an empty file, open for writing. What was there is replaced.
    pub(crate) fn file(&self, spot: &Spot, owner: Owner) -> io::Result<File> {
        spot.remove()?;
        let flags = nix::libc::O_NOFOLLOW;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(spot.path())?;
        self.own(spot, owner)?;
        file.set_permissions(Permissions::from_mode(owner.mode))?;
        Ok(file)
    }

    /// Makes a symbolic link. What was there is replaced.
    pub(crate) fn symlink(&self, spot: &Spot, target: &Path, owner: Owner) -> io::Result<()> {
        spot.remove()?;
        std::os::unix::fs::symlink(target, spot.path())?;
        self.own(spot, owner)
    }

    /// Gives the file at `original` a further name. What was there is replaced.
    pub(crate) fn hard_link(&self, spot: &Spot, original: &Spot) -> io::Result<()> {
        spot.remove()?;
        fs::hard_link(original.path(), spot.path())
    }

    /// Makes a named pipe. What was there is replaced.
    pub(crate) fn fifo(&self, spot: &Spot, owner: Owner) -> io::Result<()> {
        spot.remove()?;
        nix::unistd::mkfifo(&spot.path(), Mode::from_bits_truncate(owner.mode))?;
        self.own(spot, owner)
    }

    fn own(&self, spot: &Spot, owner: Owner) -> io::Result<()> {
        if !self.gives_away {
            return Ok(());
        }
        match lchown(spot.path(), Some(owner.uid), Some(owner.gid)) {
            // A user that this user namespace does not have.
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => Ok(()),
            other => other,
        }
    }
}
