//! A lab of two nodes, of the built program, seen from inside: its API, the processes and namespaces of its second node.
//!
//! Invariant: this process is the first of its pid namespace, so the lab ends with it.

use crate::{client::Way, isolated};
use anyhow::{Context, ensure};
use clap::Args;
use minisvc_lab::{
    control::{Request, Response, ask},
    layout::Lab,
};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// The node that is looked at: it has joined, so its server is the agent and nothing else.
pub const NODE: &str = "node2";
/// Where it says how it is.
pub const HEALTH: &str = "172.31.77.12:10256";
const NAME: &str = "bench";
/// No step takes longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a benchmark with a lab is told.
#[derive(Args)]
pub struct LabOptions {
    /// The program [default: `minisvc` beside this one]
    #[arg(long)]
    minisvc: Option<PathBuf>,
    /// This process is in namespaces of its own already
    #[arg(long, hide = true)]
    pub inside: bool,
}

/// See the module.
pub struct Nodes {
    lab: Lab,
    program: PathBuf,
    /// Its first process, which stays when its server is killed.
    machine: u32,
}

/// The processes that are `minisvc` with this word first, and with the others somewhere after it: a member of the lab has
/// its server's words in its own command line.
pub fn processes(first: &str, others: &[&str]) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line: Vec<_> = line.split(|byte| *byte == 0).collect();
        let is = |word: &[u8], wanted: &&str| word == wanted.as_bytes();
        let has = |some: &[&[u8]]| some.iter().zip(others).all(|(word, wanted)| is(word, wanted));
        let has_all = others.is_empty() || line.windows(others.len()).any(has);
        if line.get(1).is_some_and(|word| is(word, &first)) && has_all {
            found.push(pid);
        }
    }
    Ok(found)
}

/// The first of them.
fn process(first: &str, others: &[&str]) -> anyhow::Result<u32> {
    processes(first, others)?.first().copied().with_context(|| format!("no process {first} {others:?}"))
}

impl Nodes {
    /// Starts it, and waits for both nodes.
    pub async fn up(options: &LabOptions) -> anyhow::Result<Self> {
        let program = match &options.minisvc {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("minisvc"),
        };
        let program = program.canonicalize().with_context(|| {
            format!("{}: not built: `cargo build --release`, or name one by --minisvc", program.display())
        })?;
        let up = Command::new(&program).args(["lab", "up", "--nodes", "2", "--name", NAME]).output();
        let up = timeout(PATIENCE, up).await?.with_context(|| format!("run {}", program.display()))?;
        ensure!(up.status.success(), "lab up: {}", String::from_utf8_lossy(&up.stderr));
        let machine = process("lab-member", &["--member", NODE])?;
        Ok(Self { lab: Lab::named(NAME)?, program, machine })
    }

    /// The way to its API.
    pub fn api(&self) -> anyhow::Result<Way> {
        let text = fs::read_to_string(self.lab.kubeconfig())?;
        let address = text.lines().find_map(|line| line.trim().strip_prefix("server: https://"));
        let address = address.context("no server in the kubeconfig")?.trim().parse()?;
        let pki = self.lab.member("node1").data().join("pki");
        let token = fs::read_to_string(pki.join("admin.token"))?;
        Way::to(address, &fs::read_to_string(pki.join("ca.crt"))?, token.trim())
    }

    /// Pid of the first process of the node that is looked at.
    pub fn machine(&self) -> u32 {
        self.machine
    }

    /// Pid of a node's server.
    pub fn server(node: &str) -> anyhow::Result<u32> {
        process("server", &["--node-name", node])
    }

    /// The network namespace of the node that is looked at.
    pub fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.machine))
    }

    /// The network namespace of a Pod of that node.
    pub fn pod(&self, uid: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}/{uid}", self.machine, minisvc_datapath::netns::DIRECTORY))
    }

    /// Kills that node's server and waits until it is gone.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let socket = self.lab.member(NODE).socket();
        ask(&socket, &Request::KillServer).await?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Response::Server { pid: None, .. } = ask(&socket, &Request::Status).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::bail!("the server does not end")
    }

    /// Starts it again; how long until it says that its table is right.
    pub async fn start(&self) -> anyhow::Result<Duration> {
        let network = self.network();
        let begun = Instant::now();
        ask(&self.lab.member(NODE).socket(), &Request::Start { member: NODE.to_owned() }).await?;
        let right = isolated::thread_in(&network, move || until_right(begun))?;
        tokio::task::spawn_blocking(move || isolated::outcome(right)).await?
    }

    /// Begins to write down what changes in that node's kernel.
    pub async fn watch(&self) -> anyhow::Result<Watched> {
        let mut child = Command::new(&self.program)
            .args([
                "lab",
                "exec",
                "--name",
                NAME,
                NODE,
                "--",
                "minisvc",
                "lab-probe",
                "kernel:",
                "--until-eof",
            ])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?);
        let mut first = String::new();
        timeout(PATIENCE, lines.read_line(&mut first)).await??;
        Ok(Watched { child, lines, first })
    }
}

/// What changes in a node's kernel.
pub struct Watched {
    child: Child,
    lines: BufReader<tokio::process::ChildStdout>,
    first: String,
}

fn records(line: &str) -> anyhow::Result<Vec<String>> {
    let attempt: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let records = attempt["records"].as_array().context("no records")?;
    Ok(records.iter().filter_map(|record| Some(record.as_str()?.to_owned())).collect())
}

impl Watched {
    /// Transactions of nftables since it began, and changes of links, addresses, routes and neighbours, in words.
    pub async fn stop(mut self) -> anyhow::Result<(u64, Vec<String>)> {
        drop(self.child.stdin.take());
        let mut lines = self.lines.lines();
        let mut all = vec![records(&self.first)?];
        while let Some(line) = timeout(PATIENCE, lines.next_line()).await?? {
            all.push(records(&line)?);
        }
        self.child.wait().await?;
        let number = |records: &Vec<String>| {
            records.iter().find_map(|record| record.strip_prefix("generation ")?.parse::<u64>().ok())
        };
        let numbers: Vec<_> = all.iter().filter_map(number).collect();
        let (first, last) = (numbers.first().context("no number")?, numbers.last().context("no number")?);
        let changes = all.into_iter().filter(|records| number(records).is_none()).flatten();
        Ok((last.wrapping_sub(*first), changes.collect()))
    }
}

/// Asks `/healthz` until the answer is 200; how long that took. On a thread inside the node's network namespace.
fn until_right(begun: Instant) -> anyhow::Result<Duration> {
    use std::io::{Read, Write};
    let address: SocketAddr = HEALTH.parse()?;
    while begun.elapsed() < PATIENCE {
        let asked =
            std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                write!(stream, "GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            });
        if asked.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            return Ok(begun.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    anyhow::bail!("the node's table is not right within {PATIENCE:?}")
}
