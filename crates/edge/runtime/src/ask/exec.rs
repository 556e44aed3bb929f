//! A program in a container, to its end.

use super::BYTES_MAX;
use crate::{
    exe::Executable,
    exec::{Order, Outcome, Session, Streams},
};
use std::{pin::pin, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How long output is still read after the program has ended: it may have left others behind.
const DRAIN_MAX: Duration = Duration::from_millis(200);

/// Its exit code and the beginning of its output. Dropping the future kills it.
pub(super) async fn run(executable: &Executable, order: &Order) -> Result<(i32, String), String> {
    let mut session = Session::start(executable, order).await.map_err(|error| format!("exec: {error}"))?;
    let Streams::Pipes { stdin, stdout, stderr } = session.take_streams() else {
        return Err("exec: a terminal nobody asked for".to_owned());
    };
    drop(stdin);
    let mut reads = pin!(futures::future::join(beginning(stdout), beginning(stderr)));
    let mut ended = pin!(session.outcome());
    let (outcome, text) = tokio::select! {
        outcome = &mut ended => (outcome, tokio::time::timeout(DRAIN_MAX, reads).await.unwrap_or_default()),
        text = &mut reads => (ended.await, text),
    };
    match outcome {
        Outcome::Exit(code) => Ok((code, text.0 + &text.1)),
        Outcome::Failed(why) => Err(why),
    }
}

/// Reads to the end, and keeps the beginning.
async fn beginning(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0; 4 << 10]);
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = BYTES_MAX - kept.len();
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
