//! Secret files: mode 0600, written whole or not at all.

use super::PkiError;
use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(super) fn new(dir: PathBuf) -> Result<Self, PkiError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| PkiError::Write { path: dir.clone(), source })?;
        Ok(Self { dir })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn damaged(&self, name: &str, what: &str) -> PkiError {
        PkiError::Damaged { path: self.path(name), what: what.to_owned() }
    }

    /// The text of a file of this directory; None if it is not there.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, PkiError> {
        read(&self.path(name))
    }

    /// What `parse` makes of a file; None if it is not there.
    pub(super) fn secret(
        &self,
        path: &Path,
        parse: impl FnOnce(&str) -> Result<String, String>,
    ) -> Result<Option<String>, PkiError> {
        let Some(text) = read(path)? else { return Ok(None) };
        parse(&text).map(Some).map_err(|what| PkiError::Damaged { path: path.to_owned(), what })
    }

    /// Replaces a file if it does not hold this already.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
        let failed = |source| PkiError::Write { path: path.to_owned(), source };
        if std::fs::read(path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        let temporary = path.with_extension("new");
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&temporary, path).map_err(failed)?;
        let parent = path.parent().unwrap_or(&self.dir);
        File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.to_owned(), source }),
    }
}
