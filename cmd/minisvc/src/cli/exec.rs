//! `minisvc exec`: a command in a container, with its streams, its terminal and its exit code.

use super::{
    api::Failure,
    config::ConnectArgs,
    logs::pod_name,
    session::{BUFFER_BYTES, Container, Streams, ended},
};
use clap::Args;
use futures::SinkExt;
use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use kube::api::{AttachedProcess, TerminalSize};
use minisvc_apimachinery::Status;
use nix::sys::termios::{self, SetArg, Termios};
use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
};

/// `minisvc exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// POD, pod/POD, or NAMESPACE/POD
    #[arg(value_name = "POD")]
    pod: String,
    /// The container, if there are several
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,
    #[command(flatten)]
    connect: ConnectArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The namespace, if the word names one, and the Pod.
pub(super) fn place(word: &str) -> Result<(Option<String>, String), Failure> {
    match word.split_once('/') {
        Some((namespace, pod)) if minisvc_apimachinery::resource::by_alias(namespace).is_none() => {
            Ok((Some(namespace.to_owned()), pod.to_owned()))
        }
        _ => Ok((None, pod_name(word)?)),
    }
}

/// Runs the command; its exit code is ours.
pub async fn run(args: ExecArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    let container = Container::of(place(&args.pod)?, args.container, args.connect, fallbacks).await?;
    let terminal = has_terminal(args.stdin, args.tty);
    let mut process = container.exec(args.command, Streams { stdin: args.stdin, terminal }).await?;
    match streams(&mut process, terminal).await? {
        Some(status) => outcome(&status),
        None => Err(container.lost("exec", "the command")),
    }
}

/// Whether our terminal is passed on, which it is if it was asked for and is one; says so if not.
pub(super) fn has_terminal(stdin: bool, tty: bool) -> bool {
    let terminal = tty && stdin && io::stdin().is_terminal();
    if tty && !terminal {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    terminal
}

/// Copies our standard streams to and from a session until its end; what it ended with.
pub(super) async fn streams(
    process: &mut AttachedProcess,
    terminal: bool,
) -> Result<Option<meta::Status>, Failure> {
    let raw = if terminal { Some(RawMode::enter()?) } else { None };
    let status = process.take_status();
    let stdout = copy(process.stdout(), tokio::io::stdout());
    let stderr = copy(process.stderr(), tokio::io::stderr());
    let stdin = process.stdin();
    let sizes = process.terminal_size();
    let side = tokio::spawn(async move {
        let input = async {
            if let Some(stdin) = stdin {
                copy(Some(tokio::io::stdin()), stdin).await;
            }
        };
        let resize = async {
            if let Some(sizes) = sizes {
                follow_size(sizes).await;
            }
        };
        tokio::join!(input, resize);
    });
    let finished = async {
        tokio::join!(stdout, stderr);
        ended(status).await
    };
    let status = finished.await;
    side.abort();
    drop(raw);
    Ok(status)
}

pub(super) fn refused(error: kube::Error, url: String) -> Failure {
    match error {
        kube::Error::Api(status) => {
            let reason = if status.reason.is_empty() { "" } else { status.reason.as_str() };
            Failure::Server(Box::new(Status::failure(status.code, reason, status.message.clone())))
        }
        other => Failure::Transport { method: Method::GET, url, source: other.into() },
    }
}

/// The exit code in the `Status` that ends the command (`NonZeroExitCode`, cause `ExitCode`).
pub(super) fn outcome(status: &meta::Status) -> Result<ExitCode, Failure> {
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_deref()?.parse::<u16>().ok());
    match code {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
        }
        None => {
            Err(Failure::Usage(status.message.clone().unwrap_or_else(|| "the command failed".to_owned())))
        }
    }
}

/// Copies until either end is gone. That the reader of our output is gone ends the copy, not the command.
async fn copy(from: Option<impl AsyncRead + Unpin>, mut to: impl AsyncWrite + Unpin) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut writable = true;
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if writable {
            let written = to.write_all(&buffer[..length]).await;
            writable = written.is_ok() && to.flush().await.is_ok();
        }
    }
    // Tells a command that reads to the end that this is it.
    let _ = to.shutdown().await;
}

async fn follow_size(mut sizes: impl futures::Sink<TerminalSize> + Unpin) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Some((terminal_size::Width(width), terminal_size::Height(height))) =
            terminal_size::terminal_size()
            && sizes.send(TerminalSize { width, height }).await.is_err()
        {
            return;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// The terminal passes every key on, until this is dropped.
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> Result<Self, Failure> {
        let failed = |source: nix::Error| Failure::Terminal { source: source.into() };
        let before = termios::tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing better can be done with a terminal that is gone.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(value: serde_json::Value) -> meta::Status {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_exit_code_is_the_commands() {
        let ended = status(json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "x",
            "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}}));
        assert_eq!(outcome(&ended).unwrap(), ExitCode::from(7));
        assert_eq!(outcome(&status(json!({"status": "Success"}))).unwrap(), ExitCode::SUCCESS);
        let broken = outcome(&status(json!({"status": "Failure", "message": "no such file"})));
        assert_eq!(broken.unwrap_err().to_string(), "error: no such file");
    }

    #[test]
    fn pods_are_named_in_three_ways() {
        assert_eq!(place("web").unwrap(), (None, "web".to_owned()));
        assert_eq!(place("pod/web").unwrap(), (None, "web".to_owned()));
        assert_eq!(place("prod/web").unwrap(), (Some("prod".to_owned()), "web".to_owned()));
        assert!(place("svc/web").is_err());
    }
}
