//! `minisvc cp`: files to and from a container, by its own `tar`, as `kubectl cp` does.
//!
//! Invariants: what comes from a container is written below the destination only, and as files and directories alone: a link
//! could lead elsewhere (CVE-2019-1002101, CVE-2019-11246). Whatever is on its way is bounded.

use super::{
    api::Failure,
    config::ConnectArgs,
    exec::{outcome, place},
    session::{BUFFER_BYTES, Container, Streams, ended},
};
use bytes::Bytes;
use clap::Args;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use std::{
    fs,
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
    process::ExitCode,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

/// Pieces on their way between the connection and the disk.
const PIECES_MAX: usize = 16;
/// Longest complaint of the container's `tar` that is shown, in bytes.
const COMPLAINT_BYTES_MAX: u64 = 16 << 10;

/// `minisvc cp`.
#[derive(Debug, Args)]
pub struct CpArgs {
    /// A file or directory: a path here, or [NAMESPACE/]POD:PATH
    #[arg(value_name = "FROM")]
    from: String,
    /// Where to: the same; a directory that is there gets it under its own name
    #[arg(value_name = "TO")]
    to: String,
    /// The container, if there are several
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Here(PathBuf),
    There { namespace: Option<String>, pod: String, path: String },
}

impl End {
    fn read(word: &str) -> Result<Self, Failure> {
        // A path that begins as one is here, whatever colons it has.
        let Some((pod, path)) = word.split_once(':').filter(|_| !word.starts_with(['/', '.'])) else {
            return Ok(Self::Here(word.into()));
        };
        if path.is_empty() {
            return Err(Failure::Usage(format!("{word:?}: filepath can not be empty")));
        }
        let (namespace, pod) = place(pod)?;
        Ok(Self::There { namespace, pod, path: path.trim_end_matches('/').to_owned() })
    }
}

/// Copies.
pub async fn run(args: CpArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    let usage = |words: &str| Err(Failure::Usage(words.to_owned()));
    let (from, to) = (End::read(&args.from)?, End::read(&args.to)?);
    match (from, to) {
        (End::Here(from), End::There { namespace, pod, path }) => {
            if !from.exists() {
                return Err(Failure::Usage(format!("{} doesn't exist in local filesystem", from.display())));
            }
            let there =
                There(Container::of((namespace, pod), args.container, args.connect, fallbacks).await?);
            there.upload(&from, &path).await
        }
        (End::There { namespace, pod, path }, End::Here(to)) => {
            let there =
                There(Container::of((namespace, pod), args.container, args.connect, fallbacks).await?);
            there.download(&path, &to).await
        }
        (End::Here(_), End::Here(_)) => usage("one of the two must be [NAMESPACE/]POD:PATH"),
        (End::There { .. }, End::There { .. }) => usage("one of the two must be a path on this machine"),
    }
}

/// The container at the other end.
struct There(Container);

impl There {
    async fn exec(&self, command: &[&str], stdin: bool) -> Result<kube::api::AttachedProcess, Failure> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        self.0.exec(command, Streams { stdin, terminal: false }).await
    }

    /// Whether the container has a directory there.
    async fn is_dir(&self, path: &str) -> Result<bool, Failure> {
        let mut process = self.exec(&["test", "-d", path], false).await?;
        let status = process.take_status();
        let _both = tokio::join!(all(process.stdout()), all(process.stderr()));
        Ok(ended(status).await.is_some_and(|status| status.status.as_deref() == Some("Success")))
    }

    async fn upload(&self, from: &Path, to: &str) -> Result<ExitCode, Failure> {
        let own = from.canonicalize().map_err(|error| local("read", from, &error))?;
        let own = own.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let to = if self.is_dir(to).await? { format!("{to}/{own}") } else { to.to_owned() };
        let (dir, name) = to.rsplit_once('/').unwrap_or((".", &to));
        let dir = if dir.is_empty() { "/" } else { dir };
        let mut process = self.exec(&["tar", "-xmf", "-", "-C", dir], true).await?;
        let (status, stdin) = (process.take_status(), process.stdin());
        let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES_MAX);
        let (from, name) = (from.to_owned(), name.to_owned());
        let packing = tokio::task::spawn_blocking(move || pack(&from, &name, Pieces(sender)));
        let sending = async {
            let Some(mut stdin) = stdin else { return };
            while let Some(piece) = pieces.recv().await {
                if stdin.write_all(&piece).await.is_err() {
                    return; // why, the command says
                }
            }
            let _ = stdin.shutdown().await;
        };
        let (_, _, complaint) = tokio::join!(sending, all(process.stdout()), all(process.stderr()));
        drop(pieces);
        let packed = packing.await.map_err(|error| Failure::Usage(error.to_string()))?;
        let code = came_to(ended(status).await, &complaint)?;
        packed.map_err(|error| Failure::Usage(format!("error: {error}")))?;
        Ok(code)
    }

    async fn download(&self, from: &str, to: &Path) -> Result<ExitCode, Failure> {
        let own = from.rsplit('/').next().unwrap_or_default();
        let to = if to.is_dir() { to.join(own) } else { to.to_owned() };
        let (dir, name) = from.rsplit_once('/').unwrap_or((".", from));
        let dir = if dir.is_empty() { "/" } else { dir };
        let mut process = self.exec(&["tar", "-cf", "-", "-C", dir, name], false).await?;
        let status = process.take_status();
        let (sender, receiver) = mpsc::channel::<Bytes>(PIECES_MAX);
        let name = name.to_owned();
        let unpacking = tokio::task::spawn_blocking(move || {
            let mut received = Received { pieces: receiver, left: Bytes::new() };
            let unpacked = unpack(&mut received, &name, &to);
            // The command must be able to say its last word.
            let _ = io::copy(&mut received, &mut io::sink());
            unpacked
        });
        let stdout = process.stdout();
        let receiving = async move {
            let Some(mut stdout) = stdout else { return };
            let mut buffer = vec![0; BUFFER_BYTES];
            while let Ok(length @ 1..) = stdout.read(&mut buffer).await {
                if sender.send(Bytes::copy_from_slice(&buffer[..length])).await.is_err() {
                    return;
                }
            }
        };
        let (_, complaint) = tokio::join!(receiving, all(process.stderr()));
        let unpacked = unpacking.await.map_err(|error| Failure::Usage(error.to_string()))?;
        let code = came_to(ended(status).await, &complaint)?;
        unpacked.map_err(|error| Failure::Usage(format!("error: {error}")))?;
        Ok(code)
    }
}

/// The exit code of the container's `tar`, whose complaint is passed on.
fn came_to(status: Option<meta::Status>, complaint: &str) -> Result<ExitCode, Failure> {
    if !complaint.trim().is_empty() {
        eprintln!("{}", complaint.trim());
    }
    match status {
        Some(status) => outcome(&status),
        None => Err(Failure::Usage("the connection ended before the copy did".to_owned())),
    }
}

fn local(operation: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("{operation} {}: {error}", path.display()))
}

/// All that a stream says, but for what is too long.
async fn all(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut text = Vec::new();
    let _cut_off = (&mut stream).take(COMPLAINT_BYTES_MAX).read_to_end(&mut text).await;
    let _rest = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// Writes a file or directory as a tar archive in which it is called `name`. Links are followed.
fn pack(from: &Path, name: &str, to: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    if from.is_dir() {
        archive.append_dir_all(name, from)?;
    } else {
        archive.append_path_with_name(from, name)?;
    }
    archive.finish()
}

/// Writes what an archive has below `name` to `to`: files and directories, no links.
fn unpack(from: impl Read, name: &str, to: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(below) = below(&path, name) else {
            eprintln!("warning: skipping {}: it is not below {name}", path.display());
            continue;
        };
        let target = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
        match entry.header().entry_type() {
            tar::EntryType::Directory => fs::create_dir_all(&target)?,
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                if let Some(above) = target.parent().filter(|above| !above.as_os_str().is_empty()) {
                    fs::create_dir_all(above)?;
                }
                io::copy(&mut entry, &mut fs::File::create(&target)?)?;
                let mode = entry.header().mode()? & 0o777;
                fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            }
            _ => eprintln!("warning: skipping {}: it is neither a file nor a directory", path.display()),
        }
    }
    Ok(())
}

/// The part of a path after `name`; none if it is not below it.
fn below(path: &Path, name: &str) -> Option<PathBuf> {
    let rest = path.strip_prefix(name).ok()?;
    rest.components().all(|part| matches!(part, Component::Normal(_))).then(|| rest.to_owned())
}

/// The writing end of a channel of pieces.
struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(BUFFER_BYTES)];
        let sent = self.0.blocking_send(Bytes::copy_from_slice(piece));
        sent.map(|()| piece.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading end.
struct Received {
    pieces: mpsc::Receiver<Bytes>,
    left: Bytes,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.left = piece,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.left.len());
        buffer[..length].copy_from_slice(&self.left.split_to(length));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let there = |namespace: Option<&str>, pod: &str, path: &str| End::There {
            namespace: namespace.map(str::to_owned),
            pod: pod.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(End::read("web:/tmp/x/").unwrap(), there(None, "web", "/tmp/x"));
        assert_eq!(End::read("prod/web:x").unwrap(), there(Some("prod"), "web", "x"));
        for here in ["x", "/a:b", "./a:b", "../a:b"] {
            assert_eq!(End::read(here).unwrap(), End::Here(here.into()));
        }
        assert!(End::read("web:").unwrap_err().to_string().contains("can not be empty"));
    }

    #[test]
    fn what_is_packed_is_unpacked_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/a"), "1").unwrap();
        let mut bytes = Vec::new();
        pack(&from, "x", &mut bytes).unwrap();
        unpack(&bytes[..], "x", &dir.path().join("to")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("to/sub/a")).unwrap(), "1");

        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: tar::EntryType, link: Option<&str>| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_size(0);
            if let Some(link) = link {
                header.set_link_name(link).unwrap();
            }
            let name = path.as_bytes();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_cksum();
            archive.append(&header, io::empty()).unwrap();
        };
        add("x/../../escaped", tar::EntryType::Regular, None);
        add("/escaped", tar::EntryType::Regular, None);
        add("y/other", tar::EntryType::Regular, None);
        add("x/link", tar::EntryType::Symlink, Some("/etc"));
        add("x/kept", tar::EntryType::Regular, None);
        let to = dir.path().join("deep/to");
        unpack(&archive.into_inner().unwrap()[..], "x", &to).unwrap();
        let names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["kept"]);
        assert!(!dir.path().join("escaped").exists() && !dir.path().join("deep/escaped").exists());
    }
}
