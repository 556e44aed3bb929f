//! Sessions with a container's processes: how `exec`, `attach` and `cp` are begun.

use super::{api::Failure, config::ConnectArgs, exec::refused};
use http::Method;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1 as meta};
use kube::api::{AttachParams, AttachedProcess};
use std::path::PathBuf;

/// Bytes copied at a time.
pub const BUFFER_BYTES: usize = 32 << 10;

/// A container of a Pod; without a name, the Pod's only or default one.
pub struct Container {
    pods: kube::Api<Pod>,
    pod: String,
    name: Option<String>,
    /// Of the Pod.
    url: String,
}

/// Which streams there are beside standard output.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// A terminal, which has one output only; else there is standard error.
    pub terminal: bool,
}

impl Container {
    /// The container `name` of `pod`; without a namespace, in that of the connection.
    ///
    /// # Errors
    /// If there is no way to a server.
    pub async fn of(
        (namespace, pod): (Option<String>, String),
        name: Option<String>,
        connect: ConnectArgs,
        fallbacks: &[PathBuf],
    ) -> Result<Self, Failure> {
        let api = connect.connect(fallbacks).await?;
        let namespace = namespace.unwrap_or_else(|| api.namespace.clone());
        let url = format!("{}/api/v1/namespaces/{namespace}/pods/{pod}", api.url.trim_end_matches('/'));
        let pods = kube::Api::namespaced(api.client.clone(), &namespace);
        Ok(Self { pods, pod, name, url })
    }

    fn params(&self, streams: Streams) -> AttachParams {
        AttachParams {
            container: self.name.clone(),
            stdin: streams.stdin,
            stdout: true,
            stderr: !streams.terminal,
            tty: streams.terminal,
            max_stdin_buf_size: Some(BUFFER_BYTES),
            max_stdout_buf_size: Some(BUFFER_BYTES),
            max_stderr_buf_size: Some(BUFFER_BYTES),
        }
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// If the server refuses, or is not reached.
    pub async fn exec(&self, command: Vec<String>, streams: Streams) -> Result<AttachedProcess, Failure> {
        let begun = self.pods.exec(&self.pod, command, &self.params(streams)).await;
        begun.map_err(|error| refused(error, format!("{}/exec", self.url)))
    }

    /// Joins the program that it runs.
    ///
    /// # Errors
    /// As [`Container::exec`].
    pub async fn attach(&self, streams: Streams) -> Result<AttachedProcess, Failure> {
        let begun = self.pods.attach(&self.pod, &self.params(streams)).await;
        begun.map_err(|error| refused(error, format!("{}/attach", self.url)))
    }

    /// A session (`exec` or `attach`) that broke off before `what` ended.
    pub fn lost(&self, session: &str, what: &str) -> Failure {
        Failure::Transport {
            method: Method::GET,
            url: format!("{}/{session}", self.url),
            source: format!("the connection ended before {what} did").into(),
        }
    }
}

/// What a session ended with, once it has; none: it broke off.
pub async fn ended(status: Option<impl Future<Output = Option<meta::Status>>>) -> Option<meta::Status> {
    status?.await
}
