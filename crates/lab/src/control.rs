//! Talking to the lab's processes: one JSON line each way over a Unix socket.
//!
//! Invariant: a request is at most [`LINE_BYTES_MAX`] long and is answered, or the connection ends, within
//! [`TIMEOUT`].

use crate::LabError;
use serde::{Deserialize, Serialize};
use std::{path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};

/// Longest request or answer.
pub const LINE_BYTES_MAX: u64 = 64 * 1024;
/// How long a peer may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// What the supervisor or a member's first process is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Supervisor: which members are on. Member: whether its server runs.
    Status,
    /// Supervisor: switches a member on, if it is off, and starts its server. Member: starts its server.
    Start {
        /// Name of the member; ignored by the member itself.
        member: String,
    },
    /// Supervisor: pulls a member's plug; all its processes and links are gone at once.
    PowerOff {
        /// Name of the member.
        member: String,
    },
    /// Member: `kill -9` of its server, and of nothing else.
    KillServer,
    /// Supervisor: end the lab.
    Down,
}

/// A member as the supervisor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Its address on the underlay.
    pub address: std::net::Ipv4Addr,
    /// Whether its namespaces exist.
    pub on: bool,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// Done.
    Done,
    /// Supervisor's answer to [`Request::Status`].
    Members(Vec<MemberStatus>),
    /// A member's answer to [`Request::Status`]: pid of its server in its own pid namespace.
    Server {
        /// None if no server runs.
        pid: Option<i32>,
        /// How the last server ended.
        last_exit: Option<String>,
    },
    /// Not done, and why.
    Failed(String),
}

/// Asks whoever listens at `socket`.
///
/// # Errors
/// If nobody listens, the peer does not answer in time, or says it failed.
pub async fn ask(socket: &Path, request: &Request) -> Result<Response, LabError> {
    let failed = |source| LabError::Control { path: socket.to_owned(), source };
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        read_line::<Response>(&mut stream).await
    };
    let response = match timeout(TIMEOUT, exchange).await {
        Ok(response) => response.map_err(failed)?,
        Err(_) => return Err(failed(std::io::ErrorKind::TimedOut.into())),
    };
    match response {
        Response::Failed(why) => Err(LabError::Refused { why }),
        response => Ok(response),
    }
}

/// Waits for one request and returns it with the stream to answer on; None for a connection that said nothing.
pub async fn accept(listener: &UnixListener) -> std::io::Result<Option<(Request, UnixStream)>> {
    let (mut stream, _) = listener.accept().await?;
    match timeout(TIMEOUT, read_line::<Request>(&mut stream)).await {
        Ok(Ok(request)) => Ok(Some((request, stream))),
        _ => Ok(None),
    }
}

/// Answers; a peer that is gone is its own affair.
pub async fn answer(mut stream: UnixStream, response: &Response) {
    if let Ok(mut line) = serde_json::to_vec(response) {
        line.push(b'\n');
        let _gone = timeout(TIMEOUT, stream.write_all(&line)).await;
    }
}

async fn read_line<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> std::io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}
