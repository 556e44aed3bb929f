//! The command line's API verbs: `apply`, `create`, `get`, `describe`, `delete`, `logs`, `exec`,
//! `attach`, `cp`, `port-forward`; and `trace`, which asks what becomes of a packet.
//!
//! In: kubectl's flags. Out: kubectl's words on standard output, errors on standard error, and an exit status.
//!
//! Invariant: manifests are checked, all of them, before anything is sent.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod api;
mod apply;
mod attach;
mod config;
mod cp;
mod delete;
mod describe;
mod exec;
mod get;
mod jsonpath;
mod logs;
mod manifest;
mod output;
mod port_forward;
mod session;
pub mod table;
mod target;
mod trace;

use api::Failure;
use clap::Subcommand;
use std::{path::PathBuf, process::ExitCode};

/// The API verbs.
#[derive(Debug, Subcommand)]
pub enum ApiCommand {
    /// Create objects from manifests, or change them to what the manifests say.
    Apply(apply::ApplyArgs),
    /// Create objects from manifests.
    Create(apply::CreateArgs),
    /// Show objects, as tables or as they are.
    Get(Box<get::GetArgs>),
    /// Show objects in detail, with their events.
    Describe(describe::DescribeArgs),
    /// Delete objects by manifest, name or label.
    Delete(delete::DeleteArgs),
    /// Print the logs of a container of a Pod.
    Logs(logs::LogsArgs),
    /// Run a command in a container of a Pod.
    Exec(exec::ExecArgs),
    /// Show what a running container writes from now on, and write to it.
    Attach(attach::AttachArgs),
    /// Copy files to and from a container of a Pod.
    Cp(cp::CpArgs),
    /// Let local ports lead to ports of a Pod.
    PortForward(port_forward::PortForwardArgs),
    /// Follow the first packet of a connection: which Service, endpoints, translations and links, or why it is refused.
    Trace(trace::TraceArgs),
}

/// Runs a verb to its end in a runtime of its own, and says on standard error what went wrong.
///
/// `fallbacks` are kubeconfigs to look for before the one in the home directory, such as a lab's.
pub fn run(command: ApiCommand, fallbacks: &[PathBuf]) -> ExitCode {
    // Only the first installation counts; another part of the program may have made it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(dispatch(command, fallbacks));
    // A read of standard input that will never end must not keep the program.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(Failure::Reported) => ExitCode::FAILURE,
        // Whoever reads our output has had enough; as `kubectl get | head`, this is no error.
        Err(Failure::Output { source }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: ApiCommand, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    match command {
        ApiCommand::Apply(args) => apply::apply(args, fallbacks).await,
        ApiCommand::Create(args) => apply::create(args, fallbacks).await,
        ApiCommand::Get(args) => get::run(*args, fallbacks).await,
        ApiCommand::Describe(args) => describe::run(args, fallbacks).await,
        ApiCommand::Delete(args) => delete::run(args, fallbacks).await,
        ApiCommand::Logs(args) => logs::run(args, fallbacks).await,
        ApiCommand::Exec(args) => exec::run(args, fallbacks).await,
        ApiCommand::Attach(args) => attach::run(args, fallbacks).await,
        ApiCommand::Cp(args) => cp::run(args, fallbacks).await,
        ApiCommand::PortForward(args) => port_forward::run(args, fallbacks).await,
        ApiCommand::Trace(args) => trace::run(args, fallbacks).await,
    }
}

#[cfg(test)]
mod tests;
