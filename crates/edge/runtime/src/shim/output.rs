//! A container's output, as lines of `<RFC 3339 time> <stream> <F|P> <text>` in a file of bounded size.
//!
//! The format is CRI's: `F` ends a line (be it by LF or by CR LF), `P` is a part of one that was too long. Two files at most are kept, the
//! current one and the one before (`.1`).

use jiff::Timestamp;
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Longest text of one record, in bytes; longer lines are split into parts.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 10;

/// An open log that starts over when it is full.
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
}

impl LogFile {
    /// Opens `path` for appending.
    pub(super) fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file: Some(file), bytes, bytes_max })
    }

    /// Writes one record. A full disk loses records, never the container.
    fn write(&mut self, stream: &str, full: bool, text: &[u8]) {
        let mut record = Vec::with_capacity(text.len() + 48);
        let tag = if full { 'F' } else { 'P' };
        let _ = write!(record, "{:.9} {stream} {tag} ", Timestamp::now());
        record.extend_from_slice(text);
        record.push(b'\n');
        if self.bytes > 0 && self.bytes + record.len() as u64 > self.bytes_max {
            self.rotate();
        }
        if self.file.is_none() {
            self.file = append(&self.path).ok();
        }
        if let Some(file) = &mut self.file
            && file.write_all(&record).is_ok()
        {
            self.bytes += record.len() as u64;
        }
    }

    fn rotate(&mut self) {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        if fs::rename(&self.path, &old).is_ok() {
            self.file = append(&self.path).ok();
            self.bytes = 0;
        } else if let Some(file) = &self.file
            && file.set_len(0).is_ok()
        {
            self.bytes = 0; // no way to keep the old part; the bound matters more
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o640).open(path)
}

/// One of the container's streams, with the line that is not complete yet.
pub(super) struct Output {
    stream: &'static str,
    line: Vec<u8>,
}

impl Output {
    /// A stream from which nothing has come yet.
    pub(super) fn new(stream: &'static str) -> Self {
        Self { stream, line: Vec::new() }
    }

    /// Takes bytes, and logs the lines that they complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], log: &mut LogFile) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.line.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.line.extend_from_slice(&bytes[..end]);
                self.end_line(log);
                bytes = &bytes[end + 1..];
            } else {
                self.line.extend_from_slice(window);
                bytes = &bytes[window.len()..];
                if self.line.len() == LINE_BYTES_MAX && bytes.first() != Some(&b'\n') {
                    log.write(self.stream, false, &self.line);
                    self.line.clear();
                } else if self.line.len() == LINE_BYTES_MAX {
                    self.end_line(log);
                    bytes = &bytes[1..];
                }
            }
        }
    }

    /// A line ends with a line feed, or with the two characters that terminals make of it.
    fn end_line(&mut self, log: &mut LogFile) {
        let text = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        log.write(self.stream, true, text);
        self.line.clear();
    }

    /// Writes what is left without a line's end.
    pub(super) fn finish(&mut self, log: &mut LogFile) {
        if !self.line.is_empty() {
            log.write(self.stream, false, &self.line);
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(path: &Path) -> Vec<(String, String, usize)> {
        fs::read_to_string(path)
            .unwrap()
            .split_terminator('\n')
            .map(|line| {
                let parts: Vec<&str> = line.splitn(4, ' ').collect();
                parts[0].parse::<Timestamp>().unwrap();
                (parts[1].to_owned(), parts[2].to_owned(), parts[3].len())
            })
            .collect()
    }

    #[test]
    fn lines_become_records_and_long_ones_are_split() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 1 << 20).unwrap();
        let mut out = Output::new("stdout");
        out.feed(b"hel", &mut log);
        out.feed(b"lo\n\nworld\n", &mut log);
        out.feed(&vec![b'x'; LINE_BYTES_MAX + 10], &mut log);
        out.feed(b"\nby a terminal\r", &mut log);
        out.feed(b"\nrest", &mut log);
        out.finish(&mut log);
        let short = |tag: &str, length| ("stdout".to_owned(), tag.to_owned(), length);
        assert_eq!(
            records(&path),
            [
                short("F", 5),
                short("F", 0),
                short("F", 5),
                short("P", LINE_BYTES_MAX),
                short("F", 10),
                short("F", 13),
                short("P", 4)
            ]
        );
    }

    #[test]
    fn a_line_of_just_the_limit_is_one_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 1 << 20).unwrap();
        let mut out = Output::new("stderr");
        let mut text = vec![b'x'; LINE_BYTES_MAX];
        text.push(b'\n');
        out.feed(&text, &mut log);
        assert_eq!(records(&path), [("stderr".to_owned(), "F".to_owned(), LINE_BYTES_MAX)]);
    }

    #[test]
    fn two_files_of_bounded_size_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 1000).unwrap();
        let mut out = Output::new("stdout");
        for number in 0..200 {
            out.feed(format!("line {number}\n").as_bytes(), &mut log);
        }
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        for entry in fs::read_dir(dir.path()).unwrap() {
            assert!(entry.unwrap().metadata().unwrap().len() <= 1000);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("line 199\n"));
    }
}
