//! HTTP/1.1: who answered as JSON, bodies of any length in and out.

use super::{IDLE_AFTER_STOP, Identity};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpStream, sync::watch};

/// `GET /bytes/N` gives at most that many.
const BYTES_MAX: u64 = 1 << 40;
/// How long a request's head may take.
const HEAD_MAX: Duration = Duration::from_secs(60);
/// What `GET /bytes/N` is cut from.
static ZEROES: [u8; 64 << 10] = [b'0'; 64 << 10];

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Serves one connection until the client closes it, or a request is over after `stopped`.
pub(super) async fn serve(
    stream: TcpStream,
    client: SocketAddr,
    identity: Rc<Identity>,
    mut stopped: watch::Receiver<bool>,
) {
    let service = hyper::service::service_fn(move |request| {
        let identity = Rc::clone(&identity);
        async move { Ok::<_, Infallible>(answer(&identity, client, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(16 << 10)
        .half_close(true) // `nc` and its like send, shut down, and still expect the answer
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    // A request may be on its way on an idle connection: it is answered if it comes soon.
    if tokio::time::timeout(IDLE_AFTER_STOP, connection.as_mut()).await.is_ok() {
        return;
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn answer(identity: &Identity, client: SocketAddr, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if head.method == Method::GET
        && let Some(count) = path.strip_prefix("/bytes/")
    {
        return match count.parse::<u64>() {
            Ok(count) if count <= BYTES_MAX => of_bytes(count),
            _ => {
                text(StatusCode::BAD_REQUEST, "text/plain", format!("/bytes/N: N must be 0 to {BYTES_MAX}\n"))
            }
        };
    }
    let Ok(body_bytes) = length(body).await else {
        return text(StatusCode::BAD_REQUEST, "text/plain", "the body ended early\n".to_owned());
    };
    let value = serde_json::json!({
        "pod": identity.pod,
        "namespace": identity.namespace,
        "node": identity.node,
        "address": identity.address,
        "client": client.to_string(),
        "protocol": "HTTP",
        "method": head.method.as_str(),
        "path": path,
        "query": head.uri.query(),
        "host": head.headers.get(header::HOST).and_then(|host| host.to_str().ok()),
        "forwardedFor": head.headers.get("x-forwarded-for").and_then(|list| list.to_str().ok()),
        "bodyBytes": body_bytes,
    });
    text(StatusCode::OK, "application/json", format!("{value}\n"))
}

/// Reads a body to its end and counts it; nothing is kept.
async fn length(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(length)
}

fn text(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut response = Response::new(http_body_util::Full::from(text).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

fn of_bytes(count: u64) -> Answer {
    let mut response = Response::new(Repeated { left: count }.boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/octet-stream"));
    response
}

/// A body of so many bytes, none of them kept in memory.
struct Repeated {
    left: u64,
}

impl Body for Repeated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(ZEROES.len());
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROES[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left)
    }
}
