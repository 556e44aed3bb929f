//! `/attach`: what a running container writes from now on, its two streams on one WebSocket.
//!
//! The source is the container's log, which its shim writes: attaching changes nothing for the container, and a line
//! is seen once it is complete. Containers have no standard input here, and a client that wants it is refused.

use super::{
    Refusal, Target, channels,
    exec::{self, PING_EVERY, Wanted},
    find,
    query::Query,
};
use crate::{exec::Outcome, logs, runtime::Runtime};
use axum::{
    extract::{
        Path, RawQuery, State,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    response::Response,
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use std::io;

pub(super) async fn attach(
    State(runtime): State<Runtime>,
    Path(target): Path<Target>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let wanted = Wanted::from(&query).map_err(Refusal::bad_request)?;
    let (pod, container) = find(&runtime, &target)?;
    if !container.is_running() {
        return Err(Refusal::bad_request(format!(
            "container {} not found in pod {}: it is not running",
            container.name, pod.bundle.name
        )));
    }
    for (field, asked) in [("stdin", wanted.stdin), ("tty", wanted.tty)] {
        if asked {
            return Err(Refusal::bad_request(format!(
                "unable to attach: {field}: container {:?} has none: spec.containers[].{field} is not supported by \
                 minisvc yet; kubectl exec -it starts a shell beside it",
                container.name
            )));
        }
    }
    let path = runtime.log_path(&pod.bundle, &container.name, container.restart_count);
    let is_live = super::is_live(&runtime, &pod, &container.name, container.restart_count);
    let output = logs::from_now(&path, is_live).map_err(|error| Refusal {
        status: http::StatusCode::INTERNAL_SERVER_ERROR,
        text: format!("read the log: {error}"),
    })?;
    let upgrade = exec::negotiate(upgrade)?;
    let permit = exec::permit()?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        run(socket, Box::pin(output), &wanted).await;
        drop(permit);
    }))
}

/// Copies to the container's or the client's end.
async fn run(
    mut socket: WebSocket,
    mut output: impl Stream<Item = io::Result<logs::Piece>> + Unpin,
    wanted: &Wanted,
) {
    // An empty message tells the client that the session stands.
    let first = if wanted.stdout { channels::STDOUT } else { channels::ERROR };
    let mut message = Some(Message::Binary(channels::message(first, b"")));
    let mut ping = tokio::time::interval(PING_EVERY);
    loop {
        if let Some(message) = message.take()
            && socket.send(message).await.is_err()
        {
            return;
        }
        tokio::select! {
            piece = output.next() => match piece {
                Some(Ok(piece)) => {
                    let (channel, shown) = match piece.stderr {
                        true => (channels::STDERR, wanted.stderr),
                        false => (channels::STDOUT, wanted.stdout),
                    };
                    message = shown.then(|| Message::Binary(channels::message(channel, &piece.bytes)));
                }
                Some(Err(_)) | None => break,
            },
            from_client = socket.recv() => match from_client {
                None | Some(Err(_) | Ok(Message::Close(_))) => return,
                // There is no standard input that anything could be for.
                Some(Ok(_)) => {}
            },
            _ = ping.tick() => message = Some(Message::Ping(Bytes::new())),
        }
    }
    let _ = socket.send(Message::Binary(channels::status(&Outcome::Exit(0)))).await;
    let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    let _ = socket.send(Message::Close(Some(close))).await;
    // Wait for the client's own close, so that ours is not lost to a reset.
    let closed = async { while let Some(Ok(_)) = socket.recv().await {} };
    let _ = tokio::time::timeout(exec::DRAIN_MAX, closed).await;
}
