//! Records on disk: written whole or not at all, read with a bound.

use crate::error::Error;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// No record is larger than this, in bytes.
const RECORD_BYTES_MAX: u64 = 4 << 20;

/// Makes `path` and what is missing above it, readable by the owner alone: records hold environments.
pub(crate) fn create_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::CreateDir { path: path.to_owned(), source })
}

/// Writes `bytes` beside `path` and renames: readers see the old content or the new, never a part.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(&temporary, path)
}

/// Writes `value` as JSON, whole or not at all.
pub(crate) fn write_record<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(|source| Error::Parse { path: path.to_owned(), source })?;
    write_atomic(path, &bytes, 0o600).map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Reads a record; none if there is no such file.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Parse { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_a_missing_or_broken_one_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/record.json");
        create_dir(path.parent().unwrap()).unwrap();
        assert!(read_record::<Vec<u8>>(&path).unwrap().is_none());
        write_record(&path, &vec![1u8, 2]).unwrap();
        assert_eq!(read_record::<Vec<u8>>(&path).unwrap(), Some(vec![1, 2]));
        fs::write(&path, "[1,").unwrap();
        assert!(matches!(read_record::<Vec<u8>>(&path), Err(Error::Parse { .. })));
    }
}
