//! Requests and what goes wrong with them, in kubectl's words.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use minisvc_apimachinery::Status;
use serde_json::Value;
use std::{io, path::PathBuf};

/// Largest answer that is read into memory, bytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Largest watch event, bytes.
const LINE_BYTES_MAX: usize = 16 << 20;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a verb did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server refused.
    #[error("{}", refusal(.0))]
    Server(Box<Status>),
    /// The server could not be reached, or the connection broke.
    #[error("error: {method} {url}: {}", chain(.source.as_ref()))]
    Transport {
        /// HTTP method.
        method: Method,
        /// Server and path.
        url: String,
        /// Why.
        source: BoxError,
    },
    /// The answer is none that the API gives.
    #[error("error: {path}: unexpected answer: {what}")]
    Answer {
        /// Path of the request.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// No kubeconfig was found.
    #[error(
        "error: no kubeconfig found (tried {}); start `minisvc server` or `minisvc lab up`, or pass --kubeconfig",
        tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoKubeconfig {
        /// Where it was sought.
        tried: Vec<PathBuf>,
    },
    /// The kubeconfig cannot be used.
    #[error("error: {}: {}", path.display(), chain(.source.as_ref()))]
    Connect {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BoxError,
    },
    /// The command line makes no sense.
    #[error("error: {0}")]
    Usage(String),
    /// A file could not be read.
    #[error("error: read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard output is gone.
    #[error("error: write output: {source}")]
    Output {
        /// Why.
        source: io::Error,
    },
    /// The terminal could not be prepared.
    #[error("error: terminal: {source}")]
    Terminal {
        /// Why.
        source: io::Error,
    },
    /// Waiting took too long.
    #[error("error: timed out waiting for the condition on {what}")]
    TimedOut {
        /// What was waited for.
        what: String,
    },
    /// All has been said on standard error.
    #[error("failed")]
    Reported,
}

impl Failure {
    /// Whether the server says that the object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Server(status) if status.code == 404 && status.reason == "NotFound")
    }
}

/// `Error from server (NotFound): services "x" not found`; without a reason `Error from server: …`.
fn refusal(status: &Status) -> String {
    match (status.reason.as_str(), status.code) {
        ("Invalid", _) => format!("The {}", status.message),
        ("Unauthorized", _) => "error: You must be logged in to the server (Unauthorized)".to_owned(),
        ("", _) => format!("Error from server: {}", status.message),
        (reason, _) => format!("Error from server ({reason}): {}", status.message),
    }
}

/// An error and its causes on one line, without repeating what the first one said already.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

/// Asks for tables, and takes objects.
pub const ACCEPT_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// Asks for objects.
pub const ACCEPT_JSON: &str = "application/json";

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// Method; GET unless said.
    pub method: Method,
    /// Path.
    pub path: String,
    /// Query parameters.
    pub query: Vec<(&'static str, String)>,
    /// What kinds of answer are wanted.
    pub accept: &'static str,
    /// The body and its type.
    pub body: Option<(&'static str, Value)>,
}

impl Call {
    /// A GET.
    pub fn get(path: impl Into<String>, accept: &'static str) -> Self {
        Self { path: path.into(), accept, ..Self::default() }
    }

    /// Another method with a JSON body.
    pub fn with_body(method: Method, path: impl Into<String>, kind: &'static str, body: Value) -> Self {
        Self { method, path: path.into(), accept: ACCEPT_JSON, body: Some((kind, body)), ..Self::default() }
    }

    /// Adds a query parameter.
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Adds a query parameter if there is a value.
    pub fn maybe(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    fn uri(&self) -> String {
        let mut uri = self.path.clone();
        for (index, (name, value)) in self.query.iter().enumerate() {
            uri.push(if index == 0 { '?' } else { '&' });
            uri.push_str(name);
            uri.push('=');
            percent_encode(value, &mut uri);
        }
        uri
    }
}

/// Escapes all but the unreserved characters of RFC 3986.
fn percent_encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// A connection to the API server.
#[derive(Clone)]
pub struct Api {
    /// kube-rs's client.
    pub client: kube::Client,
    /// The server.
    pub url: String,
    /// Namespace of the request, unless objects say another.
    pub namespace: String,
}

impl Api {
    async fn send(&self, call: &Call) -> Result<Response<Body>, Failure> {
        let broken = |source: BoxError| self.broken(call, source);
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(call.uri())
            .header(http::header::ACCEPT, if call.accept.is_empty() { ACCEPT_JSON } else { call.accept })
            .header(http::header::USER_AGENT, concat!("minisvc/", env!("CARGO_PKG_VERSION")));
        let body = match &call.body {
            Some((kind, body)) => {
                request = request.header(http::header::CONTENT_TYPE, *kind);
                Body::from(body.to_string().into_bytes())
            }
            None => Body::empty(),
        };
        let request = request.body(body).map_err(|error| broken(error.into()))?;
        let response = self.client.send(request).await.map_err(|error| broken(error.into()))?;
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        let bytes = self.bytes(call, response).await?;
        Err(Failure::Server(Box::new(status_of(code, &bytes))))
    }

    fn broken(&self, call: &Call, source: BoxError) -> Failure {
        let url = format!("{}{}", self.url.trim_end_matches('/'), call.path);
        Failure::Transport { method: call.method.clone(), url, source }
    }

    async fn bytes(&self, call: &Call, response: Response<Body>) -> Result<Bytes, Failure> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| self.broken(call, error))?.to_bytes())
    }

    /// Sends a request and reads its JSON answer.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub async fn json(&self, call: Call) -> Result<Value, Failure> {
        let response = self.send(&call).await?;
        let bytes = self.bytes(&call, response).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::Answer { path: call.path, what: error.to_string() })
    }

    /// Sends a request and hands over its answer piece by piece.
    ///
    /// # Errors
    /// The server cannot be reached or refuses; an item is an error if the connection breaks.
    pub async fn stream(
        &self,
        call: Call,
    ) -> Result<impl Stream<Item = Result<Bytes, Failure>> + use<>, Failure> {
        let response = self.send(&call).await?;
        let this = self.clone();
        let data = response.into_body().into_data_stream();
        Ok(data.map(move |item| item.map_err(|error| this.broken(&call, error.into()))))
    }

    /// Watches: one JSON event a line.
    ///
    /// # Errors
    /// As [`Api::stream`]; a line that is no JSON or too long ends the watch.
    pub async fn watch(
        &self,
        call: Call,
    ) -> Result<impl Stream<Item = Result<Value, Failure>> + use<>, Failure> {
        let path = call.path.clone();
        let pieces = self.stream(call.query("watch", "true")).await?;
        let state = (Box::pin(pieces), Vec::<u8>::new(), path);
        Ok(futures::stream::try_unfold(state, |(mut pieces, mut rest, path)| async move {
            loop {
                if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if line.trim_ascii().is_empty() {
                        continue;
                    }
                    let event = serde_json::from_slice(&line)
                        .map_err(|error| Failure::Answer { path: path.clone(), what: error.to_string() })?;
                    return Ok(Some((event, (pieces, rest, path))));
                }
                match pieces.next().await.transpose()? {
                    Some(_) if rest.len() > LINE_BYTES_MAX => {
                        return Err(Failure::Answer { path, what: "a watch event is too large".to_owned() });
                    }
                    Some(piece) => rest.extend_from_slice(&piece),
                    None => return Ok(None),
                }
            }
        }))
    }
}

/// The Status in an answer's body; a made one if there is none.
fn status_of(code: StatusCode, body: &[u8]) -> Status {
    serde_json::from_slice::<Status>(body).unwrap_or_else(|_| {
        let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
        let reason = code.canonical_reason().unwrap_or("unknown");
        let words = if text.trim().is_empty() { reason.to_owned() } else { text.trim().to_owned() };
        Status::failure(code.as_u16(), "", format!("{} {words}", code.as_u16()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::resource::SERVICES;

    #[test]
    fn refusals_are_kubectls_words() {
        let words = |status: Status| Failure::Server(Box::new(status)).to_string();
        assert_eq!(
            words(Status::not_found(&SERVICES, "x")),
            "Error from server (NotFound): services \"x\" not found"
        );
        assert_eq!(words(status_of(StatusCode::BAD_GATEWAY, b"")), "Error from server: 502 Bad Gateway");
    }

    #[test]
    fn queries_are_escaped() {
        let call = Call::get("/api/v1/pods", ACCEPT_JSON)
            .query("labelSelector", "a=b,c in (d)")
            .maybe("limit", None)
            .query("x", "1");
        assert_eq!(call.uri(), "/api/v1/pods?labelSelector=a%3Db%2Cc%20in%20%28d%29&x=1");
    }
}
