//! The API server: HTTP ⇄ registry ⇄ store, over TLS.
//!
//! In: a [`Store`], a [`Pki`], the facts of the cluster and sockets that are bound already. Out: Kubernetes' REST
//! API for the kinds of `minisvc_apimachinery::resource`, `/cacerts` and the join of nodes.
//!
//! - `serve`: sockets, TLS, HTTP. `handler`: from a request to the part that answers it.
//! - `path`, `accept`, `body`: reading requests. `auth`: who asks and whether they may.
//! - `read`, `watch`, `write`, `patch`: the verbs. `select`: selectors. `respond`: bodies of answers.
//! - `review`: who asks and what they may, as a question. `token_request`: tokens of ServiceAccounts.
//!   `discovery`: versions, resources, OpenAPI.
//! - `proxy`: logs, exec, port-forward, proxied requests. `join`, [`pki`]: certificates.
//!
//! Invariants: reads are answered from one immutable version of the store and never wait for a write; every write
//! is decided inside the store's writer; every body, queue, list page and connection is bounded.

// The error of most functions here is the answer itself, made once a refused request.
#![allow(clippy::result_large_err)]

mod accept;
mod auth;
mod body;
mod discovery;
mod expiry;
mod handler;
mod join;
mod kubeconfig;
mod manager;
mod metrics;
mod patch;
mod path;
pub mod pki;
mod proxy;
mod read;
mod respond;
mod review;
mod select;
mod serve;
mod system;
mod token_request;
mod watch;
mod write;

#[cfg(test)]
mod tests;

pub use pki::{Identity, Pki, PkiError, PkiOptions};
pub use tokio_util::sync::CancellationToken;

use minisvc_apimachinery::{ClusterConfig, Status};
use minisvc_store::Store;
use std::sync::Arc;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// TLS refuses our certificates.
    #[error("setting up TLS: {source}")]
    Tls {
        /// What rustls said.
        source: rustls::Error,
    },
    /// A socket cannot be listened on.
    #[error("listening: {source}")]
    Listen {
        /// What the system said.
        source: std::io::Error,
    },
    /// An object that every cluster has cannot be made.
    #[error("making {object}: {status}")]
    System {
        /// Kind and name.
        object: String,
        /// What the registry or the store said.
        status: Box<Status>,
    },
}

/// The API of one cluster.
pub struct ApiServer {
    store: Store,
    cluster: Arc<ClusterConfig>,
    pki: Arc<Pki>,
    tokens: auth::Tokens,
    tls: Arc<rustls::ServerConfig>,
    nodes: proxy::NodeClient,
    pods: proxy::PodDialer,
    pages: read::Pages,
    metrics: metrics::Metrics,
    /// Ends watches and upgraded connections.
    shutdown: CancellationToken,
}

impl ApiServer {
    /// Puts the parts together; nothing is listened on yet.
    ///
    /// # Errors
    /// [`ServerError::Tls`].
    pub fn new(store: Store, cluster: ClusterConfig, pki: Arc<Pki>) -> Result<Arc<Self>, ServerError> {
        Self::with_node_port(store, cluster, pki, proxy::NODE_PORT)
    }

    /// As [`ApiServer::new`], for nodes whose servers listen on another port than 10250.
    ///
    /// # Errors
    /// [`ServerError::Tls`].
    pub fn with_node_port(
        store: Store,
        cluster: ClusterConfig,
        pki: Arc<Pki>,
        node_port: u16,
    ) -> Result<Arc<Self>, ServerError> {
        let failed = |source| ServerError::Tls { source };
        Ok(Arc::new(Self {
            tokens: auth::Tokens::new(&pki, cluster.issuer(), store.clone()),
            tls: Arc::new(serve::tls(&pki).map_err(failed)?),
            nodes: proxy::NodeClient::new(&pki, node_port).map_err(failed)?,
            pods: proxy::PodDialer::new().map_err(failed)?,
            pages: read::Pages::default(),
            metrics: metrics::Metrics::new(),
            shutdown: CancellationToken::new(),
            store,
            cluster: Arc::new(cluster),
            pki,
        }))
    }

    /// Makes the namespaces that every cluster has, if they are not there.
    ///
    /// # Errors
    /// [`ServerError::System`].
    pub async fn make_system_objects(&self) -> Result<(), ServerError> {
        system::make(&self.store, &self.cluster).await
    }

    /// Makes the system's objects, then serves on all of these sockets until `shutdown`; then lets requests under
    /// way end, for five seconds at most. Serves once: a server that was shut down stays so.
    ///
    /// # Errors
    /// [`ServerError::Listen`], [`ServerError::System`].
    pub async fn serve(
        self: Arc<Self>,
        listeners: Vec<std::net::TcpListener>,
        shutdown: CancellationToken,
    ) -> Result<(), ServerError> {
        self.make_system_objects().await?;
        let expiry = tokio::spawn(expiry::expire_events(self.store.clone()));
        let served = serve::serve(self, listeners, shutdown).await;
        expiry.abort();
        served
    }
}
