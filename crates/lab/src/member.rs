//! A member's first process: pid 1 of its machine.
//!
//! It gives the card its address, starts `minisvc server` and reaps what is orphaned. It starts the server again
//! only when asked: a lab is where people kill servers to see what goes on without them.
//!
//! Invariant: the end of this process is the power-off of the machine.

use crate::{
    LabError,
    control::{self, Request, Response},
    layout::{Lab, LabOptions, Member},
    links,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::{
    os::fd::{FromRawFd, OwnedFd, RawFd},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

/// Descriptor at which the first node finds the API socket of the host (as sd_listen_fds(3) has it).
pub const LISTEN_FD: RawFd = 3;

/// What a member's first process is started with.
#[derive(Debug)]
pub struct MemberProcess {
    /// The lab.
    pub lab: Lab,
    /// The machine to be.
    pub member: Member,
    /// The server's command line after `minisvc`; empty for the client.
    pub server_args: Vec<String>,
    /// Whether [`LISTEN_FD`] is an API socket to hand to the server.
    pub has_listener: bool,
}

/// Where programs read which name server to ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";

struct Server {
    pid: Option<i32>,
    last_exit: Option<String>,
}

impl MemberProcess {
    /// Is the machine; returns only on failure.
    ///
    /// # Errors
    /// If the machine cannot be set up.
    pub async fn run(self) -> Result<(), LabError> {
        let file = |operation, path: &std::path::Path| {
            let path = path.to_owned();
            move |source| LabError::File { operation, path, source }
        };
        nix::unistd::sethostname(&self.member.name)
            .map_err(|error| LabError::Refused { why: format!("set host name: {error}") })?;
        links::configure_card(&self.member).await?;
        if self.member.is_node {
            let path = std::path::Path::new(RESOLV_CONF);
            let text = resolv_conf(&self.lab.options()?);
            use_cluster_dns(path, &self.lab.member(&self.member.name).resolv_conf(), &text)
                .map_err(file("have names of the cluster by", path))?;
        }
        let socket = self.lab.member(&self.member.name).socket();
        let _stale = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(file("listen at", &socket))?;
        let mut orphans = signal(SignalKind::child()).map_err(file("watch children of", &socket))?;
        let mut server = Server { pid: None, last_exit: None };
        if !self.server_args.is_empty() {
            self.start(&mut server)?;
        }
        loop {
            tokio::select! {
                _ = orphans.recv() => reap(&mut server),
                request = control::accept(&listener) => {
                    if let Ok(Some((request, stream))) = request {
                        let response = self.handle(&request, &mut server);
                        control::answer(stream, &response).await;
                    }
                }
            }
        }
    }

    fn handle(&self, request: &Request, server: &mut Server) -> Response {
        match request {
            Request::Status => Response::Server { pid: server.pid, last_exit: server.last_exit.clone() },
            Request::Start { .. } if server.pid.is_some() || self.server_args.is_empty() => Response::Done,
            Request::Start { .. } => match self.start(server) {
                Ok(()) => Response::Done,
                Err(error) => Response::Failed(error.to_string()),
            },
            Request::KillServer => match server.pid {
                None => Response::Failed("no server runs".to_owned()),
                Some(pid) => {
                    let killed = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid),
                        nix::sys::signal::Signal::SIGKILL,
                    );
                    match killed {
                        Ok(()) => Response::Done,
                        Err(error) => Response::Failed(format!("kill {pid}: {error}")),
                    }
                }
            },
            Request::Down | Request::PowerOff { .. } => Response::Failed("ask the supervisor".to_owned()),
        }
    }

    fn start(&self, server: &mut Server) -> Result<(), LabError> {
        let path = self.lab.member(&self.member.name).log();
        let failed =
            |source| LabError::File { operation: "start server, log to", path: path.clone(), source };
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("minisvc");
        command
            .args(&self.server_args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log);
        if self.has_listener {
            command.env("LISTEN_FDS", "1");
            keep_listener(&mut command);
        }
        let child = command.spawn().map_err(failed)?;
        server.pid = i32::try_from(child.id()).ok();
        Ok(())
    }
}

/// Lets [`LISTEN_FD`] pass through exec, with `LISTEN_PID` unset: the server is a child of ours, not of systemd.
#[allow(unsafe_code)]
fn keep_listener(command: &mut Command) {
    // SAFETY: fcntl between fork and exec touches no memory.
    unsafe {
        command.pre_exec(|| match libc::fcntl(LISTEN_FD, libc::F_SETFD, 0) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

/// Takes over the descriptor that was handed down.
#[allow(unsafe_code)]
pub fn inherited_listener() -> std::io::Result<OwnedFd> {
    // SAFETY: only this function takes the descriptor, once, and fcntl tells whether there is one.
    unsafe {
        if libc::fcntl(LISTEN_FD, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(LISTEN_FD))
    }
}

/// Cluster DNS, answered on the node itself. No search domains: those are for Pods.
fn resolv_conf(options: &LabOptions) -> String {
    options.cluster().dns_addresses().iter().map(|address| format!("nameserver {address}\n")).collect()
}

/// Shows programs of this machine `ours`, with this text, in place of the host's file at `path`, if the host has one.
fn use_cluster_dns(path: &std::path::Path, ours: &std::path::Path, text: &str) -> std::io::Result<()> {
    std::fs::write(ours, text)?;
    match std::fs::canonicalize(path) {
        Ok(real) => {
            let none = None::<&str>;
            nix::mount::mount(Some(ours), &real, none, nix::mount::MsFlags::MS_BIND, none)?;
        }
        // A link into the host's /run, of which the machine has an empty one of its own.
        Err(_) => {
            if let Ok(link) = std::fs::read_link(path) {
                let real = path.parent().unwrap_or(path).join(link);
                std::fs::create_dir_all(real.parent().unwrap_or(&real))?;
                std::fs::copy(ours, &real)?;
            }
        }
    }
    Ok(())
}

fn reap(server: &mut Server) {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        let (pid, words) = match status {
            WaitStatus::Exited(pid, code) => (pid, format!("exit status {code}")),
            WaitStatus::Signaled(pid, signal, _) => (pid, signal.to_string()),
            _ => return,
        };
        if server.pid == Some(pid.as_raw()) {
            *server = Server { pid: None, last_exit: Some(words) };
        }
    }
}
