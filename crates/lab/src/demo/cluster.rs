//! The demo's lab and its API.

use crate::{
    LabError,
    control::{self, Request, Response},
    enter,
    layout::{Lab, LabOptions, members},
    up::{self, Started},
};
use k8s_openapi::api::{core::v1::Node, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    io,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, process::Command};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Asks again and again until there is an answer.
///
/// # Errors
/// With `what` and the last reason, if that takes longer than `limit`.
pub async fn wait_for<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T, String> {
    let end = Instant::now() + limit;
    loop {
        match ask().await {
            Ok(found) => return Ok(found),
            Err(why) if Instant::now() > end => return Err(format!("{what}: not within {limit:?}: {why}")),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Writes the lab's kubeconfig as soon as node 1 has written its own.
///
/// # Errors
/// If its server has ended, or takes too long.
pub async fn kubeconfig(lab: &Lab, started: &Started, limit: Duration) -> Result<(), String> {
    let end = Instant::now() + limit;
    let first = lab.member("node1");
    loop {
        match up::write_kubeconfig(lab, started.api_port) {
            Ok(()) => return Ok(()),
            Err(LabError::File { ref source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
        }
        let status = control::ask(&first.socket(), &Request::Status).await;
        if let Ok(Response::Server { pid: None, last_exit: Some(how) }) = status {
            return Err(format!("the server of node1 ended ({how}):\n{}", last_words(&first.log())));
        }
        if Instant::now() > end {
            return Err(format!("node1 wrote no kubeconfig within {limit:?}:\n{}", last_words(&first.log())));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The last lines of a log.
pub fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// A client of the lab's API, as its kubeconfig says.
///
/// # Errors
/// If that cannot be used.
pub async fn connect(lab: &Lab) -> Result<Client, String> {
    // Only the first installation counts; another part of the program may have made it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let path = lab.kubeconfig();
    let failed = |error: &dyn std::error::Error| format!("use {}: {error}", path.display());
    let kubeconfig = Kubeconfig::read_from(&path).map_err(|error| failed(&error))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| failed(&error))?;
    Client::try_from(config).map_err(|error| failed(&error))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Waits until so many Nodes are Ready; tells `progress` whenever there are more.
///
/// # Errors
/// If that takes longer than `limit`.
pub async fn nodes_ready(
    client: &Client,
    count: usize,
    limit: Duration,
    mut progress: impl FnMut(usize),
) -> Result<(), String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let end = Instant::now() + limit;
    let mut known = usize::MAX;
    loop {
        let why = match nodes.list(&ListParams::default()).await {
            Ok(list) => {
                let ready = list.items.iter().filter(|node| is_ready(node)).count();
                if ready >= count {
                    return Ok(());
                }
                if ready != known {
                    known = ready;
                    progress(ready);
                }
                format!("{ready} of {count} are Ready")
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() > end {
            return Err(format!("nodes are not Ready within {limit:?}: {why}"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a Node is Ready.
///
/// # Errors
/// If it is not, or cannot be read.
pub async fn node_ready(client: &Client, name: &str) -> Result<(), String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = nodes.get(name).await.map_err(|error| error.to_string())?;
    if is_ready(&node) { Ok(()) } else { Err(format!("{name} is not Ready")) }
}

/// Runs `minisvc apply -f -`, as a person would.
///
/// # Errors
/// With what it said.
pub async fn apply(lab: &Lab, manifest: &str) -> Result<String, String> {
    let failed = |error: io::Error| format!("minisvc apply: {error}");
    let mut child = Command::new("/proc/self/exe")
        .args(["apply", "-f", "-"])
        .env("KUBECONFIG", lab.kubeconfig())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(manifest.as_bytes()).await.map_err(failed)?;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("minisvc apply: {}", text(&output.stderr)))
    }
}

/// Addresses of a Service's ready endpoints.
///
/// # Errors
/// If the API does not answer.
pub async fn ready_endpoints(client: &Client, service: &str) -> Result<Vec<String>, String> {
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    let selector = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let list = slices.list(&selector).await.map_err(|error| error.to_string())?;
    let ready = list.items.into_iter().flat_map(|slice| slice.endpoints).filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    Ok(ready.flat_map(|endpoint| endpoint.addresses).collect())
}

/// A lab that ends with this value, whatever happens.
pub struct OwnLab {
    /// Its files.
    pub lab: Lab,
    started: Option<Started>,
}

impl OwnLab {
    /// Starts it.
    ///
    /// # Errors
    /// As [`up::up`].
    pub async fn up(lab: Lab, options: &LabOptions) -> Result<Self, LabError> {
        let started = up::up(&lab, options, true).await?;
        Ok(Self { lab, started: Some(started) })
    }

    /// What [`up::up`] returned.
    pub fn started(&self) -> Option<&Started> {
        self.started.as_ref()
    }

    /// Pid of the process above all others of the lab.
    pub fn root_pid(&self) -> Option<u32> {
        self.started.as_ref().map(|started| started.supervisor.id())
    }

    /// Ends it, in order.
    ///
    /// # Errors
    /// If something remains.
    pub async fn down(mut self) -> Result<(), LabError> {
        let outcome = up::down(&self.lab).await;
        if outcome.is_ok()
            && let Some(mut started) = self.started.take()
        {
            let _reaped = started.supervisor.wait();
        }
        outcome
    }
}

impl Drop for OwnLab {
    fn drop(&mut self) {
        let Some(mut started) = self.started.take() else { return };
        let first = enter::listener_pid(&self.lab.control_socket());
        let _gone = started.supervisor.kill().and_then(|()| started.supervisor.wait());
        if let Ok(pid) = first {
            let end = Instant::now() + Duration::from_secs(5);
            while up::is_running(pid) && Instant::now() < end {
                std::thread::sleep(POLL);
            }
        }
        let _first_error_counts = up::remove_files(&self.lab);
    }
}

/// Names of the nodes of a lab of this size.
pub fn node_names(nodes: usize) -> Vec<String> {
    members(nodes).into_iter().filter(|member| member.is_node).map(|member| member.name).collect()
}
