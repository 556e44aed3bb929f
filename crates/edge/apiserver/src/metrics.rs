//! What `/metrics` shows, in the OpenMetrics text format.

use minisvc_apimachinery::storage::Read;
use minisvc_store::Store;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::time::Duration;

/// Labels of a request. All values come from tables, so their number is bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Request {
    verb: &'static str,
    resource: &'static str,
    code: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Timed {
    verb: &'static str,
    resource: &'static str,
}

pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    durations: Family<Timed, Histogram>,
    revision: Gauge,
    keys: Gauge,
    watchers: Gauge,
    pub(crate) connections: Gauge,
}

/// Upper bounds of the buckets of request durations, seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::<Timed, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let (revision, keys) = (Gauge::default(), Gauge::default());
        let (watchers, connections) = (Gauge::default(), Gauge::default());
        registry.register("apiserver_request", "Requests answered", requests.clone());
        let help = "Time to answer a request that is no watch";
        registry.register("apiserver_request_duration_seconds", help, durations.clone());
        registry.register("apiserver_storage_revision", "Newest revision of the store", revision.clone());
        registry.register("apiserver_storage_keys", "Keys in the store, records included", keys.clone());
        registry.register("apiserver_watchers", "Watches that are open", watchers.clone());
        registry.register("apiserver_connections", "Connections that are open", connections.clone());
        Self { registry, requests, durations, revision, keys, watchers, connections }
    }

    /// Counts an answer. `took` is none for watches, whose length says nothing.
    pub(crate) fn answered(
        &self,
        verb: &'static str,
        resource: &'static str,
        code: u16,
        took: Option<Duration>,
    ) {
        self.requests.get_or_create(&Request { verb, resource, code: u32::from(code) }).inc();
        if let Some(took) = took {
            self.durations.get_or_create(&Timed { verb, resource }).observe(took.as_secs_f64());
        }
    }

    /// Counts a watch until what this returns is dropped.
    pub(crate) fn watching(&self) -> Counted {
        Counted::new(&self.watchers)
    }

    /// The text of all metrics.
    pub(crate) fn text(&self, store: &Store) -> Result<String, std::fmt::Error> {
        let view = store.view();
        self.revision.set(view.revision().cast_signed());
        self.keys.set(view.len() as i64);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// One in a gauge, as long as it lives.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
