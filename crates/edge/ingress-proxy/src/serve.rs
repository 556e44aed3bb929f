//! Client connections: accepting, TLS, HTTP/1.1 and HTTP/2, shutting down.

use crate::{
    Shared,
    forward::{self, Client},
};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Time for a request's head, and for the next request on a kept connection.
const HEAD: Duration = Duration::from_secs(60);
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests at the same time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Time requests in flight are given at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;
/// Rest after an accept that failed, for want of file descriptors, say.
const REST: Duration = Duration::from_millis(20);
/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// A listening socket.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves all listeners until `shutdown` completes.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    http: Vec<TcpListener>,
    https: Vec<TcpListener>,
    tls: Arc<ServerConfig>,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopped) = watch::channel(false);
    let mut listeners = JoinSet::new();
    for listener in http {
        listeners.spawn(accept(listener, None, shared.clone(), stopped.clone()));
    }
    for listener in https {
        listeners.spawn(accept(listener, Some(tls.clone().into()), shared.clone(), stopped.clone()));
    }
    let mut sweeps = interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            _ = sweeps.tick() => shared.pool.sweep(),
        }
    }
    // Receivers are gone only if there is nothing to stop.
    let _ = stop.send(true);
    while listeners.join_next().await.is_some() {}
}

/// Accepts connections until told to stop, then waits for those it has.
async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = shared.connections.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = told(&mut stopped) => break,
        };
        while connections.try_join_next().is_some() {}
        let (Ok(permit), Ok((stream, address))) = (permit, accepted) else {
            sleep(REST).await;
            continue;
        };
        let (shared, tls, stopped) = (shared.clone(), tls.clone(), stopped.clone());
        connections.spawn(async move {
            shared.counters.connections.fetch_add(1, Relaxed);
            serve_stream(stream, address, tls, shared.clone(), stopped).await;
            shared.counters.connections.fetch_sub(1, Relaxed);
            drop(permit);
        });
    }
    drop(listener);
    let ended = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::debug!(open = connections.len(), "ingress connections were cut off");
    }
}

async fn serve_stream(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
) {
    // Without it small answers wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let client = Client { address: address.ip(), is_tls: tls.is_some() };
    let Some(tls) = tls else { return serve_http(stream, false, client, shared, stopped).await };
    match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            serve_http(stream, is_http2, client, shared, stopped).await;
        }
        failed => {
            shared.counters.tls_failures.fetch_add(1, Relaxed);
            if let Ok(Err(error)) = failed {
                tracing::debug!(%address, %error, "TLS handshake failed");
            }
        }
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_http2: bool,
    client: Client,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    // The version is known: guessing it from the first bytes would wait for them for ever.
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(HEAD)
        .keep_alive_timeout(HANDSHAKE);
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(forward::handle(shared, client, request).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(address = %client.address, %error, "client connection ended");
    }
}

/// Completes when told to stop, or when nobody is left to tell.
async fn told(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stopped| *stopped).await);
}
