//! The lab from the host's side: up, status, down.

use crate::{
    LabError,
    control::{self, MemberStatus, Request, Response},
    enter,
    layout::{Lab, LabOptions, NODES_MAX, members},
    links,
    member::LISTEN_FD,
    namespaces::{Isolation, isolate},
};
use minisvc_apimachinery::Family;
use minisvc_runtime::cgroup::{self, Groups};
use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    os::fd::{AsRawFd, RawFd},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for every machine to be on.
const UP_WAIT: Duration = Duration::from_secs(15);
/// Longest wait for the last process to be gone.
const DOWN_WAIT: Duration = Duration::from_secs(10);

/// A lab that this process started.
#[derive(Debug)]
pub struct Started {
    /// Port of node 1's API on the host's loopback.
    pub api_port: u16,
    /// The waiting parent of the supervisor; killing it ends the lab.
    pub supervisor: Child,
}

/// Whether the lab's supervisor answers.
pub fn is_up(lab: &Lab) -> bool {
    enter::listener_pid(&lab.control_socket()).is_ok()
}

/// Whether such a lab can be started.
///
/// # Errors
/// If one of this name is up, no lab is that large, or the kernel lacks a family of the cluster.
pub fn check(lab: &Lab, options: &LabOptions) -> Result<(), LabError> {
    let nodes = options.nodes;
    if nodes == 0 || nodes > NODES_MAX {
        return Err(LabError::Nodes { nodes });
    }
    if is_up(lab) {
        return Err(LabError::Exists { name: lab.name().to_owned() });
    }
    if options.cluster().families().contains(&Family::Ipv6) && !links::has_ipv6() {
        let why = "--cluster-cidr: this kernel has no IPv6; choose an IPv4 network".to_owned();
        return Err(LabError::Refused { why });
    }
    Ok(())
}

/// Starts a lab and returns when all its machines are on; their servers may still be starting.
///
/// With `die_with_parent` the lab ends when the calling thread does.
///
/// # Errors
/// If one of this name is up, or something cannot be made; then nothing is left.
pub async fn up(lab: &Lab, options: &LabOptions, die_with_parent: bool) -> Result<Started, LabError> {
    check(lab, options)?;
    remove_files(lab)?; // of a lab that was killed
    let started = start(lab, options, die_with_parent).await;
    if started.is_err() {
        let _first_error_counts = remove_files(lab);
    }
    started
}

async fn start(lab: &Lab, options: &LabOptions, die_with_parent: bool) -> Result<Started, LabError> {
    let file = |operation, path: std::path::PathBuf| move |source| LabError::File { operation, path, source };
    lab.create_dirs(&members(options.nodes))?;
    let text =
        serde_json::to_vec(options).map_err(|error| file("encode", lab.options_file())(error.into()))?;
    std::fs::write(lab.options_file(), text).map_err(file("write", lab.options_file()))?;
    let log = std::fs::File::create(lab.log()).map_err(file("create", lab.log()))?;

    // Opened here, in the host's network namespace, and handed down: the host reaches the lab's API through it.
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(file("listen on", "127.0.0.1".into()))?;
    let api_port = listener.local_addr().map_err(file("listen on", "127.0.0.1".into()))?.port();

    let mut command = Command::new("/proc/self/exe");
    command.arg0("minisvc");
    command
        .arg("lab-supervisor")
        .arg("--dir")
        .arg(lab.dir())
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(file("open", lab.log()))?)
        .stderr(log);
    hand_down(&mut command, listener.as_raw_fd());
    let isolation = Isolation { die_with_parent, ..Isolation::whole() };
    isolate(&mut command, isolation).map_err(|source| LabError::Namespaces { source })?;
    let mut supervisor = command.spawn().map_err(|source| LabError::Namespaces { source })?;
    match all_on(lab, &mut supervisor).await {
        Ok(()) => Ok(Started { api_port, supervisor }),
        Err(error) => {
            let _gone = supervisor.kill().and_then(|()| supervisor.wait());
            Err(error)
        }
    }
}

/// Puts the API socket where the supervisor looks for it, and the supervisor into a session of its own.
#[allow(unsafe_code)]
fn hand_down(command: &mut Command, listener: RawFd) {
    // SAFETY: setsid, dup2 and fcntl between fork and exec touch no memory.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            let passed = if listener == LISTEN_FD {
                libc::fcntl(listener, libc::F_SETFD, 0)
            } else {
                libc::dup2(listener, LISTEN_FD)
            };
            if passed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
}

async fn all_on(lab: &Lab, supervisor: &mut Child) -> Result<(), LabError> {
    let deadline = Instant::now() + UP_WAIT;
    loop {
        if let Ok(Some(status)) = supervisor.try_wait() {
            let words = std::fs::read_to_string(lab.log()).unwrap_or_default();
            return Err(LabError::Refused { why: format!("the lab ended ({status}): {}", words.trim()) });
        }
        match status(lab).await {
            Ok(members) if members.iter().all(|member| member.on) => return Ok(()),
            Ok(_) | Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
            Ok(_) => {
                return Err(LabError::Refused { why: format!("not all machines on within {UP_WAIT:?}") });
            }
            Err(error) => return Err(error),
        }
    }
}

/// The machines of a lab.
///
/// # Errors
/// If it is not up.
pub async fn status(lab: &Lab) -> Result<Vec<MemberStatus>, LabError> {
    if !is_up(lab) {
        return Err(LabError::Absent { name: lab.name().to_owned() });
    }
    match control::ask(&lab.control_socket(), &Request::Status).await? {
        Response::Members(members) => Ok(members),
        other => Err(LabError::Refused { why: format!("unexpected answer {other:?}") }),
    }
}

/// Ends a lab and removes its files. A lab that was killed leaves only files; they go too.
///
/// # Errors
/// If there is neither a lab nor files, or processes remain.
pub async fn down(lab: &Lab) -> Result<(), LabError> {
    let Ok(pid) = enter::listener_pid(&lab.control_socket()) else {
        if lab.dir().exists() {
            return remove_files(lab);
        }
        return Err(LabError::Absent { name: lab.name().to_owned() });
    };
    control::ask(&lab.control_socket(), &Request::Down).await?;
    let deadline = Instant::now() + DOWN_WAIT;
    // Pid 1 is gone only after every other process of its namespace is.
    while std::path::Path::new(&format!("/proc/{pid}/ns")).exists() && is_running(pid) {
        if Instant::now() > deadline {
            return Err(LabError::Refused { why: format!("process {pid} of the lab does not end") });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    remove_files(lab)
}

pub(crate) fn is_running(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

/// Removes every file of a lab.
///
/// # Errors
/// If one cannot be removed.
pub fn remove_files(lab: &Lab) -> Result<(), LabError> {
    // Control groups are the kernel's, and outlive the processes that were in them.
    for member in std::fs::read_dir(lab.dir().join("members")).into_iter().flatten().flatten() {
        let name = cgroup::name_for(&lab.member(&member.file_name().to_string_lossy()).data());
        Groups::find(&name).sweep();
    }
    match std::fs::remove_dir_all(lab.dir()) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LabError::File { operation: "remove", path: lab.dir().to_owned(), source })
        }
        _ => {
            // The directory of all labs goes with the last one.
            if let Some(base) = lab.dir().parent() {
                let _others_there = std::fs::remove_dir(base);
            }
            Ok(())
        }
    }
}

/// Writes the kubeconfig for the host: node 1's, with the server at the host's loopback port.
///
/// # Errors
/// If node 1's server has not written its own yet.
pub fn write_kubeconfig(lab: &Lab, api_port: u16) -> Result<(), LabError> {
    use std::os::unix::fs::OpenOptionsExt;
    let first = &members(1)[0];
    let from = lab.member(&first.name).kubeconfig();
    let text = std::fs::read_to_string(&from).map_err(|source| LabError::File {
        operation: "read",
        path: from,
        source,
    })?;
    let text: String = text
        .lines()
        .map(|line| match line.split_once("server:") {
            Some((before, _)) => format!("{before}server: https://127.0.0.1:{api_port}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    let failed = |source| LabError::File { operation: "write", path: lab.kubeconfig(), source };
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(lab.kubeconfig()).map_err(failed)?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)
}
