//! Benchmarks of minisvc: `cargo run --release -p minisvc-bench -- api` (or `table`).
//!
//! Invariants: each prints a table of what it measured and judges nothing; load stays on this machine, is bounded, and
//! ends by itself; nothing is left behind.
// Printing is what this program is for.
#![allow(clippy::print_stdout)]

mod api;
mod client;
mod figures;
mod isolated;
mod path;
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
    /// A packet's path: a Service's address against the Pod's own
    Path(path::Options),
    /// The API server that `api` measures, as a process of its own
    #[command(hide = true)]
    Serve(server::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Args::parse().bench {
        Bench::Api(options) => api::run(&options).await,
        Bench::Table(options) => table::run(&options),
        Bench::Path(options) => path::run(&options),
        Bench::Serve(options) => server::serve(&options).await,
    }
}
