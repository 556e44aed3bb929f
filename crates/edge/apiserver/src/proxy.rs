//! `pods/log`, `pods/exec`, `pods/attach` and `pods/portforward`: passed on to the server of the Pod's node.
//!
//! Invariants: the node must show a certificate of our CA for the address we dialled, which comes from its Node
//! object; nothing follows a redirect; an upgraded connection is bytes copied both ways, never read.

mod backend;
mod dial;
mod forward;

pub(crate) use dial::PodDialer;
pub(crate) use forward::proxy;

use crate::{
    path::{Parameters, Target},
    pki::Pki,
    read, respond,
};
use axum::{body::Body, extract::Request, response::Response};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use minisvc_apimachinery::{ObjectKey, Resource, Status, resource::NODES, storage::Read};
use minisvc_store::{Store, View};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::Value;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// Port of the nodes' servers.
pub(crate) const NODE_PORT: u16 = 10250;
/// What the nodes' servers call port forwarding.
const PORT_FORWARD: &str = "portForward";
/// Longest time to reach a node, and to get the head of its answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of a node's refusal that are passed on.
const REFUSAL_BYTES_MAX: usize = 4096;
/// SPDY's own offer and choice of what is spoken in it.
const STREAM_PROTOCOL: header::HeaderName = header::HeaderName::from_static("x-stream-protocol-version");
/// Headers of an upgrade, which are for the two ends.
const UPGRADE_HEADERS: [header::HeaderName; 6] = [
    STREAM_PROTOCOL,
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
];

/// Speaks to the nodes' servers.
pub(crate) struct NodeClient {
    tls: TlsConnector,
    port: u16,
}

impl NodeClient {
    pub(crate) fn new(pki: &Pki, port: u16) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca_der())?;
        let missing =
            || rustls::Error::General("the API server's client certificate cannot be read".to_owned());
        let (chain, key) = pki.api_client.tls().ok_or_else(missing)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), port })
    }

    /// Sends a request to a node and returns the head of its answer.
    async fn send(
        &self,
        node: &str,
        address: IpAddr,
        request: Request<Empty<bytes::Bytes>>,
    ) -> Result<http::Response<hyper::body::Incoming>, Status> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Status::failure(502, "BadGateway", format!("node {node:?} at {address}:{}: {error}", self.port))
        };
        let connect = async {
            let stream = TcpStream::connect((address, self.port)).await?;
            stream.set_nodelay(true)?;
            self.tls.connect(ServerName::IpAddress(address.into()), stream).await
        };
        let stream = tokio::time::timeout(CONNECT_WITHIN, connect).await;
        let stream = stream.map_err(|_| unreachable(&"no answer in time"))?.map_err(|e| unreachable(&e))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a node ended");
            }
        });
        let answer = tokio::time::timeout(ANSWER_WITHIN, sender.send_request(request)).await;
        answer.map_err(|_| unreachable(&"no answer in time"))?.map_err(|e| unreachable(&e))
    }
}

/// Where a Pod runs, and its path on that node's server.
struct Place {
    node: String,
    address: IpAddr,
    path: String,
}

/// Finds the node of a request, and the container if `what` is of one.
fn locate(view: &View, what: &str, target: &Target, parameters: &Parameters) -> Result<Place, Status> {
    let stored = read::find(view, target)?;
    let pod: Value = serde_json::from_slice(&stored.value).map_err(Status::internal)?;
    let mut path = format!("/{what}/{}/{}", target.namespace, target.name);
    if what != PORT_FORWARD {
        let container = container(&pod, &target.name, parameters)?;
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        // Said before the upgrade is looked at, as kubectl tries another one after any refusal.
        let stdin = container.get("stdin").and_then(Value::as_bool).unwrap_or_default();
        if what == "attach" && parameters.flag("stdin")? && !stdin {
            return Err(Status::bad_request(format!(
                "stdin: container {name} of pod {} has none, as its spec.containers[].stdin is not true; \
                 kubectl exec -it starts a shell beside the running program",
                target.name
            )));
        }
        path = format!("{path}/{name}");
    }
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|node| !node.is_empty());
    let node = node
        .ok_or_else(|| Status::bad_request(format!("pod {} does not have a host assigned", target.name)))?;
    Ok(Place { node: node.to_owned(), address: node_address(view, node)?, path })
}

/// The container that is asked for, or that is meant when none is.
fn container<'a>(pod: &'a Value, name: &str, parameters: &Parameters) -> Result<&'a Value, Status> {
    let [containers, init] = ["/spec/containers", "/spec/initContainers"].map(|list| {
        let list = pod.pointer(list).and_then(Value::as_array);
        list.map(Vec::as_slice).unwrap_or_default()
    });
    let named = |list: &'a [Value]| list.iter().filter_map(|c| c.get("name")?.as_str()).collect::<Vec<_>>();
    let (names, before) = (named(containers), named(init));
    let annotated = pod
        .pointer("/metadata/annotations/kubectl.kubernetes.io~1default-container")
        .and_then(Value::as_str)
        .filter(|name| names.contains(name) || before.contains(name));
    let chosen = match (parameters.get("container"), annotated, names.as_slice()) {
        (Some(given), _, names) if names.contains(&given) || before.contains(&given) => given,
        (Some(given), _, _) => {
            return Err(Status::bad_request(format!("container {given} is not valid for pod {name}")));
        }
        (None, Some(annotated), _) => annotated,
        (None, None, [only]) => only,
        (None, None, names) => {
            let mut words = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                names.join(" ")
            );
            if !before.is_empty() {
                words.push_str(&format!(" or one of the init containers: [{}]", before.join(" ")));
            }
            return Err(Status::bad_request(words));
        }
    };
    let chosen =
        containers.iter().chain(init).find(|c| c.get("name").and_then(Value::as_str) == Some(chosen));
    chosen.ok_or_else(|| Status::internal(format!("pod {name} has no such container")))
}

fn node_address(view: &View, name: &str) -> Result<IpAddr, Status> {
    let stored = view.get(&NODES.storage_key(&ObjectKey::cluster(name)));
    let stored = stored.ok_or_else(|| Status::not_found(&NODES, name))?;
    let node: Value = serde_json::from_slice(&stored.value).map_err(Status::internal)?;
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let internal = addresses.into_iter().flatten().find_map(|entry| {
        let of_node = entry.get("type")?.as_str()? == "InternalIP";
        entry.get("address")?.as_str()?.parse::<IpAddr>().ok().filter(|_| of_node)
    });
    internal.ok_or_else(|| Status::unavailable(format!("node {name:?} has not told its address yet")))
}

/// A request to the node's server, with the client's query.
fn request(
    place: &Place,
    method: Method,
    client: &Uri,
    headers: HeaderMap,
) -> Result<Request<Empty<bytes::Bytes>>, Status> {
    let query = client.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    // Names of stored objects need no encoding.
    *request.uri_mut() = format!("{}{query}", place.path).parse().map_err(Status::internal)?;
    *request.headers_mut() = headers;
    if let Ok(host) = place.address.to_string().parse() {
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(request)
}

/// What a node said no with, in our form.
async fn refused(
    resource: &Resource,
    place: &Place,
    answer: http::Response<hyper::body::Incoming>,
) -> Status {
    let code = answer.status();
    let body = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let text =
        body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::FORBIDDEN => Status::failure(403, "Forbidden", text),
        StatusCode::TOO_MANY_REQUESTS => Status::failure(429, "TooManyRequests", text),
        StatusCode::NOT_FOUND => {
            let message = format!("{} on node {:?}: {text}", resource.plural, place.node);
            Status::failure(404, "NotFound", message)
        }
        _ => Status::failure(502, "BadGateway", format!("node {:?} answered {code}: {text}", place.node)),
    }
}

/// Answers `pods/log`.
pub(crate) async fn log(
    nodes: &NodeClient,
    store: &Store,
    target: &Target,
    uri: &Uri,
    parameters: &Parameters,
) -> Result<Response, Status> {
    let place = locate(&store.view(), "containerLogs", target, parameters)?;
    let request = request(&place, Method::GET, uri, HeaderMap::new())?;
    let answer = nodes.send(&place.node, place.address, request).await?;
    if !answer.status().is_success() {
        return Err(refused(target.resource, &place, answer).await);
    }
    let body = Body::new(answer.into_body());
    Ok(respond::bytes(StatusCode::OK, "text/plain; charset=utf-8", body))
}

/// Whether a client asks for an upgrade that the subresource has.
fn check_upgrade(what: &str, client: &Request) -> Result<(), Status> {
    let wanted =
        client.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let websocket = client.method() == Method::GET && wanted.eq_ignore_ascii_case("websocket");
    let spdy = client.method() == Method::POST && wanted.eq_ignore_ascii_case("SPDY/3.1");
    if websocket || spdy && what == PORT_FORWARD {
        return Ok(());
    }
    let how = if wanted.is_empty() { "no upgrade" } else { wanted };
    Err(Status::bad_request(format!(
        "{} is served over WebSocket only (GET with Upgrade: websocket), not {} with {how}; kubectl since 1.31 asks \
         so by itself",
        what.to_lowercase(),
        client.method()
    )))
}

/// Answers `pods/exec`, `pods/attach` and `pods/portforward`: upgrades both connections and copies between them.
pub(crate) async fn stream(
    nodes: &NodeClient,
    store: &Store,
    shutdown: CancellationToken,
    target: &Target,
    parameters: &Parameters,
    mut client: Request,
) -> Result<Response, Status> {
    let what = if target.subresource == "portforward" { PORT_FORWARD } else { target.subresource.as_str() };
    let place = locate(&store.view(), what, target, parameters)?;
    check_upgrade(what, &client)?;
    let mut headers = HeaderMap::new();
    for name in UPGRADE_HEADERS {
        for value in client.headers().get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    let request = request(&place, client.method().clone(), client.uri(), headers)?;
    let mut answer = nodes.send(&place.node, place.address, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(target.resource, &place, answer).await);
    }
    let mut response = respond::empty(StatusCode::SWITCHING_PROTOCOLS);
    for name in [
        header::CONNECTION,
        header::UPGRADE,
        header::SEC_WEBSOCKET_ACCEPT,
        header::SEC_WEBSOCKET_PROTOCOL,
        STREAM_PROTOCOL,
    ] {
        if let Some(value) = answer.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    let node_side = hyper::upgrade::on(&mut answer);
    copy_upgraded(node_side, hyper::upgrade::on(&mut client), shutdown, ());
    Ok(response)
}

/// Copies between two connections, once both are upgraded, to the end of either or of the server; then drops `held`.
fn copy_upgraded(near: OnUpgrade, far: OnUpgrade, shutdown: CancellationToken, held: impl Send + 'static) {
    let begun = Timestamp::now();
    tokio::spawn(async move {
        let copy = async {
            let (near, far) = tokio::try_join!(near, far).map_err(std::io::Error::other)?;
            tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await
        };
        tokio::select! {
            result = copy => tracing::debug!(?result, %begun, "an upgraded connection ended"),
            () = shutdown.cancelled() => {}
        }
        drop(held);
    });
}
