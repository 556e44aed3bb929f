//! A GET of a container. Redirects are followed on the host that was asked, and no further.

use super::{Answer, BYTES_MAX, authority, connect, tls};
use crate::life::Action;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::{net::IpAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};

const REDIRECTS_MAX: usize = 10;
const USER_AGENT: &str = "kube-probe/1.33";

/// What to get, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

/// Names and values of headers.
type Headers = [(String, String)];

/// An answer.
#[derive(Debug)]
pub(super) struct Got {
    status: StatusCode,
    location: Option<String>,
    body: String,
}

impl Place {
    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", authority(&self.host, self.port), self.path)
    }

    /// Where `location` leads from here; none: to another host, or nowhere.
    fn redirected(&self, location: &str) -> Option<Self> {
        if let Some(path) = location.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
            return Some(Self { path: escaped(&format!("/{path}")), ..self.clone() });
        }
        let (tls, rest) = match (location.strip_prefix("http://"), location.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => match location.strip_prefix("//") {
                Some(rest) => (self.tls, rest),
                None if location.contains("://") => return None,
                None => {
                    let folder = self.path.split('?').next().unwrap_or_default().rsplit_once('/');
                    let folder = folder.map_or("", |(folder, _)| folder);
                    return Some(Self { path: escaped(&format!("{folder}/{location}")), ..self.clone() });
                }
            },
        };
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, if tls { 443 } else { 80 }),
        };
        let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        (bare(host) == bare(&self.host)).then(|| Self { tls, port, path: escaped(path), ..self.clone() })
    }
}

/// A path with what no request line may hold escaped.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.split('#').next().unwrap_or_default().bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0..=b' ' | 0x7f.. => {
                out.push_str(&format!("%{byte:02X}"));
            }
            _ => out.push(char::from(byte)),
        }
    }
    out
}

/// What and where, and which headers go with it.
fn place(action: &Action, pod: Option<IpAddr>) -> Result<(Place, &Headers), String> {
    let Action::HttpGet { host, port, path, tls, headers } = action else {
        return Err("invalid handler".to_owned());
    };
    let host = host.clone().or_else(|| pod.map(|address| address.to_string()));
    let host = host.ok_or_else(|| super::NO_ADDRESS.to_owned())?;
    Ok((Place { tls: *tls, host, port: *port, path: escaped(path) }, headers))
}

/// Asks as a probe does.
pub(super) async fn probe(action: &Action, pod: Option<IpAddr>, timeout: Duration) -> Answer {
    let place = match place(action, pod) {
        Ok((place, _)) => place,
        Err(why) => return Answer::Unknown(why),
    };
    match tokio::time::timeout(timeout, get(action, pod)).await {
        Ok(Ok(got)) if got.status.is_redirection() && got.location.is_some() => {
            Answer::Doubtful(format!("Probe terminated redirects, Response body: {}", got.body))
        }
        Ok(Ok(got)) if (200..400).contains(&got.status.as_u16()) => Answer::Good,
        Ok(Ok(got)) => Answer::Bad(format!("HTTP probe failed with statuscode: {}", got.status.as_u16())),
        Ok(Err(why)) => Answer::Bad(format!("Get {:?}: {why}", place.url())),
        Err(_) => Answer::Bad(format!(
            "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            place.url()
        )),
    }
}

/// The answer of the container, or of where it sends us on its own host.
pub(super) async fn get(action: &Action, pod: Option<IpAddr>) -> Result<Got, String> {
    let (mut place, headers) = place(action, pod)?;
    for _ in 0..REDIRECTS_MAX {
        let got = once(&place, headers).await?;
        match got
            .location
            .as_deref()
            .filter(|_| got.status.is_redirection())
            .and_then(|to| place.redirected(to))
        {
            Some(next) => place = next,
            None => return Ok(got),
        }
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
}

async fn once(place: &Place, headers: &Headers) -> Result<Got, String> {
    let stream = connect(Some(&place.host), None, place.port).await?;
    if place.tls {
        exchange(tls::connect(&place.host, stream).await?, place, headers).await
    } else {
        exchange(stream, place, headers).await
    }
}

fn request(place: &Place, headers: &Headers) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(&place.path).body(Empty::new()).map_err(|error| error.to_string())?;
    let map = request.headers_mut();
    for (name, value) in headers {
        let name: HeaderName = name.parse().map_err(|error| format!("header {name:?}: {error}"))?;
        let value = HeaderValue::from_str(value).map_err(|error| format!("header {name}: {error}"))?;
        if name == header::HOST {
            map.insert(name, value);
        } else {
            map.append(name, value);
        }
    }
    let host = authority(&place.host, place.port);
    for (name, value) in [
        (header::HOST, host.as_str()),
        (header::USER_AGENT, USER_AGENT),
        (header::ACCEPT, "*/*"),
        (header::CONNECTION, "close"),
    ] {
        let value = HeaderValue::from_str(value).map_err(|error| format!("header {name}: {error}"))?;
        map.entry(name).or_insert(value);
    }
    Ok(request)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    place: &Place,
    headers: &Headers,
) -> Result<Got, String> {
    let request = request(place, headers)?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
    // Ends with this function, whatever the server does.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.map(str::to_owned);
    Ok(Got { status, location, body: beginning(response).await })
}

/// The beginning of a body; what cannot be read is left out, as the status says enough.
async fn beginning(response: Response<Incoming>) -> String {
    let mut body = response.into_body();
    let mut kept = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        let room = BYTES_MAX - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if kept.len() == BYTES_MAX {
            break;
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_the_same_host_only() {
        let from = Place { tls: false, host: "10.0.0.1".into(), port: 8080, path: "/a/b?q".into() };
        let to = |location: &str| from.redirected(location).map(|place| place.url());
        for (location, url) in [
            ("/x", "http://10.0.0.1:8080/x"),
            ("x", "http://10.0.0.1:8080/a/x"),
            ("http://10.0.0.1/x", "http://10.0.0.1:80/x"),
            ("https://10.0.0.1:9/", "https://10.0.0.1:9/"),
            ("//10.0.0.1:9", "http://10.0.0.1:9/"),
        ] {
            assert_eq!(to(location).as_deref(), Some(url), "{location}");
        }
        for location in ["http://10.0.0.2/x", "//example.com", "ftp://10.0.0.1/", "http://10.0.0.1:x/"] {
            assert_eq!(to(location), None, "{location}");
        }
        let six = Place { host: "fd00::1".into(), ..from };
        assert_eq!(six.url(), "http://[fd00::1]:8080/a/b?q");
        assert_eq!(six.redirected("http://[fd00::1]:81/").unwrap().url(), "http://[fd00::1]:81/");
    }

    #[test]
    fn odd_paths_are_escaped() {
        assert_eq!(escaped("/a b?x={1}#frag"), "/a%20b?x=%7B1%7D");
        assert_eq!(escaped("/ä%41"), "/%C3%A4%41");
    }
}
