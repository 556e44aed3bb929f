//! Pods on one node: how soon they are ready, what each costs beside its own processes, and what is left of them.
//!
//! The lab of [`crate::node`]; all Pods go to its second node, which has joined, so its server is the agent and nothing else.

use crate::{
    client::{Client, Way},
    figures::{Times, row},
    isolated::again,
    node::lab::{self, NODE, Nodes, PATIENCE, processes},
};
use anyhow::{Context, ensure};
use clap::Args;
use futures::future::try_join_all;
use http::Method;
use minisvc_lab::namespaces::Isolation;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

const PODS: &str = "/api/v1/namespaces/default/pods";
/// Who creates and deletes at the same time.
const CLIENTS: usize = 8;

#[derive(Args)]
pub struct Options {
    /// Pods
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=400))]
    pods: u32,
    /// How often
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    lab: lab::LabOptions,
}

/// Runs all of it, or says why it cannot be run here.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    if !options.lab.inside {
        return again(Isolation { network: false, ..Isolation::whole() }).await;
    }
    let nodes = Nodes::up(&options.lab).await?;
    let way = nodes.api()?;
    // The first Pod of a node also makes what later ones find.
    round(&nodes, &way, 1, false).await?;
    for _ in 0..options.rounds {
        round(&nodes, &way, options.pods, true).await?;
    }
    Ok(())
}

async fn round(nodes: &Nodes, way: &Way, count: u32, shown: bool) -> anyhow::Result<()> {
    let server = Nodes::server(NODE)?;
    let (left_before, server_before) = (held(nodes)?, memory(server)?);
    let mut list: Value = serde_json::from_slice(&way.connect().await?.get(PODS).await?)?;
    let revision = list["metadata"]["resourceVersion"].take();
    let revision = revision.as_str().context("a list without a revision")?;
    let mut events =
        way.connect().await?.watch(&format!("{PODS}?watch=true&resourceVersion={revision}")).await?;
    let begun = Instant::now();
    let sent = in_parallel(way, count, async |client, name| {
        let sent = Instant::now();
        client.create(PODS, &pod(&name)).await?;
        Ok((name, sent))
    });
    let ready = async {
        let mut ready: BTreeMap<String, Instant> = BTreeMap::new();
        while ready.len() < count as usize {
            let pod = tokio::time::timeout(PATIENCE, events.next()).await.context("not all are ready")??;
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if is_ready(&pod) {
                ready.entry(name).or_insert_with(Instant::now);
            }
        }
        Ok(ready)
    };
    let (sent, ready) = tokio::try_join!(sent, ready)?;
    let (mut times, mut last) = (Times::default(), Duration::ZERO);
    for (name, sent) in sent {
        let ready = ready.get(&name).context("one is not ready")?;
        times.push(ready.duration_since(sent));
        last = last.max(ready.duration_since(begun));
    }
    let (shims, own) = (all_memory("pod-shim")?, all_memory("pod-echo")?);
    let grown = memory(server)?.0.saturating_sub(server_before.0);
    let begun = Instant::now();
    in_parallel(way, count, async |client, name| {
        client
            .send(Method::DELETE, &format!("{PODS}/{name}"), "application/json", String::new())
            .await
            .map(drop)
    })
    .await?;
    let mut client = way.connect().await?;
    loop {
        let list: Value = serde_json::from_slice(&client.get(PODS).await?)?;
        if list["items"].as_array().is_some_and(Vec::is_empty) {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "Pods are left: {}", list["items"][0]["metadata"]["name"]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let deleted = begun.elapsed();
    let left = left(nodes, &left_before).await?;
    let cleared = begun.elapsed();
    if !shown {
        return Ok(());
    }
    let each = |kib: u64| kib as f64 / 1024.0 / f64::from(count);
    row(
        &format!("{count} Pods with a tcp probe: all created → all Ready"),
        &format!("{:.2} s", last.as_secs_f64()),
    );
    row("  one: created → Ready, p50 / p99", &times.shown());
    row("  a Pod's shim: proportional, private", &format!("{:.2}, {:.2} MiB", each(shims.0), each(shims.1)));
    row("  a Pod's share of the server's growth", &format!("{:.2} MiB", each(grown)));
    row("  for comparison, its own process (echo), private", &format!("{:.2} MiB", each(own.1)));
    row("  deleted → all gone", &format!("{:.2} s", deleted.as_secs_f64()));
    row("  deleted → nothing left on the node", &format!("{:.2} s", cleared.as_secs_f64()));
    for (what, before, after) in left {
        row(&format!("  left: {what}, before and after"), &format!("{before}, {after}"));
    }
    Ok(())
}

/// Does something for each Pod, by several connections; what came of each.
async fn in_parallel<T>(
    way: &Way,
    count: u32,
    work: impl AsyncFn(&mut Client, String) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<T>> {
    let mut clients = try_join_all((0..CLIENTS).map(|_| way.connect())).await?;
    let next = AtomicU32::new(0);
    let all = clients.iter_mut().map(async |client| {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= count {
                return anyhow::Ok(done);
            }
            done.push(work(client, format!("p{number:03}")).await?);
        }
    });
    Ok(try_join_all(all).await?.into_iter().flatten().collect())
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": NODE, "containers": [{"name": "echo", "image": "echo", "ports": [{"containerPort": 8080}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]},
    })
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|c| c["type"] == "Ready").any(|c| c["status"] == "True")
}

/// Of a process, in KiB: its proportional share of memory, and what is its own alone.
fn memory(pid: u32) -> anyhow::Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let of = |name: &str| -> u64 {
        let found = text
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
        found.sum()
    };
    Ok((of("Pss:"), of("Private_Clean:") + of("Private_Dirty:")))
}

fn all_memory(word: &str) -> anyhow::Result<(u64, u64)> {
    let all = processes(word, &[])?.into_iter().map(memory).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(all.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)))
}

/// What a node has, by name.
fn held(nodes: &Nodes) -> anyhow::Result<Vec<(&'static str, usize)>> {
    let machine = PathBuf::from(format!("/proc/{}", nodes.machine()));
    let entries = |path: &str| fs::read_dir(machine.join(path)).map_or(0, Iterator::count);
    let lines = |path: &str| fs::read_to_string(machine.join(path)).map(|text| text.lines().count());
    Ok(vec![
        ("shims", processes("pod-shim", &[])?.len()),
        ("processes in Pods", processes("pod-echo", &[])?.len()),
        ("network namespaces", entries("root/run/minisvc/netns")),
        ("links", lines("net/dev")?),
        ("mounts", lines("mountinfo")?),
        ("records", entries("root/run/minisvc/pods")),
    ])
}

/// The same before and after, once it is the same or there is no more patience.
async fn left(
    nodes: &Nodes,
    before: &[(&'static str, usize)],
) -> anyhow::Result<Vec<(&'static str, usize, usize)>> {
    let begun = Instant::now();
    loop {
        let after = held(nodes)?;
        if after == before || begun.elapsed() > PATIENCE {
            return Ok(before
                .iter()
                .zip(after)
                .map(|((what, before), (_, after))| (*what, *before, after))
                .collect());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
