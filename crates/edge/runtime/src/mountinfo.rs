//! What is mounted in this mount namespace: `/proc/self/mountinfo`. Source: proc_pid_mountinfo(5).

use std::{fs, io, path::PathBuf};

/// Something that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountPoint {
    /// Where.
    pub(crate) place: PathBuf,
    /// Type of its file system.
    pub(crate) kind: String,
    /// Options of the file system itself, separated by commas.
    pub(crate) options: String,
}

/// All that is mounted, in the order in which it was.
pub(crate) fn own() -> io::Result<Vec<MountPoint>> {
    fs::read_to_string("/proc/self/mountinfo").map(|text| read(&text))
}

/// Reads such a file; lines that are none are left out.
pub(crate) fn read(text: &str) -> Vec<MountPoint> {
    let one = |line: &str| {
        // Between the two are any number of optional fields.
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        Some(MountPoint {
            place: unescape(left.split(' ').nth(4)?),
            kind: right.next()?.to_owned(),
            options: right.nth(1).unwrap_or_default().to_owned(),
        })
    };
    text.lines().filter_map(one).collect()
}

/// A path as it stands there: blanks and the like as `\\040`.
fn unescape(text: &str) -> PathBuf {
    let mut path = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        path.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        path.push(code.map_or('\\', char::from));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    path.push_str(rest);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn paths_with_blanks_are_read_back() {
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape("/plain"), Path::new("/plain"));
        assert_eq!(unescape("/odd\\9"), Path::new("/odd\\9"));
    }
}
