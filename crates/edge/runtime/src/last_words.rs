//! What a container says at its end: the file at its `terminationMessagePath`, or the end of its log.
//!
//! The file lies on the node beside the run's log, and is mounted into the container. Invariant: however much a container
//! writes, no more than [`BYTES_MAX`] of it are read. Source: kubelet `getTerminationMessage`.

use crate::{logs, record::Terminated, spec::ContainerSpec};
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Longest message of a file, in bytes.
const BYTES_MAX: u64 = 4096;
/// Longest message of a log.
const LOG_BYTES_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;

/// The file of the run that this log is of.
pub(crate) fn file_of(log: &Path) -> PathBuf {
    log.with_extension("message")
}

/// Makes the empty file of a run; whoever the container's user is may write it.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    File::create(path)?.set_permissions(fs::Permissions::from_mode(0o666))
}

/// Adds to how a run has ended what it said, unless something is known already.
pub(crate) fn add(ended: &mut Terminated, spec: &ContainerSpec, log: &Path) {
    if !ended.message.is_empty() || ended.started_at.is_none() {
        return;
    }
    let words = &spec.life.last_words;
    if !words.path.is_empty()
        && let Ok(text) = end_of(&file_of(log), BYTES_MAX)
    {
        ended.message = String::from_utf8_lossy(&text).into_owned();
    }
    if ended.message.is_empty() && words.or_log && ended.exit_code != 0 {
        ended.message = logs::end_of(log, LOG_LINES_MAX, LOG_BYTES_MAX);
    }
}

/// The last bytes of a file.
pub(crate) fn end_of(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::{LastWords, Life};
    use jiff::Timestamp;

    fn said(file: &str, log: &str, or_log: bool, exit_code: i32) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, log).unwrap();
        fs::write(file_of(&path), file).unwrap();
        let last_words = LastWords { path: "/dev/termination-log".into(), or_log };
        let spec = ContainerSpec { life: Life { last_words, ..Life::default() }, ..ContainerSpec::default() };
        let now = Timestamp::UNIX_EPOCH;
        let (reason, message) = (String::new(), String::new());
        let mut ended =
            Terminated { exit_code, signal: 0, reason, message, started_at: Some(now), finished_at: now };
        add(&mut ended, &spec, &path);
        ended.message
    }

    #[test]
    fn the_file_counts_and_the_log_stands_in_for_it_if_it_may() {
        let log = "t stdout F one\nt stderr F two\n";
        assert_eq!(said("bye", log, true, 1), "bye");
        assert_eq!(said("", log, false, 1), "");
        assert_eq!(said("", log, true, 0), "");
        assert_eq!(said("", log, true, 1), "one\ntwo\n");
    }

    #[test]
    fn both_are_cut_to_their_end() {
        let long = "x".repeat(10_000) + "end";
        let text = said(&long, "", false, 1);
        assert_eq!((text.len(), text.ends_with("xend")), (4096, true));
        let log: String = (0..10_000).map(|n| format!("t stdout F line {n}\n")).collect();
        let text = said("", &log, true, 1);
        assert_eq!(
            (text.lines().count(), text.starts_with("line 9920\n"), text.ends_with("line 9999\n")),
            (80, true, true)
        );
        let log: String = (0..100).map(|n| format!("t stdout F {} {n}\n", "ä".repeat(500))).collect();
        let text = said("", &log, true, 1);
        assert!(text.len() <= 2048 && text.ends_with(" 99\n"), "{}", text.len());
    }
}
