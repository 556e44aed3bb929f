//! TLS connections of the node server.

use crate::error::Error;
use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 512;
/// How long a TLS handshake or a request's head may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long open streams (logs, exec) may go on after the shutdown has been asked for.
const SHUTDOWN_MAX: Duration = Duration::from_millis(500);

/// TLS settings that let only holders of a client certificate signed by `ca` in.
///
/// # Errors
/// If the certificates or the key are unusable.
pub fn tls_config(
    ca: &CertificateDer<'_>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned()).map_err(|source| Error::Tls { source })?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|source| Error::ClientAuthority { source })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Tls { source })?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|source| Error::Tls { source })?;
    // Exec upgrades the connection, which HTTP/2 has no such way to do.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The common name of a certificate that TLS has verified.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// Serves `router` to the client whose certificate has the common name `client`, until `shutdown`; then closes idle connections at once and streams after half a second.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    client: &str,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let accept = async {
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "node server: accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
            let client = client.to_owned();
            tracker.spawn(async move {
                let _permit = permit;
                let _ = stream.set_nodelay(true);
                let handshake = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await;
                let stream = match handshake {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "node server: TLS handshake");
                        return;
                    }
                    Err(_) => return,
                };
                // The CA signs nodes too, and a node must not run commands in another node's Pods.
                let peer =
                    stream.get_ref().1.peer_certificates().and_then(|chain| common_name(chain.first()?));
                if peer.as_deref() != Some(client.as_str()) {
                    tracing::warn!(?peer, "node server: only the API server is served");
                    return;
                }
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HANDSHAKE_MAX)
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                    .with_upgrades();
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = stop.cancelled() => {}
                }
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(SHUTDOWN_MAX, connection).await;
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    stop.cancel();
    tracker.close();
    tracker.wait().await;
}
