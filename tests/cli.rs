//! The command line against a real API server, and beside kubectl where that is installed.
//!
//! Each step is a process of the built binary, as a person would run it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use jiff::Timestamp;
use minisvc_apimachinery::ClusterConfig;
use minisvc_apiserver::{ApiServer, CancellationToken, Pki, PkiOptions};
use minisvc_store::{Limits, Store};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::Arc,
};

const WEB: &str = "apiVersion: v1
kind: Service
metadata:
  name: web
  labels: {app: web}
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP}
";

struct Server {
    stop: CancellationToken,
    runtime: tokio::runtime::Runtime,
    home: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let home = tempfile::tempdir().unwrap();
        let options = PkiOptions {
            node_name: "node1".to_owned(),
            node_addresses: vec!["192.0.2.1".parse().unwrap()],
            service_addresses: ClusterConfig::default().api_addresses(),
            cluster_domain: "cluster.local".to_owned(),
            extra_sans: Vec::new(),
            now: Timestamp::now(),
        };
        let pki = Arc::new(Pki::open(home.path(), &options).unwrap());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = pki.admin_kubeconfig(&format!("https://{}", listener.local_addr().unwrap()));
        std::fs::write(home.path().join("config"), config).unwrap();
        let stop = CancellationToken::new();
        let store = Store::open(&home.path().join("store"), Limits::default()).unwrap();
        let api = ApiServer::new(store, ClusterConfig::default(), pki).unwrap();
        runtime.block_on(api.make_system_objects()).unwrap();
        let stopped = stop.clone();
        runtime.spawn(async move { api.serve(vec![listener], stopped).await.unwrap() });
        Self { stop, runtime, home }
    }

    fn command(&self, program: &str, words: &str) -> Command {
        let mut command = Command::new(program);
        command.args(words.split(' ')).env("KUBECONFIG", self.home.path().join("config"));
        command.env("HOME", self.home.path()).current_dir(self.home.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Exit code, standard output, standard error.
    fn run(&self, program: &str, words: &str, input: &str) -> (i32, String, String) {
        let mut child = self.command(program, words).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    fn cli(&self, words: &str, input: &str) -> (i32, String, String) {
        self.run(env!("CARGO_BIN_EXE_minisvc"), words, input)
    }

    /// What a command that succeeds prints.
    fn ok(&self, words: &str, input: &str) -> String {
        let (code, out, err) = self.cli(words, input);
        assert_eq!((code, err.as_str()), (0, ""), "minisvc {words}: {out}");
        out
    }

    /// What a command that fails says.
    fn refused(&self, words: &str, input: &str) -> String {
        let (code, out, err) = self.cli(words, input);
        assert_eq!((code, out.as_str()), (1, ""), "minisvc {words}: {err}");
        err
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        // What is left of it ends with the runtime.
        let (ended, runtime) = (std::time::Duration::from_secs(5), &mut self.runtime);
        let runtime =
            std::mem::replace(runtime, tokio::runtime::Builder::new_current_thread().build().unwrap());
        runtime.shutdown_timeout(ended);
    }
}

#[test]
fn manifests_are_applied_changed_and_deleted() {
    let server = Server::start();
    assert_eq!(server.ok("apply -f - --dry-run=server", WEB), "service/web created (server dry run)\n");
    assert_eq!(server.ok("apply -f - --dry-run=client", WEB), "service/web created (dry run)\n");
    assert!(
        server
            .refused("get svc web", "")
            .contains("Error from server (NotFound): services \"web\" not found")
    );
    assert_eq!(server.ok("apply -f -", WEB), "service/web created\n");
    assert_eq!(server.ok("apply -f -", WEB), "service/web unchanged\n");
    let node_port = server.ok("get svc web -o jsonpath={.spec.ports[0].nodePort}", "");
    assert_eq!(server.ok("apply -f -", &WEB.replace("8080", "8081")), "service/web configured\n");
    assert_eq!(
        server.ok("get svc web -o jsonpath={.spec.ports[0].targetPort},{.spec.ports[0].nodePort}", ""),
        format!("8081,{node_port}")
    );
    assert_eq!(
        server.refused("create -f -", WEB),
        "standard input: Service \"web\": services \"web\" already exists\n"
    );
    let described = server.ok("describe svc web", "");
    assert!(described.contains("TargetPort:") && described.contains("Events:"), "{described}");
    assert_eq!(server.ok("delete -f -", WEB), "service \"web\" deleted\n");
    assert_eq!(server.ok("delete -f - --ignore-not-found", WEB), "");
    assert!(server.refused("delete svc web", "").contains("not found"));
    server.ok("apply -f -", &format!("{WEB}---\n{}", WEB.replace("name: web", "name: web2")));
    assert_eq!(server.ok("delete svc -l app=web", "").lines().count(), 2);
    let (code, out, err) = server.cli("get svc -l app=web", "");
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", "No resources found in default namespace.\n"));
}

#[test]
fn bad_manifests_change_nothing_and_name_the_field() {
    let server = Server::start();
    let file = |name: &str, text: &str| std::fs::write(server.home.path().join(name), text).unwrap();
    file("good.yaml", WEB);
    file("bad.yaml", &WEB.replace("targetPort", "tragetPort").replace("port: 53", "port: x"));
    let said = server.refused("apply -f good.yaml -f bad.yaml", "");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "bad.yaml: Service \"web\": unknown field \"spec.ports[0].tragetPort\"",
            "bad.yaml: Service \"web\": spec.ports[1].port: json: cannot unmarshal string into Go struct field \
             ServicePort.spec.ports.port of type int32",
        ]
    );
    assert!(server.refused("get svc web", "").contains("not found"), "nothing was sent");
    let said = server.refused("apply -f -", &WEB.replace("port: 80,", "port: 70000,"));
    assert!(
        said.starts_with("standard input: Service \"web\": spec.ports[0].port: Invalid value: 70000: "),
        "{said}"
    );
    assert!(server.refused("get svc web", "").contains("not found"), "nothing was stored");
    assert!(server.refused("apply -f nowhere.yaml", "").starts_with("error: read nowhere.yaml: "));
    assert!(server.refused("get things", "").contains("doesn't have a resource type \"things\""));
    assert!(server.refused("get svc --kubeconfig nowhere", "").contains("nowhere"));
}

#[test]
fn a_watch_tells_what_changes() {
    let server = Server::start();
    server.ok("apply -f -", WEB);
    let mut child =
        server.command(env!("CARGO_BIN_EXE_minisvc"), "get svc -l app=web -w -o name").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "service/web");
    server.ok("apply -f -", &WEB.replace("name: web", "name: web2"));
    assert_eq!(next(), "service/web2");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Both programs print the same, ages apart, which may tick between the two.
fn same_as_kubectl(server: &Server, words: &str) {
    let mut last = (String::new(), String::new());
    for _ in 0..5 {
        let (_, ours, our_error) = server.cli(words, "");
        let (_, theirs, their_error) = server.run("kubectl", words, "");
        last = (format!("{ours}{our_error}"), format!("{theirs}{their_error}"));
        if last.0 == last.1 {
            return;
        }
    }
    assert_eq!(last.0, last.1, "{words}");
}

#[test]
fn the_output_is_kubectls() {
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        println!("skipped: no kubectl");
        return;
    }
    let server = Server::start();
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: odd}\ndata:\n  a: \"012\"\n  b: \"yes\"\n  c: \"\"\n  \
                  d: |\n    two\n    lines\n  e: \"1e3\"\n  f: 'a: b'\n  g: \"null\"\n";
    server.ok(
        "apply -f -",
        &format!("{WEB}---\n{}---\n{config}", WEB.replace("name: web", "name: another-web")),
    );
    for words in [
        "get svc",
        "get svc web",
        "get svc web nothing",
        "get svc,cm",
        "get svc/web cm/odd",
        "get svc -A -o wide",
        "get ns --show-labels",
        "get ns --no-headers",
        "get svc -l app=none",
        "get svc web -o yaml",
        "get cm odd -o yaml",
        "get cm odd -o json",
        "get cm,svc -o json",
        "get svc -o name",
        "get svc -o jsonpath={.items[*].metadata.name}",
        "get pods nothing",
        "get secrets -n kube-system",
    ] {
        same_as_kubectl(&server, words);
    }
    // Each understands what the other applied.
    let changed = WEB.replace("8080", "9090");
    assert_eq!(server.run("kubectl", "apply -f -", WEB).1, "service/web unchanged\n");
    assert_eq!(server.run("kubectl", "apply -f -", &changed).1, "service/web configured\n");
    assert_eq!(server.ok("apply -f -", &changed), "service/web unchanged\n");
}

#[test]
fn without_a_kubeconfig_it_says_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_minisvc"))
        .args(["get", "pods", "--kubeconfig", "/nonexistent/kubeconfig"])
        .env_remove("KUBECONFIG")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("/nonexistent/kubeconfig"), "{said}");
}
