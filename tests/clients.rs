//! Other people's client libraries against a lab: kube-rs always, the official Python client where it is installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use common::{LONG, Lab, MINISVC, run};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{
        AttachParams, DeleteParams, ListParams, LogParams, ObjectMeta, Patch, PatchParams, PostParams,
        WatchEvent, WatchParams,
    },
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use std::{path::Path, process::Command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn client_libraries_are_at_home() {
    let Some(lab) = Lab::up("t-clients", 1) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = connect(&lab).await;
        tokio::time::timeout(LONG * 3, kube_rs(client)).await.expect("kube-rs waits for ever");
    });
    python(&lab);
    lab.down();
}

async fn connect(lab: &Lab) -> Client {
    let kubeconfig = Kubeconfig::read_from(lab.dir().join("kubeconfig")).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

async fn kube_rs(client: Client) {
    assert_eq!(client.apiserver_version().await.unwrap().minor, "33");
    objects(&client).await;
    applied(&client).await;
    pods(&client).await;
}

async fn objects(client: &Client) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = |name: &str| ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([("of".to_owned(), "clients".to_owned())].into()),
            ..Default::default()
        },
        data: Some([("a".to_owned(), "1".to_owned())].into()),
        ..Default::default()
    };
    let first = maps.create(&PostParams::default(), &map("one")).await.unwrap();
    let ours = ListParams::default().labels("of=clients");
    let listed = maps.list(&ours).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    let from = listed.metadata.resource_version.unwrap();
    let mut watch = maps.watch(&WatchParams::default().labels("of=clients"), &from).await.unwrap().boxed();
    maps.create(&PostParams::default(), &map("two")).await.unwrap();
    let patch = Patch::Merge(json!({"data": {"b": "2"}}));
    maps.patch("one", &PatchParams::default(), &patch).await.unwrap();
    let stale = maps.replace("one", &PostParams::default(), &first).await.unwrap_err();
    assert!(matches!(&stale, kube::Error::Api(status) if status.code == 409), "{stale}");
    maps.delete_collection(&DeleteParams::default(), &ours).await.unwrap();
    let mut told = Vec::new();
    while told.len() < 4 {
        told.push(match watch.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(map) => format!("added {}", map.name_any()),
            WatchEvent::Modified(map) => format!("modified {}", map.name_any()),
            WatchEvent::Deleted(map) => format!("deleted {}", map.name_any()),
            other => panic!("{other:?}"),
        });
    }
    told[2..].sort();
    assert_eq!(told, ["added two", "modified one", "deleted one", "deleted two"]);
    let services: Api<Service> = Api::all(client.clone());
    let kubernetes = services.list(&ListParams::default().fields("metadata.name=kubernetes")).await.unwrap();
    assert_eq!(kubernetes.items[0].spec.as_ref().unwrap().cluster_ip.as_deref(), Some("10.43.0.1"));
}

/// Server-side apply: conflicts, force, and the end of what is applied no more.
async fn applied(client: &Client) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = |value: &str| ConfigMap {
        metadata: ObjectMeta { name: Some("applied".to_owned()), ..Default::default() },
        data: Some([("a".to_owned(), value.to_owned())].into()),
        ..Default::default()
    };
    let (me, you) = (PatchParams::apply("me"), PatchParams::apply("you"));
    maps.patch("applied", &me, &Patch::Apply(map("1"))).await.unwrap();
    let refused = maps.patch("applied", &you, &Patch::Apply(map("2"))).await.unwrap_err();
    assert!(refused.to_string().contains("conflict with \"me\": .data.a"), "{refused}");
    let forced = maps.patch("applied", &you.force(), &Patch::Apply(map("2"))).await.unwrap();
    let owners: Vec<_> =
        forced.metadata.managed_fields.iter().flatten().map(|entry| entry.manager.as_deref()).collect();
    assert_eq!(owners, [Some("you")]);
    maps.delete("applied", &DeleteParams::default()).await.unwrap();
}

async fn pods(client: &Client) {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let talker: Pod = serde_json::from_value(json!({
        "metadata": {"name": "talker"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "talker", "image": "host", "command": ["sh", "-c", "echo said; exec sleep 1000"]},
            {"name": "echo", "image": "echo", "ports": [{"containerPort": 8080}]},
        ]},
    }))
    .unwrap();
    pods.create(&PostParams::default(), &talker).await.unwrap();
    let ready = kube::runtime::wait::conditions::is_pod_running();
    kube::runtime::wait::await_condition(pods.clone(), "talker", ready).await.unwrap();
    let of_talker = LogParams { container: Some("talker".to_owned()), follow: true, ..LogParams::default() };
    let mut log = pods.log_stream("talker", &of_talker).await.unwrap().lines();
    assert_eq!(log.next().await.unwrap().unwrap(), "said");
    let attach = AttachParams::default().container("talker").stdin(true).stderr(false);
    let mut cat = pods.exec("talker", ["head", "-c", "6"], &attach).await.unwrap();
    cat.stdin().unwrap().write_all(b"typed\n").await.unwrap();
    let mut out = String::new();
    cat.stdout().unwrap().read_to_string(&mut out).await.unwrap();
    let status = cat.take_status().unwrap().await.unwrap();
    assert_eq!((out.as_str(), status.status.as_deref()), ("typed\n", Some("Success")));
    let mut ports = pods.portforward("talker", &[8080, 9999]).await.unwrap();
    let mut stream = ports.take_stream(8080).unwrap();
    stream.write_all(b"GET /forwarded HTTP/1.0\r\n\r\n").await.unwrap();
    let mut out = vec![0; 12];
    stream.read_exact(&mut out).await.unwrap();
    assert_eq!(out, b"HTTP/1.0 200");
    let refused = ports.take_error(9999).unwrap().await.unwrap_or_default();
    assert!(refused.contains("127.0.0.1:9999: connect: connection refused"), "{refused}");
    pods.delete("talker", &DeleteParams::default()).await.unwrap();
}

/// The first Python that has the official client; says that this part is skipped if there is none.
fn python(lab: &Lab) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join("target/python/bin/python").to_string_lossy().into_owned();
    let has_it = |python: &&str| {
        let said = Command::new(python).args(["-c", "import kubernetes"]).output();
        said.is_ok_and(|said| said.status.success())
    };
    let Some(python) = [own.as_str(), "python3", "/usr/bin/python3"].into_iter().find(has_it) else {
        println!("skipped: no Python with the package kubernetes");
        return;
    };
    let script = root.join("tests/clients/official.py").to_string_lossy().into_owned();
    let said = run(lab.command(python, &[&script]).env("MINISVC", MINISVC), "");
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.ends_with("all of it holds\n"), "{}", said.out);
}
