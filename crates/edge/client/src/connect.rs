//! One connection pool to one API server.

use crate::ClientError;
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::ConfigExt,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{path::Path, time::Duration};
use tower::{BoxError, ServiceBuilder};

/// How long a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent connection is asked for a sign of life after this long, so a watch whose server lost power ends.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(5);
/// Between two signs of life.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// How many may be missed.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long one request may take, watches excepted.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Who we are to the API server.
#[derive(Clone)]
pub enum Credentials {
    /// A client certificate and its key, PEM.
    Certificate {
        /// Certificate chain, PEM.
        certificate: String,
        /// Private key, PEM.
        key: String,
    },
    /// A bearer token.
    Token(String),
    /// Nobody: what unauthenticated users may read.
    Anonymous,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Certificate { .. } => "Certificate",
            Self::Token(_) => "Token",
            Self::Anonymous => "Anonymous",
        })
    }
}

/// One connection pool to one API server. Cloning shares it.
#[derive(Clone)]
pub struct ApiClient {
    pub(crate) kube: Client,
    pub(crate) request_timeout: Duration,
    url: String,
}

impl std::fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiClient").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Says who asks: what is written is owned by the first part of this name.
fn named(mut request: http::Request<kube::client::Body>) -> http::Request<kube::client::Body> {
    let name = http::HeaderValue::from_static(concat!("minisvc/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(http::header::USER_AGENT, name);
    request
}

impl ApiClient {
    /// A client of the server at `url` (`https://HOST:PORT`), which must present a certificate of `ca_pem`.
    /// Must be called within a tokio runtime; connects at the first request.
    ///
    /// # Errors
    /// If the URL, a certificate or a key is malformed.
    pub fn from_parts(url: &str, ca_pem: &str, credentials: &Credentials) -> Result<Self, ClientError> {
        let bad_url = || ClientError::Url { url: url.to_owned() };
        let uri: http::Uri = url.parse().map_err(|_| bad_url())?;
        if uri.scheme_str() != Some("https") || uri.host().is_none_or(str::is_empty) {
            return Err(bad_url());
        }
        let roots = CertificateDer::pem_slice_iter(ca_pem.as_bytes())
            .map(|certificate| certificate.map(|der| der.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| ClientError::Pem { what: "the CA certificate", source })?;
        if roots.is_empty() {
            let source = rustls::pki_types::pem::Error::NoItemsFound;
            return Err(ClientError::Pem { what: "the CA certificate", source });
        }
        let mut config = Config::new(uri);
        config.root_cert = Some(roots);
        // kube keeps keys and tokens in a secret type of a crate of its own; its JSON form is the way in.
        let auth = match credentials {
            Credentials::Certificate { certificate, key } => serde_json::json!({
                "client-certificate-data": STANDARD.encode(certificate),
                "client-key-data": STANDARD.encode(key),
            }),
            Credentials::Token(token) => serde_json::json!({ "token": token }),
            Credentials::Anonymous => serde_json::json!({}),
        };
        config.auth_info =
            serde_json::from_value(auth).map_err(|source| ClientError::Credentials { source })?;
        Self::from_config(&config)
    }

    /// A client as a kubeconfig file says, by its current context.
    ///
    /// # Errors
    /// If the file cannot be read or used.
    pub async fn from_kubeconfig(path: &Path) -> Result<Self, ClientError> {
        let failed =
            |source| ClientError::Kubeconfig { path: path.display().to_string(), source: Box::new(source) };
        let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(failed)?;
        Self::from_config(&config)
    }

    /// A client as kube-rs describes one.
    ///
    /// # Errors
    /// If certificates, keys or the token are malformed.
    pub fn from_config(config: &Config) -> Result<Self, ClientError> {
        let url = config.cluster_url.to_string();
        let failed = |source| ClientError::Connector { url: url.clone(), source: Box::new(source) };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEPALIVE_AFTER));
        tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
        tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        let tls = config.rustls_https_connector_with_connector(tcp).map_err(failed)?;
        let hyper: HyperClient<_, kube::client::Body> =
            HyperClient::builder(TokioExecutor::new()).pool_max_idle_per_host(32).build(tls);
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(failed)?)
            .map_request(named)
            .map_err(BoxError::from)
            .service(hyper);
        let kube = Client::new(service, config.default_namespace.clone());
        Ok(Self { kube, request_timeout: REQUEST_TIMEOUT, url })
    }

    /// The same connection pool with another time limit for each request.
    #[must_use]
    pub fn with_request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// The kube-rs client itself, for exec, logs and whatever else is its business.
    pub fn kube(&self) -> Client {
        self.kube.clone()
    }

    /// Where the API server is.
    pub fn url(&self) -> &str {
        &self.url
    }
}
