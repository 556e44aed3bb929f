//! What a probe's target says.

use super::{Attempt, Spec, dns, http, line};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
}

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Http { place: Place, path: String, host: String },
    Tcp(Place),
    Udp(Place),
    Dns { name: String, kind: String, server: Option<SocketAddr> },
    Kernel,
}

impl Place {
    fn parse(text: &str, default_port: Option<u16>) -> Option<Self> {
        // An IPv6 address is in brackets, whatever follows.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (text, default_port?),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        (!host.is_empty()).then(|| Self { host: host.to_owned(), port })
    }

    /// The addresses, as the system's resolver has them.
    pub(super) async fn resolve(&self) -> Result<Vec<SocketAddr>, Attempt> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let failed = |_| Attempt::failed("resolve");
        let found: Vec<_> =
            tokio::net::lookup_host((self.host.as_str(), self.port)).await.map_err(failed)?.collect();
        if found.is_empty() { Err(Attempt::failed("resolve")) } else { Ok(found) }
    }
}

/// A UDP socket from which this address can be asked.
pub(super) async fn udp_socket(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

impl Target {
    /// Reads a target.
    pub(super) fn parse(spec: &Spec) -> Result<Self, String> {
        let text = spec.target.as_str();
        let bad = |expected: &str| format!("target {text:?}: expected {expected}");
        if spec.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.001 && rate <= 100_000.0)) {
            return Err("--rate: must be above 0.001 and at most 100000".to_owned());
        }
        if let Some(rest) = text.strip_prefix("http://") {
            let (authority, path) = rest.split_once('/').map_or((rest, ""), |(a, p)| (a, p));
            let place = Place::parse(authority, Some(80)).ok_or_else(|| bad("http://HOST[:PORT]/PATH"))?;
            let host = spec.host.clone().unwrap_or_else(|| authority.to_owned());
            if host.chars().chain(path.chars()).any(|c| c.is_control() || c == ' ') {
                return Err(bad("a path and host without spaces"));
            }
            return Ok(Self::Http { place, path: format!("/{path}"), host });
        }
        if let Some(rest) = text.strip_prefix("tcp://") {
            return Place::parse(rest, None).map(Self::Tcp).ok_or_else(|| bad("tcp://HOST:PORT"));
        }
        if let Some(rest) = text.strip_prefix("udp://") {
            return Place::parse(rest, None).map(Self::Udp).ok_or_else(|| bad("udp://HOST:PORT"));
        }
        if let Some(rest) = text.strip_prefix("dns:") {
            let expected = || bad("dns:NAME/TYPE[@SERVER]");
            let (question, server) = rest.split_once('@').map_or((rest, None), |(q, s)| (q, Some(s)));
            let (name, kind) = question.split_once('/').ok_or_else(expected)?;
            let server = match server {
                None => None,
                Some(text) => {
                    let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
                    Some(address.or_else(|_| text.parse()).map_err(|_| expected())?)
                }
            };
            return Ok(Self::Dns { name: name.to_owned(), kind: kind.to_owned(), server });
        }
        if text == "kernel:" {
            return Ok(Self::Kernel);
        }
        Err(bad("http://…, tcp://…, udp://…, dns:… or kernel:"))
    }

    /// Tries once.
    pub(super) async fn attempt(&self) -> Attempt {
        let outcome = match self {
            Self::Http { place, path, host } => http::get(place, path, host).await,
            Self::Tcp(place) => line::once(line::Kind::Tcp, place).await,
            Self::Udp(place) => line::once(line::Kind::Udp, place).await,
            Self::Dns { name, kind, server } => dns::ask(name, kind, *server).await,
            Self::Kernel => Err(Attempt::failed("kernel: is watched, not tried")),
        };
        outcome.unwrap_or_else(|failed| failed)
    }
}
