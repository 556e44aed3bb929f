//! Running one more program in a container: the helper that enters its namespaces, and the server's end of it.
//!
//! Helper and server talk over a socket pair: one JSON [`Order`] in, one JSON [`Outcome`] line out, and before it, if a
//! terminal was ordered, a blank with the descriptor of its master side (none if there is no container). The socket's end tells the helper that nobody wants the program any more, and it kills it, whether the
//! client went away or the server died.

pub(crate) mod helper;

use crate::{cgroup::Group, exe::Executable, hidden, record::ProcessId, security::Security, sys, terminal};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::UnixStream,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};

/// Longest order and outcome, in bytes.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// What to run, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Process 1 of the container.
    pub(crate) process: ProcessId,
    /// Command and arguments.
    pub(crate) argv: Vec<String>,
    /// How.
    pub(crate) settings: Settings,
    /// Whether it gets a terminal.
    pub(crate) tty: bool,
}

/// How a container's programs are run, process 1 and all others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The whole environment.
    pub(crate) env: Vec<(String, String)>,
    /// Where to start.
    pub(crate) working_dir: String,
    /// As whom, and with what they may.
    pub(crate) security: Security,
    /// As whom if that does not say: the image's `user[:group]`.
    #[serde(default)]
    pub(crate) image_user: String,
    /// The control groups that its processes are in.
    #[serde(default)]
    pub(crate) group: Group,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The program ran and ended; 128 + signal if a signal ended it.
    Exit(i32),
    /// The program could not be run.
    Failed(String),
}

/// The streams of a running program.
pub(crate) enum Streams {
    /// Three pipes.
    Pipes {
        /// Write here.
        stdin: Option<ChildStdin>,
        /// Read here.
        stdout: Option<ChildStdout>,
        /// Read here.
        stderr: Option<ChildStderr>,
    },
    /// The master side of a terminal, non-blocking.
    Terminal(OwnedFd),
}

/// A program running in a container. Dropping it kills the program.
pub(crate) struct Session {
    /// Its streams.
    pub(crate) streams: Streams,
    child: Child,
    control: BufReader<UnixStream>,
}

impl Session {
    /// Starts the helper. That the program itself could not be run is told by [`Session::outcome`].
    pub(crate) async fn start(executable: &Executable, order: &Order) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut control = UnixStream::from_std(ours)?;
        let mut command = Command::new(executable.path());
        command
            .arg0("minisvc")
            .arg(hidden::EXEC)
            .arg(theirs.as_raw_fd().to_string())
            .env_clear()
            .kill_on_drop(false);
        sys::keep_across_exec(&mut command, theirs.as_fd());
        let stdio = || if order.tty { Stdio::null() } else { Stdio::piped() };
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        let mut child = command.spawn()?;
        drop((command, theirs));
        let mut text = serde_json::to_vec(order)?;
        text.push(b'\n');
        control.write_all(&text).await?;
        let terminal = if order.tty {
            let receive = || sys::recv_fd(control.as_fd());
            control.async_io(Interest::READABLE, receive).await?
        } else {
            None
        };
        if let Some(master) = &terminal {
            terminal::set_nonblocking(master)?;
        }
        let streams = match terminal {
            Some(master) => Streams::Terminal(master),
            None => Streams::Pipes {
                stdin: child.stdin.take(),
                stdout: child.stdout.take(),
                stderr: child.stderr.take(),
            },
        };
        Ok(Self { streams, child, control: BufReader::new(control) })
    }

    /// Splits off the streams, so that they can be copied while the outcome is awaited.
    pub(crate) fn take_streams(&mut self) -> Streams {
        std::mem::replace(&mut self.streams, Streams::Pipes { stdin: None, stdout: None, stderr: None })
    }

    /// Waits for the program's end.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        let mut line = String::new();
        let read = (&mut self.control).take(MESSAGE_BYTES_MAX).read_line(&mut line).await;
        let _ = self.child.wait().await;
        match (read, serde_json::from_str(&line)) {
            (_, Ok(outcome)) => outcome,
            (Err(error), _) => Outcome::Failed(format!("read the exec helper's report: {error}")),
            (Ok(_), Err(_)) => Outcome::Failed("the exec helper ended without a report".to_owned()),
        }
    }
}
