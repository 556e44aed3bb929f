//! The sockets: datagrams, connections, and their bounds.
//!
//! Invariant: what one client sends cannot make memory grow: datagrams are answered one by one, a connection has
//! one question at a time and is closed when idle.

use crate::{
    Counters, NameserverError, Shared,
    message::{self, Step, Transport},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Largest question that is read; longer ones are no questions.
const QUESTION_BYTES_MAX: usize = 4096;
/// Most bytes that are read from a connection ahead of their turn; most questions are shorter.
const READ_AHEAD_BYTES: usize = 512;
/// Receive buffer of a UDP socket.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// How long a connection may be idle, or slow to take an answer.
const IDLE: Duration = Duration::from_secs(5);
/// Datagrams read before their answers are sent, and before other tasks of the thread get their turn. An answer wakes a
/// client, which takes the core from us: once a batch, not once a datagram, where clients have several questions open.
const BATCH: usize = 32;
/// Rest after an accept or a receive that failed, for want of file descriptors, say.
const REST: Duration = Duration::from_millis(20);
/// Connections waiting to be accepted.
const BACKLOG: i32 = 128;

/// Binds `count` UDP sockets and one TCP listener to the address; returns it with the port taken.
pub(crate) fn bind(
    address: SocketAddr,
    count: usize,
    udp: &mut Vec<UdpSocket>,
    tcp: &mut Vec<TcpListener>,
) -> Result<SocketAddr, NameserverError> {
    let error = |protocol| move |source| NameserverError::Bind { address, protocol, source };
    let listener = bind_tcp(address).map_err(error("tcp"))?;
    let address = listener.local_addr().map_err(error("tcp"))?;
    tcp.push(listener);
    for _ in 0..count {
        udp.push(bind_udp(address).map_err(error("udp"))?);
    }
    Ok(address)
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv4() {
        // The cluster's DNS address may come to the node a moment later.
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    Ok(socket)
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Answers datagrams for ever.
pub(crate) async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    let mut pending = JoinSet::new();
    let mut replies = Vec::with_capacity(BATCH);
    loop {
        if socket.readable().await.is_err() {
            sleep(REST).await;
        }
        while pending.try_join_next().is_some() {}
        let mut failed = false;
        for _ in 0..BATCH {
            let (length, source) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(%error, "receiving a question failed");
                    failed = true;
                    break;
                }
            };
            match message::step(&shared, buffer[..length].to_vec(), source, Transport::Udp) {
                Step::Reply(reply) => replies.push((reply, source)),
                Step::Drop => {}
                Step::Forward(question) => {
                    let Ok(permit) = shared.forwarded.clone().try_acquire_owned() else {
                        replies.extend(message::busy(&shared, &question).map(|reply| (reply, source)));
                        continue;
                    };
                    let (socket, shared) = (socket.clone(), shared.clone());
                    pending.spawn(async move {
                        if let Some(reply) = message::forward(&shared, &question).await {
                            drop(socket.send_to(&reply, source).await);
                        }
                        drop(permit);
                    });
                }
            }
        }
        for (reply, source) in replies.drain(..) {
            // A full send buffer loses the answer, as the network might; the client asks again.
            drop(socket.try_send_to(&reply, source));
        }
        if failed {
            sleep(REST).await;
        }
        tokio::task::yield_now().await;
    }
}

/// Serves connections for ever.
pub(crate) async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = shared.connections.clone().acquire_owned().await else { return };
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting a DNS connection failed");
                sleep(REST).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if !shared.allows(source.ip()) {
            Counters::count(&shared.counters.refused);
            continue;
        }
        let shared = shared.clone();
        connections.spawn(async move {
            if let Err(error) = serve_connection(stream, source, &shared).await {
                tracing::debug!(%source, %error, "DNS connection ended");
            }
            drop(permit);
        });
    }
}

async fn serve_connection(stream: TcpStream, source: SocketAddr, shared: &Shared) -> io::Result<()> {
    // A question and its length in one read.
    let mut stream = BufReader::with_capacity(READ_AHEAD_BYTES, stream);
    loop {
        let Ok(question) = timeout(IDLE, read_question(&mut stream)).await else { return Ok(()) };
        let Some(question) = question? else { return Ok(()) };
        let reply = match message::step(shared, question, source, Transport::Tcp) {
            Step::Reply(reply) => Some(reply),
            Step::Drop => None,
            Step::Forward(question) => match shared.forwarded.try_acquire() {
                Ok(_permit) => message::forward(shared, &question).await,
                Err(_) => message::busy(shared, &question),
            },
        };
        let Some(reply) = reply else { return Ok(()) };
        let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(reply);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// One question; None: the connection is at its end, or the client sends something else.
async fn read_question(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > QUESTION_BYTES_MAX {
        return Ok(None);
    }
    let mut question = vec![0; length];
    stream.read_exact(&mut question).await?;
    Ok(Some(question))
}
