//! `/portForward`: connections from a client to ports of a Pod, many on one upgraded connection.
//!
//! Two protocols: `portforward.k8s.io` in SPDY/3.1, which is what kubectl speaks, either inside WebSocket messages or on the
//! bare connection ([`spdy`]); and `v4.channel.k8s.io`, which client libraries speak ([`channels`]). Both end here, at the
//! node; the API server only copies bytes. Invariants: each direction of a connection buffers a few reads at most; a
//! session ends when its client is gone or its Pod has ended.

mod channels;
mod copy;
mod spdy;

use super::{Refusal, query::Query};
use crate::runtime::Runtime;
use axum::{
    body::Body,
    extract::{FromRequestParts, Path, Request, State, ws::WebSocketUpgrade},
    response::Response,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use tokio::sync::{Semaphore, SemaphorePermit};

/// SPDY inside WebSocket messages, as kubectl asks for since 1.31.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
/// A data and an error channel for each port, as client libraries ask for.
const CHANNELS: &str = "v4.channel.k8s.io";
/// SPDY on the bare connection, as clients before asked for.
const BARE: &str = "SPDY/3.1";
/// The one protocol inside SPDY, and the header that offers it.
const STREAMS: &str = "portforward.k8s.io";
const STREAM_PROTOCOL: header::HeaderName = header::HeaderName::from_static("x-stream-protocol-version");
/// Largest message from a client, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Sessions at a time on this node; more are refused.
static SESSIONS: Semaphore = Semaphore::const_new(256);

/// The Pod that is connected to.
#[derive(Clone)]
struct Place {
    runtime: Runtime,
    uid: String,
    name: String,
    netns: Option<PathBuf>,
}

impl Place {
    /// Returns when the Pod has ended or is gone.
    async fn ended(&self) {
        let mut changes = self.runtime.subscribe();
        // An error says that the runtime itself has ended.
        let _ = changes.wait_for(|pods| pods.get(&self.uid).is_none_or(|pod| pod.is_finished())).await;
    }

    /// Why a connection could not be made, as the kubelet words it.
    fn refusal(&self, port: u16, why: &str) -> String {
        format!("error forwarding port {port} to pod {}, uid {}: {why}", self.name, self.uid)
    }
}

pub(super) async fn portforward(
    State(runtime): State<Runtime>,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let pod = runtime
        .pod_named(&namespace, &name)
        .ok_or_else(|| Refusal::not_found(format!("pod {:?} not found", format!("{name}_{namespace}"))))?;
    if pod.is_finished() {
        return Err(Refusal::bad_request(format!("pod {:?} is not running", format!("{name}_{namespace}"))));
    }
    let place = Place {
        runtime,
        uid: pod.bundle.uid.clone(),
        name: pod.bundle.name.clone(),
        netns: pod.bundle.netns.clone(),
    };
    let permit = SESSIONS.try_acquire().map_err(|_| Refusal {
        status: StatusCode::TOO_MANY_REQUESTS,
        text: "too many port-forward sessions on this node".to_owned(),
    })?;
    if has(request.headers(), &header::UPGRADE, BARE) {
        return bare(place, request, permit);
    }
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|error| Refusal::bad_request(format!("unable to upgrade: {error}")))?
        .protocols([TUNNELLED, CHANNELS])
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * crate::spdy::DATA_BYTES_MAX);
    let chosen = upgrade.selected_protocol().and_then(|chosen| chosen.to_str().ok()).map(str::to_owned);
    match chosen.as_deref() {
        Some(TUNNELLED) => Ok(upgrade.on_upgrade(move |socket| async move {
            let (input, output) = spdy::over_websocket(socket);
            spdy::run(input, output, &place).await;
            drop(permit);
        })),
        Some(CHANNELS) => {
            let ports = channels::ports(&query).map_err(Refusal::bad_request)?;
            Ok(upgrade.on_upgrade(move |socket| async move {
                channels::run(socket, &ports, &place).await;
                drop(permit);
            }))
        }
        _ => Err(Refusal::bad_request(format!(
            "unable to upgrade: the client must offer the WebSocket protocol {TUNNELLED} or {CHANNELS}"
        ))),
    }
}

/// Whether a header has this value, among others or alone.
fn has(headers: &HeaderMap, name: &header::HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

/// SPDY on the upgraded connection itself.
fn bare(place: Place, mut request: Request, permit: SemaphorePermit<'static>) -> Result<Response, Refusal> {
    if *request.method() != Method::POST {
        return Err(Refusal::bad_request(format!("unable to upgrade: {BARE} is asked for with POST")));
    }
    if !has(request.headers(), &STREAM_PROTOCOL, STREAMS) {
        return Err(Refusal {
            status: StatusCode::FORBIDDEN,
            text: format!("unable to upgrade: unable to negotiate protocol: server supports [{STREAMS}]"),
        });
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(stream) => {
                let (input, output) = spdy::over_stream(TokioIo::new(stream));
                spdy::run(input, output, &place).await;
            }
            Err(error) => tracing::debug!(%error, "port-forward: the upgrade failed"),
        }
        drop(permit);
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in
        [(header::CONNECTION, "Upgrade"), (header::UPGRADE, BARE), (STREAM_PROTOCOL, STREAMS)]
    {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
