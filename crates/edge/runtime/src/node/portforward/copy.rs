//! One connection to a port of a Pod, between a bounded queue of the client's bytes and what sends to the client.

use super::Place;
use crate::{dial, spdy::DATA_BYTES_MAX};
use bytes::Bytes;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

/// Pieces of a client that wait for the Pod to read; more, and the client's connection is not read.
pub(super) const QUEUE: usize = 16;
/// How long the client's bytes are still taken after the Pod has ended its side.
const LINGER: Duration = Duration::from_secs(1);

/// Connects and copies to the end of both sides. `message` makes of the Pod's bytes what the client is sent; no bytes
/// are the end of what the Pod says.
///
/// # Errors
/// Why there is no connection, in the kubelet's words.
pub(super) async fn forward<M: Send>(
    place: &Place,
    port: u16,
    mut from_client: mpsc::Receiver<Bytes>,
    to_client: &mpsc::Sender<M>,
    message: impl Fn(&[u8]) -> Option<M>,
) -> Result<(), String> {
    let stream =
        dial::loopback(place.netns.as_deref(), port).await.map_err(|why| place.refusal(port, &why))?;
    let (mut reader, mut writer) = stream.into_split();
    let up = async {
        while let Some(bytes) = from_client.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // The Pod may still answer what it has got.
        let _ = writer.shutdown().await;
        from_client.close();
    };
    let down = async {
        let mut buffer = vec![0; DATA_BYTES_MAX];
        loop {
            let length = reader.read(&mut buffer).await.unwrap_or(0);
            let gone = match message(&buffer[..length]) {
                Some(message) => to_client.send(message).await.is_err(),
                None => false,
            };
            if gone || length == 0 {
                return;
            }
        }
    };
    let mut up = std::pin::pin!(up);
    let mut down = std::pin::pin!(down);
    tokio::select! {
        () = up.as_mut() => down.await,
        () = down.as_mut() => {
            let _ = tokio::time::timeout(LINGER, up).await;
        }
    }
    Ok(())
}
