//! An API server as a process of its own, so that its memory is its own: no nodes, no controllers.

use crate::figures::resident_kib;
use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
use minisvc_apimachinery::ClusterConfig;
use minisvc_apiserver::{ApiServer, CancellationToken, Pki, PkiOptions};
use minisvc_store::{Limits, Store};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

#[derive(Args)]
pub struct Options {
    /// Directory of the store and the certificates
    dir: PathBuf,
}

/// The certificates in a directory, made if they are not there.
pub fn pki(dir: &Path) -> anyhow::Result<Pki> {
    let options = PkiOptions {
        node_name: "bench".to_owned(),
        node_address: "127.0.0.1".parse()?,
        service_address: cluster().api_address(),
        cluster_domain: "cluster.local".to_owned(),
        extra_sans: Vec::new(),
        now: Timestamp::now(),
    };
    Ok(Pki::open(dir, &options)?)
}

/// Room for more Services than any benchmark makes.
fn cluster() -> ClusterConfig {
    ClusterConfig::default()
}

/// Serves until standard input ends.
pub async fn serve(options: &Options) -> anyhow::Result<()> {
    let store = Store::open(&options.dir.join("store"), Limits::default())?;
    let api = ApiServer::new(store.clone(), cluster(), Arc::new(pki(&options.dir)?))?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(api.serve(vec![listener], stop.clone()));
    let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
    stop.cancel();
    serving.await??;
    store.close().await;
    Ok(())
}

/// A server under test.
pub struct Served {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl Served {
    /// Starts this program as the server, with its files in `dir`.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg(dir)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().context("the server has no output")?;
        let mut lines = BufReader::new(out).lines();
        let line = lines.next_line().await?.context("the server did not start")?;
        Ok(Self { address: line.parse()?, child })
    }

    /// Resident memory, MiB: now, and the most it ever was.
    pub fn resident_mib(&self) -> anyhow::Result<(u64, u64)> {
        let pid = self.child.id().context("the server has ended")?;
        let (now, most) = resident_kib(&pid.to_string())?;
        Ok((now / 1024, most / 1024))
    }

    /// Ends it.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await??;
        Ok(())
    }
}
