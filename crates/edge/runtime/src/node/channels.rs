//! The framing of `v4.channel.k8s.io` and `v5.channel.k8s.io`: the first byte of each message is its channel.

use crate::exec::Outcome;
use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{SinkExt, stream::SplitSink};
use tokio::sync::mpsc;

/// The protocols served, the best first.
pub(super) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// Server to client: standard output.
pub(super) const STDOUT: u8 = 1;
/// Server to client: standard error.
pub(super) const STDERR: u8 = 2;
/// Server to client: how it ended, a Status.
pub(super) const ERROR: u8 = 3;

/// What a client's message says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// No more standard input.
    StdinClosed,
    /// The terminal's new size: columns and rows.
    Resize(u16, u16),
    /// Nothing that means anything here.
    Ignored,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Reads a client's message.
pub(super) fn read(message: Bytes) -> Input {
    let Some((channel, rest)) = message.split_first() else { return Input::Ignored };
    match channel {
        0 => Input::Stdin(message.slice(1..)),
        4 => serde_json::from_slice::<Size>(rest)
            .map_or(Input::Ignored, |size| Input::Resize(size.width, size.height)),
        // Since v5: the channel named in the second byte is closed.
        255 if rest == [0] => Input::StdinClosed,
        _ => Input::Ignored,
    }
}

/// A message on `channel`.
pub(super) fn message(channel: u8, bytes: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    message.into()
}

/// The last message of a session, as the kubelet words it; `doing` is what may have failed.
pub(super) fn status(outcome: &Outcome, doing: &str) -> Bytes {
    let value = match outcome {
        Outcome::Exit(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
        Outcome::Exit(code) => serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Outcome::Failed(error) => serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: error {doing}: {error}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": format!("error {doing}: {error}")}]},
            "code": 500,
        }),
    };
    message(ERROR, value.to_string().as_bytes())
}

/// Sends what is queued, until the queue or the client ends; a close frame is the last.
pub(super) async fn write_out(
    mut sink: SplitSink<WebSocket, Message>,
    mut outgoing: mpsc::Receiver<Message>,
) {
    while let Some(message) = outgoing.recv().await {
        let last = matches!(message, Message::Close(_));
        if sink.send(message).await.is_err() || last {
            break;
        }
    }
    let _ = sink.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_messages() {
        let read = |bytes: &'static [u8]| super::read(Bytes::from_static(bytes));
        assert_eq!(read(b"\0hello"), Input::Stdin("hello".into()));
        assert_eq!(read(b"\0"), Input::Stdin("".into()));
        assert_eq!(read(b"\x04{\"Width\":80,\"Height\":24}"), Input::Resize(80, 24));
        assert_eq!(read(b"\x04{\"Width\":-1}"), Input::Ignored);
        assert_eq!(read(b"\xff\0"), Input::StdinClosed);
        assert_eq!(read(b"\xff\x01"), Input::Ignored);
        assert_eq!(read(b"\x01x"), Input::Ignored);
        assert_eq!(read(b""), Input::Ignored);
    }

    #[test]
    fn statuses_as_the_kubelet_sends_them() {
        let json = |outcome| -> serde_json::Value {
            let message = status(&outcome, "executing command in container");
            assert_eq!(message[0], ERROR);
            serde_json::from_slice(&message[1..]).unwrap()
        };
        assert_eq!(json(Outcome::Exit(0))["status"], "Success");
        let failed = json(Outcome::Exit(7));
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "7"}));
        assert_eq!(json(Outcome::Failed("no".into()))["reason"], "InternalError");
    }
}
