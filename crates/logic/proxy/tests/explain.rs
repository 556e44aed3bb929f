//! What is said of a packet: the Service, the policy, the shares, and why nobody answers.
#![allow(missing_docs, clippy::expect_used)]

mod world;

use minisvc_apimachinery::{ObjectKey, Snapshot};
use minisvc_netstate::{
    family::Endpoint,
    flow::UdpFlow,
    nft::{Packet, Protocol, ServiceTable, Verdict},
};
use minisvc_proxy::{
    Owner, Planner,
    explain::{Choice, Entry, Explanation, Matched, Outcome, Reason, explain},
    trace, udp_flow_is_stale,
};
use proptest::prelude::*;
use std::{collections::BTreeSet, net::Ipv4Addr};
use world::{End, NODE, Port, Svc, World, node_view, worlds};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const POD: Ipv4Addr = Ipv4Addr::new(10, 42, 7, 7);

fn end(address: [u8; 4], node: &'static str) -> End {
    let hints: (&[&str], &[&str]) = (&[], &[]);
    End { address: address.into(), node, ready: true, serving: true, terminating: false, hints }
}

fn service() -> Svc {
    Svc {
        name: "web".to_owned(),
        cluster_ip: Some(Ipv4Addr::new(10, 43, 1, 1)),
        balancer_ip: Some(Ipv4Addr::new(203, 0, 113, 1)),
        external_ip: Some(Ipv4Addr::new(192, 0, 2, 1)),
        external: true,
        internal_local: false,
        external_local: false,
        sticky: false,
        ranges: Vec::new(),
        ports: vec![Port { protocol: Protocol::Tcp, port: 80, node_port: Some(30001) }],
        ends: vec![end([10, 42, 0, 2], "n1"), end([10, 42, 1, 2], "n2")],
    }
}

fn packet(source: Ipv4Addr, destination: impl Into<Ipv4Addr>, port: u16) -> Packet {
    let destination = destination.into();
    Packet { source, destination, protocol: Protocol::Tcp, port, from_node: false, mark: 0 }
}

fn planned(snapshot: &Snapshot) -> Planner {
    let mut planner = Planner::new(node_view(), ServiceTable::new());
    planner.update(snapshot);
    planner
}

fn said(service: Svc, packet: &Packet) -> Explanation<Ipv4Addr> {
    let snapshot = World { services: vec![service], pods: Vec::new(), wide: false }.snapshot();
    explain(&planned(&snapshot), &snapshot, packet)
}

fn outcome(change: impl FnOnce(&mut Svc), packet: &Packet) -> Outcome<Ipv4Addr> {
    let mut service = service();
    change(&mut service);
    said(service, packet).outcome
}

#[test]
fn a_cluster_ip_is_shared_by_all_endpoints() {
    let found = said(service(), &packet(POD, [10, 43, 1, 1], 80));
    let matched = Matched {
        owner: Owner::Service(ObjectKey::new("default", "web")),
        port: 80,
        port_name: "tcp80".to_owned(),
        entry: Entry::ClusterIp,
        inside: true,
        local: false,
        distribution: None,
        source_ranges: None,
        affinity_s: None,
    };
    assert_eq!(found.matched, Some(matched));
    let choice =
        |text: &str| Choice { endpoint: text.parse().expect("endpoint"), masquerade: false, picks: 1 };
    let choices = vec![choice("10.42.0.2:8080"), choice("10.42.1.2:8080")];
    assert_eq!(found.outcome, Outcome::Endpoints { choices, picks: 2 });
    assert!(found.steps.iter().any(|step| step.chain == "pick2"), "{:?}", found.steps);
    let hairpin = said(service(), &packet(Ipv4Addr::new(10, 42, 0, 2), [10, 43, 1, 1], 80));
    let Outcome::Endpoints { choices, .. } = hairpin.outcome else { panic!("{hairpin:?}") };
    assert_eq!(choices.iter().map(|choice| choice.masquerade).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_local_policy_counts_for_those_outside_only() {
    let local = |service: &mut Svc| service.external_local = true;
    let endpoints = |outcome: Outcome<Ipv4Addr>| match outcome {
        Outcome::Endpoints { choices, .. } => (choices.len(), choices.iter().all(|choice| choice.masquerade)),
        other => panic!("{other:?}"),
    };
    let (from_outside, from_pod) = (packet(OUTSIDE, NODE, 30001), packet(POD, NODE, 30001));
    assert_eq!(endpoints(outcome(|_| {}, &from_outside)), (2, true));
    assert_eq!(endpoints(outcome(local, &from_outside)), (1, false));
    assert_eq!(endpoints(outcome(local, &from_pod)), (2, false));
    let gone = |service: &mut Svc| {
        service.external_local = true;
        service.ends.remove(0);
    };
    assert_eq!(outcome(gone, &from_outside), Outcome::Dropped(Reason::NoLocalEndpoint));
    assert_eq!(endpoints(outcome(gone, &from_pod)), (1, false));
}

#[test]
fn an_external_ip_is_for_those_outside() {
    let said = said(service(), &packet(OUTSIDE, [192, 0, 2, 1], 80));
    assert_eq!(said.matched.map(|matched| matched.entry), Some(Entry::ExternalIp));
    assert!(matches!(said.outcome, Outcome::Endpoints { picks: 2, .. }));
    let disallowed = |service: &mut Svc| service.external_ip = Some(Ipv4Addr::new(192, 0, 3, 1));
    let passed = Outcome::Pass { masquerade: false };
    assert_eq!(outcome(disallowed, &packet(OUTSIDE, [192, 0, 3, 1], 80)), passed);
}

#[test]
fn nobody_answers_for_a_reason() {
    let cluster_ip = packet(POD, [10, 43, 1, 1], 80);
    assert_eq!(outcome(|s| s.ends.clear(), &cluster_ip), Outcome::Refused(Reason::NoEndpoint));
    let other = |port| packet(POD, [10, 43, 1, 1], port);
    assert_eq!(outcome(|_| {}, &other(81)), Outcome::Refused(Reason::NoSuchPort));
    let ranged = |service: &mut Svc| service.ranges = vec!["198.51.100.0/24"];
    let balancer = |source| packet(source, [203, 0, 113, 1], 80);
    let stranger = Ipv4Addr::new(192, 0, 2, 9);
    assert_eq!(outcome(ranged, &balancer(stranger)), Outcome::Dropped(Reason::SourceNotAllowed));
    assert!(matches!(outcome(ranged, &balancer(OUTSIDE)), Outcome::Endpoints { .. }));
    let both = |service: &mut Svc| {
        ranged(service);
        service.external_local = true;
        service.ends.remove(0);
    };
    assert_eq!(outcome(both, &balancer(stranger)), Outcome::Dropped(Reason::SourceNotAllowed));
    assert_eq!(outcome(both, &balancer(OUTSIDE)), Outcome::Dropped(Reason::NoLocalEndpoint));
    let elsewhere = packet(POD, [192, 0, 2, 9], 80);
    assert_eq!(outcome(|_| {}, &elsewhere), Outcome::Pass { masquerade: true });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The explanation is the tracer's verdict for every pick, and never blames a Service that has endpoints.
    #[test]
    fn what_is_said_is_what_is_traced(world in worlds(), random in any::<u32>()) {
        let snapshot = world.snapshot();
        let planner = planned(&snapshot);
        for packet in world.packets(0) {
            let said = explain(&planner, &snapshot, &packet);
            let connection = minisvc_netstate::nft::Connection { random, remembered: None };
            let agrees = match (trace(planner.table(), &packet, &connection).verdict, &said.outcome) {
                (Verdict::Pass { masquerade }, Outcome::Pass { masquerade: said }) => masquerade == *said,
                (Verdict::Endpoint { endpoint, masquerade }, Outcome::Endpoints { choices, picks }) => {
                    choices.iter().map(|choice| choice.picks).sum::<u32>() == *picks
                        && choices.iter().any(|choice| (choice.endpoint, choice.masquerade) == (endpoint, masquerade))
                }
                (Verdict::Refuse, Outcome::Refused(reason)) => (*reason == Reason::NoEndpoint) == said.matched.is_some(),
                (Verdict::Drop, Outcome::Dropped(reason)) => {
                    let allowed = said.matched.as_ref().and_then(|matched| matched.source_ranges.as_ref())
                        .is_none_or(|ranges| ranges.iter().any(|range| range.contains(&packet.source)));
                    (*reason == Reason::NoLocalEndpoint) == allowed
                }
                _ => false,
            };
            prop_assert!(agrees, "{packet:?}: {said:?}");
        }
    }

    /// A UDP flow is kept if and only if its first packet could be sent to the same endpoint today.
    #[test]
    fn a_flow_is_stale_where_its_packet_would_go_elsewhere(world in worlds()) {
        let snapshot = world.snapshot();
        let planner = planned(&snapshot);
        let packets: Vec<_> = world.packets(0).into_iter().filter(|packet| packet.protocol == Protocol::Udp).collect();
        let choices = |packet: &Packet| match explain(&planner, &snapshot, packet).outcome {
            Outcome::Endpoints { choices, .. } => choices.iter().map(|choice| choice.endpoint).collect(),
            _ => Vec::new(),
        };
        let endpoints: BTreeSet<_> = packets.iter().flat_map(choices).collect();
        for packet in &packets {
            let (now, untranslated) = (choices(packet), Endpoint { address: packet.destination, port: packet.port });
            for reply_source in endpoints.iter().copied().chain([untranslated]) {
                let source = Endpoint { address: packet.source, port: 5353 };
                let flow = UdpFlow { source, destination: untranslated, reply_source, reply_destination: source };
                let stale = udp_flow_is_stale(planner.table(), &BTreeSet::new(), &flow);
                let ends = match explain(&planner, &snapshot, packet).outcome {
                    Outcome::Pass { .. } => reply_source == untranslated,
                    // Nothing of a packet that no Service takes was ever remembered.
                    Outcome::Refused(Reason::NoSuchPort) => reply_source == untranslated,
                    _ => now.contains(&reply_source),
                };
                prop_assert_eq!(stale, !ends, "{:?} of {:?}", flow, packet);
            }
        }
    }
}
