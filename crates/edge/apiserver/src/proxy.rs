//! `pods/log` and `pods/exec`: passed on to the server of the Pod's node.
//!
//! Invariants: the node must show a certificate of our CA for the address we dialled, which comes from its Node
//! object; nothing follows a redirect; an upgraded connection is bytes copied both ways, never read.

use crate::{
    path::{Parameters, Target},
    pki::Pki,
    read, respond,
};
use axum::{body::Body, extract::Request, response::Response};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
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
/// Longest time to reach a node, and to get the head of its answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of a node's refusal that are passed on.
const REFUSAL_BYTES_MAX: usize = 4096;
/// Headers of an upgrade, which are for the two ends.
const UPGRADE_HEADERS: [header::HeaderName; 5] = [
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

/// Where a container runs.
struct Place {
    node: String,
    address: IpAddr,
    container: String,
}

/// Finds the node and the container of a request.
fn locate(view: &View, target: &Target, parameters: &Parameters) -> Result<Place, Status> {
    let stored = read::find(view, target)?;
    let pod: Value = serde_json::from_slice(&stored.value).map_err(Status::internal)?;
    let name = &target.name;
    let containers =
        pod.pointer("/spec/containers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = containers.iter().filter_map(|c| c.get("name")?.as_str()).collect();
    let annotated = pod
        .pointer("/metadata/annotations/kubectl.kubernetes.io~1default-container")
        .and_then(Value::as_str)
        .filter(|name| names.contains(name));
    let container = match (parameters.get("container"), annotated, names.as_slice()) {
        (Some(given), _, names) if names.contains(&given) => given,
        (Some(given), _, _) => {
            return Err(Status::bad_request(format!("container {given} is not valid for pod {name}")));
        }
        (None, Some(annotated), _) => annotated,
        (None, None, [only]) => only,
        (None, None, names) => {
            return Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                names.join(" ")
            )));
        }
    };
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|node| !node.is_empty());
    let node =
        node.ok_or_else(|| Status::bad_request(format!("pod {name} does not have a host assigned")))?;
    Ok(Place { node: node.to_owned(), address: node_address(view, node)?, container: container.to_owned() })
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

/// The path and query of the node's server.
fn node_uri(what: &str, target: &Target, container: &str, uri: &Uri) -> Result<Uri, Status> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    // Names of stored objects need no encoding.
    format!("/{what}/{}/{}/{container}{query}", target.namespace, target.name)
        .parse()
        .map_err(Status::internal)
}

fn request(uri: Uri, place: &Place, headers: HeaderMap) -> Request<Empty<bytes::Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    if let Ok(host) = place.address.to_string().parse() {
        request.headers_mut().insert(header::HOST, host);
    }
    request
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
    let place = locate(&store.view(), target, parameters)?;
    let uri = node_uri("containerLogs", target, &place.container, uri)?;
    let answer = nodes.send(&place.node, place.address, request(uri, &place, HeaderMap::new())).await?;
    if !answer.status().is_success() {
        return Err(refused(target.resource, &place, answer).await);
    }
    let body = Body::new(answer.into_body());
    Ok(respond::bytes(StatusCode::OK, "text/plain; charset=utf-8", body))
}

/// Answers `pods/exec`: upgrades both connections and copies between them.
pub(crate) async fn exec(
    nodes: &NodeClient,
    store: &Store,
    shutdown: CancellationToken,
    target: &Target,
    parameters: &Parameters,
    mut client: Request,
) -> Result<Response, Status> {
    let wanted =
        client.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if client.method() != Method::GET || !wanted.eq_ignore_ascii_case("websocket") {
        let how = if wanted.is_empty() { "no upgrade" } else { wanted };
        return Err(Status::bad_request(format!(
            "exec is served over WebSocket only (GET with Upgrade: websocket), not {} with {how}; kubectl since 1.31 \
             asks so by itself",
            client.method()
        )));
    }
    let place = locate(&store.view(), target, parameters)?;
    let uri = node_uri("exec", target, &place.container, client.uri())?;
    let mut headers = HeaderMap::new();
    for name in UPGRADE_HEADERS {
        for value in client.headers().get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    let mut answer = nodes.send(&place.node, place.address, request(uri, &place, headers)).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(target.resource, &place, answer).await);
    }
    let mut response = respond::empty(StatusCode::SWITCHING_PROTOCOLS);
    for name in
        [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT, header::SEC_WEBSOCKET_PROTOCOL]
    {
        if let Some(value) = answer.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    let node_side = hyper::upgrade::on(&mut answer);
    let client_side = hyper::upgrade::on(&mut client);
    let begun = Timestamp::now();
    tokio::spawn(async move {
        let copy = async {
            let (node, client) = tokio::try_join!(node_side, client_side).map_err(std::io::Error::other)?;
            tokio::io::copy_bidirectional(&mut TokioIo::new(node), &mut TokioIo::new(client)).await
        };
        tokio::select! {
            result = copy => tracing::debug!(?result, %begun, "exec ended"),
            () = shutdown.cancelled() => {}
        }
    });
    Ok(response)
}
