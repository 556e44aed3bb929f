//! The minisvc binary: the command line, and the wiring of the roles.
//!
//! Invariant: subcommands that enter namespaces (`lab exec`, the Pods' helpers) run before any thread is started.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod image;
mod lab;
mod local;
mod server;

use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Kubernetes Services without Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "minisvc", version, propagate_version = true, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node; the first one also runs the cluster's API.
    Server(Box<server::ServerArgs>),
    /// A whole cluster on this machine, made of network namespaces.
    #[command(subcommand)]
    Lab(lab::LabCommand),
    #[command(flatten)]
    Api(cli::ApiCommand),
    /// The images of this node.
    #[command(subcommand)]
    Image(image::ImageCommand),
    #[command(flatten)]
    Local(local::LocalCommand),
    #[command(flatten)]
    LabProcess(lab::LabProcess),
}

fn main() -> ExitCode {
    let hidden = minisvc_runtime::hidden::run(std::env::args_os());
    if let Some(status) = hidden.or_else(|| minisvc_datapath::tun::worker::run(std::env::args_os())) {
        return u8::try_from(status).unwrap_or(1).into();
    }
    let args = match server::with_config_file(std::env::args_os().collect()) {
        Ok(args) => Args::parse_from(args),
        Err(error) => return fail(&error),
    };
    let outcome = match args.command {
        Command::Server(args) => server::run(*args),
        Command::Lab(command) => lab::run(command),
        Command::Api(command) => return cli::run(command, &lab_kubeconfigs()),
        Command::Image(command) => image::run(command),
        Command::Local(command) => local::run::<Args>(command),
        Command::LabProcess(process) => lab::run_process(process),
    };
    outcome.unwrap_or_else(|error| fail(&error))
}

/// The kubeconfigs of this user's labs, for verbs that are told of no other.
fn lab_kubeconfigs() -> Vec<PathBuf> {
    use minisvc_lab::layout::Lab;
    let named = std::env::var("MINISVC_LAB_NAME").ok();
    Lab::meant(named.as_deref(), Lab::all()).iter().map(Lab::kubeconfig).collect()
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("minisvc: {}", in_one_line(error));
    ExitCode::FAILURE
}

/// An error and its causes; many of ours say their cause in their own words, and then it is not said again.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_cause_is_said_once() {
        let lost = || std::io::Error::other("lost");
        assert_eq!(in_one_line(&anyhow::Error::from(lost()).context("read a")), "read a: lost");
        assert_eq!(
            in_one_line(&anyhow::Error::from(lost()).context("read a: lost; find it")),
            "read a: lost; find it"
        );
    }
}
