//! The table against the Service specification: thousands of generated worlds, and packets through both.
#![allow(missing_docs, clippy::expect_used)]

mod world;

use minisvc_apimachinery::Snapshot;
use minisvc_netstate::{
    family::{Endpoint, Family},
    nft::{
        Connection, Key, Packet, ServiceTable, Value, Verdict,
        element::REFUSE,
        rules::{Jump, Statement, constant_chains},
        trace::walk,
    },
};
use minisvc_proxy::{NodeView, Planner, desired, trace};
use minisvc_reconcile::Op;
use proptest::{prelude::*, strategy::ValueTree};
use std::net::{Ipv4Addr, Ipv6Addr};
use world::{Change, Twin, World, both_nets, drawn, twin, worlds};

/// What the specification allows for a packet: some endpoint of these, or one of the plain verdicts.
#[derive(Debug, PartialEq)]
enum Expected {
    Endpoints { any_of: Vec<Endpoint>, masquerade_clients: bool },
    Verdict(Verdict),
}

fn in_net(net: &str, ip: Ipv4Addr) -> bool {
    net.parse::<ipnet::Ipv4Net>().expect("net").contains(&ip)
}

/// Straight from the Service specification, Service by Service, with no table in between.
fn reference(world: &World, node: &NodeView, packet: &Packet, six: bool) -> Expected {
    let pods = |old| {
        let found = world.host_port(packet, six, old)?;
        Some(Expected::Endpoints { any_of: vec![found], masquerade_clients: false })
    };
    if let Some(taken) = pods(true) {
        return taken;
    }
    let from_pod = in_net("10.42.0.0/16", packet.source);
    let inside = from_pod || packet.from_node;
    let node_address = node.addresses.contains(&packet.destination.into());
    for service in &world.services {
        for port in service.ports.iter().filter(|port| port.protocol == packet.protocol) {
            let cluster_ip = service.cluster_ip == Some(packet.destination) && port.port == packet.port;
            let node_port = node_address && service.external && port.node_port == Some(packet.port);
            let balancer = service.balancer_ip == Some(packet.destination) && port.port == packet.port;
            let external_ip = service.external_ip == Some(packet.destination)
                && port.port == packet.port
                && in_net("192.0.2.0/24", packet.destination);
            if !(cluster_ip || node_port || balancer || external_ip) || packet.destination == world::DNS {
                continue;
            }
            if balancer && !service.ranges.is_empty() {
                let allowed = |ip: Ipv4Addr| service.ranges.iter().any(|range| in_net(range, ip));
                let own = packet.source == packet.destination && allowed(world::NODE);
                if !allowed(packet.source) && !own {
                    return Expected::Verdict(Verdict::Drop);
                }
            }
            let local = if cluster_ip { service.internal_local } else { service.external_local && !inside };
            let all = service.usable(port, |_| true);
            let mine = service.usable(port, |node| node == "n1");
            let any_of = if local { mine } else { service.near(port) };
            if any_of.is_empty() {
                let verdict = if all.is_empty() { Verdict::Refuse } else { Verdict::Drop };
                return Expected::Verdict(verdict);
            }
            let masquerade_clients = !from_pod && (cluster_ip || !service.external_local);
            return Expected::Endpoints { any_of, masquerade_clients };
        }
    }
    if let Some(taken) = pods(false) {
        return taken;
    }
    let refused = in_net("10.43.0.0/16", packet.destination) && packet.destination != world::DNS
        || world.services.iter().any(|service| service.balancer_ip == Some(packet.destination));
    let stays = node_address || packet.destination == world::DNS;
    let masquerade = from_pod && !in_net("10.42.0.0/16", packet.destination) && !stays;
    Expected::Verdict(if refused { Verdict::Refuse } else { Verdict::Pass { masquerade } })
}

/// Whether a verdict is one that the specification allows.
fn agrees(expected: &Expected, verdict: Verdict, packet: &Packet) -> bool {
    match (expected, verdict) {
        (Expected::Verdict(wanted), found) => *wanted == found,
        (Expected::Endpoints { any_of, masquerade_clients }, Verdict::Endpoint { endpoint, masquerade }) => {
            // A Pod of another node was translated there: only this node's can meet themselves here.
            let hairpin = packet.source == endpoint.address && in_net("10.42.0.0/24", packet.source);
            any_of.contains(&endpoint) && masquerade == (*masquerade_clients || hairpin)
        }
        _ => false,
    }
}

/// Checks the table of a family with the twin of a packet.
fn check<A: Twin>(
    world: &World,
    table: &ServiceTable<A>,
    packet: &Packet,
    connection: &Connection,
) -> Result<(), String> {
    let found = trace(table, &twin(packet), connection);
    let verdict = drawn(found.verdict);
    let expected = reference(world, &world.node_view(), packet, A::FAMILY == Family::Ipv6);
    if !agrees(&expected, verdict, packet) {
        return Err(format!("{packet:?}: {expected:?} but {verdict:?}\n{:#?}", found.steps));
    }
    let mark = if matches!(verdict, Verdict::Pass { .. }) { packet.mark } else { 0 };
    let ended = matches!(verdict, Verdict::Refuse | Verdict::Drop);
    if !ended && (found.mark, found.conntrack_mark) != (mark, 0) {
        return Err(format!("{packet:?}: marks {:x} {:x} leak", found.mark, found.conntrack_mark));
    }
    Ok(())
}

fn table_of<A: Twin>(world: &World, snapshot: &Snapshot) -> ServiceTable<A> {
    desired(snapshot, &world.node_view(), ServiceTable::new()).desired
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_the_specification_says(
        world in worlds(),
        random in any::<u32>(),
        remembered in proptest::option::of(any::<u32>()),
        mark in prop_oneof![Just(0u32), Just(0x4000), Just(0xffe0_0000)],
    ) {
        let snapshot = world.snapshot();
        let (v4, v6) = (table_of::<Ipv4Addr>(&world, &snapshot), table_of::<Ipv6Addr>(&world, &snapshot));
        let connection = Connection { random, remembered };
        for packet in world.packets(mark) {
            check(&world, &v4, &packet, &connection).map_err(TestCaseError::fail)?;
            check(&world, &v6, &packet, &connection).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn planning_step_by_step_is_planning_the_whole(
        world in worlds(), changes in proptest::collection::vec(any::<Change>(), 1..6),
    ) {
        let mut world = world;
        let mut planner = Planner::<Ipv6Addr>::new(world.node_view(), ServiceTable::new());
        let mut kernel = ServiceTable::new();
        for (step, change) in std::iter::once(None).chain(changes.into_iter().map(Some)).enumerate() {
            // Every third step the Services' networks become more, or fewer again.
            let mut node = world.node_view();
            if step % 3 == 2 {
                node.cluster.service_cidrs.extend(both_nets("10.77.0.0/24"));
            }
            planner.set_node(node.clone());
            if let Some(change) = change {
                world.change(change);
            }
            let snapshot = world.snapshot();
            let before = planner.rejected();
            let delta = planner.update(&snapshot);
            prop_assert!(delta.rejected || planner.rejected() == before);
            for op in delta.ops {
                let (present, put) = (kernel.contains_key(op.key()), matches!(op, Op::Put(..)));
                match op {
                    Op::Delete(key) => kernel.remove(&key),
                    Op::Put(key, value) => kernel.insert(key, value),
                    Op::Replace(key, value) => kernel.insert(key, value),
                };
                // The kernel refuses to delete or replace what is not there, and to create what is.
                prop_assert_eq!(present, !put);
            }
            let whole = desired(&snapshot, &node, planner.table().clone());
            prop_assert_eq!(&kernel, planner.table());
            prop_assert_eq!(planner.table(), &whole.desired);
            prop_assert_eq!(planner.rejected(), whole.rejected);
        }
    }
}

/// Whether the property fails in some of 200 worlds when a table or the rules are broken.
fn notices(break_table: impl Fn(&mut ServiceTable), statement: Option<Statement>) -> bool {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = worlds();
    let mut chains = constant_chains();
    for rule in chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        if rule.iter().any(|other| Some(other) == statement.as_ref()) {
            rule.clear();
        }
    }
    (0..200).any(|_| {
        let world = strategy.new_tree(&mut runner).expect("world").current();
        let mut table = table_of::<Ipv4Addr>(&world, &world.snapshot());
        break_table(&mut table);
        world.packets(0).iter().any(|packet| {
            let connection = Connection { random: 7, remembered: None };
            let found = walk(&table, &chains, packet, &connection).verdict;
            !agrees(&reference(&world, &world.node_view(), packet, false), found, packet)
        })
    })
}

#[test]
fn the_property_notices_a_broken_table() {
    assert!(!notices(|_| {}, None), "nothing is broken, nothing is noticed");
    let without = |drop: fn(&Key) -> bool| move |table: &mut ServiceTable| table.retain(|key, _| !drop(key));
    assert!(notices(without(|key| matches!(key, Key::Hairpin(_))), None), "hairpin");
    assert!(notices(without(|key| matches!(key, Key::Masqueraded(_))), None), "masquerade");
    assert!(notices(without(|key| matches!(key, Key::Endpoint(_, 0))), None), "endpoint");
    assert!(notices(without(|key| matches!(key, Key::SourceRange(..))), None), "source range");
    assert!(notices(without(|key| matches!(key, Key::LoadBalancerAddress(_))), None), "balancer");
    assert!(notices(without(|key| matches!(key, Key::LocalService(_))), None), "DNS");
    for node in [world::NODE, world::NODE_TOO] {
        let host_ports = move |table: &mut ServiceTable| {
            table.retain(|key, _| !matches!(key, Key::Frontend(frontend) if frontend.address == node));
        };
        assert!(notices(host_ports, None), "host ports at {node}");
    }
    let refuse_outside = |table: &mut ServiceTable| {
        for (key, value) in table.iter_mut() {
            if matches!(key, Key::ExternalFrontend(_)) {
                *value = Value::Mark(REFUSE);
            }
        }
    };
    assert!(notices(refuse_outside, None), "Local policy");
}

#[test]
fn the_property_notices_a_broken_rule() {
    for statement in [
        Statement::Masquerade,
        Statement::SourceIsLocal,
        Statement::To(Jump::Drop),
        Statement::To(Jump::Goto("by_source")),
        Statement::To(Jump::Goto("by_range")),
        Statement::To(Jump::Jump("settle")),
    ] {
        let name = format!("{statement:?}");
        assert!(notices(|_| {}, Some(statement)), "{name}");
    }
}
