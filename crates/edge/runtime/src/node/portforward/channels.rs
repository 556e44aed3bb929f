//! `v4.channel.k8s.io`: port number n of the query has channel 2n for its bytes and 2n + 1 for what went wrong.
//!
//! The first message of each channel is its port, little-endian. Each port is one connection, made at once; the
//! session ends with the last of them, as there is no message that ends one.

use super::{Place, copy};
use crate::node::{channels, query::Query};
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use std::{collections::BTreeSet, time::Duration};
use tokio::sync::mpsc;

/// Ports of one session.
const PORTS_MAX: usize = 32;
/// How often an idle client is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// The ports of `?ports=80&ports=81,82`.
pub(super) fn ports(query: &Query) -> Result<Vec<u16>, String> {
    let values = query.all("ports");
    let ports: Vec<u16> = values
        .iter()
        .flat_map(|value| value.split(','))
        .map(|text| match text.parse::<u16>() {
            Ok(port @ 1..) => Ok(port),
            _ => Err(format!("ports: invalid value {text:?}: must be a number from 1 to 65535")),
        })
        .collect::<Result<_, _>>()?;
    if ports.is_empty() {
        return Err("query parameter \"ports\" is required".to_owned());
    }
    if ports.len() > PORTS_MAX {
        return Err(format!("ports: {} are too many: the limit is {PORTS_MAX}", ports.len()));
    }
    if ports.iter().collect::<BTreeSet<_>>().len() < ports.len() {
        return Err("ports: each port may be given once".to_owned());
    }
    Ok(ports)
}

fn message(channel: usize, bytes: &[u8]) -> Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel as u8);
    message.extend_from_slice(bytes);
    Message::Binary(message.into())
}

/// Runs a session to its end.
pub(super) async fn run(socket: WebSocket, ports: &[u16], place: &Place) {
    let (sink, mut stream) = socket.split();
    let (messages, outgoing) = mpsc::channel::<Message>(4);
    let writer = channels::write_out(sink, outgoing);
    let session = async move {
        let mut queues = Vec::new();
        let mut connections = FuturesUnordered::new();
        for (index, port) in ports.iter().copied().enumerate() {
            let (queue, from_client) = mpsc::channel::<Bytes>(copy::QUEUE);
            queues.push(queue);
            let messages = &messages;
            connections.push(async move {
                for channel in [2 * index, 2 * index + 1] {
                    let _ = messages.send(message(channel, &port.to_le_bytes())).await;
                }
                let framed = |bytes: &[u8]| (!bytes.is_empty()).then(|| message(2 * index, bytes));
                if let Err(error) = copy::forward(place, port, from_client, messages, framed).await {
                    let _ = messages.send(message(2 * index + 1, error.as_bytes())).await;
                }
            });
        }
        let all = async { while connections.next().await.is_some() {} };
        let mut all = std::pin::pin!(all);
        let client = async {
            loop {
                let message = match tokio::time::timeout(PING_EVERY, stream.next()).await {
                    Err(_) if messages.send(Message::Ping(Bytes::new())).await.is_err() => return,
                    Err(_) => continue,
                    Ok(Some(Ok(message))) => message,
                    Ok(_) => return,
                };
                match message {
                    Message::Close(_) => return,
                    Message::Binary(bytes) => {
                        let channel = bytes.first().map_or(usize::MAX, |channel| usize::from(*channel));
                        if channel % 2 == 0
                            && let Some(queue) = queues.get(channel / 2)
                        {
                            // A connection that has ended takes no more; the others go on.
                            let _ = queue.send(bytes.slice(1..)).await;
                        }
                    }
                    _ => {}
                }
            }
        };
        tokio::select! {
            () = all.as_mut() => {}
            () = client => return,
            () = place.ended() => {}
        }
        let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let _ = messages.send(Message::Close(Some(close))).await;
    };
    tokio::join!(writer, session);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_query() {
        let ports = |text| super::ports(&Query::parse(text));
        assert_eq!(ports("ports=80&ports=81,82"), Ok(vec![80, 81, 82]));
        for (text, part) in [
            ("", "is required"),
            ("ports=0", "\"0\""),
            ("ports=70000", "from 1 to 65535"),
            ("ports=http", "\"http\""),
            ("ports=80,80", "once"),
        ] {
            assert!(ports(text).unwrap_err().contains(part), "{text}");
        }
        let many = (1..50).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert!(ports(&format!("ports={many}")).unwrap_err().contains("too many"));
    }
}
