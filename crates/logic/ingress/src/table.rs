//! The route table and its lookups.
//!
//! In: what a request says of itself. Out: the [`Backend`] that serves it.
//! Invariant: a lookup costs one map access for each element of the path, however many routes there are.

use minisvc_apimachinery::ObjectKey;
use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

/// A Service's port as the target of routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The Service.
    pub service: ObjectKey,
    /// Port of the Service as the Ingress names it: its number or its name.
    pub port: String,
    /// Ready endpoints, sorted and distinct. Empty: requests get 503.
    pub endpoints: Vec<SocketAddr>,
}

/// A certificate chain with its key, as the Secret has them; nothing has parsed them yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The Secret.
    pub secret: ObjectKey,
    /// PEM of the chain, the server's certificate first.
    pub chain_pem: Vec<u8>,
    /// PEM of the private key.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key must not end in a log.
        f.debug_struct("Certificate").field("secret", &self.secret).finish_non_exhaustive()
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// To one of the backend's endpoints, of which there is at least one.
    Backend(&'a Arc<Backend>),
    /// No rule matches: 404.
    NotFound,
    /// The backend has no ready endpoint: 503.
    NoEndpoints(&'a Arc<Backend>),
}

/// How a path of a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathType {
    /// The whole path, case included.
    Exact,
    /// Per path element; ImplementationSpecific means the same here.
    Prefix,
}

/// All routes of a node's ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// Rules with a host, those with a wildcard under `*.suffix`, and those for every host under the empty name.
    hosts: BTreeMap<String, Paths>,
    default_backend: Option<Arc<Backend>>,
    /// By host as above.
    certificates: BTreeMap<String, Arc<Certificate>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Paths {
    exact: BTreeMap<String, Arc<Backend>>,
    /// Without the slash at the end, so `/` is empty.
    prefix: BTreeMap<String, Arc<Backend>>,
}

impl RouteTable {
    /// Where a request for this host and path goes.
    ///
    /// `host` may carry a port and any case; `path` is without the query. The most specific host that has a
    /// matching path wins: exact, then wildcard, then rules for every host, then the default backend. Among the
    /// paths of a host the longest wins, and Exact before Prefix.
    pub fn route(&self, host: &str, path: &str) -> Route<'_> {
        let host = canonical_host(host);
        let backend = candidates(&host)
            .into_iter()
            .flatten()
            .filter_map(|candidate| self.hosts.get(&candidate))
            .find_map(|paths| paths.find(path))
            .or(self.default_backend.as_ref());
        match backend {
            None => Route::NotFound,
            Some(backend) if backend.endpoints.is_empty() => Route::NoEndpoints(backend),
            Some(backend) => Route::Backend(backend),
        }
    }

    /// The certificate for the server name a TLS client asks for; None: there is none.
    pub fn certificate(&self, server_name: &str) -> Option<&Arc<Certificate>> {
        candidates(&canonical_host(server_name))
            .into_iter()
            .flatten()
            .find_map(|name| self.certificates.get(&name))
    }

    /// All certificates with the host, wildcard (`*.suffix`) or, for any host, empty name they are for.
    pub fn certificates(&self) -> impl Iterator<Item = (&str, &Arc<Certificate>)> {
        self.certificates.iter().map(|(host, certificate)| (host.as_str(), certificate))
    }

    /// Adds a route unless its place is taken; returns whether it was added. `host` is lower-cased, `*.suffix` for
    /// a wildcard, empty for every host; `path` starts with a slash.
    pub fn add_path(&mut self, host: &str, kind: PathType, path: &str, backend: &Arc<Backend>) -> bool {
        let paths = self.hosts.entry(host.to_owned()).or_default();
        let (map, path) = match kind {
            PathType::Exact => (&mut paths.exact, path),
            PathType::Prefix => (&mut paths.prefix, trimmed(path)),
        };
        let free = !map.contains_key(path);
        if free {
            map.insert(path.to_owned(), backend.clone());
        }
        free
    }

    /// Sets the backend of all other requests unless there is one; returns whether it was set.
    pub fn add_default(&mut self, backend: Arc<Backend>) -> bool {
        let free = self.default_backend.is_none();
        self.default_backend.get_or_insert(backend);
        free
    }

    /// Adds a certificate unless another is there for this host; returns whether it has the place.
    pub fn add_certificate(&mut self, host: &str, certificate: &Arc<Certificate>) -> bool {
        let holder = self.certificates.entry(host.to_owned()).or_insert_with(|| certificate.clone());
        holder == certificate
    }
}

impl Paths {
    fn find(&self, path: &str) -> Option<&Arc<Backend>> {
        if let Some(backend) = self.exact.get(path) {
            return Some(backend);
        }
        let mut prefix = trimmed(path);
        loop {
            if let Some(backend) = self.prefix.get(prefix) {
                return Some(backend);
            }
            prefix = &prefix[..prefix.rfind('/')?];
        }
    }
}

/// The names under which rules for a host may stand, most specific first.
fn candidates(host: &str) -> [Option<String>; 3] {
    let wildcard = host.split_once('.').map(|(_, suffix)| format!("*.{suffix}"));
    let exact = (!host.is_empty() && !host.starts_with("*.")).then(|| host.to_owned());
    [exact, wildcard, Some(String::new())]
}

/// Lower-cased, without port and without the dot at the end.
fn canonical_host(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// A path without the slash at its end.
fn trimmed(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}
