//! The image `echo`: an HTTP, TCP and UDP server that says who answered and who asked.
//!
//! It listens on every address of the Pod, of both families. On each TCP port the first bytes decide: an HTTP method gets HTTP/1.1, anything else is answered line by line.
//! Small on purpose, for it runs in every Pod: one thread, bounded connections, no buffer before it is needed.
//! On SIGTERM it goes on accepting for a moment (proxies elsewhere may not know yet), then finishes what is
//! open and exits 0.

mod http;
mod lines;
mod sockets;
mod udp;

use crate::spec::{ContainerPort, ContainerSpec, PodBundle};
use serde::{Deserialize, Serialize};
use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    task::LocalSet,
};

/// The environment variable with the settings.
pub(crate) const ENVIRONMENT: &str = "MINISVC_ECHO";
/// The port if the container declares none.
const DEFAULT_PORT: u16 = 8080;
/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// How long new connections are still accepted after SIGTERM.
const LAME_DUCK: Duration = Duration::from_millis(300);
/// After SIGTERM, a connection without a request for that long is closed.
const IDLE_AFTER_STOP: Duration = Duration::from_secs(1);
/// After SIGTERM, everything ends after that long.
const STOP_MAX: Duration = Duration::from_secs(20);
/// A connection without a request for that long is closed.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// Who answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Identity {
    pod: String,
    namespace: String,
    node: String,
    address: Option<IpAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    #[serde(flatten)]
    identity: Identity,
    ports: Vec<ContainerPort>,
}

impl Identity {
    /// The line that TCP and UDP are answered with.
    fn line(&self, protocol: &str, client: SocketAddr) -> String {
        let address = self.address.map(|address| address.to_string()).unwrap_or_default();
        format!(
            "pod={} namespace={} node={} address={address} client={client} protocol={protocol}\n",
            self.pod, self.namespace, self.node
        )
    }
}

/// The settings of the echo server in a container, as the value of its environment variable.
pub(crate) fn settings(node: &str, bundle: &PodBundle, spec: &ContainerSpec) -> String {
    let identity = Identity {
        pod: bundle.name.clone(),
        namespace: bundle.namespace.clone(),
        node: node.to_owned(),
        address: bundle.address(),
    };
    // A struct of strings and numbers always has a JSON form.
    serde_json::to_string(&Settings { identity, ports: spec.ports.clone() }).unwrap_or_default()
}

/// `minisvc pod-echo`: serves until SIGTERM. Returns the process' exit status.
pub fn main() -> i32 {
    let result = std::env::var(ENVIRONMENT)
        .map_err(|_| format!("{ENVIRONMENT} is not set: this command is run by minisvc in Pods"))
        .and_then(|text| serde_json::from_str(&text).map_err(|error| format!("{ENVIRONMENT}: {error}")))
        .and_then(|settings: Settings| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .event_interval(127)
                .build()
                .map_err(|error| format!("start: {error}"))?;
            LocalSet::new().block_on(&runtime, run(settings))
        });
    match result {
        Ok(()) => 0,
        Err(error) => {
            let _ = io::Write::write_all(&mut io::stderr(), format!("echo: {error}\n").as_bytes());
            1
        }
    }
}

async fn run(settings: Settings) -> Result<(), String> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| format!("wait for SIGTERM: {error}"))?;
    let (tcp, udp) = listen(&settings.ports, sockets::wildcard())?;
    serve(settings.identity, tcp, udp, async move {
        terminate.recv().await;
    })
    .await;
    Ok(())
}

fn listen(ports: &[ContainerPort], address: IpAddr) -> Result<(Vec<TcpListener>, Vec<UdpSocket>), String> {
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    let default = [("TCP", DEFAULT_PORT), ("UDP", DEFAULT_PORT)];
    let given: Vec<(&str, u16)> = ports.iter().map(|port| (port.protocol.as_str(), port.port)).collect();
    for (protocol, port) in if given.is_empty() { &default[..] } else { &given[..] } {
        let at = SocketAddr::new(address, *port);
        let fail = |error: io::Error| format!("listen on {at}/{protocol}: {error}");
        match *protocol {
            "TCP" => tcp.push(sockets::tcp(at).map_err(fail)?),
            "UDP" => udp.push(sockets::udp(at).map_err(fail)?),
            _ => return Err(format!("port {port}: protocol {protocol} is not supported by image echo")),
        }
    }
    Ok((tcp, udp))
}

/// Serves until `stop`, then until all connections have ended, at most [`STOP_MAX`] longer.
async fn serve(
    identity: Identity,
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    stop: impl Future<Output = ()>,
) {
    let identity = Rc::new(identity);
    let (stopping, stopped) = watch::channel(false);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = Vec::new();
    for listener in tcp {
        tasks.push(tokio::task::spawn_local(accept(
            listener,
            Rc::clone(&identity),
            Arc::clone(&permits),
            stopped.clone(),
        )));
    }
    for socket in udp {
        tasks.push(tokio::task::spawn_local(udp::serve(socket, Rc::clone(&identity))));
    }
    stop.await;
    stopping.send_replace(true);
    tokio::time::sleep(LAME_DUCK).await;
    for task in tasks {
        task.abort();
    }
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(STOP_MAX, permits.acquire_many(all)).await;
}

async fn accept(
    listener: TcpListener,
    identity: Rc<Identity>,
    permits: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
) {
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = listener.accept().await;
        let Ok((stream, client)) = accepted else {
            // Out of descriptors, or the client gave up: neither is mended by trying at once.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let client = sockets::plain(client);
        let (identity, stopped) = (Rc::clone(&identity), stopped.clone());
        tokio::task::spawn_local(async move {
            let _ = stream.set_nodelay(true);
            match sniff(&stream).await {
                Ok(true) => http::serve(stream, client, identity, stopped).await,
                Ok(false) => lines::serve(stream, client, &identity, stopped).await,
                Err(_) => {}
            }
            drop(permit);
        });
    }
}

const METHODS: [&[u8]; 9] =
    [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];

/// Whether the first bytes are an HTTP request. Waits for as many as it takes to tell.
async fn sniff(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 8];
    let decide = async {
        loop {
            let length = stream.peek(&mut first).await?;
            let seen = &first[..length];
            if length == 0 || METHODS.iter().any(|method| seen.starts_with(method)) {
                return Ok(length > 0);
            }
            if !METHODS.iter().any(|method| method.starts_with(seen)) {
                return Ok(false);
            }
            // Peeked bytes stay readable, so there is no event to wait for.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(IDLE_MAX, decide).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests;
