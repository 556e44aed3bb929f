//! The path of a packet: a Service's address against the Pod's own, with few Services and with many.
//!
//! Two nodes, each in a network namespace of its own with its two Pods, links and table as minisvc makes them. All four
//! ways take turns in every round; a ratio is of one round, on one node, and the median of all rounds counts.

mod site;
mod traffic;

use crate::{
    figures::{Times, median, row},
    isolated,
};
use clap::Args;
use minisvc_lab::namespaces::Isolation;
use site::Site;
use std::time::Duration;
use traffic::{ASKED, Pair, TAKEN, Work};

/// Services of the small side.
const FEW: u32 = 10;

#[derive(Args)]
pub struct Options {
    /// Services of the large side
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(11..=60_000))]
    services: u32,
    /// Endpoints of each Service but the one that is used
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
    endpoints: u32,
    /// Rounds in which each way has its turn
    #[arg(long, default_value_t = 41, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// New connections of each way in a round
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=5000))]
    connections: u32,
    /// Milliseconds of bulk transfer of each way in a round
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(1..=5000))]
    bulk_ms: u64,
    /// This process is in namespaces of its own already
    #[arg(long, hide = true)]
    inside: bool,
}

/// What one way came to, a figure a round.
#[derive(Default)]
struct Way {
    connections: Vec<f64>,
    bytes: Vec<f64>,
    first: Vec<f64>,
    connects: Times,
}

/// Runs all of it, or says why it cannot be run here.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    if options.inside { measure(options) } else { isolated::again(Isolation::whole()).await }
}

fn measure(options: &Options) -> anyhow::Result<()> {
    let mut pairs = Vec::new();
    for (name, services) in [("few", FEW), ("many", options.services)] {
        let site = Site::new(name, services, options.endpoints, &[ASKED, TAKEN])?;
        pairs.push((services, Pair::start(&site)?));
    }
    // Direct and by the Service, on the node with few Services, then on the one with many.
    let ways = [(0, false), (0, true), (1, false), (1, true)];
    let mut figures: [Way; 4] = Default::default();
    let bulk = Duration::from_millis(options.bulk_ms);
    for round in 0..options.rounds as usize {
        for turn in 0..ways.len() {
            // Each way begins as often as the others, and comes after each of its neighbours as often.
            let forward = (round + turn) % ways.len();
            let at = if round / ways.len() % 2 == 0 { forward } else { ways.len() - 1 - forward };
            let (node, by_service) = ways[at];
            let (pair, way) = (&pairs[node].1, &mut figures[at]);
            let to = Site::address(ASKED, by_service);
            let mut done = pair.carry_out(Work::Connections(to, options.connections))?;
            way.connections.push(done.rate);
            way.first.push(done.connects.quantile(0.5).as_secs_f64());
            way.connects.extend(done.connects);
            let to = Site::address(TAKEN, by_service);
            way.bytes.push(pair.carry_out(Work::Bulk(to, bulk))?.rate);
        }
    }
    let [direct_few, few, direct_many, many] = &mut figures;
    report(&format!("{FEW} Services"), direct_few, few);
    report(&format!("{} Services", options.services), direct_many, many);
    row(
        &format!("  Service's address with {} against {FEW} Services", options.services),
        &format!("{:.3} / {:.3}", ratio(&many.connections, &few.connections), ratio(&many.bytes, &few.bytes)),
    );
    Ok(())
}

fn ratio(of: &[f64], against: &[f64]) -> f64 {
    median(of.iter().zip(against).map(|(of, against)| of / against).collect())
}

fn report(what: &str, direct: &mut Way, service: &mut Way) {
    for (name, way) in [("Pod's own address", &mut *direct), ("Service's address", &mut *service)] {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        row(
            &format!("{what}, {name}: connect, p50 / p99"),
            &format!("{:.1} / {:.1} us", us(way.connects.quantile(0.5)), us(way.connects.quantile(0.99))),
        );
        row("  connections a second, one at a time", &format!("{:.0}", median(way.connections.clone())));
        row("  one TCP connection carries", &format!("{:.2} Gbit/s", median(way.bytes.clone()) * 8e-9));
    }
    row(
        "  against the Pod's address: speed of connect, connections, bytes",
        &format!(
            "{:.3} / {:.3} / {:.3}",
            ratio(&direct.first, &service.first),
            ratio(&service.connections, &direct.connections),
            ratio(&service.bytes, &direct.bytes)
        ),
    );
}
