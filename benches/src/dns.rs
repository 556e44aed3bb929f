//! Cluster DNS: answers a second and how long each took, by UDP and by TCP, with so many names.
//!
//! The name server is a process of its own, as a node starts it; this program and `dnsperf`, if there is one, ask it from
//! the same cores, so what the server itself used is said beside.

mod load;

use crate::{
    figures::{cpu_time, row},
    served::Child,
};
use anyhow::Context;
use clap::Args;
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot, Synced};
use minisvc_dns::Records;
use minisvc_nameserver::{Config, Nameserver};
use serde_json::json;
use std::{
    io::{ErrorKind, Write},
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::Arc,
    time::Duration,
};

/// Clients, each on a thread of its own.
const CLIENTS: usize = 2;

#[derive(Args)]
pub struct Options {
    /// Services, each with a name
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    names: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Questions that wait for an answer, by UDP, in all
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=4096))]
    window: u32,
    /// TCP connections, one question each at a time, in all
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=128))]
    connections: u32,
}

#[derive(Args)]
pub struct ServeOptions {
    /// Services, each with a name
    names: u32,
}

fn name(number: u32) -> String {
    format!("svc-{number}")
}

/// Answers until standard input ends.
pub async fn serve(options: &ServeOptions) -> anyhow::Result<()> {
    let nameserver = Nameserver::bind(&Config {
        addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        sockets_per_address: std::thread::available_parallelism().map_or(1, usize::from).min(4),
        ..Config::default()
    })?;
    let mut world = Snapshot::default();
    for number in 0..options.names {
        let key = ObjectKey::new("default", name(number));
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 43, 1, 0)) + number);
        let service = json!({"metadata": {"namespace": key.namespace, "name": key.name},
                             "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80}]}});
        world.services.insert(key, Arc::new(serde_json::from_value(service)?));
    }
    nameserver.handle().publish(Records::new(&ClusterConfig::default(), &Synced::after_all_lists(world)));
    println!("{}", nameserver.addresses().first().context("no address")?);
    nameserver
        .serve(async {
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
        })
        .await;
    Ok(())
}

/// Runs all of it.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let (server, said) = Child::start(&["serve-dns".as_ref(), options.names.to_string().as_ref()]).await?;
    let address: SocketAddr = said.parse()?;
    let how_long = Duration::from_secs(options.seconds);
    let Options { names, window, connections, .. } = *options;
    for (way, at_once) in [(load::Way::Udp, window), (load::Way::Tcp, connections)] {
        let before = cpu_time(server.pid()?)?;
        let (answers, took, mut times) = load::run(&load::Load {
            server: address,
            way,
            names,
            at_once: (at_once as usize).div_ceil(CLIENTS),
            clients: CLIENTS,
            how_long,
        })?;
        let used = cpu_time(server.pid()?)?.saturating_sub(before);
        let rate = answers as f64 / took.as_secs_f64();
        row(
            &format!("{names} names, {way}, {at_once} questions at once: answers a second"),
            &format!("{rate:.0}"),
        );
        row("  each: p50 / p99", &times.shown());
        let each = used.as_secs_f64() * 1e6 / (answers as f64).max(1.0);
        row(
            "  the server's own time for one; two cores of it a second",
            &format!("{each:.2} us; {:.0}", 2e6 / each),
        );
    }
    dnsperf(options, address)?;
    server.stop().await
}

/// The same by the tool that others use.
fn dnsperf(options: &Options, server: SocketAddr) -> anyhow::Result<()> {
    let mut questions = tempfile::NamedTempFile::new()?;
    for number in 0..options.names {
        writeln!(questions, "{}.default.svc.cluster.local A", name(number))?;
    }
    questions.flush()?;
    for (mode, at_once) in [("udp", options.window), ("tcp", options.connections)] {
        let out = Command::new("dnsperf")
            .args(["-s", &server.ip().to_string(), "-p", &server.port().to_string(), "-m", mode, "-T", "2"])
            .args(["-l", &options.seconds.to_string(), "-q", &at_once.to_string()])
            .args(["-c", &(if mode == "tcp" { at_once } else { 8 }).to_string(), "-d"])
            .arg(questions.path())
            .output();
        let out = match out {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                println!("dnsperf: not installed, left out");
                return Ok(());
            }
            out => out.context("run dnsperf")?,
        };
        let text = String::from_utf8_lossy(&out.stdout);
        let said = |what: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(what));
            line.map(str::trim).unwrap_or("not said").to_owned()
        };
        row(
            &format!("dnsperf, {mode}, {at_once} questions at once: answers a second"),
            &said("Queries per second:"),
        );
        row("  lost", &said("Queries lost:"));
        row("  seconds for one", &said("Average Latency (s):"));
    }
    Ok(())
}
