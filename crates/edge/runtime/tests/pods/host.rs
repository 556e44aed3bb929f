//! Pods in the network of their node.

use crate::{
    cases::{container, ended, finish, log, log_of, pod, run, runtime, wait_for, wait_for_log},
    streams::{connect, next, own_loopback, serve},
};
use minisvc_runtime::{PodBundle, RestartPolicy};
use std::{fs, io::Write};

const SCRIPT: &str = r#"
    readlink /proc/self/ns/net
    echo "host $(hostname) named $(cat /etc/hostname)"
    cat /etc/hosts
    sed -n 's/^CapEff:.//p' /proc/self/status
    echo told
    trap 'exit 3' TERM; while :; do sleep 0.02; done"#;

fn bundle(uid: &str) -> PodBundle {
    let containers = vec![container("main", "host", &["sh", "-c", SCRIPT])];
    PodBundle {
        netns: None,
        hostname: "machine".into(),
        host_aliases: vec![([192, 0, 2, 9].into(), vec!["alias".into()])],
        ..pod(uid, RestartPolicy::Never, containers)
    }
}

/// It sees the node's links, names and loopback, and is not more powerful for that; the next server takes it over.
pub fn in_the_nodes_network() {
    own_loopback();
    run(async {
        let first = runtime();
        first.start_pod(bundle("n1")).await.unwrap();
        wait_for_log("n1", "told").await;
        let text = log(&log_of("n1", 0));
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let of_node = fs::read_to_string("/etc/hosts").unwrap();
        let of_node = of_node.lines().next().unwrap_or_default();
        for part in [
            own.to_str().unwrap(),
            "host machine named machine",
            "# Kubernetes-managed hosts file (host network).",
            of_node,
            "192.0.2.9\talias",
            "00000000a00425fb",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        let (address, greeting) = (serve(&first).await, std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let port = greeting.local_addr().unwrap().port();
        std::thread::spawn(move || greeting.accept().unwrap().0.write_all(b"from the loopback").unwrap());
        let path = format!("/portForward/default/web-0?ports={port}");
        let mut socket = connect(address, &path, "v4.channel.k8s.io").await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"loopback") {
            heard.extend_from_slice(&next(&mut socket).await.expect("a greeting")[1..]);
        }
        drop((socket, first));

        let second = runtime();
        let adopted = second.adopt().await.unwrap();
        assert_eq!((adopted.len(), adopted[0].bundle.netns.as_deref()), (1, None));
        second.stop("n1", std::time::Duration::from_secs(5)).await.unwrap();
        let record = wait_for(&second, "n1", |pod| ended(pod).is_some()).await;
        assert_eq!(ended(&record).unwrap().exit_code, 3);
        finish(&second, "n1").await;
    });
}
