//! `/exec`: one program in a container, its streams on one WebSocket.
//!
//! Every buffer is one read long, and a slow client slows the program's pipe, not this server's memory. When the
//! client goes away the session is dropped, which kills the program.

use super::{
    Refusal, Target,
    channels::{self, Input},
    find,
    query::Query,
};
use crate::{
    exec::{Order, Session, Streams},
    runtime::Runtime,
    sys, terminal,
};
use axum::{
    extract::{
        Path, RawQuery, State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, stream::SplitStream};
use std::{
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, SemaphorePermit, mpsc},
};

/// Largest message from a client, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes read from the program at once.
const READ_BYTES: usize = 16 << 10;
/// Sessions at a time on this node; more are refused.
static SESSIONS: Semaphore = Semaphore::const_new(256);
/// How long output is still copied after the program has ended.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(2);
/// How often an idle client is asked whether it is still there.
pub(super) const PING_EVERY: Duration = Duration::from_secs(30);

/// SPDY, kubectl's older way, is not served here.
pub(super) async fn refuse_spdy() -> Refusal {
    Refusal::bad_request(format!(
        "unable to upgrade: exec and attach are served over WebSocket only (GET, {})",
        channels::PROTOCOLS.join(" or ")
    ))
}

/// The streams that a client asks for.
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Wanted {
    /// The kubelet's names (`input`, `output`, `error`) and the API's (`stdin`, `stdout`, `stderr`).
    pub(super) fn from(query: &Query) -> Result<Self, String> {
        let either = |one, other| Ok::<bool, String>(query.flag(one)? || query.flag(other)?);
        let tty = query.flag("tty")?;
        let wanted = Self {
            stdin: either("input", "stdin")?,
            stdout: either("output", "stdout")?,
            stderr: either("error", "stderr")? && !tty,
            tty,
        };
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return Err("you must specify at least 1 of stdin, stdout, stderr".to_owned());
        }
        Ok(wanted)
    }
}

pub(super) async fn exec(
    State(runtime): State<Runtime>,
    Path(target): Path<Target>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let wanted = Wanted::from(&query).map_err(Refusal::bad_request)?;
    let argv = query.all("command");
    if argv.is_empty() {
        return Err(Refusal::bad_request("you must specify at least one command for the container"));
    }
    let (pod, container) = find(&runtime, &target)?;
    let (Some(process), Some(mut settings)) =
        (container.process, runtime.process_settings(&pod, &container.name))
    else {
        return Err(Refusal::not_found(format!("container not found ({:?})", container.name)));
    };
    if wanted.tty {
        settings.env = terminal::environment(settings.env);
    }
    let order = Order { process, argv, settings, tty: wanted.tty };
    let upgrade = negotiate(upgrade)?;
    let permit = permit()?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        run(socket, &runtime, &order, &wanted).await;
        drop(permit);
    }))
}

/// The upgrade with its protocol chosen and its buffers bounded.
pub(super) fn negotiate(
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<WebSocketUpgrade, Refusal> {
    let upgrade = upgrade
        .map_err(|error| Refusal::bad_request(format!("unable to upgrade: {error}")))?
        .protocols(channels::PROTOCOLS)
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * READ_BYTES);
    if upgrade.selected_protocol().is_none() {
        return Err(Refusal::bad_request(format!(
            "unable to upgrade: the client must offer the WebSocket protocol {}",
            channels::PROTOCOLS.join(" or ")
        )));
    }
    Ok(upgrade)
}

/// Leave for one more session of exec or attach.
pub(super) fn permit() -> Result<SemaphorePermit<'static>, Refusal> {
    SESSIONS.try_acquire().map_err(|_| Refusal {
        status: http::StatusCode::TOO_MANY_REQUESTS,
        text: "too many exec and attach sessions on this node".to_owned(),
    })
}

/// Runs a session to the program's or the client's end.
async fn run(socket: WebSocket, runtime: &Runtime, order: &Order, wanted: &Wanted) {
    let (sink, stream) = socket.split();
    let (messages, outgoing) = mpsc::channel::<Message>(4);
    let writer = channels::write_out(sink, outgoing);
    let session = session(stream, messages, runtime, order, wanted);
    tokio::join!(writer, session);
}

async fn session(
    mut stream: SplitStream<WebSocket>,
    messages: mpsc::Sender<Message>,
    runtime: &Runtime,
    order: &Order,
    wanted: &Wanted,
) {
    // An empty message tells the client that the session stands.
    let first = if wanted.stdout { channels::STDOUT } else { channels::ERROR };
    if messages.send(Message::Binary(channels::message(first, b""))).await.is_err() {
        return;
    }
    let outcome = match Session::start(runtime.executable(), order).await {
        Err(error) => crate::exec::Outcome::Failed(format!("start the exec helper: {error}")),
        Ok(mut session) => {
            let streams = session.take_streams();
            let (input, outputs, terminal) = split(streams, wanted);
            let copy_out = outputs
                .into_iter()
                .map(|(channel, reader, shown)| copy_out(channel, reader, shown.then(|| messages.clone())));
            let program = async {
                let mut copies = std::pin::pin!(futures::future::join_all(copy_out));
                let mut copied = false;
                let mut outcome = std::pin::pin!(session.outcome());
                loop {
                    tokio::select! {
                        outcome = outcome.as_mut() => {
                            // What it has left running in the background may hold its output open.
                            if !copied {
                                let _ = tokio::time::timeout(DRAIN_MAX, copies.as_mut()).await;
                            }
                            break outcome;
                        }
                        _ = copies.as_mut(), if !copied => copied = true,
                    }
                }
            };
            let client = copy_in(&mut stream, input, terminal, &messages);
            tokio::select! {
                outcome = program => outcome,
                // The client is gone; dropping the session kills the program.
                () = client => return,
            }
        }
    };
    finish(messages, &mut stream, &outcome, "executing command in container").await;
}

/// Says how it ended, and waits for the client's own close, so that ours is not lost to a reset.
pub(super) async fn finish(
    messages: mpsc::Sender<Message>,
    stream: &mut SplitStream<WebSocket>,
    outcome: &crate::exec::Outcome,
    doing: &str,
) {
    let _ = messages.send(Message::Binary(channels::status(outcome, doing))).await;
    let close = CloseFrame { code: axum::extract::ws::close_code::NORMAL, reason: "".into() };
    let _ = messages.send(Message::Close(Some(close))).await;
    drop(messages);
    let closed = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = tokio::time::timeout(DRAIN_MAX, closed).await;
}

type Reader = Pin<Box<dyn AsyncRead + Send>>;
type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// Channel, source, and whether the client wants it.
type OutputOf = (u8, Reader, bool);

/// Input, outputs, and the terminal if there is one.
fn split(streams: Streams, wanted: &Wanted) -> (Option<Writer>, Vec<OutputOf>, Option<OwnedFd>) {
    match streams {
        Streams::Pipes { stdin, stdout, stderr } => {
            let mut outputs: Vec<OutputOf> = Vec::new();
            if let Some(stdout) = stdout {
                outputs.push((channels::STDOUT, Box::pin(stdout), wanted.stdout));
            }
            if let Some(stderr) = stderr {
                outputs.push((channels::STDERR, Box::pin(stderr), wanted.stderr));
            }
            let input = stdin.filter(|_| wanted.stdin).map(|stdin| Box::pin(stdin) as Writer);
            (input, outputs, None)
        }
        Streams::Terminal(master) => {
            // One registration a descriptor, so each side gets its own.
            let side = || master.try_clone().and_then(terminal::Master::watch).ok();
            let output = side().map(|master| (channels::STDOUT, Box::pin(master) as Reader, wanted.stdout));
            let input = side().filter(|_| wanted.stdin).map(|master| Box::pin(master) as Writer);
            (input, output.into_iter().collect(), Some(master))
        }
    }
}

/// Copies to the client; reads on without sending what it does not want, so that the program is not blocked.
async fn copy_out(channel: u8, mut reader: Reader, messages: Option<mpsc::Sender<Message>>) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if let Some(messages) = &messages {
                    let message = Message::Binary(channels::message(channel, &buffer[..length]));
                    if messages.send(message).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Waits for what may take long, such as a program that does not read; none once the client is gone.
pub(super) async fn while_present<T>(
    work: impl Future<Output = T>,
    messages: &mpsc::Sender<Message>,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(PING_EVERY, work.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_) if messages.send(Message::Ping(Bytes::new())).await.is_err() => return None,
            Err(_) => {}
        }
    }
}

/// What the client says next; none once it is gone.
pub(super) async fn next_input(
    stream: &mut SplitStream<WebSocket>,
    messages: &mpsc::Sender<Message>,
) -> Option<Input> {
    loop {
        match while_present(stream.next(), messages).await?? {
            Ok(Message::Binary(bytes)) => return Some(channels::read(bytes)),
            Err(_) | Ok(Message::Close(_)) => return None,
            Ok(_) => {}
        }
    }
}

/// Copies from the client. Returns when it is gone.
async fn copy_in(
    stream: &mut SplitStream<WebSocket>,
    mut input: Option<Writer>,
    terminal: Option<OwnedFd>,
    messages: &mpsc::Sender<Message>,
) {
    while let Some(said) = next_input(stream, messages).await {
        match said {
            Input::Stdin(bytes) => {
                if let Some(writer) = &mut input {
                    match while_present(writer.write_all(&bytes), messages).await {
                        Some(Ok(())) => {}
                        // The program reads no more.
                        Some(Err(_)) => input = None,
                        None => return,
                    }
                }
            }
            Input::StdinClosed => {
                if terminal.is_some()
                    && let Some(writer) = &mut input
                {
                    let _ = writer.write_all(&[4]).await; // end of transmission, as a terminal has it
                }
                input = None;
            }
            Input::Resize(columns, rows) => {
                if let Some(terminal) = &terminal {
                    let _ = sys::set_window_size(terminal.as_fd(), columns, rows);
                }
            }
            Input::Ignored => {}
        }
    }
}
