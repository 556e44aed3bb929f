//! A GET over a connection of its own.

use super::{Attempt, kind, target::Place};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How much of a body is looked at; the rest is only counted.
const BODY_BYTES_KEPT: usize = 16 << 10;

/// Asks for `path` and reads the answer to its end.
pub(super) async fn get(place: &Place, path: &str, host: &str) -> Result<Attempt, Attempt> {
    let failed = |error: std::io::Error| Attempt::failed(kind(&error));
    let addresses = place.resolve().await?;
    let mut stream = TcpStream::connect(&addresses[..]).await.map_err(failed)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut kept = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let mut head_end: Option<usize> = None;
    let mut body_bytes = 0u64;
    loop {
        let length = stream.read(&mut buffer).await.map_err(failed)?;
        if length == 0 {
            break;
        }
        match head_end {
            Some(head) => {
                body_bytes += length as u64;
                let room = (head + BODY_BYTES_KEPT).saturating_sub(kept.len());
                kept.extend_from_slice(&buffer[..length.min(room)]);
            }
            None => {
                kept.extend_from_slice(&buffer[..length]);
                head_end = kept.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
                match head_end {
                    Some(head) => body_bytes = (kept.len() - head) as u64,
                    None if kept.len() > HEAD_BYTES_MAX => {
                        return Err(Attempt::failed("the answer's head is too long"));
                    }
                    None => {}
                }
            }
        }
    }
    let Some(head_end) = head_end else { return Err(Attempt::failed("closed")) };
    let (head, body) = kept.split_at(head_end);
    answer(&String::from_utf8_lossy(head), &String::from_utf8_lossy(body), body_bytes)
}

/// What a whole answer says.
fn answer(head: &str, body: &str, body_bytes: u64) -> Result<Attempt, Attempt> {
    let status =
        head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
    let Some(status) = status else { return Err(Attempt::failed("no HTTP answer")) };
    let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
    });
    if length.is_some_and(|length| length != body_bytes) {
        return Err(Attempt { status: Some(status), bytes: Some(body_bytes), ..Attempt::failed("closed") });
    }
    let mut attempt =
        Attempt { ok: status < 400, status: Some(status), bytes: Some(body_bytes), ..Attempt::default() };
    // Between the braces, for the body may come in chunks.
    let object = body.find('{').zip(body.rfind('}')).and_then(|(from, to)| body.get(from..=to));
    if let Some(Ok(serde_json::Value::Object(who))) = object.map(serde_json::from_str) {
        let text = |key: &str| who.get(key).and_then(|value| value.as_str()).map(str::to_owned);
        (attempt.pod, attempt.node, attempt.client) = (text("pod"), text("node"), text("client"));
    }
    Ok(attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answered_is_read_from_the_body() {
        let body = "5f\r\n{\"pod\":\"echo-1\",\"node\":\"node2\",\"client\":\"10.42.0.2:4711\"}\r\n0\r\n\r\n";
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let found = answer(head, body, body.len() as u64).unwrap();
        assert!(found.ok);
        assert_eq!((found.pod.as_deref(), found.node.as_deref()), (Some("echo-1"), Some("node2")));
        assert_eq!(found.client.as_deref(), Some("10.42.0.2:4711"));
    }

    #[test]
    fn a_short_body_is_no_answer_and_an_error_status_is_not_ok() {
        let short = answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "{}", 2).unwrap_err();
        assert_eq!(short.error.as_deref(), Some("closed"));
        let missing = answer("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "", 0).unwrap();
        assert_eq!((missing.ok, missing.status, missing.error), (false, Some(404), None));
        assert!(answer("SSH-2.0\r\n\r\n", "", 0).is_err());
    }
}
