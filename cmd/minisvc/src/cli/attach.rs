//! `minisvc attach`: what a running container writes from now on.

use super::{
    api::Failure,
    config::ConnectArgs,
    exec::{BUFFER_BYTES, copy, outcome, place, refused},
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
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Prints until the container ends.
pub async fn run(args: AttachArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    let (namespace, pod) = place(&args.pod)?;
    let api = args.connect.connect(fallbacks).await?;
    let namespace = namespace.unwrap_or_else(|| api.namespace.clone());
    let params = AttachParams {
        container: args.container,
        stdin: false,
        stdout: true,
        stderr: true,
        tty: false,
        max_stdin_buf_size: None,
        max_stdout_buf_size: Some(BUFFER_BYTES),
        max_stderr_buf_size: Some(BUFFER_BYTES),
    };
    let pods: kube::Api<Pod> = kube::Api::namespaced(api.client.clone(), &namespace);
    let url = format!("{}/api/v1/namespaces/{namespace}/pods/{pod}/attach", api.url.trim_end_matches('/'));
    let mut process = pods.attach(&pod, &params).await.map_err(|error| refused(error, url.clone()))?;
    let status = process.take_status();
    let stdout = copy(process.stdout(), tokio::io::stdout());
    let stderr = copy(process.stderr(), tokio::io::stderr());
    tokio::join!(stdout, stderr);
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    match status {
        Some(status) => outcome(&status),
        None => Err(Failure::Transport {
            method: http::Method::GET,
            url,
            source: "the connection ended before the container did".into(),
        }),
    }
}
