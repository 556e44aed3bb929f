//! A server on a loopback socket and a plain HTTP client for it.

use crate::{ApiServer, CancellationToken, Identity, Pki, PkiOptions};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use minisvc_apimachinery::{ClusterConfig, storage::Read};
use minisvc_store::{Limits, Store};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::{Value, json};
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio_rustls::TlsConnector;

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) pki: Arc<Pki>,
    pub(super) store: Store,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

pub(super) fn pki(dir: &Path) -> Pki {
    let options = PkiOptions {
        node_name: "node1".to_owned(),
        node_addresses: vec!["192.0.2.1".parse().unwrap()],
        service_addresses: ClusterConfig::default().api_addresses(),
        cluster_domain: "cluster.local".to_owned(),
        extra_sans: Vec::new(),
        now: Timestamp::now(),
    };
    Pki::open(dir, &options).unwrap()
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::start_with(Limits::default(), 10250).await
    }

    pub(super) async fn start_with(limits: Limits, node_port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(pki(dir.path()));
        let store = Store::open(&dir.path().join("store"), limits).unwrap();
        let api = ApiServer::with_node_port(store.clone(), ClusterConfig::default(), pki.clone(), node_port)
            .unwrap();
        api.make_system_objects().await.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = api.serve(vec![listener], stop.clone());
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, pki, store, stop, task, _dir: dir }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// A connection as the administrator.
    pub(super) async fn admin(&self) -> Client {
        self.client(Some(&self.pki.admin)).await
    }

    pub(super) async fn client(&self, identity: Option<&Identity>) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.pki.ca_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            Some(identity) => {
                let (chain, key) = identity.tls().unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Client { sender, headers: HeaderMap::new() }
    }
}

pub(super) struct Client {
    sender: http1::SendRequest<Full<bytes::Bytes>>,
    /// Sent with every request.
    pub(super) headers: HeaderMap,
}

pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
    pub(super) text: String,
}

impl Answer {
    /// The body, if the code is this one.
    pub(super) fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.body
    }

    /// The message of a `Status`.
    pub(super) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Client {
    pub(super) fn bearer(mut self, token: &str) -> Self {
        self.headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        self
    }

    pub(super) fn accept(mut self, accept: &str) -> Self {
        self.headers.insert(header::ACCEPT, accept.parse().unwrap());
        self
    }

    /// Whether the server has ended the connection.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) async fn raw(
        &mut self,
        method: Method,
        path: &str,
        media: &str,
        body: impl Into<bytes::Bytes>,
    ) -> Response<Incoming> {
        self.try_raw(method, path, media, body).await.unwrap()
    }

    /// As [`Self::raw`]; an error is a connection that broke.
    pub(super) async fn try_raw(
        &mut self,
        method: Method,
        path: &str,
        media: &str,
        body: impl Into<bytes::Bytes>,
    ) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::new(Full::new(body.into()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(header::HOST, "localhost".parse().unwrap());
        if !media.is_empty() {
            request.headers_mut().insert(header::CONTENT_TYPE, media.parse().unwrap());
        }
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        media: &str,
        body: impl Into<bytes::Bytes>,
    ) -> Answer {
        let response = self.raw(method, path, media, body).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { code: parts.status.as_u16(), headers: parts.headers, body, text }
    }

    pub(super) async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, "", "").await
    }

    pub(super) async fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, "application/json", body.to_string()).await
    }

    pub(super) async fn put(&mut self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, "application/json", body.to_string()).await
    }

    pub(super) async fn patch(&mut self, path: &str, kind: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, &format!("application/{kind}+json"), body.to_string()).await
    }

    pub(super) async fn delete(&mut self, path: &str) -> Answer {
        self.send(Method::DELETE, path, "", "").await
    }

    /// Opens a watch; takes the connection.
    pub(super) async fn watch(mut self, path: &str) -> Lines {
        let response = self.raw(Method::GET, path, "", "").await;
        assert_eq!(response.status(), StatusCode::OK);
        Lines { body: response.into_body(), buffer: Vec::new(), _client: self }
    }
}

/// The lines of a watch.
pub(super) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    _client: Client,
}

impl Lines {
    /// The next event; None at the end.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// Type and name of the next event.
    pub(super) async fn told(&mut self) -> (String, String) {
        let event = self.next().await.unwrap();
        let text =
            |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/type"), text("/object/metadata/name"))
    }
}

pub(super) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(super) const SERVICES: &str = "/api/v1/namespaces/default/services";

pub(super) fn config_map(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"a": "1"}})
}

pub(super) fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "NodePort", "selector": {"app": name}, "ports": [{"port": 80}]}})
}

pub(super) fn revision(server: &Server) -> u64 {
    server.store.view().revision()
}
