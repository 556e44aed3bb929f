//! A plain HTTP/1.1 client over TLS: what it costs itself must not hide what the server costs.

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc};
use tokio_rustls::TlsConnector;

/// How to reach a server as its administrator.
#[derive(Clone)]
pub struct Way {
    address: SocketAddr,
    tls: TlsConnector,
    authorization: header::HeaderValue,
}

impl Way {
    /// To the server at this address, with the certificate (PEM) of who signed its own, and the administrator's token.
    pub fn to(address: SocketAddr, ca: &str, token: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            address,
            tls: TlsConnector::from(Arc::new(config)),
            authorization: format!("Bearer {}", token).parse()?,
        })
    }

    /// A connection.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::try_from("localhost")?, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Client { sender, authorization: self.authorization.clone() })
    }
}

/// A connection, one request at a time.
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    authorization: header::HeaderValue,
}

impl Client {
    /// Sends a request and returns the head of a good answer.
    async fn head(
        &mut self,
        method: Method,
        path: &str,
        media: &str,
        body: String,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONTENT_TYPE, media)
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request; the body of a good answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        media: &str,
        body: String,
    ) -> anyhow::Result<Bytes> {
        let answer = self.head(method, path, media, body).await?;
        let code = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(code.is_success(), "{path}: {code}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// GET.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Bytes> {
        self.send(Method::GET, path, "application/json", String::new()).await
    }

    /// PATCH by a merge patch.
    pub async fn merge(&mut self, path: &str, patch: &Value) -> anyhow::Result<Bytes> {
        self.send(Method::PATCH, path, "application/merge-patch+json", patch.to_string()).await
    }

    /// POST of an object.
    pub async fn create(&mut self, path: &str, object: &Value) -> anyhow::Result<Bytes> {
        self.send(Method::POST, path, "application/json", object.to_string()).await
    }

    /// Begins a watch.
    pub async fn watch(mut self, path: &str) -> anyhow::Result<Events> {
        let answer = self.head(Method::GET, path, "application/json", String::new()).await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        Ok(Events { body: answer.into_body(), buffer: Vec::new(), _client: self })
    }
}

/// The events of a watch.
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
    _client: Client,
}

impl Events {
    /// The next event's object.
    pub async fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line)?;
                return Ok(event["object"].take());
            }
            let frame = self.body.frame().await.context("the watch ended")??;
            self.buffer.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
        }
    }
}
