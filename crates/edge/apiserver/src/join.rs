//! A node joins: it shows the secret, says who it is, and gets a certificate.
//!
//! Invariant: no two nodes hold certificates for one name or one address at a time, even if they ask at once: who
//! asked first is remembered in the store (`_joins/<name>`) until its Node object says so itself.

use crate::{pki::Pki, respond, write};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use minisvc_apimachinery::{
    Cause, ClusterConfig, Family, ObjectKey, Status, decode,
    join::{JoinRequest, JoinResponse},
    resource::NODES,
    status::Details,
    storage::{Change, Read},
};
use minisvc_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{net::IpAddr, sync::Arc};

const RECORDS: &str = "_joins/";
/// How long a join without a Node object keeps others from its name and address, seconds.
const HELD_SECONDS: i64 = 60;

/// Who joined under a name.
#[derive(Serialize, Deserialize)]
struct Record {
    address: IpAddr,
    /// Hash of the node's public key: the same node may ask again, for a new certificate or after a lost answer.
    key: String,
    /// When, seconds since 1970.
    at: i64,
}

/// Answers a join of someone who may.
pub(crate) async fn join(
    store: &Store,
    pki: &Pki,
    cluster: &Arc<ClusterConfig>,
    body: &Bytes,
) -> Result<Response, Status> {
    let decoded = decode::json(body, decode::Limits::REQUEST)
        .map_err(|error| Status::bad_request(format!("the request's body: {error}")))?;
    let request: JoinRequest = serde_json::from_value(decoded.value)
        .map_err(|error| Status::bad_request(format!("the request's body: {error}")))?;
    let faults = faults(&request, cluster);
    if !faults.is_empty() {
        return Err(invalid(&request.node_name, faults));
    }
    let now = Timestamp::now();
    let certificate = pki
        .sign_node(&request.csr, &request.node_name, request.node_address, now)
        .map_err(|error| invalid(&request.node_name, vec![Cause::invalid("csr", "…", &error.to_string())]))?;
    let record = Record { address: request.node_address, key: key_of(&request.csr)?, at: now.as_second() };
    let name = request.node_name.clone();
    let registered = store.commit(move |view| {
        check(view, &name, &record)?;
        let value = serde_json::to_vec(&record).map_err(Status::internal)?.into();
        Ok((vec![Change::PutRecord { key: format!("{RECORDS}{name}"), value }], ()))
    });
    registered.await.map_err(write::refusal)?;
    let answer = JoinResponse {
        certificate,
        ca: pki.ca_certificate().to_owned(),
        cluster: ClusterConfig::clone(cluster),
    };
    let answer = serde_json::to_vec(&answer).map_err(Status::internal)?;
    Ok(respond::bytes(StatusCode::OK, "application/json", answer))
}

fn key_of(csr: &str) -> Result<String, Status> {
    use x509_parser::prelude::FromDer;
    let malformed = || Status::bad_request("csr: not a certificate signing request");
    let (_, pem) = x509_parser::pem::parse_x509_pem(csr.as_bytes()).map_err(|_| malformed())?;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .map_err(|_| malformed())?;
    // Only who holds the key may ask for it again.
    request.verify_signature().map_err(|_| malformed())?;
    Ok(hex::encode(Sha256::digest(request.certification_request_info.subject_pki.raw)))
}

fn invalid(name: &str, causes: Vec<Cause>) -> Status {
    let words: Vec<String> = causes.iter().map(ToString::to_string).collect();
    let mut status =
        Status::failure(422, "Invalid", format!("join of {name:?} is invalid: {}", words.join(", ")));
    status.details =
        Some(Details { name: name.to_owned(), kind: "JoinRequest".to_owned(), causes, ..Details::default() });
    status
}

fn faults(request: &JoinRequest, cluster: &ClusterConfig) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = &request.node_name;
    let label = |label: &str| {
        let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(label.bytes().next())
            && edge(label.bytes().last())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.len() > 63 || !name.split('.').all(label) {
        let why = "a node name consists of at most 63 lower case letters, digits, '-' and '.', and starts and ends \
                   with a letter or digit";
        causes.push(Cause::invalid("nodeName", name.as_str(), why));
    }
    let address = request.node_address;
    let unusable = match address {
        IpAddr::V6(_) if !cluster.families().contains(&Family::Ipv6) => {
            Some("IPv6 is not configured on this cluster")
        }
        IpAddr::V4(v4) if v4.is_link_local() || v4.is_broadcast() => Some("other nodes cannot reach it"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some() => {
            Some("other nodes cannot reach it")
        }
        _ if address.is_loopback() || address.is_unspecified() || address.is_multicast() => {
            Some("other nodes cannot reach it")
        }
        _ => None,
    };
    if let Some(why) = unusable {
        causes.push(Cause::invalid("nodeAddress", address.to_string(), why));
    }
    causes
}

/// Whether the name and the address are free, or held by the node that asks.
fn check(view: &dyn Read, name: &str, asks: &Record) -> Result<(), Status> {
    let record = |stored: &[u8]| serde_json::from_slice::<Record>(stored).ok();
    let is_registered = view.get(&NODES.storage_key(&ObjectKey::cluster(name))).is_some();
    let before = view.get(&format!("{RECORDS}{name}")).and_then(|stored| record(&stored.value));
    let same_node = before.as_ref().is_some_and(|before| before.key == asks.key);
    let held = before.is_some_and(|before| asks.at - before.at < HELD_SECONDS);
    if !same_node && (is_registered || held) {
        return Err(taken(
            name,
            format!(
                "a node named {name:?} is registered already: give this one another name (--node-name), or, if the old \
             one is gone for good, delete it (minisvc delete node {name}) and try again"
            ),
        ));
    }
    let mut other = None;
    view.scan(&NODES.storage_prefix(None), None, &mut |_, stored| {
        let node: Value = serde_json::from_slice(&stored.value).unwrap_or_default();
        let text = |pointer: &str| node.pointer(pointer).and_then(Value::as_str);
        let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
        let has_it = addresses.into_iter().flatten().any(|entry| {
            let address = entry.get("address").and_then(Value::as_str);
            address.and_then(|address| address.parse::<IpAddr>().ok()) == Some(asks.address)
        });
        let owner = text("/metadata/name").unwrap_or_default();
        if has_it && owner != name {
            other = Some(owner.to_owned());
        }
        other.is_none()
    });
    view.scan(RECORDS, None, &mut |key, stored| {
        let owner = key.strip_prefix(RECORDS).unwrap_or_default();
        let held = record(&stored.value)
            .is_some_and(|record| record.address == asks.address && asks.at - record.at < HELD_SECONDS);
        if held && owner != name {
            other.get_or_insert_with(|| owner.to_owned());
        }
        other.is_none()
    });
    match other {
        None => Ok(()),
        Some(owner) => Err(taken(
            name,
            format!(
                "address {} is that of node {owner:?}: give this node the address that the others reach it at \
             (--node-ip); machines with one NAT address each need this",
                asks.address
            ),
        )),
    }
}

fn taken(name: &str, why: String) -> Status {
    let mut status = Status::failure(409, "AlreadyExists", why);
    status.details =
        Some(Details { name: name.to_owned(), kind: NODES.plural.to_owned(), ..Details::default() });
    status
}
