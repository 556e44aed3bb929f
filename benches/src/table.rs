//! The service table: planned and committed from nothing, changed by one endpoint, read back at a restart, its memory.
//!
//! It runs in network namespaces of its own, as a process of its own, so that neither this machine's tables nor the
//! memory of anything else is touched or counted. What is compared takes turns: a change with few Services, one with many.

use crate::{
    figures::{Times, resident_kib, row},
    isolated,
};
use anyhow::{Context, ensure};
use clap::Args;
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot, endpoint_slices::EndpointSlice};
use minisvc_datapath::nft::ServiceTableTarget;
use minisvc_lab::namespaces::Isolation;
use minisvc_netstate::nft::ServiceTable;
use minisvc_proxy::{NodeView, Planner};
use minisvc_reconcile::Target;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;
use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Services of the small side.
const FEW: u32 = 10;
/// How often what takes long is done; the median counts.
const REPEATS: usize = 3;
/// What `net.core.wmem_max` lets a plain user have on most systems is twice this many bytes.
const PLAIN_SEND_BUFFER: u32 = 212_992;
/// Pods' addresses: room for the endpoints of every Service.
const PODS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
/// From here on nobody's address at first: more than all Services have endpoints.
const SPARE: u32 = 4_000_000;
/// Services' addresses, after those that every cluster has.
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 43, 1, 0);

#[derive(Args)]
pub struct Options {
    /// Services of the large side
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    services: u32,
    /// Endpoints of each Service
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
    endpoints: u32,
    /// Changes of one endpoint, on each side
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    changes: u32,
    /// This process is in namespaces of its own already
    #[arg(long, hide = true)]
    inside: bool,
}

/// Runs all of it, or says why it cannot be run here.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    if options.inside {
        return measure(options);
    }
    isolated::again(Isolation::whole()).await
}

/// A cluster of Services that are alike, and a node's table for it.
struct Side {
    snapshot: Snapshot,
    planner: Planner,
    target: ServiceTableTarget,
}

/// Distinct addresses after a first one.
fn address(first: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + 2 + number)
}

fn key(service: u32) -> ObjectKey {
    ObjectKey::new("default", format!("s{service:05}"))
}

/// The endpoints of a Service; `round` makes the first another one than in the round before.
fn slice(service: u32, endpoints: u32, round: u32) -> anyhow::Result<Arc<EndpointSlice>> {
    let key = key(service);
    let ends: Vec<_> = (0..endpoints)
        .map(|n| {
            let shift = if n == 0 { SPARE * (round % 2) } else { 0 };
            let address = address(PODS, service * endpoints + n + shift);
            json!({"addresses": [address], "nodeName": "n2", "conditions": {"ready": true}})
        })
        .collect();
    let object = json!({
        "metadata": {"namespace": key.namespace, "name": key.name,
                     "labels": {"kubernetes.io/service-name": key.name}},
        "addressType": "IPv4", "ports": [{"port": 8080, "protocol": "TCP"}], "endpoints": ends,
    });
    Ok(Arc::new(serde_json::from_value(object)?))
}

/// So many Services that are alike.
pub fn cluster(services: u32, endpoints: u32) -> anyhow::Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    for service in 0..services {
        let key = key(service);
        let object = json!({
            "metadata": {"namespace": key.namespace, "name": key.name},
            "spec": {"clusterIP": address(SERVICES, service), "ports": [{"port": 80}]},
        });
        snapshot.services.insert(key.clone(), Arc::new(serde_json::from_value(object)?));
        snapshot.endpoint_slices.insert(key, slice(service, endpoints, 0)?);
    }
    Ok(snapshot)
}

/// What all nodes agree on: room for the Pods.
pub fn cluster_config() -> anyhow::Result<ClusterConfig> {
    Ok(ClusterConfig { cluster_cidrs: vec!["10.128.0.0/9".parse()?], ..ClusterConfig::default() })
}

/// Plans the table of the node `n1`.
pub fn planner(actual: ServiceTable) -> anyhow::Result<Planner> {
    let node = NodeView {
        name: "n1".to_owned(),
        addresses: vec![[192, 168, 9, 1].into()],
        cluster: cluster_config()?,
        ..NodeView::default()
    };
    Ok(Planner::new(node, actual))
}

fn ms(times: &mut Times) -> String {
    format!("{:.1} ms", times.quantile(0.5).as_secs_f64() * 1e3)
}

fn measure(options: &Options) -> anyhow::Result<()> {
    let Options { services, endpoints, changes, .. } = *options;
    let what = format!("{services} Services x {endpoints} endpoints");
    let empty = resident_kib("self")?.0;
    let snapshot = cluster(services, endpoints)?;
    let with_snapshot = resident_kib("self")?.0;
    let many = from_nothing(&what, snapshot, (empty, with_snapshot))?;
    // Sockets belong to the namespace they were opened in, so each side has a table of its own.
    let first = std::fs::File::open("/proc/thread-self/ns/net").context("this network namespace")?;
    unshare(CloneFlags::CLONE_NEWNET).context("a second network namespace")?;
    let few = small_side(endpoints)?;
    setns(&first, CloneFlags::CLONE_NEWNET).context("back to the first network namespace")?;
    let many = compare(few, many, options, changes)?;
    restart(&what, &many)
}

fn small_side(endpoints: u32) -> anyhow::Result<Side> {
    let mut target = ServiceTableTarget::open()?;
    let mut planner = planner(target.observe()?)?;
    let snapshot = cluster(FEW, endpoints)?;
    target.apply(&planner.update(&snapshot).ops)?;
    Ok(Side { snapshot, planner, target })
}

/// A whole table: planned and committed, and what that leaves in memory.
fn from_nothing(what: &str, snapshot: Snapshot, (empty, with_snapshot): (u64, u64)) -> anyhow::Result<Side> {
    let mut target = ServiceTableTarget::open()?;
    let (mut plans, mut commits) = (Times::default(), Times::default());
    let mut planned = None;
    let mut with_table = 0;
    for round in 0..REPEATS {
        target.remove()?;
        drop(planned.take());
        let begun = Instant::now();
        let mut planner = planner(ServiceTable::new())?;
        let ops = planner.update(&snapshot).ops;
        plans.push(begun.elapsed());
        let begun = Instant::now();
        target.apply(&ops)?;
        commits.push(begun.elapsed());
        drop(ops);
        planned = Some(planner);
        if round == 0 {
            with_table = resident_kib("self")?.0;
        }
    }
    let planner = planned.context("nothing was planned")?;
    let elements = planner.table().len();
    row(&format!("{what}, planned from nothing"), &ms(&mut plans));
    row(&format!("  committed, {elements} elements"), &ms(&mut commits));
    let mut small = ServiceTableTarget::with_send_buffer(PLAIN_SEND_BUFFER)?;
    target.remove()?;
    small.observe()?;
    let ops = minisvc_reconcile::diff(planner.table(), &ServiceTable::new());
    let begun = Instant::now();
    small.apply(&ops)?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    let kib = small.transaction_bytes_max() / 1024;
    row(&format!("  committed in parts of at most {kib} KiB, as a plain user"), &format!("{took:.1} ms"));
    target.observe()?;
    let mib = |from: u64, to: u64| to.saturating_sub(from) / 1024;
    let (snapshot_mib, table_mib) = (mib(empty, with_snapshot), mib(with_snapshot, with_table));
    row(
        "  resident: snapshot, planner with what the kernel has",
        &format!("{snapshot_mib}, {table_mib} MiB"),
    );
    row("  resident: both and the program", &format!("{} MiB", mib(0, with_table)));
    Ok(Side { snapshot, planner, target })
}

impl Side {
    /// One endpoint becomes another: from the snapshot to the kernel.
    fn change(&mut self, service: u32, endpoints: u32, round: u32) -> anyhow::Result<Duration> {
        let slice = slice(service, endpoints, round)?;
        let begun = Instant::now();
        self.snapshot.endpoint_slices.insert(key(service), slice);
        let delta = self.planner.update(&self.snapshot);
        self.target.apply(&delta.ops)?;
        let took = begun.elapsed();
        ensure!(!delta.ops.is_empty(), "a change changed nothing");
        Ok(took)
    }
}

/// Changes on both sides in turn. Returns the large one.
fn compare(mut few: Side, mut many: Side, options: &Options, changes: u32) -> anyhow::Result<Side> {
    let (mut of_few, mut of_many) = (Times::default(), Times::default());
    for number in 0..changes {
        // Each Service in turn, and another endpoint whenever its turn comes again.
        let turn = |services: u32| (number % services, number / services + 1);
        let (service, round) = turn(FEW);
        of_few.push(few.change(service, options.endpoints, round)?);
        let (service, round) = turn(options.services);
        of_many.push(many.change(service, options.endpoints, round)?);
    }
    few.target.remove()?;
    row(&format!("one endpoint changes, {FEW} Services: p50 / p99"), &of_few.shown());
    row(&format!("one endpoint changes, {} Services: p50 / p99", options.services), &of_many.shown());
    let mut ratio = |share| {
        of_many.quantile(share).as_secs_f64() / of_few.quantile(share).as_secs_f64().max(f64::EPSILON)
    };
    row("  so many times as long: p50 / p99", &format!("{:.2} / {:.2}", ratio(0.5), ratio(0.99)));
    Ok(many)
}

/// What a new process does first: reads the table back, plans, and finds nothing to change.
fn restart(what: &str, side: &Side) -> anyhow::Result<()> {
    let (mut whole, mut reads) = (Times::default(), Times::default());
    for _ in 0..REPEATS {
        let begun = Instant::now();
        let actual = ServiceTableTarget::open()?.observe()?;
        reads.push(begun.elapsed());
        let changes = planner(actual)?.update(&side.snapshot).ops.len();
        whole.push(begun.elapsed());
        ensure!(changes == 0, "a restart would change {changes} elements");
    }
    row(&format!("restart with {what}: read back"), &ms(&mut reads));
    row("  read back, planned, 0 changes", &ms(&mut whole));
    Ok(())
}
