//! [`EndpointSlice`] as snapshots hold it: what clusters have most of, in a third of the wire type's memory.
//!
//! Invariant: it is read from and written as the wire type (discovery.k8s.io/v1); of what is read only
//! `deprecatedTopology`, which nothing may set any more, is not kept.

use k8s_openapi::{
    Metadata, NamespaceResourceScope, Resource,
    api::{
        core::v1::ObjectReference,
        discovery::v1 as wire,
        discovery::v1::{EndpointConditions, EndpointHints, EndpointPort},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Serialize};

/// discovery.k8s.io/v1 EndpointSlice; fields as there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "wire::EndpointSlice", into = "wire::EndpointSlice")]
#[allow(missing_docs)]
pub struct EndpointSlice {
    pub metadata: ObjectMeta,
    pub address_type: String,
    pub endpoints: Vec<Endpoint>,
    pub ports: Option<Vec<EndpointPort>>,
}

/// One endpoint; fields as in the wire type. The rare ones are kept elsewhere, the others without room to grow.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Endpoint {
    pub addresses: Box<[Box<str>]>,
    pub conditions: Option<EndpointConditions>,
    pub hints: Option<Box<EndpointHints>>,
    pub hostname: Option<Box<str>>,
    pub node_name: Option<Box<str>>,
    pub target_ref: Option<Box<ObjectReference>>,
    pub zone: Option<Box<str>>,
}

impl Resource for EndpointSlice {
    const API_VERSION: &'static str = wire::EndpointSlice::API_VERSION;
    const GROUP: &'static str = wire::EndpointSlice::GROUP;
    const KIND: &'static str = wire::EndpointSlice::KIND;
    const VERSION: &'static str = wire::EndpointSlice::VERSION;
    const URL_PATH_SEGMENT: &'static str = wire::EndpointSlice::URL_PATH_SEGMENT;
    type Scope = NamespaceResourceScope;
}

impl Metadata for EndpointSlice {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl From<wire::EndpointSlice> for EndpointSlice {
    fn from(slice: wire::EndpointSlice) -> Self {
        let wire::EndpointSlice { metadata, address_type, endpoints: found, ports } = slice;
        // Not collected, which would go on in the larger type's memory.
        let mut endpoints = Vec::with_capacity(found.len());
        endpoints.extend(found.into_iter().map(Endpoint::from));
        Self { metadata, address_type, endpoints, ports }
    }
}

impl From<EndpointSlice> for wire::EndpointSlice {
    fn from(slice: EndpointSlice) -> Self {
        let EndpointSlice { metadata, address_type, endpoints, ports } = slice;
        Self { metadata, address_type, endpoints: endpoints.into_iter().map(Into::into).collect(), ports }
    }
}

impl From<wire::Endpoint> for Endpoint {
    fn from(endpoint: wire::Endpoint) -> Self {
        Self {
            addresses: endpoint.addresses.iter().map(|address| address.as_str().into()).collect(),
            conditions: endpoint.conditions,
            hints: endpoint.hints.map(Box::new),
            hostname: endpoint.hostname.map(Into::into),
            node_name: endpoint.node_name.map(Into::into),
            target_ref: endpoint.target_ref.map(Box::new),
            zone: endpoint.zone.map(Into::into),
        }
    }
}

impl From<Endpoint> for wire::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            addresses: endpoint.addresses.into_iter().map(Into::into).collect(),
            conditions: endpoint.conditions,
            deprecated_topology: None,
            hints: endpoint.hints.map(|hints| *hints),
            hostname: endpoint.hostname.map(Into::into),
            node_name: endpoint.node_name.map(Into::into),
            target_ref: endpoint.target_ref.map(|target| *target),
            zone: endpoint.zone.map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_reads_as_and_is_written_as_the_wire_type() {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4",
            "endpoints": [{
                "addresses": ["10.42.0.2", "10.42.0.3"], "hostname": "db-0", "nodeName": "node1", "zone": "a",
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "hints": { "forZones": [{ "name": "a" }] },
                "targetRef": { "kind": "Pod", "namespace": "shop", "name": "db-0", "uid": "u" },
            }, { "addresses": ["10.42.1.2"] }],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
        });
        let held: EndpointSlice = serde_json::from_value(slice.clone()).unwrap();
        assert_eq!(serde_json::to_value(&held).unwrap(), slice);
        let size = |of: usize, than: usize| assert!(of * 3 <= than, "{of} bytes of {than}");
        size(size_of::<Endpoint>(), size_of::<wire::Endpoint>());
    }
}
