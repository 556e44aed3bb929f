//! What changes in a message on its way through.
//!
//! Invariants: what belongs to one connection is never passed on; what an endpoint reads about the client was
//! written here, not by the client.
//!
//! Source: RFC 9110 section 7.6.1.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{CONNECTION, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
};
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Why a request cannot be routed at all.
pub(crate) type Refusal = (StatusCode, &'static str);

/// The host a request is for: the authority of its target, or its one Host header; empty if HTTP/1.0 has none.
pub(crate) fn host_of<B>(request: &Request<B>) -> Result<String, Refusal> {
    if request.method() == Method::CONNECT {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served"));
    }
    if let Some(authority) = request.uri().authority() {
        return Ok(authority.as_str().rsplit('@').next().unwrap_or_default().to_owned());
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next().map(HeaderValue::to_str), hosts.next()) {
        (Some(Ok(host)), None) => Ok(host.to_owned()),
        (None, _) if request.version() == Version::HTTP_10 => Ok(String::new()),
        _ => Err((StatusCode::BAD_REQUEST, "exactly one valid Host header is needed")),
    }
}

/// The protocol a client wants to change to, if it asks so.
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let listed = tokens(headers).any(|token| token.eq_ignore_ascii_case("upgrade"));
    headers.get(UPGRADE).filter(|_| listed).cloned()
}

/// Removes what belongs to one connection only.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers).filter_map(|token| token.parse().ok()).collect();
    for name in named {
        // Host is what routes; a client must not have it removed.
        if name != HOST {
            headers.remove(name);
        }
    }
    let all = [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in all {
        headers.remove(name);
    }
}

fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}

/// Makes a client's request one to an endpoint.
pub(crate) fn to_endpoint<B>(
    request: &mut Request<B>,
    host: &str,
    client: IpAddr,
    is_tls: bool,
    upgrade: Option<&HeaderValue>,
) {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().unwrap_or(Uri::from_static("/"));
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    strip(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade.clone());
    }
    headers.remove(FORWARDED);
    if let Ok(client) = HeaderValue::from_str(&client.to_canonical().to_string()) {
        headers.insert(X_REAL_IP, client.clone());
        headers.insert(X_FORWARDED_FOR, client);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if is_tls { "https" } else { "http" }));
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HOST, host.clone());
        headers.insert(X_FORWARDED_HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let builder = Request::builder().uri(uri);
        headers.iter().fold(builder, |b, (name, value)| b.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn the_target_names_the_host_before_the_header() {
        assert_eq!(
            host_of(&request("http://u@a.test:80/x", &[("host", "b.test")])).as_deref(),
            Ok("a.test:80")
        );
        assert_eq!(host_of(&request("/x", &[("host", "b.test")])).as_deref(), Ok("b.test"));
        assert!(host_of(&request("/x", &[])).is_err());
        assert!(host_of(&request("/x", &[("host", "a"), ("host", "b")])).is_err());
    }

    #[test]
    fn what_belongs_to_the_connection_stays_and_lies_are_overwritten() {
        let mut request = request(
            "http://a.test/x?y=1",
            &[
                ("connection", "x-secret, Host, close"),
                ("x-secret", "1"),
                ("te", "trailers"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("x-forwarded-for", "6.6.6.6"),
                ("forwarded", "for=6.6.6.6"),
                ("accept", "text/html"),
            ],
        );
        assert_eq!(upgrade_of(request.headers()), None, "Connection does not list it");
        to_endpoint(&mut request, "a.test", IpAddr::from([10, 0, 0, 7]), true, None);
        let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        let expected =
            ["accept", "host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];
        assert_eq!(
            {
                let mut names = names;
                names.sort();
                names
            },
            expected
        );
        assert_eq!(request.headers()["x-forwarded-for"], "10.0.0.7");
        assert_eq!(request.uri(), "/x?y=1");
    }
}
