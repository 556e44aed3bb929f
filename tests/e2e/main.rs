//! `minisvc server` without the lab: two machines that the test makes itself, one started as the first server, the
//! other by `--join`. That is what a person does on two virtual machines.
//!
//! All of it runs in namespaces of the test, whose end is the end of every process and link.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod machine;

use common::{LONG, MINISVC, Said, eventually, is_there, run, says};
use machine::{BRAVO, Machine, cable};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const VIP: &str = "10.43.0.70:80";

/// A running `minisvc server`; killed when dropped.
struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    fn start(machine: &Machine, dir: &Path, name: &str, flags: &[&str]) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = server(dir, name, flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        Self { child: machine.run(move || command.spawn().unwrap()), log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of the log.
    fn says(&mut self, part: &str) {
        eventually(part, LONG, || {
            let log = self.log();
            assert!(self.child.try_wait().unwrap().is_none(), "the server has ended:\n{log}");
            if log.contains(part) { Ok(()) } else { Err(log) }
        });
    }

    /// Ends it as systemd does.
    fn stop(mut self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let status = eventually("the server ends", Duration::from_secs(10), || {
            self.child.try_wait().unwrap().ok_or_else(|| self.log())
        });
        assert!(status.success(), "{status}:\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

fn server(dir: &Path, name: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(MINISVC);
    command.args(["server", "--node-name", name]);
    command.arg("--data-dir").arg(dir.join(name));
    command.arg("--write-kubeconfig").arg(dir.join(format!("{name}-config/kubeconfig")));
    command.args(flags);
    command
}

#[test]
fn two_servers_make_a_cluster() {
    minisvc_lab::testing::in_namespaces("two_servers_make_a_cluster", || {
        let dir = tempfile::tempdir().unwrap();
        let (alpha, bravo) = (Machine::start(), Machine::start());
        cable(&alpha, &bravo);
        let mut first = Server::start(&alpha, dir.path(), "alpha", &[]);
        first.says("registered");
        eventually("the first node's network is made", LONG, || {
            let now = alpha.kernel();
            // Its tunnel, and the cluster network it keeps to itself.
            let made = now.contains(&"msvvx".to_owned()) && now.iter().any(|line| line.starts_with("*\t"));
            if made { Ok(()) } else { Err(format!("{now:?}")) }
        });
        let token = std::fs::read_to_string(dir.path().join("alpha/token")).unwrap().trim().to_owned();
        let config = dir.path().join("alpha-config/kubeconfig");
        let cli = |words: &str| alpha.command(MINISVC, &words.split(' ').collect::<Vec<_>>(), &config);

        bad_starts_change_nothing(&alpha, &bravo, dir.path(), &token);
        assert_eq!(cli("get nodes -o name").ok(), "node/alpha\n");

        let join = ["--join", "https://198.18.0.1:6443"];
        let mut second = Server::start(&bravo, dir.path(), "bravo", &[join[0], join[1], "--token", &token]);
        second.says("registered");
        let ready = ["alpha   Ready ", "bravo   Ready "];
        says("both nodes are Ready", &ready, &[], || cli("get nodes"));

        let manifest = dir.path().join("manifest.yaml");
        std::fs::write(&manifest, MANIFEST).unwrap();
        cli(&format!("apply -f {}", manifest.display())).ok();
        for machine in [&alpha, &bravo] {
            machine.reaches(VIP, &["on-alpha", "on-bravo"]);
        }
        if is_there("curl", "--version") {
            for pod in ["on-alpha", "on-bravo"] {
                for other in ["on-alpha", "on-bravo"] {
                    let part = format!("\"pod\":\"{other}\"");
                    says("the name", &[&part], &[], || {
                        cli(&format!("exec {pod} -- curl -s -m 3 http://pair/"))
                    });
                }
            }
        }
        let pods = "get pods -o jsonpath={.items[*].status.containerStatuses[*].containerID}";
        let containers = cli(pods).ok();

        // The first server stops: Pods and rules stay as they are.
        let kernel = [alpha.kernel(), bravo.kernel()];
        first.stop();
        for machine in [&alpha, &bravo] {
            machine.reaches(VIP, &["on-alpha", "on-bravo"]);
        }
        let said = alpha.run({
            let mut changed = server(dir.path(), "alpha", &["--service-cidr", "10.99.0.0/16"]);
            move || run(&mut changed, "")
        });
        refused("another --service-cidr", &said, "--service-cidr was 10.43.0.0/16 at the first start");
        let mut first = Server::start(&alpha, dir.path(), "alpha", &[]);
        first.says("adopted=1");
        says("both nodes are Ready again", &ready, &["NotReady"], || cli("get nodes"));
        assert_eq!(cli(pods).ok(), containers, "the containers are those of before");

        // The joined server needs its token only once.
        second.stop();
        alpha.reaches(VIP, &["on-bravo"]);
        let mut second = Server::start(&bravo, dir.path(), "bravo", &join);
        eventually("it adopts its Pod", LONG, || {
            if second.log().matches("adopted=1").count() == 1 { Ok(()) } else { Err(second.log()) }
        });
        std::fs::write(&manifest, MANIFEST.replace("on-bravo", "late").split("---").nth(1).unwrap()).unwrap();
        cli(&format!("apply -f {}", manifest.display())).ok();
        alpha.reaches(VIP, &["late", "on-bravo"]);
        assert!(
            cli(pods).ok().contains(containers.split(' ').next_back().unwrap()),
            "its Pod is the one of before"
        );
        cli("delete pod late").ok();
        eventually("the kernel has what it had", LONG, || {
            let now = [alpha.kernel(), bravo.kernel()];
            if now == kernel { Ok(()) } else { Err(format!("{now:#?} instead of {kernel:#?}")) }
        });
        second.says("adopted=1");
        second.stop();
        first.stop();
    });
}

const MANIFEST: &str = "apiVersion: v1
kind: Pod
metadata: {name: on-alpha, labels: {app: pair}}
spec:
  nodeName: alpha
  containers: [{name: echo, image: echo, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: on-bravo, labels: {app: pair}}
spec:
  nodeName: bravo
  containers: [{name: echo, image: echo, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: pair}
spec:
  clusterIP: 10.43.0.70
  selector: {app: pair}
  ports: [{port: 80, targetPort: http}]
";

/// Exit status 1, and one line that says what to do.
fn refused(what: &str, said: &Said, part: &str) {
    let lines: Vec<&str> = said.err.lines().filter(|line| line.starts_with("minisvc: ")).collect();
    let told = said.code == 1 && lines.len() == 1 && lines[0].contains(part);
    assert!(told && said.err.lines().count() == 1, "{what}: exit {}\n{}", said.code, said.err);
}

fn bad_starts_change_nothing(alpha: &Machine, bravo: &Machine, dir: &Path, token: &str) {
    let join = ["--join", "https://198.18.0.1:6443", "--token"];
    let parts: Vec<&str> = token.split('.').collect();
    let other = |hex: &str| hex.chars().rev().collect::<String>();
    let wrong_secret = format!("{}.{}.{}", parts[0], parts[1], other(parts[2]));
    let wrong_hash = format!("{}.{}.{}", parts[0], other(parts[1]), parts[2]);
    let joined = |more: &[&'static str]| [&join[..], &[token], more].concat();
    let cases: Vec<(&str, &str, Vec<&str>, &str)> = vec![
        (
            "another node of this name",
            "alpha",
            joined(&[]),
            "a node \"alpha\" already: choose another --node-name",
        ),
        ("a bad name", "Bad_Name", joined(&[]), "--node-name \"Bad_Name\": must be a lower-case DNS name"),
        (
            "wrong secret",
            "x",
            [&join[..], &[&wrong_secret]].concat(),
            "refused the token: get a new one with `minisvc token`",
        ),
        ("malformed token", "x", [&join[..], &["hello"]].concat(), "--token: a join token looks like M1."),
        ("another CA", "x", [&join[..], &[&wrong_hash]].concat(), "does not match the token"),
        ("no token", "x", join[..2].to_vec(), "--join needs --token: `minisvc token`"),
        ("token alone", "x", vec!["--token", token], "--token needs --join https://HOST:6443"),
        ("not a URL", "x", vec!["--join", "198.18.0.1", "--token", token], "--join"),
        (
            "nobody's address",
            "x",
            joined(&["--node-ip", "198.18.0.99"]),
            "--node-ip 198.18.0.99: no link that is up has this address; it can be one of:",
        ),
        (
            "overlap",
            "x",
            vec!["--cluster-cidr", "10.43.128.0/17"],
            "--cluster-cidr 10.43.128.0/17 overlaps --service-cidr 10.43.0.0/16",
        ),
        (
            "overlap with the nodes",
            "x",
            vec!["--cluster-cidr", "198.18.0.0/16"],
            "contains this node's own address",
        ),
        ("host bits", "x", vec!["--service-cidr", "10.43.0.1/16"], "the network is 10.43.0.0/16"),
        ("another datastore", "x", vec!["--datastore", "etcd"], "only sled is served"),
    ];
    let before = [alpha.kernel(), bravo.kernel()];
    let start = |machine: &Machine, what: &str, name: &str, flags: &[&str], part: &str| {
        let home = tempfile::tempdir_in(dir).unwrap();
        let mut command = server(home.path(), name, flags);
        let said = machine.run(move || run(&mut command, ""));
        refused(what, &said, part);
        let left: Vec<_> = walk(home.path()).into_iter().filter(|path| path.is_file()).collect();
        assert!(left.is_empty(), "{what} left {left:?}");
    };
    for (what, name, flags, part) in cases {
        start(bravo, what, name, &flags, part);
    }
    start(alpha, "the API's port", "x", &[], "the port is in use; another minisvc server?");
    start(
        alpha,
        "the node's port",
        "x",
        &["--bind", ":7443"],
        "198.18.0.1:10250, for logs and exec, is in use",
    );
    let taken = bravo.run(|| TcpListener::bind((BRAVO, 10250)).unwrap());
    start(bravo, "the node's port", "x", &joined(&[]), "198.18.0.2:10250, for logs and exec, is in use");
    drop(taken);
    assert_eq!([alpha.kernel(), bravo.kernel()], before, "links or routes have changed");
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn without_privilege_a_server_says_what_to_do() {
    use std::os::unix::process::CommandExt;
    let dir = tempfile::tempdir().unwrap();
    let mut command = server(dir.path(), "x", &[]);
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534).current_dir("/");
    }
    if command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(|mut child| child.wait())
        .is_err()
    {
        println!("skipped: this directory is closed to other users");
        return;
    }
    let said = run(&mut command, "");
    refused(
        "no privilege",
        &said,
        "minisvc server needs CAP_NET_ADMIN: run it as root, or try a whole cluster",
    );
    assert!(walk(dir.path()).is_empty());
}
