//! Doing one thing to a container from outside, once: what probes ask and hooks tell.
//!
//! Connections are made from the node to the Pod's address, by no proxy. Invariants: at most [`DIALS_MAX`] connections and
//! [`EXECS_MAX`] programs at a time, waiting for a place takes nothing of an answer's time; no more than
//! [`BYTES_MAX`] of an answer are kept. Source: kubelet `pkg/probe`, whose words these are.

mod exec;
mod grpc;
mod http;
mod tls;

use crate::{exe::Executable, exec::Order, life::Action};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{net::TcpStream, sync::Semaphore};

/// No more of an answer is kept, in bytes.
const BYTES_MAX: usize = 10 << 10;
/// Connections at a time.
const DIALS_MAX: usize = 128;
/// Programs at a time.
const EXECS_MAX: usize = 16;
static DIALS: Semaphore = Semaphore::const_new(DIALS_MAX);
static EXECS: Semaphore = Semaphore::const_new(EXECS_MAX);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// As it should be.
    Good,
    /// As it should be, with a word of caution.
    Doubtful(String),
    /// Not as it should be.
    Bad(String),
    /// Nobody can say: it could not be asked.
    Unknown(String),
}

/// Whom to ask.
pub(crate) struct Target<'a> {
    /// The Pod's address.
    pub(crate) address: Option<IpAddr>,
    /// The binary to execute as exec helper.
    pub(crate) executable: &'a Executable,
    /// How programs are run in the container; none: it does not run.
    pub(crate) order: Option<Order>,
}

impl Target<'_> {
    /// Asks as a probe does.
    pub(crate) async fn probe(&self, action: &Action, timeout: Duration) -> Answer {
        // The semaphores are never closed; should they be, nothing is counted.
        let _place = match action {
            Action::Exec { .. } => EXECS.acquire().await.ok(),
            _ => DIALS.acquire().await.ok(),
        };
        match action {
            Action::Exec { command } => self.exec_probe(command, timeout).await,
            Action::HttpGet { .. } => http::probe(action, self.address, timeout).await,
            Action::TcpSocket { host, port } => {
                match tcp(host.as_deref(), self.address, *port, timeout).await {
                    Ok(_stream) => Answer::Good,
                    Err(why) => Answer::Bad(why),
                }
            }
            Action::Grpc { port, service } => match self.address {
                Some(address) => grpc::probe(SocketAddr::new(address, *port), service, timeout).await,
                None => Answer::Unknown(NO_ADDRESS.to_owned()),
            },
            Action::Sleep { .. } => Answer::Unknown("invalid handler".to_owned()),
            Action::Impossible { why } => Answer::Unknown(why.clone()),
        }
    }

    async fn exec_probe(&self, command: &[String], timeout: Duration) -> Answer {
        match tokio::time::timeout(timeout, self.exec(command)).await {
            Ok(Ok((0, _))) => Answer::Good,
            Ok(Ok((_, text))) => Answer::Bad(text),
            Ok(Err(why)) => Answer::Unknown(why),
            Err(_) => Answer::Bad(format!("command {:?} timed out", command.join(" "))),
        }
    }

    /// Exit code and output of a program in the container.
    async fn exec(&self, command: &[String]) -> Result<(i32, String), String> {
        let order = self.order.clone().ok_or_else(|| "container not running".to_owned())?;
        exec::run(self.executable, &Order { argv: command.to_vec(), ..order }).await
    }

    /// Does what a hook says, as long as it takes.
    pub(crate) async fn tell(&self, action: &Action) -> Result<(), String> {
        match action {
            Action::Exec { command } => match self.exec(command).await? {
                (0, _) => Ok(()),
                (code, text) => Err(format!("command '{}' exited with {code}: {text}", command.join(" "))),
            },
            // As with the kubelet, any answer is one.
            Action::HttpGet { .. } => http::get(action, self.address).await.map(drop),
            Action::Sleep { seconds } => {
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
                Ok(())
            }
            Action::TcpSocket { .. } | Action::Grpc { .. } => Err("invalid handler".to_owned()),
            Action::Impossible { why } => Err(why.clone()),
        }
    }
}

const NO_ADDRESS: &str = "the pod has no address";

/// Connects to a host, or to the Pod.
async fn connect(host: Option<&str>, pod: Option<IpAddr>, port: u16) -> Result<TcpStream, String> {
    let addresses: Vec<SocketAddr> = match (host, pod) {
        (None, Some(address)) => vec![SocketAddr::new(address, port)],
        (None, None) => return Err(NO_ADDRESS.to_owned()),
        (Some(host), _) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let found = tokio::net::lookup_host((host, port)).await;
            found.map_err(|error| format!("dial tcp: lookup {host}: {error}"))?.collect()
        }
    };
    let mut last = "no address of this host was found".to_owned();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("dial tcp {address}: {}", crate::dial::words(&error)),
        }
    }
    Err(last)
}

async fn tcp(
    host: Option<&str>,
    pod: Option<IpAddr>,
    port: u16,
    timeout: Duration,
) -> Result<TcpStream, String> {
    let connected = tokio::time::timeout(timeout, connect(host, pod, port)).await;
    connected.unwrap_or_else(|_| {
        let host =
            host.map(str::to_owned).or_else(|| pod.map(|address| address.to_string())).unwrap_or_default();
        Err(format!("dial tcp {}: i/o timeout", authority(&host, port)))
    })
}

/// `HOST:PORT`, an IPv6 address in brackets.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests;
