//! The service table on the real kernel: written, read back, listed, and used by real connections.
#![allow(missing_docs, clippy::expect_used, clippy::print_stderr)]

mod cluster;

use cluster::{Objects, node};
use minisvc_datapath::nft::ServiceTableTarget;
use minisvc_lab::testing::in_namespaces;
use minisvc_netstate::{
    family::{Address, Endpoint, Family},
    nft::{Class, Frontend, Key, Protocol, ServiceTable, Value, element::mark},
};
use minisvc_proxy::Planner;
use minisvc_reconcile::{Op, Target, diff};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
    time::{Duration, Instant},
};

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
        round_trip::<Ipv4Addr>();
        round_trip::<Ipv6Addr>();
    });
}

/// Writes the table of a family, reads it back, changes it, has nft list and load it.
fn round_trip<A: Address>() {
    let mut target = ServiceTableTarget::<A>::open().expect("open");
    let actual = target.observe().expect("observe nothing");
    assert!(actual.is_empty());
    let mut planner = Planner::new(node("n1"), actual);
    let mut objects = world();
    let delta = planner.update(&objects.snapshot());
    assert!(planner.rejected().is_empty(), "{:?}", planner.rejected());
    target.apply(&delta.ops).expect("apply");
    let read = target.observe().expect("observe");
    assert_eq!(diff(planner.table(), &read), [], "kernel on the right");

    // Another start finds nothing to do, with the numbers that are there.
    let mut fresh = ServiceTableTarget::<A>::open().expect("open again");
    let actual = fresh.observe().expect("observe again");
    let mut second = Planner::new(node("n1"), actual);
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
    if A::FAMILY == Family::Ipv6 {
        // nft 1.0.6 lists an update of a map by keys of more than 16 bytes, and aborts when it is to load that.
        let mut others = world();
        others.remove("sticky");
        target.apply(&planner.update(&others.snapshot()).ops).expect("apply");
    }
    reload(&mut target);
    target.remove().expect("remove");
    if let Some(output) = nft(&["list", "ruleset"]) {
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

/// A table of these many sets with ten endpoints each, and a frontend for each set.
fn wide(sets: u32) -> ServiceTable {
    const CLASS: u16 = 10;
    let class = Class { endpoints: CLASS, affinity_s: None };
    let mut table = ServiceTable::from([(Key::Class(CLASS), Value::Class(class))]);
    for set in 0..sets {
        let (high, low) = ((set / 250) as u8, (set % 250) as u8);
        let address = Ipv4Addr::new(10, 43, high, low);
        let frontend = Frontend { address, protocol: Protocol::Tcp, port: 80 };
        table.insert(Key::Frontend(frontend), Value::Mark(mark(CLASS, set)));
        for slot in 0..u32::from(CLASS) {
            let endpoint = Endpoint { address: Ipv4Addr::new(10, 42, high, low), port: 8000 + slot as u16 };
            table.insert(Key::Endpoint(set, slot), Value::Endpoint(endpoint));
        }
    }
    table
}

/// What a plain user's send buffer is on most systems holds no large table; it is loaded all the same, in parts.
#[test]
fn two_hundred_thousand_elements_fit_through_a_small_send_buffer() {
    in_namespaces("two_hundred_thousand_elements_fit_through_a_small_send_buffer", || {
        const USUAL: u32 = 212_992 / 2;
        let started = Instant::now();
        let mut table = wide(20_000);
        assert!(table.len() > 200_000);
        let mut target = ServiceTableTarget::<Ipv4Addr>::with_send_buffer(USUAL).expect("open");
        assert!(target.transaction_bytes_max() < 300_000, "the buffer is small");
        let nothing = target.observe().expect("observe nothing");
        target.apply(&diff(&table, &nothing)).expect("apply");

        // Another start reads the same; one endpoint changes as ever.
        let mut again = ServiceTableTarget::<Ipv4Addr>::with_send_buffer(USUAL).expect("open again");
        assert_eq!(diff(&table, &again.observe().expect("observe again")).len(), 0);
        let (key, other) = (Key::Endpoint(7, 3), Value::Endpoint("10.42.255.1:80".parse().expect("address")));
        again.apply(&[Op::Replace(key, other)]).expect("change one");
        table.insert(key, other);
        assert_eq!(diff(&table, &again.observe().expect("observe the change")).len(), 0);

        // Most of it goes again, in parts as well.
        let few = wide(10);
        again.apply(&diff(&few, &table)).expect("delete");
        assert_eq!(diff(&few, &again.observe().expect("observe the rest")).len(), 0);
        assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
    });
}

/// nft lists the table, loads its own listing, and lists that alike.
fn reload<A: Address>(target: &mut ServiceTableTarget<A>) {
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

#[test]
fn what_others_do_is_noticed_and_what_we_do_is_not() {
    in_namespaces("what_others_do_is_noticed_and_what_we_do_is_not", || {
        let mut ours = ServiceTableTarget::<Ipv4Addr>::open().expect("open");
        assert!(ours.others_changed_something().expect("generation"), "nothing is known yet");
        let actual = ours.observe().expect("observe");
        let mut planner = Planner::new(node("n1"), actual);
        ours.apply(&planner.update(&world().snapshot()).ops).expect("apply");
        assert!(!ours.others_changed_something().expect("generation"), "it was us");
        let mut other = ServiceTableTarget::<Ipv4Addr>::open().expect("open another");
        other.remove().expect("remove");
        assert!(ours.others_changed_something().expect("generation"));
        assert!(ours.observe().expect("observe").is_empty());
        assert!(!ours.others_changed_something().expect("generation"), "it was seen");
    });
}
