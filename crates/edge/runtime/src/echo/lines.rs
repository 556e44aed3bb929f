//! Raw TCP: a line in, a line out, for as long as the client likes.

use super::{IDLE_AFTER_STOP, IDLE_MAX, Identity};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

/// Answers each line with who answered; a last line without an end too.
///
/// Lines may be of any length: nothing of them is kept.
pub(super) async fn serve(
    mut stream: TcpStream,
    client: SocketAddr,
    identity: &Identity,
    mut stopped: watch::Receiver<bool>,
) {
    let answer = identity.line("TCP", client);
    let mut buffer = vec![0; 2048];
    let mut open_line = false;
    loop {
        let stopping = *stopped.borrow_and_update();
        let idle = tokio::time::sleep(if stopping { IDLE_AFTER_STOP } else { IDLE_MAX });
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read,
            () = idle => return,
            Ok(()) = stopped.changed() => continue,
        };
        let Ok(length) = read else { return };
        let lines = buffer[..length].iter().filter(|byte| **byte == b'\n').count();
        let count = if length == 0 { usize::from(open_line) } else { lines };
        for _ in 0..count {
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        if length == 0 {
            let _ = stream.shutdown().await;
            return;
        }
        open_line = buffer[length - 1] != b'\n';
    }
}
