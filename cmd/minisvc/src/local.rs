//! Commands that need no API: the join token, the kubeconfig, the version, shell completion.

use anyhow::Context;
use clap::{Args, CommandFactory, Subcommand, ValueEnum};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Commands that need no API.
#[derive(Debug, Subcommand)]
pub enum LocalCommand {
    /// Print the token that `minisvc server --join` takes (on the first server).
    Token(TokenArgs),
    /// Print the administrator's kubeconfig, or that of another role (on the first server).
    Kubeconfig(KubeconfigArgs),
    /// Print the version.
    Version,
    /// Print a script that completes minisvc's commands in this shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// `minisvc token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The server's --data-dir.
    #[arg(long, env = "MINISVC_DATA_DIR", default_value = "/var/lib/minisvc")]
    data_dir: PathBuf,
}

/// `minisvc kubeconfig`.
#[derive(Debug, Args)]
pub struct KubeconfigArgs {
    /// The server's --write-kubeconfig.
    #[arg(long, env = "MINISVC_WRITE_KUBECONFIG", default_value = "/etc/minisvc/kubeconfig")]
    file: PathBuf,
    /// What its user may do.
    #[arg(long, default_value = "admin")]
    role: Role,
}

/// The built-in roles that people have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Everything.
    Admin,
    /// Reads everything but Secrets.
    View,
}

impl Role {
    /// The file of this role's kubeconfig, next to the administrator's.
    pub fn kubeconfig(self, admin: &Path) -> PathBuf {
        let mut path = admin.as_os_str().to_owned();
        if self == Self::View {
            path.push(".view");
        }
        path.into()
    }
}

/// Runs one of these commands; `C` is the whole program's command line.
///
/// # Errors
/// If the file to print cannot be read.
pub fn run<C: CommandFactory>(command: LocalCommand) -> anyhow::Result<ExitCode> {
    let read = |path: PathBuf| {
        std::fs::read_to_string(&path).with_context(|| {
            format!("read {}: does the first server run here, and are you root?", path.display())
        })
    };
    match command {
        LocalCommand::Token(args) => print!("{}", read(args.data_dir.join("token"))?),
        LocalCommand::Kubeconfig(args) => print!("{}", read(args.role.kubeconfig(&args.file))?),
        LocalCommand::Version => println!("minisvc {} (Kubernetes API v1.33)", env!("CARGO_PKG_VERSION")),
        LocalCommand::Completion { shell } => {
            clap_complete::generate(shell, &mut C::command(), "minisvc", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}
