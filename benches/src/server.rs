//! An API server as a process of its own, so that its memory is its own: no nodes, no controllers.

use clap::Args;
use jiff::Timestamp;
use minisvc_apimachinery::ClusterConfig;
use minisvc_apiserver::{ApiServer, CancellationToken, Pki, PkiOptions};
use minisvc_store::{Limits, Store};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
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
        node_addresses: vec!["127.0.0.1".parse()?],
        service_addresses: cluster().api_addresses(),
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
