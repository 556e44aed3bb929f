//! The real kubectl against the API, where it is installed.

use super::harness::{SERVICES, Server};
use serde_json::json;
use std::{path::Path, process::Stdio};
use tokio::{io::AsyncWriteExt, process::Command};

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

struct Kubectl<'a> {
    home: &'a Path,
}

impl Kubectl<'_> {
    /// Runs a command; returns whether it succeeded, and all it printed.
    async fn run(&self, words: &str, input: &str) -> (bool, String) {
        let mut child = Command::new("kubectl")
            .args(words.split(' '))
            .env("KUBECONFIG", self.home.join("config"))
            .env("HOME", self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    async fn ok(&self, words: &str, input: &str) -> String {
        let (ok, text) = self.run(words, input).await;
        assert!(ok, "kubectl {words}: {text}");
        text
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works() {
    let found = Command::new("kubectl").args(["version", "--client"]).output().await;
    if found.is_err() {
        println!("skipped: no kubectl");
        return;
    }
    let server = Server::start().await;
    let home = tempfile::tempdir().unwrap();
    let config = server.pki.admin_kubeconfig(&format!("https://{}", server.address));
    std::fs::write(home.path().join("config"), config).unwrap();
    let kubectl = Kubectl { home: home.path() };

    assert_eq!(kubectl.ok("apply -f -", WEB).await, "service/web created\n");
    assert_eq!(kubectl.ok("apply -f -", WEB).await, "service/web unchanged\n");
    let changed = WEB.replace("port: 53", "port: 54");
    assert_eq!(kubectl.ok("apply -f -", &changed).await, "service/web configured\n");
    let mut admin = server.admin().await;
    let stored = admin.get(&format!("{SERVICES}/web")).await.expect(200);
    let ports: Vec<_> =
        stored["spec"]["ports"].as_array().unwrap().iter().map(|p| p["port"].clone()).collect();
    assert_eq!(ports, [json!(80), json!(54)]);

    let table = kubectl.ok("get services", "").await;
    assert!(table.starts_with("NAME   TYPE       CLUSTER-IP"), "{table}");
    assert!(table.contains("80:3"), "{table}");
    assert_eq!(kubectl.ok("get svc -l app=web -o name", "").await, "service/web\n");
    assert!(kubectl.ok("get svc web -o yaml", "").await.contains("clusterIP: 10.43."));
    assert!(kubectl.ok("get all,endpointslices,ingresses -A", "").await.contains("service/web"));
    assert!(kubectl.ok("describe svc web", "").await.contains("TargetPort:"));
    assert!(kubectl.ok("get ns", "").await.contains("kube-node-lease"));
    assert!(kubectl.ok("explain service.spec.clusterIP", "").await.contains("clusterIP"));
    assert!(kubectl.ok("api-resources", "").await.contains("endpointslices"));
    assert!(kubectl.ok("label svc web tier=front", "").await.contains("labeled"));
    assert!(kubectl.ok("diff -f -", &changed).await.is_empty());

    server_side(&kubectl, &changed).await;
    generators(&kubectl).await;

    let (ok, text) = kubectl.run("apply -f -", &WEB.replace("targetPort", "tragetPort")).await;
    assert!(!ok && text.contains("unknown field \"spec.ports[0].tragetPort\""), "{text}");
    let (ok, text) = kubectl.run("apply -f -", &WEB.replace("port: 80", "port: 70000")).await;
    assert!(!ok && text.contains("spec.ports[0].port"), "{text}");
    let (ok, text) = kubectl.run("get pods nothing", "").await;
    assert!(!ok && text.contains("pods \"nothing\" not found"), "{text}");

    let watching = kubectl.ok("get svc -w --output-watch-events --request-timeout=3s", "");
    let later = async {
        // The watch has told of what was there when it is counted.
        while !admin.get("/metrics").await.text.contains("apiserver_watchers 1") {
            tokio::task::yield_now().await;
        }
        admin.delete(&format!("{SERVICES}/web")).await.expect(200);
    };
    let (told, ()) = tokio::join!(watching, later);
    assert!(told.contains("ADDED") && told.contains("DELETED"), "{told}");
    assert_eq!(kubectl.ok("apply -f -", WEB).await, "service/web created\n");
    assert_eq!(kubectl.ok("delete svc web", "").await, "service \"web\" deleted\n");
    server.stop().await;
}

/// From client-side to server-side apply, and what comes of it. The Service ends as it began, with other owners.
async fn server_side(kubectl: &Kubectl<'_>, web: &str) {
    // A client-side apply becomes a server-side one without a conflict, and takes its owner along.
    assert_eq!(kubectl.ok("apply --server-side -f -", web).await, "service/web serverside-applied\n");
    let shown = kubectl.ok("get svc web -o yaml --show-managed-fields", "").await;
    assert!(shown.contains("manager: kubectl\n") && shown.contains("operation: Apply"), "{shown}");
    assert!(!shown.contains("kubectl-client-side-apply"), "{shown}");
    assert!(!kubectl.ok("get svc web -o yaml", "").await.contains("managedFields"));
    let changed = web.replace("targetPort: 8080", "targetPort: 8081");
    let (ok, text) = kubectl.run("apply --server-side --field-manager=other -f -", &changed).await;
    assert!(!ok && text.contains("Apply failed with 1 conflict: conflict with \"kubectl\""), "{text}");
    assert!(text.contains("--force-conflicts"), "{text}");
    let (differs, text) = kubectl.run("diff --server-side --force-conflicts -f -", &changed).await;
    assert!(!differs && text.contains("+    targetPort: 8081"), "{text}");
    kubectl.ok("apply --server-side --field-manager=other --force-conflicts -f -", &changed).await;
    kubectl.ok("apply --server-side --force-conflicts -f -", web).await;
    let gone = web.replace("  - {name: dns, port: 54, protocol: UDP}\n", "");
    kubectl.ok("apply --server-side -f -", &gone).await;
    kubectl.ok("apply --server-side --field-manager=other -f -", &gone).await;
    let ports = kubectl.ok("get svc web -o jsonpath={.spec.ports[*].name}", "").await;
    assert_eq!(ports, "http");
}

/// These send protobuf.
async fn generators(kubectl: &Kubectl<'_>) {
    for (words, said) in [
        ("create namespace made", "namespace/made created\n"),
        ("create configmap made --from-literal=a=b", "configmap/made created\n"),
        ("create secret generic made --from-literal=a=b", "secret/made created\n"),
        ("create service clusterip made --tcp=80:8080", "service/made created\n"),
        ("create service nodeport port --tcp=80:web", "service/port created\n"),
        ("create service loadbalancer lb --tcp=80", "service/lb created\n"),
        ("create service externalname out --external-name=example.com", "service/out created\n"),
        ("create ingress made --rule=foo.example/*=made:80", "ingress.networking.k8s.io/made created\n"),
    ] {
        assert_eq!(kubectl.ok(words, "").await, said);
    }
    let data = kubectl.ok("get configmap/made secret/made -o jsonpath={.items[*].data.a}", "").await;
    assert_eq!(data, "b Yg==");
    let port = kubectl.ok("get service port -o jsonpath={.spec.ports[0].targetPort}", "").await;
    assert_eq!(port, "web");
    assert_eq!(kubectl.ok("auth can-i create pods", "").await, "yes\n");
    assert!(kubectl.ok("auth can-i --list", "").await.contains("*.*"));
    assert!(kubectl.ok("auth whoami", "").await.contains("[system:masters system:authenticated]"));
}
