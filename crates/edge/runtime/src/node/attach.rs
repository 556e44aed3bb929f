//! `/attach`: a client on a running container's own streams, by its shim.
//!
//! Output is what the container writes from then on, byte by byte; input goes to its standard input or terminal.
//! Invariants: nothing is collected here: who does not read is not sent more, until the shim lets it go; the end of
//! the session, from whichever side, is no end of the container.

use super::{
    Refusal, Target,
    channels::{self, Input},
    exec, find,
    query::Query,
};
use crate::{
    attach::{BYTES_MAX, FromShim, PACKET_BYTES_MAX, Session, ToShim, Wanted},
    exec::Outcome,
    runtime::Runtime,
};
use axum::{
    extract::{
        Path, RawQuery, State,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use futures::{StreamExt, stream::SplitStream};
use std::{io, path, time::Duration};
use tokio::sync::mpsc;

/// How long a shim may take to answer: it may be stopped, or very busy.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn attach(
    State(runtime): State<Runtime>,
    Path(target): Path<Target>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let asked = exec::Wanted::from(&query).map_err(Refusal::bad_request)?;
    let (pod, container) = find(&runtime, &target)?;
    if !container.is_running() {
        return Err(Refusal::bad_request(format!(
            "container {} not found in pod {}: it is not running",
            container.name, pod.bundle.name
        )));
    }
    let spec = pod.bundle.spec(&container.name);
    if asked.stdin && !spec.is_some_and(|spec| spec.stdin) {
        return Err(Refusal::bad_request(format!(
            "stdin: container {:?} has none: its spec.containers[].stdin is not true",
            container.name
        )));
    }
    // Whether there is a terminal is the container's own affair, decided when it was started.
    let wanted = Wanted { stdin: asked.stdin, stdout: asked.stdout, stderr: asked.stderr };
    let upgrade = exec::negotiate(upgrade)?;
    let permit = exec::permit()?;
    let shim = connect(&runtime.container_dir(&pod.bundle.uid, &container.name), wanted).await?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        run(socket, &shim, wanted).await;
        drop(permit);
    }))
}

/// Begins a session with a container's shim.
async fn connect(dir: &path::Path, wanted: Wanted) -> Result<Session, Refusal> {
    let unavailable = |error: &dyn std::fmt::Display| Refusal {
        status: http::StatusCode::INTERNAL_SERVER_ERROR,
        text: format!("attach to the container's shim: {error}"),
    };
    let full = || Refusal {
        status: http::StatusCode::TOO_MANY_REQUESTS,
        text: "too many clients are attached to this container".to_owned(),
    };
    let session = Session::connect(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Refusal::bad_request("the container was started by a version of minisvc without attach")
        }
        io::ErrorKind::WouldBlock => full(),
        _ => unavailable(&error),
    })?;
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    let greet = async {
        // A shim that has refused already reads no more; what it said is there.
        let _ = session.send(&ToShim::Hello(wanted).packet()).await;
        session.recv(&mut buffer).await
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, greet).await;
    let answer = answer.map_err(|_| unavailable(&"no answer in time"))?;
    match FromShim::read(answer.map_err(|error| unavailable(&error))?) {
        Some(FromShim::Attached) => Ok(session),
        Some(FromShim::Full) => Err(full()),
        _ => Err(unavailable(&"the container has just ended")),
    }
}

/// Copies to the container's or the client's end.
async fn run(socket: WebSocket, shim: &Session, wanted: Wanted) {
    let (sink, stream) = socket.split();
    let (messages, outgoing) = mpsc::channel(4);
    let mut writer = std::pin::pin!(channels::write_out(sink, outgoing));
    tokio::select! {
        () = writer.as_mut() => {}
        () = session(stream, messages, shim, wanted) => {
            // A client that reads nothing gets no farewell.
            let _ = tokio::time::timeout(exec::DRAIN_MAX, writer).await;
        }
    }
}

async fn session(
    mut stream: SplitStream<WebSocket>,
    messages: mpsc::Sender<Message>,
    shim: &Session,
    wanted: Wanted,
) {
    // An empty message tells the client that the session stands.
    let first = if wanted.stdout { channels::STDOUT } else { channels::ERROR };
    if messages.send(Message::Binary(channels::message(first, b""))).await.is_err() {
        return;
    }
    let outcome = tokio::select! {
        outcome = copy_out(shim, &messages) => outcome,
        () = copy_in(shim, &mut stream, &messages) => None,
    };
    if let Some(outcome) = outcome {
        let finish = exec::finish(messages, &mut stream, &outcome, "attaching to container");
        let _ = tokio::time::timeout(2 * exec::DRAIN_MAX, finish).await;
    }
}

/// Copies to the client, until the shim ends the session; none once the client is gone.
async fn copy_out(shim: &Session, messages: &mpsc::Sender<Message>) -> Option<Outcome> {
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        match shim.recv(&mut buffer).await {
            Ok(packet @ [_, ..]) => match FromShim::read(packet) {
                Some(FromShim::Output { stderr, bytes }) => {
                    let channel = if stderr { channels::STDERR } else { channels::STDOUT };
                    let message = Message::Binary(channels::message(channel, bytes));
                    messages.send(message).await.ok()?;
                }
                Some(FromShim::Ended) => return Some(Outcome::Exit(0)),
                Some(FromShim::Attached | FromShim::Full) | None => {}
            },
            Ok([]) => {
                let why = "the client did not read what it was sent, or the container's shim has ended";
                return Some(Outcome::Failed(why.to_owned()));
            }
            Err(error) => return Some(Outcome::Failed(error.to_string())),
        }
    }
}

/// Copies from the client, until it is gone.
async fn copy_in(shim: &Session, stream: &mut SplitStream<WebSocket>, messages: &mpsc::Sender<Message>) {
    while let Some(said) = exec::next_input(stream, messages).await {
        let packets: Vec<Vec<u8>> = match &said {
            Input::Stdin(bytes) => bytes.chunks(BYTES_MAX).map(|part| ToShim::Stdin(part).packet()).collect(),
            Input::StdinClosed => vec![ToShim::StdinClosed.packet()],
            Input::Resize(columns, rows) => vec![ToShim::Resize(*columns, *rows).packet()],
            Input::Ignored => Vec::new(),
        };
        for packet in packets {
            // That the shim is gone is said by the other direction.
            if exec::while_present(shim.send(&packet), messages).await.is_none() {
                return;
            }
        }
    }
}
