//! `minisvc attach`: a running container's own streams.

use super::{
    api::Failure,
    config::ConnectArgs,
    exec::{has_terminal, outcome, place, streams},
    session::{Container, Streams},
};
use clap::Args;
use std::{path::PathBuf, process::ExitCode};

/// `minisvc attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// POD, pod/POD, or NAMESPACE/POD
    #[arg(value_name = "POD")]
    pod: String,
    /// The container, if there are several
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
    /// Pass standard input on, if the container has one
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Use the container's terminal
    #[arg(short = 't', long)]
    tty: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Prints until the container ends.
pub async fn run(args: AttachArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    let container = Container::of(place(&args.pod)?, args.container, args.connect, fallbacks).await?;
    let terminal = has_terminal(args.stdin, args.tty);
    let mut process = container.attach(Streams { stdin: args.stdin, terminal }).await?;
    match streams(&mut process, terminal).await? {
        Some(status) => outcome(&status),
        None => Err(container.lost("attach", "the container")),
    }
}
