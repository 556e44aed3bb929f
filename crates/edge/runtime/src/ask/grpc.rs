//! The gRPC health protocol (`grpc.health.v1.Health/Check`), spoken by hand: one request, one answer.
//!
//! Its messages have one field each, so they are written and read here, without a compiler of protocols.

use super::{Answer, BYTES_MAX};
use bytes::{Buf, Bytes};
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, task::JoinSet};

const SERVING: u64 = 1;
const DEADLINE_EXCEEDED: u32 = 4;
const UNIMPLEMENTED: u32 = 12;
/// Names of `HealthCheckResponse.ServingStatus`.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
/// Names of codes (`google.golang.org/grpc/codes`).
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Asks as a probe does.
pub(super) async fn probe(address: SocketAddr, service: &str, timeout: Duration) -> Answer {
    let deadline = tokio::time::Instant::now() + timeout;
    let within = format!("{}s", timeout.as_secs());
    let stream = match tokio::time::timeout_at(deadline, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let why = crate::dial::words(&error);
            let dialled = format!(
                "connection error: desc = \"transport: Error while dialing: dial tcp {address}: {why}\""
            );
            return Answer::Bad(format!(
                "error: failed to connect service at {:?}: {dialled}",
                address.to_string()
            ));
        }
        Err(_) => {
            let address = address.to_string();
            return Answer::Bad(format!(
                "timeout: failed to connect service {address:?} within {within}: context deadline exceeded"
            ));
        }
    };
    let late = || Answer::Bad(format!("timeout: health rpc did not complete within {within}"));
    match tokio::time::timeout_at(deadline, check(stream, address, service)).await {
        Err(_) => late(),
        Ok(Err(why)) => Answer::Bad(format!("error: health rpc probe failed: {why}")),
        Ok(Ok(Reply { code: 0, status, .. })) if status == SERVING => Answer::Good,
        Ok(Ok(Reply { code: 0, status, .. })) => {
            let known = usize::try_from(status).ok().and_then(|status| STATUSES.get(status));
            let status = known.map_or_else(|| status.to_string(), |name| (*name).to_owned());
            Answer::Bad(format!("service unhealthy (responded with {status:?})"))
        }
        Ok(Ok(Reply { code: DEADLINE_EXCEEDED, .. })) => late(),
        Ok(Ok(Reply { code: UNIMPLEMENTED, message, .. })) => Answer::Bad(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        )),
        Ok(Ok(Reply { code, message, .. })) => {
            let known = usize::try_from(code).ok().and_then(|code| CODES.get(code)).copied();
            let name = known.unwrap_or("Unknown");
            Answer::Bad(format!("error: health rpc probe failed: rpc error: code = {name} desc = {message}"))
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Reply {
    code: u32,
    message: String,
    status: u64,
}

async fn check(stream: TcpStream, address: SocketAddr, service: &str) -> Result<Reply, String> {
    let say = |error: hyper::Error| error.to_string();
    let io = TokioIo::new(stream);
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut sender, connection) = shaken.map_err(say)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.33")
        .body(Full::new(message(service)))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(say)?;
    if response.status() != http::StatusCode::OK {
        return Err(format!(
            "unexpected HTTP status code received from server: {}",
            response.status().as_u16()
        ));
    }
    // An answer without a message has its code among the headers.
    let mut code = code_of(response.headers());
    let (mut body, mut bytes) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(say)?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > BYTES_MAX => {
                return Err("the answer is too long".to_owned());
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => code = frame.into_trailers().ok().as_ref().and_then(code_of).or(code),
        }
    }
    let (code, message) = code.ok_or("server closed the stream without sending trailers")?;
    let status =
        if code == 0 { status_of(&bytes).ok_or("the answer is no HealthCheckResponse")? } else { 0 };
    Ok(Reply { code, message, status })
}

fn code_of(headers: &HeaderMap) -> Option<(u32, String)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")?.parse().unwrap_or(2);
    Some((code, text("grpc-message").unwrap_or_default().to_owned()))
}

/// `HealthCheckRequest { service = 1 }` in the frame of gRPC: not compressed, and its length.
fn message(service: &str) -> Bytes {
    let mut inner = Vec::new();
    if !service.is_empty() {
        inner.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            inner.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        inner.push(length as u8);
        inner.extend_from_slice(service.as_bytes());
    }
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(inner.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&inner);
    out.into()
}

/// `HealthCheckResponse { status = 1 }`; a field that is not there is 0.
fn status_of(mut bytes: &[u8]) -> Option<u64> {
    if bytes.len() < 5 || bytes.get_u8() != 0 {
        return None;
    }
    let length = usize::try_from(bytes.get_u32()).ok()?;
    let mut message = bytes.get(..length)?;
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            1 => message = message.get(8..)?,
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_written_and_read() {
        assert_eq!(message(""), [0, 0, 0, 0, 0].as_slice());
        assert_eq!(message("a"), [0, 0, 0, 0, 3, 0x0a, 1, b'a'].as_slice());
        assert_eq!(message(&"x".repeat(200))[..9], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1, b'x']);
        assert_eq!(status_of(&[0, 0, 0, 0, 2, 0x08, 1]), Some(1));
        assert_eq!(status_of(&[0, 0, 0, 0, 0]), Some(0));
        // Fields of later versions are passed over.
        assert_eq!(status_of(&[0, 0, 0, 0, 7, 0x12, 1, b'z', 0x08, 2, 0x18, 9]), Some(2));
        for bad in [&[][..], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 8], &[0, 0, 0, 0, 1, 8]] {
            assert_eq!(status_of(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_answered_stops_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = status_of(&bytes);
        }
    }
}
