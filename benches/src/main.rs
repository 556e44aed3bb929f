//! Benchmarks of minisvc: `cargo run --release -p minisvc-bench -- api` (or `table`, `path`, `dns`, `node`, `pods`).
//!
//! Invariants: each prints a table of what it measured and judges nothing; load stays on this machine, is bounded, and
//! ends by itself; nothing is left behind.
// Printing is what this program is for.
#![allow(clippy::print_stdout)]

mod api;
mod client;
mod dns;
mod figures;
mod isolated;
mod node;
mod path;
mod pods;
mod served;
mod server;
mod table;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Benchmarks of minisvc; each prints a table")]
struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// The API over TLS: durable creates, gets, lists, watches, memory
    Api(api::Options),
    /// The service table: from nothing, one endpoint changed, read back, memory
    Table(table::Options),
    /// Cluster DNS: answers a second and how long they take, by UDP and TCP
    Dns(dns::Options),
    /// A node's agent with many Services: memory, changes by the API, a restart under traffic
    Node(node::Options),
    /// Pods on a node: how soon they are ready, what each costs, what is left of them
    Pods(pods::Options),
    /// A packet's path: a Service's address against the Pod's own
    Path(path::Options),
    /// The API server that `api` measures, as a process of its own
    #[command(hide = true)]
    Serve(server::Options),
    /// The name server that `dns` measures, as a process of its own
    #[command(hide = true)]
    ServeDns(dns::ServeOptions),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Args::parse().bench {
        Bench::Api(options) => api::run(&options).await,
        Bench::Table(options) => table::run(&options).await,
        Bench::Dns(options) => dns::run(&options).await,
        Bench::ServeDns(options) => dns::serve(&options).await,
        Bench::Path(options) => path::run(&options).await,
        Bench::Node(options) => node::run(&options).await,
        Bench::Pods(options) => pods::run(&options).await,
        Bench::Serve(options) => server::serve(&options).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
