//! What is in the cluster: three Pods, a Service that is steady, one that moves, and many that only fill the tables.
//!
//! Invariant: whoever fills is acknowledged object by object, and the last object is made after all others.

use super::lab::PATIENCE;
use crate::client::{Client, Way};
use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Where a Service answers.
pub type Target = SocketAddr;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// The protocols of a Service.
const TCP: [&str; 1] = ["TCP"];
const BOTH: [&str; 2] = ["TCP", "UDP"];
/// Who fills at the same time.
const CLIENTS: usize = 16;
/// First address of the Services that fill.
const FILLING: Ipv4Addr = Ipv4Addr::new(10, 43, 16, 0);
/// Addresses of endpoints that are nowhere: outside the two nodes' own parts of the Pods' network.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 42, 64, 0);
/// How many of them: a Service's endpoints are told apart from another's by their port.
const NOWHERE_COUNT: u32 = 1 << 14;

/// A Pod that runs.
pub struct Pod {
    pub name: String,
    pub uid: String,
    address: String,
}

/// See the module.
pub struct Cluster {
    pub way: Way,
    /// Those that answer, on either node.
    pub pods: Vec<Pod>,
    /// The one that asks, on the node that is looked at.
    pub client: Pod,
    /// Answered by both Pods.
    pub steady: Target,
    /// Answered by one Pod, then by the other.
    pub moving: Target,
}

/// A port by each of these protocols, named by it.
fn ports(protocols: &[&str], port: u16) -> Value {
    protocols.iter().map(|by| json!({"name": by.to_lowercase(), "port": port, "protocol": by})).collect()
}

fn service(name: &str, address: Ipv4Addr, protocols: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"clusterIP": address, "ports": ports(protocols, 80)},
    })
}

fn slice(name: &str, protocols: &[&str], port: u16, addresses: &[String]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "ports": ports(protocols, port), "endpoints": endpoints(addresses),
    })
}

/// As the controllers write them for the Pods of a Deployment, of another node than the one that is measured.
fn endpoints(addresses: &[String]) -> Value {
    let endpoint = |(n, address): (usize, &String)| {
        let uid = format!("6f1c2a52-0d3b-4c55-9b1e-{n:012}");
        let pod = format!("backend-{address}-7d9c6b8d54-x2x{n:02}");
        json!({
            "addresses": [address], "nodeName": "node1", "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": pod, "uid": uid},
        })
    };
    addresses.iter().enumerate().map(endpoint).collect()
}

async fn make(
    client: &mut Client,
    name: &str,
    address: Ipv4Addr,
    protocols: &[&str],
    pods: &[&Pod],
) -> anyhow::Result<Target> {
    client.create(SERVICES, &service(name, address, protocols)).await?;
    let addresses: Vec<_> = pods.iter().map(|pod| pod.address.clone()).collect();
    client.create(SLICES, &slice(name, protocols, 8080, &addresses)).await?;
    Ok(SocketAddr::from((address, 80)))
}

async fn pod(client: &mut Client, name: &str, node: &str) -> anyhow::Result<Pod> {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "echo", "image": "echo", "ports": [
            {"containerPort": 8080, "protocol": "TCP"}, {"containerPort": 8080, "protocol": "UDP"}]}]},
    });
    client.create(PODS, &object).await?;
    let begun = Instant::now();
    loop {
        let pod: Value = serde_json::from_slice(&client.get(&format!("{PODS}/{name}")).await?)?;
        if let ("True", Some(address)) = (ready(&pod), pod["status"]["podIP"].as_str()) {
            let uid = pod["metadata"]["uid"].as_str().context("a Pod without a uid")?;
            return Ok(Pod { name: name.to_owned(), uid: uid.to_owned(), address: address.to_owned() });
        }
        ensure!(begun.elapsed() < PATIENCE, "Pod {name} is not ready: {}", pod["status"]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ready(pod: &Value) -> &str {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|c| c["type"] == "Ready").find_map(|c| c["status"].as_str()).unwrap_or_default()
}

impl Cluster {
    /// Makes the Pods, and the two Services that lead to them.
    pub async fn new(way: Way) -> anyhow::Result<Self> {
        let mut client = way.connect().await?;
        let pods = vec![
            pod(&mut client, "there", "node1").await?,
            pod(&mut client, "here", super::lab::NODE).await?,
        ];
        let asks = pod(&mut client, "asks", super::lab::NODE).await?;
        let both: Vec<_> = pods.iter().collect();
        let steady = make(&mut client, "steady", Ipv4Addr::new(10, 43, 8, 1), &BOTH, &both).await?;
        let moving = make(&mut client, "moving", Ipv4Addr::new(10, 43, 8, 2), &TCP, &both[..1]).await?;
        Ok(Self { way, pods, client: asks, steady, moving })
    }

    /// Makes one Pod the only endpoint of the Service that moves.
    pub async fn move_to(&self, client: &mut Client, pod: &Pod) -> anyhow::Result<()> {
        let endpoints = endpoints(std::slice::from_ref(&pod.address));
        client.merge(&format!("{SLICES}/moving"), &json!({"endpoints": endpoints})).await.map(drop)
    }

    /// Makes so many Services; then one more, which is answered by the first Pod.
    pub async fn fill(&self, services: u32, ends: u32) -> anyhow::Result<Target> {
        let mut clients = try_join_all((0..CLIENTS).map(|_| self.way.connect())).await?;
        let next = AtomicU32::new(0);
        try_join_all(clients.iter_mut().map(|client| {
            let next = &next;
            async move {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= services {
                        return Ok::<_, anyhow::Error>(());
                    }
                    let name = format!("s{number:05}");
                    let address = Ipv4Addr::from(u32::from(FILLING) + number);
                    client.create(SERVICES, &service(&name, address, &TCP)).await?;
                    let first = number * ends;
                    let addresses: Vec<_> = (first..first + ends)
                        .map(|n| Ipv4Addr::from(u32::from(NOWHERE) + n % NOWHERE_COUNT).to_string())
                        .collect();
                    let port = u16::try_from(8000 + first / NOWHERE_COUNT)?;
                    client.create(SLICES, &slice(&name, &TCP, port, &addresses)).await?;
                }
            }
        }))
        .await?;
        let last = clients.first_mut().context("no client")?;
        make(last, "last", Ipv4Addr::new(10, 43, 8, 3), &TCP, &[&self.pods[0]]).await
    }
}
