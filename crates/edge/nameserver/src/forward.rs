//! Names outside the cluster: the node's own resolvers, with a bounded cache.
//!
//! In: a name and a type. Out: records and a response code, SERVFAIL if no resolver answers in time.
//! The resolver's own cache is not used: it bounds the number of answers, but not their length.

use crate::cache::{Cache, TTL_MAX};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{LowerName, Name, Record, RecordType},
    },
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// Time one resolver is given.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// Time all resolvers together are given: less than a client waits (5 s with glibc).
const TOTAL: Duration = Duration::from_secs(4);
/// Resolvers that are asked, as with glibc.
const UPSTREAMS_MAX: usize = 3;

/// Asks the node's resolvers.
pub(crate) struct Forwarder {
    resolver: Option<TokioResolver>,
    cache: Cache,
}

/// What the resolvers said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forwarded {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
}

impl Forwarder {
    /// A forwarder to these resolvers; without any, every question fails at once.
    pub(crate) fn new(upstreams: &[SocketAddr]) -> Result<Self, NetError> {
        let mut servers = BTreeMap::<IpAddr, NameServerConfig>::new();
        let mut order = Vec::new();
        for upstream in upstreams.iter().take(UPSTREAMS_MAX) {
            let mut server = NameServerConfig::udp_and_tcp(upstream.ip());
            let at_port = |mut connection: ConnectionConfig| {
                connection.port = upstream.port();
                connection
            };
            server.connections = server.connections.into_iter().map(at_port).collect();
            if servers.insert(upstream.ip(), server).is_none() {
                order.push(upstream.ip());
            }
        }
        if order.is_empty() {
            return Ok(Self { resolver: None, cache: Cache::default() });
        }
        let servers = order.iter().filter_map(|address| servers.remove(address)).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = ATTEMPT;
        options.attempts = 1;
        options.cache_size = 0;
        options.positive_max_ttl = Some(TTL_MAX);
        options.negative_max_ttl = Some(TTL_MAX);
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        Ok(Self { resolver: Some(builder.build()?), cache: Cache::default() })
    }

    /// Whether there is a resolver to ask.
    pub(crate) fn is_available(&self) -> bool {
        self.resolver.is_some()
    }

    /// Records of a name, as they are known or as the resolvers say.
    pub(crate) async fn lookup(&self, name: Name, kind: RecordType) -> Forwarded {
        let key = (LowerName::new(&name), kind);
        if let Some(known) = self.cache.get(&key, Instant::now()) {
            return known;
        }
        let answer = self.ask(name, kind).await;
        self.cache.put(key, &answer, Instant::now());
        answer
    }

    /// Asks the resolvers for records of a name.
    pub(crate) async fn ask(&self, mut name: Name, kind: RecordType) -> Forwarded {
        let failed = Forwarded { code: ResponseCode::ServFail, ..Forwarded::default() };
        let Some(resolver) = &self.resolver else { return failed };
        name.set_fqdn(true);
        match timeout(TOTAL, resolver.lookup(name, kind)).await {
            Ok(Ok(lookup)) => Forwarded { answers: lookup.answers().to_vec(), ..Forwarded::default() },
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => Forwarded {
                code: none.response_code,
                authorities: none.soa.map(|soa| soa.into_record_of_rdata()).into_iter().collect(),
                answers: Vec::new(),
            },
            Ok(Err(error)) => {
                tracing::debug!(%error, "no resolver answered");
                failed
            }
            Err(_) => failed,
        }
    }
}

/// The resolvers named by the text of a `resolv.conf`, port 53, at most three, in order.
///
/// Lines that name no address are left out, as resolvers do.
pub fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let named = words.next() == Some("nameserver");
        let address: IpAddr = words.next()?.parse().ok()?;
        named.then_some(SocketAddr::new(address, 53))
    };
    text.lines().filter_map(address).take(UPSTREAMS_MAX).collect()
}
