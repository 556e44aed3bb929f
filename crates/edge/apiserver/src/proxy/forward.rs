//! HTTP requests to what runs in the cluster: `pods/proxy`, `services/proxy`, and the nodes' own `/healthz`.
//!
//! Source: apimachinery `pkg/util/proxy` (upgradeaware.go, transport.go). Invariants: bodies are streamed both ways and never
//! kept; what authenticates the client stays here; no redirect is followed; requests under way are counted and limited,
//! and each ends with its client.

use super::{
    NodeClient,
    backend::{self, Backend},
    copy_upgraded,
    dial::{PodDialer, unreachable},
};
use crate::{ApiServer, path::Target, respond};
use axum::{body::Body, extract::Request, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use minisvc_apimachinery::Status;
use std::net::SocketAddr;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

/// Requests under way at a time, with those that were upgraded; more are refused.
static REQUESTS: Semaphore = Semaphore::const_new(512);
/// What is between two neighbours only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

/// Splits a path behind its first `segments` segments, as it was sent.
fn split(path: &str, segments: usize) -> (&str, &str) {
    let mut inside = false;
    let mut seen = 0;
    for (at, byte) in path.bytes().enumerate() {
        if byte == b'/' {
            if inside && seen == segments {
                return path.split_at(at);
            }
            inside = false;
        } else if !inside {
            inside = true;
            seen += 1;
        }
    }
    (path, "")
}

/// Answers `proxy` of a Pod, a Service or a node.
pub(crate) async fn proxy(api: &ApiServer, target: &Target, request: Request) -> Result<Response, Status> {
    // /api/v1[/namespaces/NAMESPACE]/PLURAL/NAME/proxy
    let (prefix, rest) = split(request.uri().path(), if target.namespace.is_empty() { 5 } else { 7 });
    let (prefix, rest) = (prefix.to_owned(), rest.to_owned());
    if target.resource.kind == "Node" {
        return node(&api.nodes, api, target, request.method(), &rest).await;
    }
    let backend = {
        let view = api.store.view();
        backend::find(&view, &api.cluster, target, |count| rand::random_range(0..count))?
    };
    if rest.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(to_directory(request.uri()));
    }
    let permit = REQUESTS.try_acquire().map_err(|_| {
        Status::failure(429, "TooManyRequests", "too many requests through the API server at once")
    })?;
    forward(&api.pods, backend, &prefix, &rest, request, permit, api.shutdown.clone()).await
}

/// Links of a page work only below a path that ends with a slash (kubernetes issue 4958).
fn to_directory(uri: &Uri) -> Response {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = respond::empty(StatusCode::MOVED_PERMANENTLY);
    if let Ok(location) = HeaderValue::try_from(format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Of the nodes' servers only `/healthz`: all else there is for the API server itself, and has a subresource of its own.
async fn node(
    nodes: &NodeClient,
    api: &ApiServer,
    target: &Target,
    method: &Method,
    rest: &str,
) -> Result<Response, Status> {
    let name =
        target.name.split(':').find(|part| !matches!(*part, "" | "http" | "https")).unwrap_or_default();
    if *method != Method::GET || rest.trim_end_matches('/') != "/healthz" {
        return Err(Status::failure(
            403,
            "Forbidden",
            format!(
                "nodes/proxy serves GET of /healthz only, not {method} of {rest:?}; logs, exec, attach and port-forward \
                 are subresources of pods"
            ),
        ));
    }
    let address = super::node_address(&api.store.view(), name)?;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = Uri::from_static("/healthz");
    if let Ok(host) = address.to_string().parse() {
        request.headers_mut().insert(header::HOST, host);
    }
    let answer = nodes.send(name, address, request).await?;
    Ok(respond::bytes(answer.status(), "text/plain; charset=utf-8", Body::new(answer.into_body())))
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    headers.contains_key(header::UPGRADE)
        && values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

/// Removes what is for the next neighbour only; an upgrade is passed on.
fn without_hops(headers: &mut HeaderMap, upgrade: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != header::UPGRADE)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(header::UPGRADE);
    }
}

/// What the backend is sent of the client's headers.
fn outgoing(request: &Request, host: &HeaderValue, upgrade: bool) -> HeaderMap {
    let mut headers = request.headers().clone();
    without_hops(&mut headers, upgrade);
    // The credential is for this server; a Pod that saw it could use it.
    headers.remove(header::AUTHORIZATION);
    headers.remove(header::EXPECT);
    headers.insert(header::HOST, host.clone());
    headers.insert("x-forwarded-host", host.clone());
    if let Ok(uri) = HeaderValue::try_from(request.uri().path()) {
        headers.insert("x-forwarded-uri", uri);
    }
    headers
}

/// The host that the client named: in a header, or with HTTP/2 in the URI.
fn client_host(request: &Request, backend: SocketAddr) -> HeaderValue {
    let named = request.headers().get(header::HOST).cloned();
    let named = named.or_else(|| HeaderValue::try_from(request.uri().authority()?.as_str()).ok());
    named
        .or_else(|| HeaderValue::try_from(backend.to_string()).ok())
        .unwrap_or_else(|| HeaderValue::from_static("localhost"))
}

/// Sends the request to `backend` and passes its answer on.
async fn forward(
    pods: &PodDialer,
    backend: Backend,
    prefix: &str,
    rest: &str,
    mut request: Request,
    permit: SemaphorePermit<'static>,
    shutdown: CancellationToken,
) -> Result<Response, Status> {
    let upgrade = is_upgrade(request.headers());
    let host = client_host(&request, backend.address);
    let headers = outgoing(&request, &host, upgrade);
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = if rest.is_empty() { "/" } else { rest };
    let uri: Uri =
        format!("{path}{query}").parse().map_err(|error| Status::bad_request(format!("{error}")))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(pods.dial(backend).await?))
        .await
        .map_err(|error| unreachable(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let client_side = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut onward = Request::new(if upgrade { Body::empty() } else { body });
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = uri;
    *onward.headers_mut() = headers;
    let mut answer = sender.send_request(onward).await.map_err(|error| unreachable(&error))?;
    let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    let backend_side = switched.then(|| hyper::upgrade::on(&mut answer));
    let (mut parts, body) = answer.into_parts();
    parts.extensions.clear();
    without_hops(&mut parts.headers, switched);
    if let Some(location) = parts.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()) {
        let host = host.to_str().unwrap_or_default();
        let rewritten = rewrite(location, &[&backend.address.to_string(), host], prefix);
        if let Ok(value) = HeaderValue::try_from(rewritten) {
            parts.headers.insert(header::LOCATION, value);
        }
    }
    match (client_side, backend_side) {
        (Some(client), Some(backend)) => {
            copy_upgraded(backend, client, shutdown, permit);
            Ok(Response::from_parts(parts, Body::empty()))
        }
        (None, Some(_)) => Err(unreachable(&"the connection was upgraded although nobody asked for it")),
        _ => {
            // The request counts until its answer's end, or until the client has left.
            let counted = body.map_frame(move |frame| {
                let _ = &permit;
                frame
            });
            Ok(Response::from_parts(parts, Body::new(counted)))
        }
    }
}

/// A redirect within the backend, as a redirect within `prefix`; any other stays as it is (transport.go, rewriteURL).
fn rewrite(location: &str, own_hosts: &[&str], prefix: &str) -> String {
    let after_scheme = ["http://", "https://", "//"].iter().find_map(|scheme| location.strip_prefix(scheme));
    let (host, path) = match after_scheme {
        Some(rest) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
        None => ("", location),
    };
    let elsewhere = !host.is_empty() && !own_hosts.contains(&host);
    if elsewhere || !path.starts_with('/') {
        return location.to_owned();
    }
    let inside =
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
    if inside { path.to_owned() } else { format!("{prefix}{path}") }
}

#[cfg(test)]
mod tests;
