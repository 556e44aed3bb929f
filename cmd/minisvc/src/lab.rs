//! `minisvc lab …`, and the processes a lab is made of.

use crate::server::networks;
use anyhow::Context;
use clap::{Args, Subcommand};
use ipnet::IpNet;
use minisvc_lab::{
    LabError,
    control::{self, Request, Response},
    demo::{self, DemoOptions, cluster},
    enter,
    layout::{Lab, LabOptions, NODES_MAX, members},
    member::MemberProcess,
    probe::{self, Attempt, Spec},
    supervisor, up,
};
use std::{ffi::OsString, net::SocketAddr, path::PathBuf, process::ExitCode};

/// Longest wait of `lab up` for the API, and then for the nodes.
const READY_WAIT: std::time::Duration = std::time::Duration::from_secs(15);

/// Commands for people.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Start a cluster of network namespaces, and an outside client.
    Up(UpArgs),
    /// Which machines are on, and whether their servers run.
    Status(Name),
    /// Run a command on a machine: `minisvc lab exec node2 -- curl http://10.43.0.50`.
    Exec(ExecArgs),
    /// Print the path of a kubeconfig for the cluster: `export KUBECONFIG=$(minisvc lab kubeconfig)`.
    Kubeconfig(Name),
    /// Pull a machine's plug, or kill just its server.
    Kill(KillArgs),
    /// Switch a machine on, or start its server again.
    Start(MemberName),
    /// End the cluster; nothing is left.
    Down(Name),
    /// Start a cluster, apply the examples, prove what is claimed with real connections, and end it.
    Demo(DemoArgs),
}

/// `lab demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Number of nodes, at least 3.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// How Pods of different nodes reach each other: vxlan, host-gw or tun.
    #[arg(long, default_value = "vxlan", value_parser = ["vxlan", "host-gw", "tun"])]
    overlay: String,
    #[command(flatten)]
    networks: Networks,
    /// Leave out what waits for a dead node to be noticed.
    #[arg(long)]
    quick: bool,
}

/// The cluster's networks, as `minisvc server` has them.
#[derive(Debug, Args)]
pub struct Networks {
    /// Network of the Pods, or one of each family, the primary one first [default: 10.42.0.0/16].
    #[arg(long, env = "MINISVC_CLUSTER_CIDR", value_name = "CIDR[,CIDR]")]
    cluster_cidr: Option<String>,
    /// Network of the Services' virtual addresses, of the families of --cluster-cidr [default: 10.43.0.0/16].
    #[arg(long, env = "MINISVC_SERVICE_CIDR", value_name = "CIDR[,CIDR]")]
    service_cidr: Option<String>,
}

impl Networks {
    /// The networks of Pods and of Services, which fit each other and the lab's machines.
    fn check(&self) -> anyhow::Result<(Vec<IpNet>, Vec<IpNet>)> {
        let read = |flag, text: &Option<String>| {
            text.as_ref().map_or_else(|| Ok(Vec::new()), |text| networks::one_of_each(flag, text))
        };
        let options = LabOptions {
            nodes: NODES_MAX,
            cluster_cidrs: read("--cluster-cidr", &self.cluster_cidr)?,
            service_cidrs: read("--service-cidr", &self.service_cidr)?,
            server_flags: Vec::new(),
        };
        let mut cluster = options.cluster();
        networks::check(&cluster, &[])?;
        let pools = options.load_balancer_pool();
        cluster.load_balancer_pool =
            pools.split(',').map(networks::address_range).collect::<Result<_, _>>()?;
        for member in members(NODES_MAX) {
            for family in cluster.families() {
                networks::check(&cluster, &[member.address_of(family)])?;
            }
        }
        Ok((options.cluster_cidrs, options.service_cidrs))
    }
}

/// Which lab.
#[derive(Debug, Args)]
pub struct Name {
    /// Name of the lab.
    #[arg(long, default_value = minisvc_lab::layout::DEFAULT_NAME, env = "MINISVC_LAB_NAME")]
    name: String,
}

/// `lab up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    name: Name,
    /// Number of nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// How Pods of different nodes reach each other: vxlan, host-gw or tun.
    #[arg(long, default_value = "vxlan", value_parser = ["vxlan", "host-gw", "tun"])]
    overlay: String,
    #[command(flatten)]
    networks: Networks,
}

/// `lab exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    name: Name,
    /// node1, node2, … or client.
    member: String,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// A machine of a lab.
#[derive(Debug, Args)]
pub struct MemberName {
    #[command(flatten)]
    name: Name,
    /// node1, node2, … or client.
    member: String,
}

/// `lab-probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// http://HOST[:PORT]/PATH, tcp://HOST:PORT, udp://HOST:PORT, dns:NAME/TYPE[@SERVER] or kernel:
    #[arg(required_unless_present = "serve")]
    target: Option<String>,
    /// Host header.
    #[arg(long)]
    host: Option<String>,
    /// Number of attempts [default: 1].
    #[arg(long, conflicts_with = "until_eof")]
    count: Option<u32>,
    /// Attempts started a second; without it each begins when the one before has ended.
    #[arg(long)]
    rate: Option<f64>,
    /// How long an attempt may take.
    #[arg(long, default_value_t = 2000)]
    timeout_ms: u64,
    /// tcp and udp: one connection, or one port, asked again after so many milliseconds.
    #[arg(long)]
    hold: Option<u64>,
    /// Go on until standard input ends.
    #[arg(long)]
    until_eof: bool,
    /// Take orders from standard input.
    #[arg(long, conflicts_with_all = ["target", "count", "rate", "host", "hold", "until_eof"])]
    serve: bool,
}

/// `lab kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    #[command(flatten)]
    member: MemberName,
    /// `kill -9` the server only; Pods and rules stay.
    #[arg(long)]
    server_only: bool,
}

/// Processes of a lab; started by the lab itself.
#[derive(Debug, Subcommand)]
pub enum LabProcess {
    /// Make real connections, and print one JSON line for each.
    #[command(name = "lab-probe", hide = true)]
    Probe(ProbeArgs),
    /// Pid 1 of a lab.
    #[command(name = "lab-supervisor", hide = true)]
    Supervisor {
        /// The lab's directory.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Pid 1 of a machine.
    #[command(name = "lab-member", hide = true)]
    Member {
        /// The lab's directory.
        #[arg(long)]
        dir: PathBuf,
        /// Name of the machine.
        #[arg(long)]
        member: String,
        /// Whether descriptor 3 is an API socket of the host.
        #[arg(long)]
        has_listener: bool,
        /// Command line of the server.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        server_args: Vec<String>,
    },
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

/// Runs a lab command.
///
/// # Errors
/// In the lab's own words.
pub fn run(command: LabCommand) -> anyhow::Result<ExitCode> {
    if let LabCommand::Exec(args) = &command {
        let lab = Lab::named(&args.name.name)?;
        if !up::is_up(&lab) {
            return Err(LabError::Absent { name: args.name.name.clone() }.into());
        }
        return Ok(enter::exec(&lab, &args.member, &args.command)?.into());
    }
    runtime()?.block_on(run_async(command))
}

async fn run_async(command: LabCommand) -> anyhow::Result<ExitCode> {
    match command {
        LabCommand::Exec(_) => {}
        LabCommand::Up(args) => {
            let lab = Lab::named(&args.name.name)?;
            let (cluster_cidrs, service_cidrs) = args.networks.check()?;
            let server_flags = vec!["--overlay".to_owned(), args.overlay];
            start(&lab, &LabOptions { nodes: args.nodes, cluster_cidrs, service_cidrs, server_flags })
                .await?;
        }
        LabCommand::Status(name) => status(&Lab::named(&name.name)?).await?,
        LabCommand::Kubeconfig(name) => {
            let lab = Lab::named(&name.name)?;
            up::status(&lab).await?;
            println!("{}", lab.kubeconfig().display());
        }
        LabCommand::Kill(KillArgs { member: MemberName { name, member }, server_only }) => {
            let lab = Lab::named(&name.name)?;
            up::status(&lab).await?;
            if server_only {
                let socket = lab.member(&member).socket();
                control::ask(&socket, &Request::KillServer).await?;
            } else {
                control::ask(&lab.control_socket(), &Request::PowerOff { member }).await?;
            }
        }
        LabCommand::Start(MemberName { name, member }) => {
            let lab = Lab::named(&name.name)?;
            up::status(&lab).await?;
            control::ask(&lab.control_socket(), &Request::Start { member }).await?;
        }
        LabCommand::Down(name) => up::down(&Lab::named(&name.name)?).await?,
        LabCommand::Demo(DemoArgs { nodes, overlay, networks, quick }) => {
            let (cluster_cidrs, service_cidrs) = networks.check()?;
            let options = DemoOptions { nodes, overlay, cluster_cidrs, service_cidrs, quick };
            let all_hold = demo::run(&options).await.map_err(anyhow::Error::msg)?;
            return Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn start(lab: &Lab, options: &LabOptions) -> anyhow::Result<()> {
    let nodes = options.nodes;
    let progress = |text: &str| eprintln!("{text}");
    up::check(lab, options)?;
    progress(&format!("starting {nodes} nodes and a client"));
    let started = up::up(lab, options, false).await?;
    let ready = async {
        cluster::kubeconfig(lab, &started, READY_WAIT).await?;
        let client = cluster::connect(lab).await?;
        let tell = |ready| progress(&format!("{ready} of {nodes} nodes Ready"));
        cluster::nodes_ready(&client, nodes, READY_WAIT, tell).await
    };
    let ready = ready.await.map_err(anyhow::Error::msg);
    let name = if lab.name() == "lab" { String::new() } else { format!(" --name {}", lab.name()) };
    ready.with_context(|| format!("the lab is up, but not ready; `minisvc lab down{name}` ends it"))?;
    println!("{nodes} nodes are Ready. Next:");
    println!("  export KUBECONFIG=$(minisvc lab kubeconfig{name})");
    println!("  minisvc apply -f examples/     # or kubectl");
    println!("  minisvc get nodes,pods,services -o wide");
    let node1 = members(1)[0].address_of(options.cluster().primary_family());
    println!("  minisvc lab exec{name} client -- curl http://{}/", SocketAddr::new(node1, 30080));
    println!("  minisvc lab down{name}");
    Ok(())
}

async fn status(lab: &Lab) -> anyhow::Result<()> {
    let members = up::status(lab).await?;
    println!("{:<10} {:<16} {:<6} SERVER", "MACHINE", "ADDRESS", "POWER");
    for member in members {
        let server = match control::ask(&lab.member(&member.name).socket(), &Request::Status).await {
            Ok(Response::Server { pid: Some(pid), .. }) => format!("running (pid {pid})"),
            Ok(Response::Server { last_exit: Some(how), .. }) => format!("ended ({how})"),
            _ => "-".to_owned(),
        };
        let power = if member.on { "on" } else { "off" };
        println!("{:<10} {:<16} {:<6} {server}", member.name, member.address, power);
    }
    Ok(())
}

/// Runs a process of a lab.
///
/// # Errors
/// If the lab or machine cannot be set up.
pub fn run_process(process: LabProcess) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        match process {
            LabProcess::Probe(args) => return probe(args).await,
            LabProcess::Supervisor { dir } => supervisor::run(Lab::at(&dir)).await?,
            LabProcess::Member { dir, member, has_listener, server_args } => {
                let found = members(NODES_MAX).into_iter().find(|m| m.name == member);
                let member = found.with_context(|| format!("no machine {member:?}"))?;
                MemberProcess { lab: Lab::at(&dir), member, server_args, has_listener }.run().await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    });
    // A read of standard input that will never end must not keep the program.
    runtime.shutdown_background();
    outcome
}

/// Exit status 0 only if every attempt was answered.
async fn probe(args: ProbeArgs) -> anyhow::Result<ExitCode> {
    let input = tokio::io::BufReader::new(tokio::io::stdin());
    let Some(target) = args.target else {
        probe::serve(input, tokio::io::stdout()).await.context("serve probes")?;
        return Ok(ExitCode::SUCCESS);
    };
    let count = if args.until_eof { None } else { Some(args.count.unwrap_or(1)) };
    let ProbeArgs { host, rate, timeout_ms, hold: hold_ms, .. } = args;
    let spec = Spec { target, host, count, rate, timeout_ms, hold_ms };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    if args.until_eof {
        tokio::spawn(async move {
            let mut input = input;
            let _ended = tokio::io::copy(&mut input, &mut tokio::io::sink()).await;
            stop.send_replace(true);
        });
    }
    let (report, mut reported) = tokio::sync::mpsc::channel::<Attempt>(64);
    let print = async {
        let mut all_ok = true;
        while let Some(attempt) = reported.recv().await {
            all_ok &= attempt.ok;
            println!("{}", serde_json::to_string(&attempt).unwrap_or_default());
        }
        all_ok
    };
    let both = async { tokio::join!(probe::run(&spec, stopped, report), print) };
    let (outcome, all_ok) = tokio::task::LocalSet::new().run_until(both).await;
    outcome.map_err(anyhow::Error::msg)?;
    Ok(if all_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
