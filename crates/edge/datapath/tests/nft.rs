//! The service table on the real kernel: written, read back, listed, and used by real connections.
#![allow(missing_docs, clippy::expect_used, clippy::print_stderr)]

mod cluster;

use cluster::{Objects, node};
use minisvc_datapath::nft::ServiceTableTarget;
use minisvc_lab::testing::in_namespaces;
use minisvc_proxy::Planner;
use minisvc_reconcile::{Target, diff};
use std::process::Command;

fn nft(args: &[&str]) -> Option<std::process::Output> {
    match Command::new("nft").args(args).output() {
        Ok(output) => Some(output),
        Err(_) => {
            eprintln!("skipped: no nft");
            None
        }
    }
}

/// A world with one Service of every kind.
fn world() -> Objects {
    let mut objects = Objects::default();
    objects.service("plain", r#"{"clusterIP": "10.43.1.1", "ports": [{"port": 80}, {"name": "u", "port": 53, "protocol": "UDP"}]}"#);
    objects.slice(
        "plain",
        r#"[{"port": 8080}, {"name": "u", "port": 5353, "protocol": "UDP"}]"#,
        &[("10.42.0.2", "n1"), ("10.42.1.2", "n2"), ("10.42.0.3", "n1")],
    );
    objects.service("sticky", r#"{"clusterIP": "10.43.1.2", "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}, "ports": [{"port": 80}]}"#);
    objects.slice("sticky", r#"[{"port": 8080}]"#, &[("10.42.0.2", "n1"), ("10.42.0.3", "n1")]);
    objects.service(
        "empty",
        r#"{"clusterIP": "10.43.1.3", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}"#,
    );
    objects.service("local", r#"{"clusterIP": "10.43.1.4", "type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["192.0.2.0/24", "198.51.100.0/25"], "ports": [{"port": 80, "nodePort": 30002}]}"#);
    objects.ingress("local", "203.0.113.5");
    objects.slice("local", r#"[{"port": 8080}]"#, &[("10.42.0.2", "n1"), ("10.42.1.2", "n2")]);
    objects
}

#[test]
fn what_is_written_is_read_back_and_listed() {
    in_namespaces("what_is_written_is_read_back_and_listed", || {
        let mut target = ServiceTableTarget::open().expect("open");
        let actual = target.observe().expect("observe nothing");
        assert!(actual.is_empty());
        let mut planner = Planner::new(node("n1", "192.168.9.1"), &actual);
        let mut objects = world();
        let delta = planner.update(&objects.snapshot());
        assert!(planner.rejected().is_empty(), "{:?}", planner.rejected());
        target.apply(&delta.ops).expect("apply");
        let read = target.observe().expect("observe");
        assert_eq!(diff(planner.table(), &read), [], "kernel on the right");

        // Another start finds nothing to do, with the numbers that are there.
        let mut fresh = ServiceTableTarget::open().expect("open again");
        let actual = fresh.observe().expect("observe again");
        let mut second = Planner::new(node("n1", "192.168.9.1"), &actual);
        assert_eq!(second.update(&objects.snapshot()).ops, []);

        // Changes: an endpoint more, a Service less, and back; a class that goes away takes its chain along.
        objects.slice(
            "plain",
            r#"[{"port": 8080}]"#,
            &[("10.42.0.2", "n1"), ("10.42.1.2", "n2"), ("10.42.0.3", "n1"), ("10.42.1.9", "n2")],
        );
        objects.remove("sticky");
        let delta = planner.update(&objects.snapshot());
        target.apply(&delta.ops).expect("apply a change");
        assert_eq!(diff(planner.table(), &target.observe().expect("observe")), []);
        if let Some(output) = nft(&["list", "ruleset"]) {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{output:?}");
            assert!(!text.contains("stick"), "{text}");
            assert!(text.contains("chain pick4"), "{text}");
        }
        planner.update(&world().snapshot());
        let back = diff(planner.table(), &target.observe().expect("observe"));
        target.apply(&back).expect("apply back");
        assert_eq!(diff(planner.table(), &target.observe().expect("observe")), []);
        reload(&mut target);
        target.remove().expect("remove");
        if let Some(output) = nft(&["list", "ruleset"]) {
            assert!(output.stdout.is_empty(), "{output:?}");
        }
    });
}

/// nft lists the table, loads its own listing, and lists that alike.
fn reload(target: &mut ServiceTableTarget) {
    let Some(listed) = nft(&["list", "ruleset"]) else { return };
    assert!(listed.status.success(), "{listed:?}");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    if let Ok(path) = std::env::var("SHOW_TABLE") {
        std::fs::write(path, &text).expect("write listing");
    }
    target.remove().expect("remove");
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), &text).expect("write");
    let path = file.path().to_str().expect("path").to_owned();
    let loaded = nft(&["-f", &path]).expect("nft was there");
    assert!(loaded.status.success(), "{loaded:?}\n{text}");
    let again = nft(&["list", "ruleset"]).expect("nft was there");
    assert_eq!(String::from_utf8_lossy(&again.stdout), text);
    // What nft loaded lacks our fingerprints: it counts as broken and is replaced as a whole.
    assert!(target.observe().expect("observe nft's").is_empty());
}
