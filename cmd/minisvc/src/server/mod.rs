//! `minisvc server`: the roles of one node, wired.
//!
//! First server: store, API, control loops, node. Joined server: node. All parts but the API talk to the API over
//! TLS as any other client does.

mod checks;
mod cluster;
mod first;
mod joined;
pub mod networks;
mod node;
mod options;

use anyhow::Context;
pub use options::{ServerArgs, with_config_file};
use std::{path::Path, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting, with what to do about it.
pub fn run(args: ServerArgs) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_from_env("MINISVC_LOG").unwrap_or_else(|_| {
        EnvFilter::new("info,hickory_server=warn,hickory_resolver=warn,rustls=warn,kube=warn")
    });
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let args = args.check()?;
    checks::privileges()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start a runtime")?;
    let outcome = runtime.block_on(serve(args));
    // What still blocks on a file or on the kernel must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn serve(args: ServerArgs) -> anyhow::Result<()> {
    make_private_dir(&args.data_dir)?;
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let stop = shutdown.clone();
    let signals = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; pods and rules stay as they are");
        stop.cancel();
    });
    let outcome = match args.join {
        None => Box::pin(first::run(args, shutdown)).await,
        Some(_) => Box::pin(joined::run(args, shutdown)).await,
    };
    signals.abort();
    outcome
}

fn make_private_dir(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("--data-dir: create {}", dir.display()))
}

/// Writes a file that only root may read, whole or not at all.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| format!("create {}", temporary.display()))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| format!("write {}", path.display()))
}
