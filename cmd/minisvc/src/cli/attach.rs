//! `minisvc attach`: a running container's own streams.

use super::{
    api::Failure,
    config::ConnectArgs,
    exec::{BUFFER_BYTES, has_terminal, outcome, place, refused, streams},
};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
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
    let (namespace, pod) = place(&args.pod)?;
    let api = args.connect.connect(fallbacks).await?;
    let namespace = namespace.unwrap_or_else(|| api.namespace.clone());
    let terminal = has_terminal(args.stdin, args.tty);
    let params = AttachParams {
        container: args.container,
        stdin: args.stdin,
        stdout: true,
        // A terminal has one output only.
        stderr: !terminal,
        tty: terminal,
        max_stdin_buf_size: Some(BUFFER_BYTES),
        max_stdout_buf_size: Some(BUFFER_BYTES),
        max_stderr_buf_size: Some(BUFFER_BYTES),
    };
    let pods: kube::Api<Pod> = kube::Api::namespaced(api.client.clone(), &namespace);
    let url = format!("{}/api/v1/namespaces/{namespace}/pods/{pod}/attach", api.url.trim_end_matches('/'));
    let mut process = pods.attach(&pod, &params).await.map_err(|error| refused(error, url.clone()))?;
    match streams(&mut process, terminal).await? {
        Some(status) => outcome(&status),
        None => Err(Failure::Transport {
            method: http::Method::GET,
            url,
            source: "the connection ended before the container did".into(),
        }),
    }
}
