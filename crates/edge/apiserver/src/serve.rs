//! Listening: TCP, TLS, HTTP/1.1 and HTTP/2, each with its bounds.

use crate::{
    ApiServer, ServerError,
    auth::User,
    handler::{self, Peer},
    metrics::Counted,
    pki::Pki,
};
use axum::{Router, extract::Extension};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use socket2::{SockRef, TcpKeepalive};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections that are served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Longest time for a TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Longest time for the head of a request, and for a connection to be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// After this time without an acknowledgement of bytes sent, a connection is given up: a watcher that is gone.
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(30);
/// Requests of one HTTP/2 connection at once: a client's watches share one.
const STREAMS_MAX: u32 = 256;
/// Time that requests under way have when the server stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// Pause after the system refused a connection, say for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// TLS of the API: our certificate; clients may show one of our CA, and no other.
pub(crate) fn tls(pki: &Pki) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca_der())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let unreadable = || rustls::Error::General("the serving certificate cannot be read".to_owned());
    let (chain, key) = pki.server.tls().ok_or_else(unreadable)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Serves until `shutdown`, then lets requests under way end.
pub(crate) async fn serve(
    api: Arc<ApiServer>,
    listeners: Vec<std::net::TcpListener>,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let router = Router::new().fallback(handler::handle).with_state(api.clone());
    let acceptor = TlsAcceptor::from(api.tls.clone());
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let mut accepting = Vec::new();
    for listener in listeners {
        let failed = |source| ServerError::Listen { source };
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let server = Server {
            router: router.clone(),
            acceptor: acceptor.clone(),
            permits: permits.clone(),
            connections: connections.clone(),
            shutdown: shutdown.clone(),
            api: api.clone(),
        };
        accepting.push(tokio::spawn(server.accept(listener)));
    }
    shutdown.cancelled().await;
    // Ends the watches and the copies between upgraded connections.
    api.shutdown.cancel();
    for task in accepting {
        // It ends with the same token; there is no other way.
        let _ = task.await;
    }
    connections.close();
    if tokio::time::timeout(DRAIN_WITHIN, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections did not end in time");
    }
    Ok(())
}

struct Server {
    router: Router,
    acceptor: TlsAcceptor,
    permits: Arc<Semaphore>,
    connections: TaskTracker,
    shutdown: CancellationToken,
    api: Arc<ApiServer>,
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = async {
                let permit = self.permits.clone().acquire_owned().await.ok()?;
                Some((permit, listener.accept().await))
            };
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = accepted => accepted,
            };
            match accepted {
                None => return,
                Some((permit, Ok((stream, _)))) => {
                    let connection = self.connection(stream);
                    self.connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Some((_, Err(error))) => {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection to its end.
    fn connection(&self, stream: TcpStream) -> impl Future<Output = ()> + use<> {
        let (acceptor, router) = (self.acceptor.clone(), self.router.clone());
        let shutdown = self.shutdown.clone();
        let counted = Counted::new(&self.api.metrics.connections);
        async move {
            let _counted = counted;
            if let Err(error) = options(&stream) {
                tracing::debug!(%error, "socket options");
                return;
            }
            let stream = match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
                Err(_) => return tracing::debug!("TLS handshake took too long"),
            };
            let (_, tls) = stream.get_ref();
            let certificate = tls.peer_certificates().and_then(|chain| chain.first());
            let peer = Peer(certificate.and_then(User::of_certificate));
            let is_http2 = tls.alpn_protocol() == Some(b"h2");
            let service = TowerToHyperService::new(router.layer(Extension(peer)));
            let io = TokioIo::new(stream);
            let result = if is_http2 {
                let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                http.timer(TokioTimer::new())
                    .max_concurrent_streams(STREAMS_MAX)
                    .max_pending_accept_reset_streams(Some(64))
                    .keep_alive_interval(Some(UNACKNOWLEDGED_FOR))
                    .keep_alive_timeout(UNACKNOWLEDGED_FOR);
                let connection = http.serve_connection(io, service);
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    result = &mut connection => result,
                    () = shutdown.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            } else {
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
                let connection = http.serve_connection(io, service).with_upgrades();
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    result = &mut connection => result,
                    () = shutdown.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "connection ended");
            }
        }
    }
}

fn options(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_FOR))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(UNACKNOWLEDGED_FOR).with_interval(Duration::from_secs(10)),
    )
}
