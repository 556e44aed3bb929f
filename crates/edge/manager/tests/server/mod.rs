//! An API server over TLS, and waiting for what it has.

use jiff::Timestamp;
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Resource};
use minisvc_apiserver::{ApiServer, CancellationToken, Pki, PkiOptions};
use minisvc_client::{ApiClient, Credentials};
use minisvc_store::{Limits, Store};
use serde_json::Value;
use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// An API server of its own.
pub struct Server {
    pub address: SocketAddr,
    pub pki: Arc<Pki>,
    store: Store,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(dir: &Path, address: &str, cluster: &ClusterConfig) -> Self {
        let options = PkiOptions {
            node_name: "node1".to_owned(),
            node_addresses: vec![IpAddr::from([127, 0, 0, 1])],
            service_addresses: cluster.api_addresses(),
            cluster_domain: "cluster.local".to_owned(),
            extra_sans: Vec::new(),
            now: Timestamp::now(),
        };
        let pki = Arc::new(Pki::open(dir, &options).unwrap());
        let store = Store::open(&dir.join("store"), Limits::default()).unwrap();
        let api = ApiServer::new(store.clone(), cluster.clone(), Arc::clone(&pki)).unwrap();
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = api.serve(vec![listener], stop.clone());
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, pki, store, stop, task }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.store.close().await;
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn client(&self, certificate: &str, key: &str) -> ApiClient {
        let credentials =
            Credentials::Certificate { certificate: certificate.to_owned(), key: key.to_owned() };
        ApiClient::from_parts(&self.url(), self.pki.ca_certificate(), &credentials).unwrap()
    }
}

/// The object once it is as it should be.
pub async fn until(
    client: &ApiClient,
    resource: &Resource,
    key: &ObjectKey,
    what: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let object: Value = client.get_optional(resource, key).await.unwrap().unwrap_or_default();
        if holds(&object) {
            return object;
        }
        assert!(Instant::now() < end, "waited in vain for {what}: {object:#}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
