//! Reading a container's log: from its tail or a time on, with or without times, following it if asked.
//!
//! In: the files the shim writes (`N.log.1`, then `N.log`). Out: a stream of bytes, at most one record ahead of
//! its reader. Invariant: memory does not depend on the log's length.

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often a followed log is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
/// No more of a log's end is looked at for a container's last words, in bytes.
const END_BYTES_MAX: u64 = 64 << 10;
/// Longest record, in bytes: the shim's longest text with its prefix.
const RECORD_BYTES_MAX: u64 = (crate::shim::LINE_BYTES_MAX + 128) as u64;

/// What part of a log to read (`PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on when its end is reached, until the container has ended.
    pub follow: bool,
    /// Only that many records from the end.
    pub tail_lines: Option<u64>,
    /// Only records from then on.
    pub since: Option<Timestamp>,
    /// Put each record's time before it.
    pub timestamps: bool,
    /// Not more than that many bytes.
    pub limit_bytes: Option<u64>,
}

/// Turns one record of the file into what is shown: none if it is before `since` or is no record.
fn shown(record: &[u8], options: &LogOptions) -> Option<Vec<u8>> {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let mut parts = record.splitn(4, |byte| *byte == b' ');
    let (time, _stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if let Some(since) = options.since {
        let time: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
        if time < since {
            return None;
        }
    }
    let mut out = Vec::with_capacity(text.len() + time.len() + 2);
    if options.timestamps {
        out.extend_from_slice(time);
        out.push(b' ');
    }
    out.extend_from_slice(text);
    if tag == b"F" || options.timestamps {
        out.push(b'\n');
    }
    Some(out)
}

/// The last lines of a log, and of these the last bytes; empty if it cannot be read.
pub(crate) fn end_of(path: &Path, lines: usize, bytes: usize) -> String {
    let Ok(end) = crate::last_words::end_of(path, END_BYTES_MAX) else { return String::new() };
    // The first record may be a part of one, which reads as none or is cut off below.
    let texts: Vec<Vec<u8>> = end
        .split_inclusive(|byte| *byte == b'\n')
        .filter_map(|record| shown(record, &LogOptions::default()))
        .collect();
    let text = texts[texts.len().saturating_sub(lines)..].concat();
    let text = String::from_utf8_lossy(&text);
    let mut start = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

fn older(path: &Path) -> PathBuf {
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    old.into()
}

fn next_record(reader: &mut BufReader<File>, partial: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    // A record that is being written is kept until its line end is there.
    let room = RECORD_BYTES_MAX.saturating_sub(partial.len() as u64).max(1);
    reader.by_ref().take(room).read_until(b'\n', partial)?;
    if partial.last() == Some(&b'\n') || partial.len() as u64 >= RECORD_BYTES_MAX {
        return Ok(Some(std::mem::take(partial)));
    }
    Ok(None)
}

struct Reader {
    path: PathBuf,
    options: LogOptions,
    /// Files still to read, the next one last.
    files: Vec<BufReader<File>>,
    /// The inode of the last file opened by name.
    inode: u64,
    partial: Vec<u8>,
    skip: u64,
    left: u64,
}

impl Reader {
    fn open(path: &Path, options: LogOptions) -> io::Result<Self> {
        let mut files = Vec::new();
        // The newer one first: rotated meanwhile, it is found again as the older one, never missed.
        let newer = File::open(path)?;
        let inode = newer.metadata()?.ino();
        files.push(BufReader::new(newer));
        if let Ok(file) = File::open(older(path))
            && file.metadata()?.ino() != inode
        {
            files.push(BufReader::new(file));
        }
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        let mut reader =
            Self { path: path.to_owned(), options, files, inode, partial: Vec::new(), skip: 0, left };
        if let Some(tail) = reader.options.tail_lines {
            reader.skip = count_records(path)?.saturating_sub(tail);
        }
        Ok(reader)
    }

    /// The next piece to show; none at the present end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        while self.left > 0 {
            let Some(file) = self.files.last_mut() else { return Ok(None) };
            let Some(record) = next_record(file, &mut self.partial)? else {
                if self.files.len() > 1 {
                    self.files.pop();
                    continue;
                }
                return Ok(None);
            };
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            if let Some(mut text) = shown(&record, &self.options) {
                text.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= text.len() as u64;
                return Ok(Some(text.into()));
            }
        }
        Ok(None)
    }

    /// At the end of a file that has been rotated away: goes on with the new one. True if there was one.
    fn reopen(&mut self) -> io::Result<bool> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let inode = file.metadata()?.ino();
        if inode == self.inode {
            return Ok(false);
        }
        self.inode = inode;
        self.files.insert(0, BufReader::new(file));
        Ok(true)
    }
}

fn count_records(path: &Path) -> io::Result<u64> {
    let mut count = 0;
    let mut buffer = vec![0; 64 << 10];
    for path in [older(path), path.to_owned()] {
        let Ok(mut file) = File::open(path) else { continue };
        loop {
            let length = file.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            count += buffer[..length].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
    }
    Ok(count)
}

/// Reads the log at `path`. With `follow`, goes on until `is_live` says no and the end is reached.
///
/// Reads are short and from the page cache; they are made on the caller's thread, a record at a time.
///
/// # Errors
/// If there is no such log.
pub fn read(
    path: &Path,
    options: LogOptions,
    is_live: impl Fn() -> bool + Send + 'static,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
    let reader = Reader::open(path, options)?;
    let follow = reader.options.follow;
    Ok(futures::stream::try_unfold((reader, is_live), move |(mut reader, is_live)| async move {
        loop {
            // Asked before the read: what was written before the end is then certainly seen.
            let live = follow && is_live();
            if let Some(piece) = reader.next()? {
                return Ok(Some((piece, (reader, is_live))));
            }
            if reader.left == 0 || !follow {
                return Ok(None);
            }
            if reader.reopen()? {
                continue;
            }
            if !live {
                return Ok(None);
            }
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use std::{
        fs,
        io::Write,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    fn text(time_s: i64, tag: &str, text: &str) -> String {
        format!("{:.9} stdout {tag} {text}\n", Timestamp::from_second(time_s).unwrap())
    }

    async fn all(path: &Path, options: LogOptions) -> String {
        let stream = read(path, options, || false).unwrap();
        let pieces: Vec<_> = stream.map(|piece| piece.unwrap()).collect().await;
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[tokio::test]
    async fn options_choose_the_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(older(&path), text(1, "F", "one") + &text(2, "P", "tw")).unwrap();
        fs::write(&path, text(2, "F", "o") + &text(3, "F", "three four")).unwrap();
        let options = LogOptions::default;
        assert_eq!(all(&path, options()).await, "one\ntwo\nthree four\n");
        assert_eq!(all(&path, LogOptions { tail_lines: Some(1), ..options() }).await, "three four\n");
        assert_eq!(all(&path, LogOptions { tail_lines: Some(0), ..options() }).await, "");
        let since = Some(Timestamp::from_second(3).unwrap());
        assert_eq!(all(&path, LogOptions { since, ..options() }).await, "three four\n");
        assert_eq!(all(&path, LogOptions { limit_bytes: Some(5), ..options() }).await, "one\nt");
        assert_eq!(
            all(&path, LogOptions { since, timestamps: true, ..options() }).await,
            "1970-01-01T00:00:03.000000000Z three four\n"
        );
        assert!(read(&dir.path().join("1.log"), options(), || false).is_err());
    }

    #[tokio::test]
    async fn following_sees_later_lines_and_rotation_and_ends_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, text(1, "F", "one")).unwrap();
        let live = Arc::new(AtomicBool::new(true));
        let is_live = {
            let live = Arc::clone(&live);
            move || live.load(Ordering::SeqCst)
        };
        let options = LogOptions { follow: true, ..Default::default() };
        let mut stream = Box::pin(read(&path, options, is_live).unwrap());
        assert_eq!(stream.next().await.unwrap().unwrap(), "one\n");
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let whole = text(2, "F", "two");
        file.write_all(&whole.as_bytes()[..20]).unwrap();
        assert!(tokio::time::timeout(FOLLOW_EVERY * 2, stream.next()).await.is_err());
        file.write_all(&whole.as_bytes()[20..]).unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "two\n");
        file.write_all(text(3, "F", "three").as_bytes()).unwrap();
        fs::rename(&path, older(&path)).unwrap();
        fs::write(&path, text(4, "F", "four")).unwrap();
        live.store(false, Ordering::SeqCst);
        let rest: Vec<_> = stream.map(|piece| piece.unwrap()).collect().await;
        assert_eq!(rest.concat(), b"three\nfour\n");
    }
}
