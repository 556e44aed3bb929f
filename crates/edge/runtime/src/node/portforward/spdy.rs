//! `portforward.k8s.io` in SPDY: each connection is two streams with one `requestID`, for data and for what went wrong.
//!
//! Source: k8s.io/kubelet `pkg/cri/streaming/portforward`, k8s.io/client-go `tools/portforward`. Invariants: one task
//! reads, and is the only one that knows the streams; what waits for a Pod is bounded, and then the whole
//! session waits, for SPDY as Kubernetes speaks it has no window a stream; other sessions do not.

use super::{Place, copy};
use crate::spdy::{self, DATA_BYTES_MAX, Decoder, Encoder, Frame, Headers};
use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt};
use std::{collections::BTreeMap, io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::{io::ReaderStream, sync::CancellationToken};

/// Streams of a session; two a connection.
const STREAMS_MAX: usize = 512;
/// How often a client is asked whether it is still there, and after how many of these without a byte it is not.
const PING_EVERY: Duration = Duration::from_secs(30);
const SILENCE_MAX: u32 = 3;
/// Longest time for the client to take our goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// A stream of the client.
enum Half {
    /// For what went wrong; the value is the request that it belongs to.
    Error(String),
    /// For bytes; the queue is closed once the client has ended its side.
    Data { queue: Option<mpsc::Sender<Bytes>>, stop: CancellationToken },
}

/// What a session knows.
struct Session<'a> {
    place: &'a Place,
    encoder: Encoder,
    streams: BTreeMap<u32, Half>,
    /// Requests whose error stream is there and whose data stream is not: the error stream and its port.
    waiting: BTreeMap<String, (u32, u16)>,
    /// Each gives the two streams that it was for, at its end.
    connections: JoinSet<[u32; 2]>,
    output: mpsc::Sender<Bytes>,
    last: u32,
}

/// Why a session ends.
#[derive(Debug)]
struct Over;

/// A WebSocket whose messages are pieces of one stream of bytes.
pub(super) fn over_websocket(
    socket: WebSocket,
) -> (impl Stream<Item = io::Result<Bytes>> + Send + Unpin, impl Sink<Bytes> + Send + Unpin) {
    let (sink, stream) = socket.split();
    let input = stream
        .take_while(|message| std::future::ready(!matches!(message, Ok(Message::Close(_)))))
        .filter_map(|message| {
            std::future::ready(match message {
                Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
                Ok(_) => None,
                Err(error) => Some(Err(io::Error::other(error))),
            })
        });
    (input, Box::pin(sink.with(async |bytes: Bytes| Ok::<_, axum::Error>(Message::Binary(bytes)))))
}

/// A connection that is the stream of bytes itself.
pub(super) fn over_stream(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
) -> (impl Stream<Item = io::Result<Bytes>> + Send + Unpin, impl Sink<Bytes> + Send + Unpin) {
    let (reader, writer) = tokio::io::split(stream);
    let sink = futures::sink::unfold(writer, async |mut writer, bytes: Bytes| {
        writer.write_all(&bytes).await?;
        writer.flush().await?;
        Ok::<_, io::Error>(writer)
    });
    (ReaderStream::with_capacity(reader, DATA_BYTES_MAX), Box::pin(sink))
}

/// Runs a session to its client's or its Pod's end.
pub(super) async fn run(
    input: impl Stream<Item = io::Result<Bytes>> + Unpin,
    mut sink: impl Sink<Bytes> + Unpin,
    place: &Place,
) {
    let (output, mut outgoing) = mpsc::channel::<Bytes>(4);
    let writer = async move {
        while let Some(bytes) = outgoing.recv().await {
            if sink.send(bytes).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    };
    let mut writer = std::pin::pin!(writer);
    let reader = async move {
        let mut session = Session {
            place,
            encoder: Encoder::new(),
            streams: BTreeMap::new(),
            waiting: BTreeMap::new(),
            connections: JoinSet::new(),
            output,
            last: 0,
        };
        tokio::select! {
            Over = session.serve(input) => {}
            () = place.ended() => {}
        }
        // The connections are dropped with the session.
        let _ = session.output.try_send(spdy::go_away(session.last));
    };
    tokio::select! {
        () = reader => {}
        () = writer.as_mut() => return,
    }
    let _ = tokio::time::timeout(GOODBYE, writer).await;
}

impl Session<'_> {
    async fn serve(&mut self, mut input: impl Stream<Item = io::Result<Bytes>> + Unpin) -> Over {
        let mut decoder = Decoder::new();
        let mut ping = tokio::time::interval(PING_EVERY);
        let mut silent = 0;
        loop {
            tokio::select! {
                piece = input.next() => {
                    silent = 0;
                    let Some(Ok(piece)) = piece else { return Over };
                    // A message may be long; what is decoded at once is not.
                    for piece in piece.chunks(DATA_BYTES_MAX) {
                        decoder.feed(piece);
                        if self.frames(&mut decoder).await.is_err() {
                            return Over;
                        }
                    }
                }
                Some(ended) = self.connections.join_next() => {
                    for stream in ended.into_iter().flatten() {
                        self.streams.remove(&stream);
                    }
                }
                _ = ping.tick() => {
                    silent += 1;
                    // Even numbers are the server's.
                    if silent > SILENCE_MAX || self.output.send(spdy::ping(2)).await.is_err() {
                        return Over;
                    }
                }
            }
        }
    }

    async fn frames(&mut self, decoder: &mut Decoder) -> Result<(), Over> {
        loop {
            match decoder.next() {
                Ok(Some(frame)) => self.frame(frame).await?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::debug!(%error, pod = self.place.name, "port-forward: not what SPDY says");
                    return Err(Over);
                }
            }
        }
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), Over> {
        match frame {
            Frame::SynStream { stream, headers } => self.begin(stream, &headers).await,
            Frame::Data { stream, bytes, fin } => {
                if let Some(Half::Data { queue, .. }) = self.streams.get_mut(&stream) {
                    if let Some(open) = queue
                        && !bytes.is_empty()
                        && open.send(bytes).await.is_err()
                    {
                        *queue = None;
                    }
                    if fin {
                        *queue = None;
                    }
                }
                Ok(())
            }
            Frame::Reset { stream } => {
                match self.streams.get_mut(&stream) {
                    Some(Half::Data { stop, .. }) => stop.cancel(),
                    // While it waits for its data stream, nobody else will forget it.
                    Some(Half::Error(request)) if self.waiting.remove(request).is_some() => {
                        self.streams.remove(&stream);
                    }
                    Some(Half::Error(_)) | None => {}
                }
                Ok(())
            }
            // The client's numbers are odd; an even one is the answer to ours.
            Frame::Ping(number) if number % 2 == 1 => self.send(spdy::ping(number)).await,
            Frame::GoAway => Err(Over),
            Frame::Ping(_) | Frame::Other => Ok(()),
        }
    }

    async fn send(&self, frame: Bytes) -> Result<(), Over> {
        self.output.send(frame).await.map_err(|_| Over)
    }

    /// Takes a new stream, or resets it.
    async fn begin(&mut self, stream: u32, headers: &Headers) -> Result<(), Over> {
        // As the specification says: ids grow, and clients' are odd. Another is no SPDY client.
        if stream <= self.last || stream.is_multiple_of(2) {
            return Err(Over);
        }
        self.last = stream;
        let (kind, port, request) = match wanted(headers) {
            Ok(wanted) if self.streams.len() < STREAMS_MAX => wanted,
            Ok(_) => return self.send(spdy::reset(stream, spdy::REFUSED_STREAM)).await,
            Err(error) => {
                tracing::debug!(error, pod = self.place.name, "port-forward: a stream is refused");
                return self.send(spdy::reset(stream, spdy::REFUSED_STREAM)).await;
            }
        };
        if kind == "error" {
            if self.waiting.contains_key(&request) {
                return self.send(spdy::reset(stream, spdy::REFUSED_STREAM)).await;
            }
            self.streams.insert(stream, Half::Error(request.clone()));
            self.waiting.insert(request, (stream, port));
            let reply = self.encoder.syn_reply(stream);
            return self.send(reply).await;
        }
        let Some((error_stream, port)) = self.waiting.remove(&request) else {
            return self.send(spdy::reset(stream, spdy::REFUSED_STREAM)).await;
        };
        let reply = self.encoder.syn_reply(stream);
        self.send(reply).await?;
        let (queue, from_client) = mpsc::channel(copy::QUEUE);
        let stop = CancellationToken::new();
        self.streams.insert(stream, Half::Data { queue: Some(queue), stop: stop.clone() });
        let (place, output) = (self.place.clone(), self.output.clone());
        self.connections.spawn(async move {
            let framed = |bytes: &[u8]| Some(spdy::data(stream, bytes, bytes.is_empty()));
            let result = tokio::select! {
                result = copy::forward(&place, port, from_client, &output, framed) => result,
                () = stop.cancelled() => Ok(()),
            };
            let error = result.err().unwrap_or_default();
            if !error.is_empty() {
                let _ = output.send(spdy::data(stream, &[], true)).await;
            }
            // The client waits for the end of this one.
            let _ = output.send(spdy::data(error_stream, error.as_bytes(), true)).await;
            [stream, error_stream]
        });
        Ok(())
    }
}

/// Type, port and request of a new stream.
fn wanted(headers: &Headers) -> Result<(&str, u16, String), String> {
    let header = |name: &str| {
        let found = headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty()).ok_or_else(|| format!("{name:?} header is required"))
    };
    let kind = header("streamtype")?;
    if !["error", "data"].contains(&kind) {
        return Err(format!("invalid stream type {kind:?}"));
    }
    let text = header("port")?;
    let port = text.parse().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("unable to parse {text:?} as a port"))?;
    Ok((kind, port, header("requestid")?.to_owned()))
}
