//! A node's agent in a cluster with many Services: its memory, changes by way of the API, restarts under traffic.
//!
//! A lab of two nodes of the built program; the second has joined, so its server is the agent and nothing else. Its store
//! and all else is on this machine, and shares its cores.

mod cluster;
mod flow;
pub mod lab;

use crate::{
    figures::{Times, resident_kib, row},
    isolated::{again, outcome, thread_in},
};
use clap::Args;
use cluster::{Cluster, Target};
use flow::{Flow, Kind};
use lab::{NODE, Nodes, PATIENCE};
use minisvc_lab::namespaces::Isolation;
use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Traffic before the server is killed, and after the node says that its table is right.
const AROUND: Duration = Duration::from_secs(1);
/// Time between two changes.
const BETWEEN: Duration = Duration::from_millis(20);

#[derive(Args)]
pub struct Options {
    /// Services
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    services: u32,
    /// Endpoints of each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
    endpoints: u32,
    /// Changes of one endpoint, with few Services and with many
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    changes: u32,
    /// Restarts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    restarts: u32,
    #[command(flatten)]
    lab: lab::LabOptions,
}

/// Runs all of it, or says why it cannot be run here.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    if !options.lab.inside {
        // The lab has a network of its own, and is reached by this machine's loopback.
        return again(Isolation { network: false, ..Isolation::whole() }).await;
    }
    let nodes = Nodes::up(&options.lab).await?;
    let cluster = Cluster::new(nodes.api()?).await?;
    row("few Services: resident, agent and first server, now (most)", &resident()?);
    changes(&nodes, &cluster, "few Services", options.changes).await?;
    let begun = Instant::now();
    let last = cluster.fill(options.services, options.endpoints).await?;
    let what = format!("{} Services x {} endpoints", options.services, options.endpoints);
    row(&format!("{what}: created, each durable"), &format!("{:.1} s", begun.elapsed().as_secs_f64()));
    answered(&nodes, &cluster, last).await?;
    tokio::time::sleep(AROUND).await;
    row(&format!("{what}: resident, as above"), &resident()?);
    changes(&nodes, &cluster, &what, options.changes).await?;
    for _ in 0..options.restarts {
        restart(&nodes, &cluster, &what).await?;
    }
    row("at the end: resident, as above", &resident()?);
    Ok(())
}

/// Of the node's agent, and of the first server (API, manager, agent): now and at most.
fn resident() -> anyhow::Result<String> {
    let mut text = Vec::new();
    for node in [NODE, "node1"] {
        let (now, most) = resident_kib(&Nodes::server(node)?.to_string())?;
        text.push(format!("{} ({})", now / 1024, most / 1024));
    }
    Ok(format!("{} MiB", text.join(", ")))
}

/// Waits until the last Service that was made is answered.
async fn answered(nodes: &Nodes, cluster: &Cluster, target: Target) -> anyhow::Result<()> {
    let pod = cluster.pods[0].name.clone();
    let asked = thread_in(&nodes.pod(&cluster.client.uid), move || {
        flow::until_answered_by(&pod, target, PATIENCE).map(drop)
    })?;
    tokio::task::spawn_blocking(move || outcome(asked)).await?
}

/// One endpoint becomes another, and a packet reaches it.
async fn changes(nodes: &Nodes, cluster: &Cluster, what: &str, count: u32) -> anyhow::Result<()> {
    let mut client = cluster.way.connect().await?;
    let (mut from_sent, mut from_acknowledged) = (Times::default(), Times::default());
    for number in 0..count {
        let pod = &cluster.pods[(number as usize + 1) % cluster.pods.len()];
        let (name, to) = (pod.name.clone(), cluster.moving);
        let asked =
            thread_in(&nodes.pod(&cluster.client.uid), move || flow::until_answered_by(&name, to, PATIENCE))?;
        let sent = Instant::now();
        cluster.move_to(&mut client, pod).await?;
        let acknowledged = Instant::now();
        let reached = tokio::task::spawn_blocking(move || outcome(asked)).await??;
        from_sent.push(reached.duration_since(sent));
        from_acknowledged.push(reached.saturating_duration_since(acknowledged));
        tokio::time::sleep(BETWEEN).await;
    }
    row(&format!("{what}: endpoint sent to API → a packet reaches it"), &from_sent.shown());
    row("  acknowledged by the API → a packet reaches it", &from_acknowledged.shown());
    Ok(())
}

/// kill -9 and start under traffic from a Pod by a Service's address.
async fn restart(nodes: &Nodes, cluster: &Cluster, what: &str) -> anyhow::Result<()> {
    let watched = nodes.watch().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut flows = Vec::new();
    for kind in [Kind::Datagrams, Kind::Held, Kind::Fresh] {
        let (stop, to) = (stop.clone(), cluster.steady);
        flows.push((kind, thread_in(&nodes.pod(&cluster.client.uid), move || flow::run(kind, to, &stop))?));
    }
    tokio::time::sleep(AROUND).await;
    nodes.kill().await?;
    let right = nodes.start().await?;
    tokio::time::sleep(AROUND).await;
    stop.store(true, Relaxed);
    row(&format!("{what}: kill -9, start → table right"), &format!("{:.2} s", right.as_secs_f64()));
    for (kind, flow) in flows {
        let Flow { sent, answered, gap } = tokio::task::spawn_blocking(move || outcome(flow)).await??;
        let name = match kind {
            Kind::Datagrams => "datagrams of one flow",
            Kind::Held => "questions by one TCP connection",
            Kind::Fresh => "new TCP connections",
        };
        row(
            &format!("  {name}: sent, lost, longest gap"),
            &format!("{sent}, {}, {:.1} ms", sent - answered.min(sent), gap.as_secs_f64() * 1e3),
        );
    }
    let (transactions, changes) = watched.stop().await?;
    row(
        "  transactions of nftables; changes of links and routes",
        &format!("{transactions}; {}", changes.len()),
    );
    for change in changes.iter().take(5) {
        println!("    {change}");
    }
    Ok(())
}
