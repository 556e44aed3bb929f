//! Port-forward as the API server asks for it.

use crate::{
    cases::{WAIT, finish, pod, run, runtime},
    world,
};
use futures::{SinkExt, StreamExt};
use minisvc_runtime::{ContainerPort, ContainerSpec, RestartPolicy, Runtime, node};
use std::{fs, net::SocketAddr, time::Duration};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};

pub type Socket = WebSocketStream<TcpStream>;

pub async fn connect(address: SocketAddr, path: &str, protocol: &str) -> Result<Socket, String> {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, response)) => {
            assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
            Ok(socket)
        }
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
            Err(String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned())
        }
        Err(error) => panic!("{error}"),
    }
}

/// The next message with bytes; none at the end.
pub async fn next(socket: &mut Socket) -> Option<Vec<u8>> {
    loop {
        let message = tokio::time::timeout(WAIT, socket.next()).await.expect("a message in time");
        match message {
            Some(Ok(Message::Binary(bytes))) => return Some(bytes.to_vec()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            _ => return None,
        }
    }
}

/// Serves `runtime` on a loopback of this process' own.
pub async fn serve(runtime: &Runtime) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = node::router(runtime.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

pub fn own_loopback() {
    let netns = world::network_namespace("own");
    nix::sched::setns(fs::File::open(netns).unwrap(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
}

fn echo_pod(uid: &str) -> minisvc_runtime::PodBundle {
    let ports = vec![ContainerPort { port: 7000, protocol: "TCP".into() }];
    let container =
        ContainerSpec { name: "main".into(), image: "echo".into(), ports, ..ContainerSpec::default() };
    pod(uid, RestartPolicy::Never, vec![container])
}

const REQUEST: &[u8] = b"GET /hostname HTTP/1.0\r\n\r\n";

/// Starts the Pod and waits until its server answers: a container that runs may not listen yet.
async fn start_echo(runtime: &Runtime, uid: &str, address: SocketAddr) {
    runtime.start_pod(echo_pod(uid)).await.unwrap();
    let begin = std::time::Instant::now();
    loop {
        let path = "/portForward/default/web-0?ports=7000";
        let mut socket = connect(address, path, "v4.channel.k8s.io").await.unwrap();
        socket.send(Message::binary([b"\0", REQUEST].concat())).await.unwrap();
        let mut answered = false;
        while let Some(message) = next(&mut socket).await {
            answered |= message[0] == 0 && message.len() > 3;
        }
        if answered {
            return;
        }
        assert!(begin.elapsed() < WAIT, "the Pod does not listen");
    }
}

/// Listens on the loopback of IPv6 and greets one client; the port.
fn greet_by_ipv6() -> std::io::Result<u16> {
    let listener = std::net::TcpListener::bind("[::1]:0")
        .inspect_err(|error| println!("skipped: no IPv6 loopback: {error}"))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"by IPv6").unwrap();
    });
    Ok(port)
}

pub fn channels() {
    own_loopback();
    run(async {
        let runtime = runtime();
        let address = serve(&runtime).await;
        start_echo(&runtime, "u11", address).await;
        let path = "/portForward/default/web-0";
        for (query, part) in [("", "\"ports\" is required"), ("?ports=x", "\"x\"")] {
            let refused = connect(address, &format!("{path}{query}"), "v4.channel.k8s.io").await;
            assert!(refused.is_err_and(|text| text.contains(part)), "{query}");
        }
        assert!(connect(address, "/portForward/default/none?ports=1", "v4.channel.k8s.io").await.is_err());
        let mut socket =
            connect(address, &format!("{path}?ports=7000&ports=7001"), "v4.channel.k8s.io").await.unwrap();
        let mut said = vec![Vec::new(); 4];
        socket.send(Message::binary([b"\0", REQUEST].concat())).await.unwrap();
        while let Some(message) = next(&mut socket).await {
            said[usize::from(message[0])].extend_from_slice(&message[1..]);
        }
        let text = |channel: usize| String::from_utf8_lossy(&said[channel][2..]).into_owned();
        assert!(said[0].starts_with(&7000u16.to_le_bytes()) && said[1] == 7000u16.to_le_bytes());
        assert!(text(0).contains("200 OK") && text(0).contains("web-0"), "{}", text(0));
        assert_eq!(said[2], 7001u16.to_le_bytes());
        assert!(
            text(3).starts_with("error forwarding port 7001 to pod web-0, uid u11: ")
                && text(3).contains("127.0.0.1:7001: connect: connection refused"),
            "{}",
            text(3)
        );
        assert!(text(3).contains("[::1]:7001: connect: "), "{}", text(3));
        // What listens by IPv6 only, as in a Pod that has nothing else.
        if let Ok(port) =
            world::inside_network(runtime.pod("u11").unwrap().bundle.netns.as_ref().unwrap(), greet_by_ipv6)
        {
            let query = format!("{path}?ports={port}");
            let mut socket = connect(address, &query, "v4.channel.k8s.io").await.unwrap();
            let mut said = Vec::new();
            while let Some(message) = next(&mut socket).await {
                said.extend_from_slice(&message[1..]);
            }
            assert!(said.ends_with(b"by IPv6"), "{}", String::from_utf8_lossy(&said));
        }
        // The session ends with the Pod.
        let mut socket = connect(address, &format!("{path}?ports=7000"), "v4.channel.k8s.io").await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap().len(), 3);
        runtime.stop("u11", Duration::ZERO).await.unwrap();
        while next(&mut socket).await.is_some() {}
        finish(&runtime, "u11").await;
    });
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// A data frame: stream, its last or not, bytes.
fn data(stream: u8, fin: bool, bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u32).to_be_bytes();
    [&[0, 0, 0, stream, u8::from(fin)], &length[1..], bytes].concat()
}

/// Reads SPDY frames: data by stream, and every other as its type and stream.
#[derive(Default)]
struct Frames {
    buffer: Vec<u8>,
    data: [Vec<u8>; 8],
    ended: [bool; 8],
    control: Vec<(u8, u32)>,
}

impl Frames {
    fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= 8 {
            let length = u32::from_be_bytes([0, self.buffer[5], self.buffer[6], self.buffer[7]]) as usize;
            if self.buffer.len() < 8 + length {
                return;
            }
            let rest = self.buffer.split_off(8 + length);
            let frame = std::mem::replace(&mut self.buffer, rest);
            if frame[0] == 0x80 {
                let stream = u32::from_be_bytes([frame[8], frame[9], frame[10], frame[11]]);
                self.control.push((frame[3], stream));
            } else {
                let stream = usize::from(frame[3]);
                self.data[stream].extend_from_slice(&frame[8..]);
                self.ended[stream] |= frame[4] == 1;
            }
        }
    }

    async fn until(&mut self, socket: &mut Socket, what: impl Fn(&Self) -> bool) {
        while !what(self) {
            let message = next(socket).await.expect("more frames");
            self.feed(&message);
        }
    }
}

pub fn spdy() {
    own_loopback();
    run(async {
        let runtime = runtime();
        let address = serve(&runtime).await;
        start_echo(&runtime, "u12", address).await;
        let path = "/portForward/default/web-0";
        let protocol = "SPDY/3.1+portforward.k8s.io";
        let mut socket = connect(address, path, protocol).await.unwrap();
        // What zlib makes of {port: 7000, requestid: 0, streamtype: error}, then data; then the same of port 7001.
        for part in STREAMS {
            socket.send(Message::binary(bytes(part))).await.unwrap();
        }
        let mut frames = Frames::default();
        socket.send(Message::binary(bytes("800300060000000400000007"))).await.unwrap();
        // In pieces that respect no frame.
        let request = [data(1, true, b""), data(3, false, REQUEST)].concat();
        for piece in request.chunks(5) {
            socket.send(Message::binary(piece.to_vec())).await.unwrap();
        }
        frames.until(&mut socket, |frames| frames.ended[1] && frames.ended[3] && frames.ended[5]).await;
        let text = String::from_utf8_lossy(&frames.data[3]).into_owned();
        assert!(text.contains("200 OK") && text.contains("web-0"), "{text}");
        assert_eq!(frames.data[1], b"", "no error");
        let error = String::from_utf8_lossy(&frames.data[5]).into_owned();
        assert!(error.contains("error forwarding port 7001") && error.contains("refused"), "{error}");
        for reply in [(2, 1), (2, 3), (2, 5), (2, 7), (6, 7)] {
            assert!(frames.control.contains(&reply), "{reply:?} in {:?}", frames.control);
        }
        // The session ends with the Pod, and says so.
        let goodbye = async {
            while let Some(message) = next(&mut socket).await {
                frames.feed(&message);
            }
        };
        let (_, stopped) = tokio::join!(goodbye, runtime.stop("u12", Duration::ZERO));
        stopped.unwrap();
        assert_eq!(frames.control.last(), Some(&(7, 7)), "GOAWAY");
        assert!(connect(address, path, protocol).await.is_err_and(|text| text.contains("is not running")));
        finish(&runtime, "u12").await;
    });
}

/// Four streams as zlib compresses their headers, each block after the one before.
const STREAMS: [&str; 4] = [
    "800300010000003d0000000100000000000078f9e3c6a7c202253a48f95b044eeae6060606409ab308125f99a074cc68004e892545a989b9d0c2863515141500000000ffff",
    "800300010000001600000003000000000000225333a8a44a04000000ffff",
    "800300010000001900000005000000000000c2a2d71043af210e8b01000000ffff",
    "800300010000001500000007000000000000225333d86200000000ffff",
];
