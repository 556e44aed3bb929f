//! The node's HTTPS server, with the kubelet's paths: `/containerLogs`, `/exec`, `/attach`, `/portForward`, `/healthz`.
//!
//! Only the API server asks here: every connection needs a client certificate of the cluster's own authority.
//! Answers that are no streams are text, as the kubelet's are; the API server turns them into Statuses.

mod attach;
mod channels;
mod exec;
mod portforward;
mod query;
mod serve;

use crate::{
    logs,
    record::{ContainerRecord, PodRecord},
    runtime::Runtime,
};
use axum::{
    Router,
    body::Body,
    extract::{Path, RawQuery, State},
    response::Response,
    routing::get,
};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use query::Query;
use std::{io, sync::Arc};

pub use serve::{serve, tls_config};

/// The paths of the node server.
pub fn router(runtime: Runtime) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/exec/{namespace}/{pod}/{container}", get(exec::exec).post(exec::refuse_spdy))
        .route("/attach/{namespace}/{pod}/{container}", get(attach::attach).post(exec::refuse_spdy))
        .route("/portForward/{namespace}/{pod}", get(portforward::portforward).post(portforward::portforward))
        .with_state(runtime)
}

/// An answer that is not a success, as text.
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    fn bad_request(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: text.into() }
    }

    fn not_found(text: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, text: text.into() }
    }
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.text));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}

/// Namespace, Pod and container, as they are in the path.
type Target = (String, String, String);

fn find(runtime: &Runtime, target: &Target) -> Result<(Arc<PodRecord>, ContainerRecord), Refusal> {
    let (namespace, name, container) = target;
    let pod = runtime
        .pod_named(namespace, name)
        .ok_or_else(|| Refusal::not_found(format!("pod {:?} not found", format!("{name}_{namespace}"))))?;
    let record = pod.container(container).cloned().ok_or_else(|| {
        Refusal::not_found(format!(
            "container {container:?} not found in pod {:?}",
            format!("{name}_{namespace}")
        ))
    })?;
    Ok((pod, record))
}

/// Tells, whenever asked, whether this run of a container still goes on.
fn is_live(runtime: &Runtime, pod: &PodRecord, container: &str, run: u32) -> impl Fn() -> bool + use<> {
    let (runtime, uid, name) = (runtime.clone(), pod.bundle.uid.clone(), container.to_owned());
    move || {
        let pod = runtime.pod(&uid);
        let record = pod.as_ref().and_then(|pod| pod.container(&name));
        record.is_some_and(|record| record.is_running() && record.restart_count == run)
    }
}

async fn container_logs(
    State(runtime): State<Runtime>,
    Path(target): Path<Target>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let options = query.log_options(Timestamp::now()).map_err(Refusal::bad_request)?;
    let previous = query.flag("previous").map_err(Refusal::bad_request)?;
    let (pod, container) = find(&runtime, &target)?;
    let run = if previous {
        container.restart_count.checked_sub(1).ok_or_else(|| {
            Refusal::bad_request(format!(
                "previous terminated container {:?} in pod {:?} not found",
                container.name, pod.bundle.name
            ))
        })?
    } else {
        container.restart_count
    };
    let path = runtime.log_path(&pod.bundle, &container.name, run);
    let stream = logs::read(&path, options, is_live(&runtime, &pod, &container.name, run)).map_err(
        |error| match error.kind() {
            io::ErrorKind::NotFound => Refusal::bad_request(format!(
                "container {:?} in pod {:?} is waiting to start: {}",
                container.name,
                pod.bundle.name,
                waiting_reason(&container)
            )),
            _ => {
                Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, text: format!("read the log: {error}") }
            }
        },
    )?;
    let mut response = Response::new(Body::from_stream(stream));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

fn waiting_reason(container: &ContainerRecord) -> &str {
    match &container.state {
        crate::record::ContainerState::Waiting { reason, .. } => reason,
        _ => "it has no log",
    }
}

#[cfg(test)]
mod tests;
