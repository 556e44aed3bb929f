//! Connections to Pods for proxied requests: plain, or TLS whoever answers.
//!
//! Invariants: the address was checked by `backend`; over TLS no certificate of ours is shown, and theirs is not looked at,
//! as in Kubernetes: nobody says whose a Pod's would be, and the address is what the caller trusts.

use super::backend::{Backend, Scheme};
use minisvc_apimachinery::Status;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{io::ErrorKind, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// Longest time for a Pod to take a connection, and for its part of a TLS handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// 503 in Kubernetes' words.
pub(super) fn unreachable(error: &dyn std::fmt::Display) -> Status {
    Status::unavailable(format!("error trying to reach service: {error}"))
}

/// Takes any certificate. Its signature would prove nothing, as anybody has a certificate that is taken.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Opens connections to Pods.
pub(crate) struct PodDialer {
    tls: TlsConnector,
}

impl PodDialer {
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// A connection to this backend.
    pub(super) async fn dial(&self, backend: Backend) -> Result<Box<dyn Stream>, Status> {
        let Backend { address, scheme } = backend;
        let dialled =
            |error: &dyn std::fmt::Display| unreachable(&format!("dial tcp {address}: connect: {error}"));
        let stream = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| dialled(&"connection timed out"))?.map_err(|error| {
            let refused = error.kind() == ErrorKind::ConnectionRefused;
            if refused { dialled(&"connection refused") } else { dialled(&error) }
        })?;
        stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
        if scheme == Scheme::Http {
            return Ok(Box::new(stream));
        }
        let shaken = self.tls.connect(ServerName::IpAddress(address.ip().into()), stream);
        let stream = tokio::time::timeout(CONNECT_WITHIN, shaken).await;
        let stream = stream.map_err(|_| unreachable(&"net/http: TLS handshake timeout"))?;
        Ok(Box::new(stream.map_err(|error| unreachable(&format!("tls: {error}")))?))
    }
}
