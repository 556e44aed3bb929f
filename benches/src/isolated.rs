//! A benchmark that runs in namespaces of its own: this very command again, as their first process.
//!
//! Invariants: what is made inside ends with this process, however it ends; its files are below `TMPDIR`, and go then.

use anyhow::Context;
use minisvc_lab::namespaces::{Isolation, isolate};
use nix::sched::{CloneFlags, setns};
use std::{fs::File, path::Path, process::Command, thread::JoinHandle, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// The flag that says that this process is the inner one; every such benchmark has it.
const INSIDE: &str = "--inside";

/// Runs this command again inside, or says why it cannot be run here.
pub async fn again(isolation: Isolation) -> anyhow::Result<()> {
    let files = tempfile::Builder::new().prefix("minisvc-bench-").tempdir()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).arg(INSIDE).env("TMPDIR", files.path());
    isolate(&mut command, isolation)?;
    // What is started is killed when the thread that starts it ends: not one of the runtime's.
    let mut child = match tokio::process::Command::from(command).kill_on_drop(true).spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: namespaces may not be made here ({error})");
            return Ok(());
        }
        child => child.context("start in namespaces")?,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let outcome = tokio::select! {
        status = child.wait() => match status?.success() {
            true => Ok(()),
            false => Err(anyhow::anyhow!("the benchmark did not get to its end")),
        },
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    let _it_has_ended = child.kill().await;
    remove(files).await?;
    outcome
}

/// Removes the files of what was inside, the last of which may be about to end.
async fn remove(files: tempfile::TempDir) -> anyhow::Result<()> {
    let path = files.keep();
    for _ in 0..100 {
        match std::fs::remove_dir_all(&path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    anyhow::bail!("{} cannot be removed", path.display())
}

/// Does something on a thread of its own inside a network namespace.
pub fn thread_in<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<JoinHandle<anyhow::Result<T>>> {
    let file = File::open(namespace).with_context(|| format!("open {}", namespace.display()))?;
    Ok(std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
        work()
    }))
}

/// What such a thread came to.
pub fn outcome<T>(thread: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread of the benchmark panicked"))?
}
