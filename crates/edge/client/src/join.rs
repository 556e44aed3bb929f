//! How a new node gets its certificate.
//!
//! In: the first server's URL and the token its administrator handed over. Out: a [`JoinResponse`].
//!
//! Invariant: the secret is said only over a connection whose server certificate was verified by the CA whose hash the
//! token carries. The first connection, which fetches that CA, verifies nothing and says nothing.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use minisvc_apimachinery::{
    Status,
    join::{CA_PATH, JOIN_PATH, JoinRequest, JoinResponse},
    token::{JoinToken, TokenError},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use sha2::{Digest, Sha256};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long one of the two requests may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer, bytes.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Why a node could not join, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The server's URL is malformed.
    #[error("--join takes the first server's address as https://HOST:6443, not {url:?}")]
    Url {
        /// What was given.
        url: String,
    },
    /// The token is malformed.
    #[error("--token: {source}")]
    Token {
        /// What is wrong with it.
        source: TokenError,
    },
    /// No connection.
    #[error("cannot connect to {server}: {source}; is the first server running, and the port open?")]
    Connect {
        /// Which server.
        server: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server did not answer in time.
    #[error("{server} did not answer within {} s; is it a minisvc server, and the port open?", TIMEOUT.as_secs())]
    Timeout {
        /// Which server.
        server: String,
    },
    /// The conversation broke off.
    #[error("{server} does not talk HTTP as expected: {source}")]
    Http {
        /// Which server.
        server: String,
        /// Why.
        source: hyper::Error,
    },
    /// A request could not be built.
    #[error("cannot build the request to {server}: {source}")]
    Build {
        /// Which server.
        server: String,
        /// Why.
        source: http::Error,
    },
    /// The answer broke off or is too large.
    #[error("cannot read the answer of {server}: {source}")]
    Body {
        /// Which server.
        server: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server's CA is not one, or not the one of the token.
    #[error(
        "the CA of {server} does not match the token: the token is of another cluster, or somebody is between you and the server; compare with `minisvc token` on the first server"
    )]
    WrongCa {
        /// Which server.
        server: String,
    },
    /// The CA does not fit the TLS library.
    #[error("the CA of {server} cannot be used: {source}")]
    BadCa {
        /// Which server.
        server: String,
        /// Why.
        source: rustls::Error,
    },
    /// The server's certificate was refused once its CA was known.
    #[error(
        "the certificate of {server} is not valid for that address: {source}; use an address or name the server was started with (--tls-san adds one)"
    )]
    Certificate {
        /// Which server.
        server: String,
        /// Why.
        source: std::io::Error,
    },
    /// The token's secret is not (or no longer) right.
    #[error("{server} refused the token: get a new one with `minisvc token` on the first server")]
    Refused {
        /// Which server.
        server: String,
    },
    /// There is such a node already.
    #[error(
        "{server} has a node {node:?} already: choose another --node-name, or delete that node first ({message})"
    )]
    NameTaken {
        /// Which server.
        server: String,
        /// The name.
        node: String,
        /// The server's words.
        message: String,
    },
    /// Another answer.
    #[error("{server} refused to let this node join: {message}")]
    Other {
        /// Which server.
        server: String,
        /// The server's words.
        message: String,
    },
    /// The request or the answer is no JSON of the right form.
    #[error("{server}: cannot understand the answer to the join (another version of minisvc?): {source}")]
    Json {
        /// Which server.
        server: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// Where the server is, taken apart.
struct Server {
    name: ServerName<'static>,
    host: String,
    port: u16,
    shown: String,
}

impl Server {
    fn parse(url: &str) -> Result<Self, JoinError> {
        let bad = || JoinError::Url { url: url.to_owned() };
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if uri.scheme_str() != Some("https") || !plain {
            return Err(bad());
        }
        let host = uri.host().ok_or_else(bad)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
        let port = uri.port_u16().unwrap_or(6443);
        Ok(Self { name, shown: url.trim_end_matches('/').to_owned(), host, port })
    }
}

/// Joins the cluster of the server at `server` (`https://HOST:6443`) as node `node_name` at `node_address`, with the
/// public key of `csr` (PEM).
///
/// # Errors
/// [`JoinError`]; each says what to do.
pub async fn join(
    server: &str,
    token: &str,
    node_name: &str,
    node_address: IpAddr,
    csr: &str,
) -> Result<JoinResponse, JoinError> {
    let token = JoinToken::parse(token).map_err(|source| JoinError::Token { source })?;
    let server = Server::parse(server)?;
    let ca = fetch_ca(&server, &token).await?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|source| JoinError::BadCa { server: server.shown.clone(), source })?;
    let tls = builder(&server)?.with_root_certificates(roots).with_no_client_auth();
    let request = JoinRequest { node_name: node_name.to_owned(), node_address, csr: csr.to_owned() };
    let json = |source| JoinError::Json { server: server.shown.clone(), source };
    let body = serde_json::to_vec(&request).map_err(json)?;
    let (code, answer) = exchange(&server, tls, Method::POST, JOIN_PATH, Some(&token.secret), body).await?;
    if code.is_success() {
        return serde_json::from_slice(&answer).map_err(json);
    }
    let status = serde_json::from_slice::<Status>(&answer).ok();
    let message = status.as_ref().map_or_else(|| code.to_string(), |status| status.message.clone());
    let shown = server.shown;
    Err(match code {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => JoinError::Refused { server: shown },
        StatusCode::CONFLICT => JoinError::NameTaken { server: shown, node: node_name.to_owned(), message },
        _ => JoinError::Other { server: shown, message },
    })
}

/// The CA whose hash the token carries.
async fn fetch_ca(server: &Server, token: &JoinToken) -> Result<CertificateDer<'static>, JoinError> {
    let verifier = Arc::new(Unverified(Arc::new(ring::default_provider())));
    let tls = builder(server)?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    let (code, answer) = exchange(server, tls, Method::GET, CA_PATH, None, Vec::new()).await?;
    if !code.is_success() {
        return Err(JoinError::Other { server: server.shown.clone(), message: format!("{CA_PATH}: {code}") });
    }
    let wrong = || JoinError::WrongCa { server: server.shown.clone() };
    let ca = CertificateDer::from_pem_slice(&answer).map_err(|_| wrong())?;
    let hash: [u8; 32] = Sha256::digest(&ca).into();
    if hash == token.ca_sha256 { Ok(ca) } else { Err(wrong()) }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn builder(server: &Server) -> Result<Builder, JoinError> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|source| JoinError::BadCa { server: server.shown.clone(), source })
}

/// One request on a connection of its own. A redirect is an answer like any other: nobody follows it.
async fn exchange(
    server: &Server,
    tls: ClientConfig,
    method: Method,
    path: &str,
    secret: Option<&str>,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), JoinError> {
    let shown = || server.shown.clone();
    let work = async {
        let tcp = TcpStream::connect((server.host.as_str(), server.port))
            .await
            .map_err(|source| JoinError::Connect { server: shown(), source })?;
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(server.name.clone(), tcp)
            .await
            .map_err(|source| JoinError::Certificate { server: shown(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| JoinError::Http { server: shown(), source })?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{}:{}", server.host, server.port))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(secret) = secret {
            request = request.header(header::AUTHORIZATION, format!("Bearer {secret}"));
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|source| JoinError::Build { server: shown(), source })?;
        let talk = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|source| JoinError::Http { server: shown(), source })?;
            let code = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|source| JoinError::Body { server: shown(), source })?;
            Ok((code, body.to_bytes()))
        };
        // The connection is driven beside the talk and dropped with it.
        let mut talk = std::pin::pin!(talk);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            biased;
            result = &mut talk => result,
            _ = &mut connection => talk.await,
        }
    };
    tokio::time::timeout(TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(JoinError::Timeout { server: server.shown.clone() }))
}

/// Accepts any server certificate; signatures are checked, so that at least one peer speaks.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
