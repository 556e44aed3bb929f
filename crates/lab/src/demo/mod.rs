//! `minisvc lab demo`: a lab, the examples in it, and every claim proved with real connections.
//!
//! ```text
//! up ─▶ nodes Ready ─▶ apply examples/ ─▶ reach ─▶ follow ─▶ server killed ─▶ node lost ─▶ down ─▶ nothing left
//! ```
//! Invariants: probes are connections from inside the lab's machines and Pods, never from here; the lab ends with
//! this process, however it ends.

pub mod cluster;
mod follow;
mod footprint;
mod place;
mod reach;
mod recover;
mod report;
mod world;

use crate::{
    layout::{Lab, LabOptions},
    probe::Spec,
    up,
};
use cluster::{OwnLab, apply, connect, kubeconfig, node_names, nodes_ready};
use footprint::{HostState, NodeMemory};
use futures::StreamExt;
use ipnet::IpNet;
use minisvc_apimachinery::ClusterConfig;
use place::Place;
use report::{Proof, Report, millis};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};
use world::{LIMIT, World, host};

/// The Pods of the examples.
const PODS: &str = include_str!("../../../../examples/pods.yaml");
/// All examples, Pods last: Services are there when their Pods come.
const EXAMPLES: [&str; 8] = [
    include_str!("../../../../examples/service-clusterip.yaml"),
    include_str!("../../../../examples/service-given-ip.yaml"),
    include_str!("../../../../examples/service-nodeport.yaml"),
    include_str!("../../../../examples/service-loadbalancer.yaml"),
    include_str!("../../../../examples/service-headless.yaml"),
    include_str!("../../../../examples/service-externalname.yaml"),
    include_str!("../../../../examples/ingress.yaml"),
    PODS,
];
/// The overlay whose packets pass through the server's own process.
const TUNNEL: &str = "tun";
/// Longest time for everything.
const ALL_LIMIT: Duration = Duration::from_secs(120);

/// What the demo is asked to be.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Number of nodes; at least 3.
    pub nodes: usize,
    /// vxlan, host-gw or tun.
    pub overlay: String,
    /// Networks of the Pods; the cluster's default if empty.
    pub cluster_cidrs: Vec<IpNet>,
    /// Networks of the Services; the cluster's default if empty.
    pub service_cidrs: Vec<IpNet>,
    /// Leave out what waits for a dead node to be noticed.
    pub quick: bool,
}

/// The virtual IP that the examples give one Service, and how far into the service network it lies.
const GIVEN_IP: &str = "10.43.0.50";
const GIVEN_AT: u8 = 50;

/// What the table at the end shows.
struct Figures {
    first_answer: Duration,
    memory: BTreeMap<String, NodeMemory>,
}

/// Runs the demo; whether every claim held.
///
/// # Errors
/// In words, if it does not get to its end; nothing is left then either.
pub async fn run(options: &DemoOptions) -> Result<bool, String> {
    if options.nodes < 3 {
        return Err(format!("--nodes {}: the demo needs at least 3", options.nodes));
    }
    if options.overlay == TUNNEL
        && std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err()
    {
        return Err(
            "--overlay tun: skipped: this user may not open /dev/net/tun; run as root, or choose vxlan"
                .to_owned(),
        );
    }
    let lab_options = lab_options(options);
    let given_ip = given_ip(&lab_options.cluster())?;
    let begun = Instant::now();
    let mut report = Report::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| format!("watch SIGTERM: {error}"))?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(|error| format!("watch SIGHUP: {error}"))?;
    sweep();
    let before = HostState::now();
    report.doing("starting the machines");
    let name = format!("demo-{}", std::process::id());
    let lab = Lab::named(&name).map_err(|error| error.to_string())?;
    let own = tokio::select! {
        up = OwnLab::up(lab, &lab_options) => up.map_err(|error| error.to_string())?,
        _ = tokio::signal::ctrl_c() => return Err("interrupted".to_owned()),
    };
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(ALL_LIMIT, claims(&own, options, &given_ip, &mut report, begun)) =>
            outcome.unwrap_or_else(|_| Err(format!("not done within {ALL_LIMIT:?}"))),
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
        _ = terminate.recv() => Err("terminated".to_owned()),
        _ = hang_up.recv() => Err("hung up".to_owned()),
    };
    if outcome.is_err() {
        explain(&own, &report);
    }
    report.doing("ending the lab");
    let gone = down(own, &before).await;
    report.proof(&gone);
    let figures = outcome?;
    table(&report, &figures, options, begun.elapsed());
    Ok(report.all_hold())
}

fn lab_options(options: &DemoOptions) -> LabOptions {
    LabOptions {
        nodes: options.nodes,
        cluster_cidrs: options.cluster_cidrs.clone(),
        service_cidrs: options.service_cidrs.clone(),
        server_flags: vec!["--overlay".to_owned(), options.overlay.clone()],
    }
}

/// The address of the Service whose address is given, in this cluster's service network.
fn given_ip(cluster: &ClusterConfig) -> Result<String, String> {
    let net = cluster.service_cidrs.first().ok_or("--service-cidr: no network")?;
    let address: IpAddr = match net.network() {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits().wrapping_add(GIVEN_AT.into())).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().wrapping_add(GIVEN_AT.into())).into(),
    };
    if net.contains(&address) {
        Ok(address.to_string())
    } else {
        Err(format!(
            "--service-cidr {net}: too small for the demo, which gives a Service its address {GIVEN_AT}"
        ))
    }
}

/// Removes what demos left that were killed: only files can remain.
fn sweep() {
    let Ok(any) = Lab::named("any") else { return };
    let entries = any.dir().parent().and_then(|base| std::fs::read_dir(base).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix("demo-")) else { continue };
        let lab = Lab::at(&entry.path());
        if !std::path::Path::new("/proc").join(pid).exists() && !up::is_up(&lab) {
            let _next_time = up::remove_files(&lab);
        }
    }
}

async fn claims(
    own: &OwnLab,
    options: &DemoOptions,
    given_ip: &str,
    report: &mut Report,
    begun: Instant,
) -> Result<Figures, String> {
    let lab = &own.lab;
    let started = own.started().ok_or("the lab has ended")?;
    report.doing("waiting for the API");
    kubeconfig(lab, started, LIMIT).await?;
    let client = connect(lab).await?;
    report.doing("waiting for the nodes");
    nodes_ready(&client, options.nodes, LIMIT, |ready| {
        report.doing(&format!("{ready} of {} nodes Ready", options.nodes))
    })
    .await?;
    report.doing("applying the examples");
    apply(lab, &EXAMPLES.join("\n---\n").replace(GIVEN_IP, given_ip)).await?;

    let names = node_names(options.nodes);
    let nodes: Vec<Place> = names
        .iter()
        .map(|name| Place::machine(lab, name).map_err(|error| format!("enter {name}: {error}")))
        .collect::<Result<_, _>>()?;
    report.doing("waiting for the first answer through a virtual IP");
    let first = nodes.first().ok_or("no node")?;
    let vip = Spec { timeout_ms: 250, ..Spec::new(format!("http://{}:8000/", host(given_ip)), 1) };
    first.until(&vip, LIMIT, |attempts| attempts.iter().all(|attempt| attempt.ok)).await?;
    let first_answer = begun.elapsed();
    report.line(&format!(
        "{} nodes, overlay {}: first answer through a virtual IP after {}",
        options.nodes,
        options.overlay,
        millis(first_answer)
    ));

    report.doing("waiting for all Pods and endpoints");
    let world = World::open(lab, &client, nodes, given_ip).await?;
    world.settled().await?;
    report.doing("who reaches what");
    let mut proofs = futures::stream::FuturesOrdered::from_iter(reach::claims(&world));
    while let Some(proof) = proofs.next().await {
        report.proof(&proof);
    }
    drop(proofs);
    let memory = own.root_pid().map(|root| footprint::memory(root, &names)).unwrap_or_default();
    report.doing("a Pod goes, under traffic");
    show(report, follow::claims(&world).await?);
    report.doing("kill -9 of node1's server, under traffic");
    show(report, recover::server_killed(&world).await?);
    if !options.quick {
        report.doing("a node loses power");
        show(report, recover::node_lost(&world).await?);
    }
    Ok(Figures { first_answer, memory })
}

fn show(report: &mut Report, proofs: Vec<Proof>) {
    for proof in &proofs {
        report.proof(proof);
    }
}

/// Ends the lab and looks whether anything is left.
async fn down(own: OwnLab, before: &HostState) -> Proof {
    let (root, dir) = (own.root_pid(), own.lab.dir().to_owned());
    report::prove("Down", "end the lab", "the host", async move {
        let known = root.map(footprint::processes).unwrap_or_default();
        own.down().await.map_err(|error| error.to_string())?;
        let running = footprint::still_running(&known);
        let mut left = HostState::now().beyond(before, &dir);
        if running > 0 {
            left.push(format!("{running} processes"));
        }
        if dir.exists() {
            left.push(dir.display().to_string());
        }
        if left.is_empty() {
            Ok(format!(
                "nothing left: {} processes ended, with all their namespaces, links and tables",
                known.len()
            ))
        } else {
            Err(format!("left: {}", left.join(", ")))
        }
    })
    .await
}

/// The last words of every server, for whoever must find out why.
fn explain(own: &OwnLab, report: &Report) {
    for entry in std::fs::read_dir(own.lab.dir().join("members")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let words = cluster::last_words(&own.lab.member(&name).log());
        if !words.is_empty() {
            report.line(&format!("--- {name} said last:\n{words}"));
        }
    }
}

fn table(report: &Report, figures: &Figures, options: &DemoOptions, total: Duration) {
    let size = std::fs::metadata("/proc/self/exe").map_or(0, |found| found.len());
    #[allow(clippy::cast_precision_loss)] // a program is far smaller than 2^52 bytes
    let size_mib = size as f64 / f64::from(1 << 20);
    report.line("");
    report.line(&format!("{:<44} {}", "claims", report.score()));
    report.line(&format!("{:<44} {}", "overlay", options.overlay));
    report.line(&format!(
        "{:<44} {}",
        "start to first answer through a virtual IP",
        millis(figures.first_answer)
    ));
    report.line(&format!("{:<44} {}", "in all", millis(total)));
    for (node, memory) in &figures.memory {
        let NodeMemory { server_mib, pods_mib, pod_processes } = memory;
        let text = format!("server {server_mib:.1} MiB, {pod_processes} processes of Pods {pods_mib:.1} MiB");
        report.line(&format!("{:<44} {text}", format!("resident memory of {node}")));
    }
    report.line(&format!("{:<44} {size_mib:.1} MiB", "this program"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_given_address_is_of_the_service_network() {
        let of = |text: &str| {
            given_ip(&ClusterConfig {
                service_cidrs: vec![text.parse().unwrap()],
                ..ClusterConfig::default()
            })
        };
        assert_eq!(given_ip(&ClusterConfig::default()).as_deref(), Ok(GIVEN_IP));
        assert_eq!(of("fd43::/112").as_deref(), Ok("fd43::32"));
        assert!(of("10.43.0.0/27").unwrap_err().starts_with("--service-cidr 10.43.0.0/27: too small"));
    }
}
