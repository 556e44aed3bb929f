//! One request: route it, send it to an endpoint, pass the answer on.

use crate::{
    Shared,
    body::ProxyBody,
    headers::{self, Refusal},
    pool::{self, Sender},
};
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, UPGRADE},
    request::Parts,
};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use minisvc_ingress::{Backend, Route};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::timeout;

/// Endpoints that are tried for one request.
const ENDPOINTS_TRIED: usize = 3;
/// Time until an endpoint starts to answer, the sending of the request's body included.
const RESPONSE: Duration = Duration::from_secs(60);

/// Who asks, and how.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) is_tls: bool,
}

/// Answers one request.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    client: Client,
    request: Request<Incoming>,
) -> Response<ProxyBody> {
    shared.counters.requests.fetch_add(1, Relaxed);
    let response = match forwarded(&shared, client, request).await {
        Ok(response) => response,
        Err((status, text)) => plain(status, text),
    };
    let class = usize::from(response.status().as_u16() / 100).saturating_sub(1);
    if let Some(counter) = shared.counters.responses.get(class) {
        counter.fetch_add(1, Relaxed);
    }
    response
}

fn plain(status: StatusCode, text: &str) -> Response<ProxyBody> {
    let body = Bytes::from(format!("{status}: {text}\n"));
    let mut response = Response::new(ProxyBody::Text(Some(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

async fn forwarded(
    shared: &Arc<Shared>,
    client: Client,
    mut request: Request<Incoming>,
) -> Result<Response<ProxyBody>, Refusal> {
    let host = headers::host_of(&request)?;
    let backend = backend(shared, &host, request.uri().path())?;
    let upgrade = headers::upgrade_of(request.headers());
    let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    headers::to_endpoint(&mut request, &host, client.address, client.is_tls, upgrade.as_ref());
    let mut response = send(shared, &backend, request.map(ProxyBody::Incoming)).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return tunnel(shared, client_side, response);
    }
    headers::strip(response.headers_mut());
    *response.version_mut() = http::Version::HTTP_11;
    Ok(response.map(ProxyBody::Incoming))
}

fn backend(shared: &Shared, host: &str, path: &str) -> Result<Arc<Backend>, Refusal> {
    match shared.published.load().table.route(host, path) {
        Route::Backend(backend) => Ok(backend.clone()),
        Route::NotFound => {
            shared.counters.not_found.fetch_add(1, Relaxed);
            Err((StatusCode::NOT_FOUND, "no ingress rule for this host and path"))
        }
        Route::NoEndpoints(_) => {
            shared.counters.no_endpoints.fetch_add(1, Relaxed);
            Err((StatusCode::SERVICE_UNAVAILABLE, "the service has no ready endpoints"))
        }
    }
}

/// What can be sent a second time although the first may have arrived: safe methods without a body.
fn repeatable(request: &Request<ProxyBody>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        && request.body().is_end_stream()
}

/// Sends a request to one of the backend's endpoints.
async fn send(
    shared: &Arc<Shared>,
    backend: &Backend,
    mut request: Request<ProxyBody>,
) -> Result<Response<Incoming>, Refusal> {
    let count = backend.endpoints.len();
    let first = shared.turn.fetch_add(1, Relaxed);
    let mut failure = "no endpoint accepts connections";
    for attempt in 0..count.min(ENDPOINTS_TRIED) {
        let Some(&endpoint) = backend.endpoints.get((first.wrapping_add(attempt)) % count) else { break };
        if attempt > 0 {
            shared.counters.retries.fetch_add(1, Relaxed);
        }
        // A kept connection may have been closed by the endpoint just now: that is no fault of the endpoint.
        while let Some(sender) = shared.pool.take(endpoint) {
            let copy = repeatable(&request).then(|| request_parts(&request));
            match exchange(shared, endpoint, sender, request).await? {
                Exchange::Answered(response) => return Ok(response),
                Exchange::NotSent(unsent) => request = *unsent,
                Exchange::Lost => {
                    let Some(parts) = copy else {
                        return Err((StatusCode::BAD_GATEWAY, "the endpoint closed the connection"));
                    };
                    request = Request::from_parts(parts, ProxyBody::EMPTY);
                }
            }
            shared.counters.retries.fetch_add(1, Relaxed);
        }
        let sender = match pool::connect(endpoint).await {
            Ok(sender) => sender,
            Err(error) => {
                shared.counters.connect_failures.fetch_add(1, Relaxed);
                tracing::debug!(%endpoint, %error, service = %backend.service, "no connection to the endpoint");
                continue;
            }
        };
        match exchange(shared, endpoint, sender, request).await? {
            Exchange::Answered(response) => return Ok(response),
            Exchange::NotSent(unsent) => {
                request = *unsent;
                failure = "the endpoint closed the connection";
            }
            Exchange::Lost => return Err((StatusCode::BAD_GATEWAY, "the endpoint closed the connection")),
        }
    }
    Err((StatusCode::BAD_GATEWAY, failure))
}

/// The head of a request, to be sent once more.
fn request_parts(request: &Request<ProxyBody>) -> Parts {
    let mut copy = Request::new(());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    *copy.version_mut() = request.version();
    copy.into_parts().0
}

/// How an attempt to use a connection ended.
enum Exchange {
    Answered(Response<Incoming>),
    /// Nothing of the request was written.
    NotSent(Box<Request<ProxyBody>>),
    /// The connection broke before an answer; the request may have arrived.
    Lost,
}

async fn exchange(
    shared: &Arc<Shared>,
    endpoint: SocketAddr,
    mut sender: Sender,
    request: Request<ProxyBody>,
) -> Result<Exchange, Refusal> {
    match timeout(RESPONSE, sender.try_send_request(request)).await {
        Err(_) => Err((StatusCode::GATEWAY_TIMEOUT, "the endpoint did not answer in time")),
        Ok(Ok(response)) => {
            keep(shared, endpoint, sender);
            Ok(Exchange::Answered(response))
        }
        Ok(Err(mut error)) => Ok(match error.take_message() {
            Some(request) => Exchange::NotSent(Box::new(request)),
            None => {
                tracing::debug!(%endpoint, error = %error.error(), "the endpoint gave no answer");
                Exchange::Lost
            }
        }),
    }
}

/// Puts a connection back as soon as its response was read to the end.
fn keep(shared: &Arc<Shared>, endpoint: SocketAddr, mut sender: Sender) {
    if sender.is_ready() {
        shared.pool.put(endpoint, sender);
        return;
    }
    let shared = shared.clone();
    // Ends with the response's body or the connection, whichever is first; one for each request in flight.
    tokio::spawn(async move {
        if sender.ready().await.is_ok() {
            shared.pool.put(endpoint, sender);
        }
    });
}

/// Joins both sides of an upgraded connection.
fn tunnel(
    shared: &Arc<Shared>,
    client_side: Option<OnUpgrade>,
    mut response: Response<Incoming>,
) -> Result<Response<ProxyBody>, Refusal> {
    let Some(client_side) = client_side else {
        return Err((StatusCode::BAD_GATEWAY, "the endpoint changed the protocol without being asked"));
    };
    let Ok(permit) = shared.tunnels.clone().try_acquire_owned() else {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "too many upgraded connections"));
    };
    let endpoint_side = hyper::upgrade::on(&mut response);
    let shared = shared.clone();
    tokio::spawn(async move {
        shared.counters.tunnels.fetch_add(1, Relaxed);
        if let Ok((client, endpoint)) = tokio::try_join!(client_side, endpoint_side) {
            let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut endpoint).await {
                tracing::debug!(%error, "an upgraded connection broke");
            }
        }
        shared.counters.tunnels.fetch_sub(1, Relaxed);
        drop(permit);
    });
    let protocol = response.headers().get(UPGRADE).cloned();
    headers::strip(response.headers_mut());
    let mut answer = response.map(|_| ProxyBody::EMPTY);
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        answer.headers_mut().insert(UPGRADE, protocol);
    }
    Ok(answer)
}
