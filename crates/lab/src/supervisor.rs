//! The lab's first process: makes the underlay, switches machines on and off.
//!
//! Invariant: its end is the end of the lab.

use crate::{
    LabError,
    control::{self, MemberStatus, Request, Response},
    layout::{Lab, LabOptions, Member, members},
    links,
    member::{LISTEN_FD, inherited_listener},
    namespaces::{Isolation, isolate},
};
use ipnet::IpNet;
use rtnetlink::Handle;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

/// How long a machine of a lab may be silent, in seconds: nobody wants to wait there.
const SILENCE_FLAG: &str = "--node-monitor-grace-period";
const SILENCE_S: &str = "4";
/// The port of the API.
const API_PORT: u16 = 6443;
/// Longest wait for the first server's join token.
const TOKEN_WAIT: Duration = Duration::from_secs(10);

struct Supervisor {
    lab: Lab,
    options: LabOptions,
    members: Vec<Member>,
    links: Handle,
    /// Waiting parents of the machines that are on.
    on: BTreeMap<String, Child>,
    listener: OwnedFd,
}

/// Is the lab at this directory; returns only on failure or after [`Request::Down`].
///
/// # Errors
/// If the lab cannot be set up.
pub async fn run(lab: Lab) -> Result<(), LabError> {
    let file = |operation, path: std::path::PathBuf| move |source| LabError::File { operation, path, source };
    let options = lab.options()?;
    let listener = inherited_listener().map_err(file("take over", "the API socket".into()))?;
    let links = links::handle()?;
    links::make_underlay(&links).await?;
    let members = members(options.nodes);
    let mut supervisor = Supervisor { lab, options, members, links, on: BTreeMap::new(), listener };

    let socket = supervisor.lab.control_socket();
    let control = UnixListener::bind(&socket).map_err(file("listen at", socket.clone()))?;
    let mut children = signal(SignalKind::child()).map_err(file("watch children of", socket))?;
    for member in supervisor.members.clone() {
        supervisor.switch_on(&member).await?;
    }
    loop {
        tokio::select! {
            _ = children.recv() => supervisor.on.retain(|_, child| matches!(child.try_wait(), Ok(None))),
            request = control::accept(&control) => {
                let Ok(Some((request, stream))) = request else { continue };
                let response = supervisor.handle(&request).await;
                control::answer(stream, &response).await;
                if request == Request::Down {
                    return Ok(());
                }
            }
        }
    }
}

impl Supervisor {
    async fn handle(&mut self, request: &Request) -> Response {
        match request {
            Request::Status => {
                Response::Members(self.members.iter().map(|member| self.status(member)).collect())
            }
            Request::Start { member } => match self.start(member).await {
                Ok(()) => Response::Done,
                Err(error) => Response::Failed(error.to_string()),
            },
            Request::PowerOff { member } => match self.on.remove(member) {
                None => Response::Failed(LabError::MemberOff { member: member.clone() }.to_string()),
                Some(mut waiting_parent) => {
                    // Its child, pid 1 of the machine, dies with it, and with pid 1 the rest.
                    let ended = waiting_parent.kill().and_then(|()| waiting_parent.wait());
                    ended.map_or_else(|error| Response::Failed(error.to_string()), |_| Response::Done)
                }
            },
            Request::KillServer => Response::Failed("ask the member".to_owned()),
            Request::Down => Response::Done,
        }
    }

    fn status(&self, member: &Member) -> MemberStatus {
        MemberStatus {
            name: member.name.clone(),
            address: member.address,
            on: self.on.contains_key(&member.name),
        }
    }

    async fn start(&mut self, name: &str) -> Result<(), LabError> {
        if self.on.contains_key(name) {
            let request = Request::Start { member: name.to_owned() };
            return control::ask(&self.lab.member(name).socket(), &request).await.map(drop);
        }
        let member = self.members.iter().find(|member| member.name == name).cloned();
        match member {
            Some(member) => self.switch_on(&member).await,
            None => Err(LabError::MemberOff { member: name.to_owned() }),
        }
    }

    async fn switch_on(&mut self, member: &Member) -> Result<(), LabError> {
        let first = self.members.first().is_some_and(|first| first.name == member.name);
        let server_args = if member.is_node { self.server_args(member, first).await? } else { Vec::new() };
        let mut command = Command::new("/proc/self/exe");
        command.arg0("minisvc");
        command
            .arg("lab-member")
            .arg("--dir")
            .arg(self.lab.dir())
            .args(["--member", &member.name])
            .args(first.then_some("--has-listener"))
            .arg("--")
            .args(server_args)
            .stdin(Stdio::null());
        if first {
            pass_listener(&mut command, &self.listener);
        }
        let failed = |source| LabError::Namespaces { source };
        let _stale = std::fs::remove_file(self.lab.member(&member.name).socket());
        isolate(&mut command, Isolation { network: true, user: false, die_with_parent: true })
            .map_err(failed)?;
        let child = command.spawn().map_err(failed)?;
        links::unplug(&self.links, &member.name).await;
        links::plug(&self.links, &member.name, child.id()).await?;
        self.on.insert(member.name.clone(), child);
        Ok(())
    }

    async fn server_args(&self, member: &Member, first: bool) -> Result<Vec<String>, LabError> {
        let files = self.lab.member(&member.name);
        let cluster = self.options.cluster();
        let addresses: Vec<String> =
            cluster.families().into_iter().map(|family| member.address_of(family).to_string()).collect();
        let mut args: Vec<String> = [
            "server",
            "--node-name",
            &member.name,
            "--node-ip",
            &addresses.join(","),
            "--data-dir",
            &files.data().to_string_lossy(),
        ]
        .map(str::to_owned)
        .into();
        if first {
            for (flag, value) in [
                ("--cluster-cidr", list(&cluster.cluster_cidrs)),
                ("--service-cidr", list(&cluster.service_cidrs)),
                ("--load-balancer-pool", self.options.load_balancer_pool()),
                ("--write-kubeconfig", files.kubeconfig().to_string_lossy().into_owned()),
            ] {
                args.extend([flag.to_owned(), value]);
            }
            if !self.options.server_flags.iter().any(|flag| flag == SILENCE_FLAG) {
                args.extend([SILENCE_FLAG, SILENCE_S].map(str::to_owned));
            }
            args.extend(self.options.server_flags.iter().cloned());
        } else {
            let Some(server) = self.members.first() else { return Ok(args) };
            let server_address = SocketAddr::new(server.address_of(cluster.primary_family()), API_PORT);
            args.extend(["--join".to_owned(), format!("https://{server_address}")]);
            args.extend(["--token".to_owned(), self.token(&server.name).await?]);
        }
        Ok(args)
    }

    /// The join token, which the first server writes once it can be joined.
    async fn token(&self, server: &str) -> Result<String, LabError> {
        let files = self.lab.member(server);
        let path = files.data().join("token");
        let wait = async {
            loop {
                if let Ok(token) = std::fs::read_to_string(&path)
                    && token.ends_with('\n')
                {
                    return Ok(token.trim().to_owned());
                }
                if let Ok(Response::Server { pid: None, last_exit: Some(how) }) =
                    control::ask(&files.socket(), &Request::Status).await
                {
                    return Err(LabError::Refused { why: ended(server, &how, &files.log()) });
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let late = || LabError::Refused { why: format!("{server}: no join token within {TOKEN_WAIT:?}") };
        tokio::time::timeout(TOKEN_WAIT, wait).await.unwrap_or_else(|_| Err(late()))
    }
}

fn list(nets: &[IpNet]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Why a server is not there, with its last words.
fn ended(server: &str, how: &str, log: &std::path::Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(5).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    format!("the server of {server} ended ({how}):\n{}", last.join("\n"))
}

/// Hands the API socket to the child at [`LISTEN_FD`].
#[allow(unsafe_code)]
fn pass_listener(command: &mut Command, listener: &OwnedFd) {
    let fd = listener.as_raw_fd();
    // SAFETY: dup2 and fcntl between fork and exec touch no memory.
    unsafe {
        command.pre_exec(move || {
            let passed =
                if fd == LISTEN_FD { libc::fcntl(fd, libc::F_SETFD, 0) } else { libc::dup2(fd, LISTEN_FD) };
            if passed < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
}
