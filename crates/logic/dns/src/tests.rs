//! Whole answers for whole worlds.

mod families;

use super::*;
use crate::{name::labels, reverse};
use k8s_openapi::api::core::v1::Service;
use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot, Synced, endpoint_slices::EndpointSlice};
use proptest::prelude::*;
use std::sync::Arc;

fn service(namespace: &str, name: &str, spec: &str) -> (ObjectKey, Arc<Service>) {
    let json = format!(r#"{{"metadata":{{"namespace":"{namespace}","name":"{name}"}},"spec":{spec}}}"#);
    (ObjectKey::new(namespace, name), Arc::new(serde_json::from_str(&json).unwrap()))
}

fn slice(namespace: &str, service: &str, name: &str, endpoints: &str) -> (ObjectKey, Arc<EndpointSlice>) {
    let json = format!(
        r#"{{"metadata":{{"namespace":"{namespace}","name":"{name}","labels":{{"kubernetes.io/service-name":"{service}"}}}},
            "addressType":"IPv4","endpoints":{endpoints},
            "ports":[{{"name":"http","port":8080,"protocol":"TCP"}},{{"name":"","port":9,"protocol":"TCP"}}]}}"#
    );
    (ObjectKey::new(namespace, name), Arc::new(serde_json::from_str(&json).unwrap()))
}

const READY: &str = r#"[
    {"addresses":["10.42.0.3"],"conditions":{"ready":true}},
    {"addresses":["10.42.1.4"],"conditions":{},"hostname":"db-0"},
    {"addresses":["10.42.2.5"],"conditions":{"ready":false}}]"#;

fn world() -> Snapshot {
    let mut world = Snapshot::default();
    for (key, value) in [
        service(
            "default",
            "web",
            r#"{"clusterIP":"10.43.0.20","clusterIPs":["10.43.0.20"],
                "ports":[{"name":"http","port":80,"protocol":"TCP"},{"name":"dns","port":53,"protocol":"UDP"}]}"#,
        ),
        service(
            "default",
            "kubernetes",
            r#"{"clusterIP":"10.43.0.1","ports":[{"name":"https","port":443}]}"#,
        ),
        service("default", "db", r#"{"clusterIP":"None","ports":[{"name":"http","port":80}]}"#),
        service("default", "all", r#"{"clusterIP":"None","publishNotReadyAddresses":true}"#),
        service("default", "none", r#"{"clusterIP":"None"}"#),
        service(
            "other",
            "alias",
            r#"{"type":"ExternalName","externalName":"WEB.default.svc.cluster.local."}"#,
        ),
        service("other", "away", r#"{"type":"ExternalName","externalName":"www.example.com"}"#),
        service(
            "other",
            "dead",
            r#"{"type":"ExternalName","externalName":"gone.default.svc.cluster.local"}"#,
        ),
        service("other", "loop", r#"{"type":"ExternalName","externalName":"loop.other.svc.cluster.local"}"#),
        service("other", "bad", r#"{"type":"ExternalName","externalName":"a b"}"#),
        service("other", "pending", r#"{"ports":[{"port":80}]}"#),
    ] {
        world.services.insert(key, value);
    }
    for (key, value) in [
        slice("default", "db", "db-a", READY),
        slice("default", "all", "all-a", READY),
        slice("default", "none", "none-a", r#"[{"addresses":["10.42.2.5"],"conditions":{"ready":false}}]"#),
    ] {
        world.endpoint_slices.insert(key, value);
    }
    world
}

fn records(world: &Snapshot) -> Records {
    Records::new(&ClusterConfig::default(), &Synced::after_all_lists(world.clone()))
}

fn ask(records: &Records, name: &str, kind: RecordType) -> Answer {
    answer(records, &Question { labels: &labels(name), kind })
}

fn line(record: &Record) -> String {
    let owner = match &record.owner {
        Owner::Question => "@",
        Owner::Name(name) => name,
    };
    match &record.data {
        Data::Address(address) => format!("{owner} A {address}"),
        Data::Cname(target) => format!("{owner} CNAME {target}"),
        Data::Ns(target) => format!("{owner} NS {target}"),
        Data::Ptr(target) => format!("{owner} PTR {target}"),
        Data::Srv { weight, port, target } => format!("{owner} SRV {weight} {port} {target}"),
        Data::Txt(text) => format!("{owner} TXT {text}"),
        Data::Soa { primary, .. } => format!("{owner} SOA {primary}"),
    }
}

fn lines(answer: &Answer) -> String {
    let reply = match answer {
        Answer::Forward => return "forward".into(),
        Answer::Refused => return "refused".into(),
        Answer::Reply(reply) => reply,
    };
    let part = |mark: &str, records: &[Record]| {
        records.iter().map(|r| format!("{mark}{}", line(r))).collect::<Vec<_>>()
    };
    let mut out = part("", &reply.answers);
    out.extend(part("! ", &reply.authorities));
    out.extend(part("+ ", &reply.additionals));
    out.extend(reply.forward.iter().map(|target| format!("> {target}")));
    if reply.no_such_name {
        out.push("nxdomain".into());
    }
    out.join("; ")
}

const NODATA: &str = "! cluster.local SOA ns.dns.cluster.local";
const NXDOMAIN: &str = "! cluster.local SOA ns.dns.cluster.local; nxdomain";

#[test]
fn every_kind_of_service_is_answered_as_the_specification_says() {
    use RecordType::{A, Aaaa, Any, Cname, Other, Srv, Transfer, Txt};
    let records = records(&world());
    let zone = ".cluster.local";
    let table = [
        ("web.default.svc", A, "@ A 10.43.0.20"),
        ("web.default.svc", Any, "@ A 10.43.0.20"),
        ("web.default.svc", Aaaa, NODATA),
        ("web.default.svc", Other, NODATA),
        ("kubernetes.default.svc", A, "@ A 10.43.0.1"),
        (
            "_https._tcp.kubernetes.default.svc",
            Srv,
            "@ SRV 100 443 kubernetes.default.svc.cluster.local; + kubernetes.default.svc.cluster.local A 10.43.0.1",
        ),
        (
            "_http._tcp.web.default.svc",
            Srv,
            "@ SRV 100 80 web.default.svc.cluster.local; + web.default.svc.cluster.local A 10.43.0.20",
        ),
        ("_http._tcp.web.default.svc", A, NODATA),
        ("_http._udp.web.default.svc", Srv, NXDOMAIN),
        ("_udp.web.default.svc", A, NODATA),
        ("_sctp.web.default.svc", A, NXDOMAIN),
        ("x.web.default.svc", A, NXDOMAIN),
        ("db.default.svc", A, "@ A 10.42.0.3; @ A 10.42.1.4"),
        ("db-0.db.default.svc", A, "@ A 10.42.1.4"),
        ("10-42-0-3.db.default.svc", A, "@ A 10.42.0.3"),
        ("10-42-2-5.db.default.svc", A, NXDOMAIN),
        (
            "_http._tcp.db.default.svc",
            Srv,
            "@ SRV 50 8080 10-42-0-3.db.default.svc.cluster.local; @ SRV 50 8080 db-0.db.default.svc.cluster.local; \
             + 10-42-0-3.db.default.svc.cluster.local A 10.42.0.3; + db-0.db.default.svc.cluster.local A 10.42.1.4",
        ),
        ("all.default.svc", A, "@ A 10.42.0.3; @ A 10.42.1.4; @ A 10.42.2.5"),
        ("none.default.svc", A, NXDOMAIN),
        ("pending.other.svc", A, NXDOMAIN),
        ("bad.other.svc", A, NXDOMAIN),
        ("alias.other.svc", Cname, "@ CNAME web.default.svc.cluster.local"),
        (
            "alias.other.svc",
            A,
            "@ CNAME web.default.svc.cluster.local; web.default.svc.cluster.local A 10.43.0.20",
        ),
        (
            "alias.other.svc",
            Txt,
            "@ CNAME web.default.svc.cluster.local; ! cluster.local SOA ns.dns.cluster.local",
        ),
        ("away.other.svc", A, "@ CNAME www.example.com; > www.example.com"),
        ("away.other.svc", Cname, "@ CNAME www.example.com"),
        ("x.away.other.svc", A, NXDOMAIN),
        (
            "dead.other.svc",
            A,
            "@ CNAME gone.default.svc.cluster.local; ! cluster.local SOA ns.dns.cluster.local; nxdomain",
        ),
        ("default.svc", A, NODATA),
        ("nobody.svc", A, NXDOMAIN),
        ("svc", A, NODATA),
        ("dns", A, NODATA),
        ("ns.dns", A, "@ A 10.43.0.10"),
        ("dns-version", Txt, "@ TXT 1.1.0"),
        ("dns-version", A, NODATA),
        ("a.b.c.d.e.f.default.svc", A, NXDOMAIN),
        ("pod", A, NXDOMAIN),
        ("svc", Transfer, "refused"),
    ];
    for (name, kind, expected) in table {
        assert_eq!(lines(&ask(&records, &format!("{name}{zone}"), kind)), expected, "{name} {kind:?}");
    }
}

#[test]
fn zones_and_addresses_are_answered_and_other_names_are_not() {
    use RecordType::{A, Ns, Ptr, Soa, Transfer};
    let records = records(&world());
    let table = [
        ("cluster.local", Soa, "@ SOA ns.dns.cluster.local"),
        ("cluster.local", Ns, "@ NS ns.dns.cluster.local; + ns.dns.cluster.local A 10.43.0.10"),
        ("cluster.local", A, NODATA),
        ("local", A, "forward"),
        ("example.com", A, "forward"),
        ("example.com", Transfer, "forward"),
        ("xcluster.local", A, "forward"),
        ("20.0.43.10.in-addr.arpa", Ptr, "@ PTR web.default.svc.cluster.local"),
        ("20.0.43.10.in-addr.arpa", A, "! 43.10.in-addr.arpa SOA ns.dns.cluster.local"),
        ("21.0.43.10.in-addr.arpa", Ptr, "! 43.10.in-addr.arpa SOA ns.dns.cluster.local; nxdomain"),
        ("x.20.0.43.10.in-addr.arpa", Ptr, "! 43.10.in-addr.arpa SOA ns.dns.cluster.local; nxdomain"),
        ("0.43.10.in-addr.arpa", Ptr, "! 43.10.in-addr.arpa SOA ns.dns.cluster.local"),
        ("9.43.10.in-addr.arpa", Ptr, "! 43.10.in-addr.arpa SOA ns.dns.cluster.local; nxdomain"),
        ("43.10.in-addr.arpa", Soa, "@ SOA ns.dns.cluster.local"),
        ("43.10.in-addr.arpa", A, "! 43.10.in-addr.arpa SOA ns.dns.cluster.local"),
        ("10.in-addr.arpa", Ptr, "forward"),
        ("1.1.1.1.in-addr.arpa", Ptr, "forward"),
        (
            "3.0.42.10.in-addr.arpa",
            Ptr,
            "@ PTR 10-42-0-3.all.default.svc.cluster.local; @ PTR 10-42-0-3.db.default.svc.cluster.local",
        ),
        (
            "4.1.42.10.in-addr.arpa",
            Ptr,
            "@ PTR db-0.all.default.svc.cluster.local; @ PTR db-0.db.default.svc.cluster.local",
        ),
    ];
    for (name, kind, expected) in table {
        assert_eq!(lines(&ask(&records, name, kind)), expected, "{name} {kind:?}");
    }
}

#[test]
fn an_alias_that_leads_to_itself_ends() {
    let Answer::Reply(reply) = ask(&records(&world()), "loop.other.svc.cluster.local", RecordType::A) else {
        panic!("in the zone")
    };
    assert_eq!(reply.answers.len(), 8);
}

#[test]
fn a_service_that_cannot_be_named_says_why_and_blocks_nobody() {
    let mut world = world();
    let mut records = records(&world);
    let rejected: Vec<_> = records.rejected().map(|r| (r.name.clone(), r.reason)).collect();
    assert_eq!(rejected, [("bad".to_owned(), "InvalidExternalName")]);
    world.services.remove(&ObjectKey::new("other", "bad"));
    records.update(&Synced::after_all_lists(world));
    assert_eq!(records.rejected().count(), 0);
}

#[test]
fn an_empty_cluster_still_has_its_zone() {
    let records = records(&Snapshot::default());
    assert_eq!(lines(&ask(&records, "svc.cluster.local", RecordType::A)), NXDOMAIN);
    assert_eq!(lines(&ask(&records, "cluster.local", RecordType::Soa)), "@ SOA ns.dns.cluster.local");
}

#[test]
fn addresses_of_further_networks_have_names() {
    let mut world = world();
    let (key, far) = service(
        "default",
        "far",
        r#"{"clusterIP":"10.77.0.5","clusterIPs":["10.77.0.5"],"ports":[{"port":80}]}"#,
    );
    world.services.insert(key, far);
    let mut records = records(&world);
    let name = "5.0.77.10.in-addr.arpa";
    assert!(matches!(ask(&records, name, RecordType::Ptr), Answer::Forward));
    let cidr = r#"{"metadata":{"name":"more"},"spec":{"cidrs":["10.77.0.0/24"]}}"#;
    world.service_cidrs.insert(ObjectKey::cluster("more"), Arc::new(serde_json::from_str(cidr).unwrap()));
    assert!(records.update(&Synced::after_all_lists(world.clone())));
    assert_eq!(lines(&ask(&records, name, RecordType::Ptr)), "@ PTR far.default.svc.cluster.local");
    world.service_cidrs.clear();
    assert!(records.update(&Synced::after_all_lists(world)));
    assert!(matches!(ask(&records, name, RecordType::Ptr), Answer::Forward));
}

#[test]
fn the_serial_rises_only_when_a_record_changes() {
    let mut world = world();
    let mut records = records(&world);
    let serial = records.serial;
    assert!(!records.update(&Synced::after_all_lists(world.clone())));
    let (key, same) = slice("default", "web", "web-a", READY);
    world.endpoint_slices.insert(key, same);
    assert!(
        !records.update(&Synced::after_all_lists(world.clone())),
        "a virtual address hides its endpoints"
    );
    world.endpoint_slices.remove(&ObjectKey::new("default", "db-a"));
    assert!(records.update(&Synced::after_all_lists(world)));
    assert_eq!(records.serial, serial + 1);
    assert_eq!(lines(&ask(&records, "db.default.svc.cluster.local", RecordType::A)), NXDOMAIN);
}

/// What a generated Service may be.
fn specs() -> impl Strategy<Value = String> {
    prop_oneof![
        (1..6u8).prop_map(|n| format!(
            r#"{{"clusterIP":"10.43.0.{n}","ports":[{{"name":"http","port":80,"protocol":"TCP"}}]}}"#
        )),
        Just(r#"{"clusterIP":"None"}"#.to_owned()),
        Just(r#"{"type":"ExternalName","externalName":"a.example"}"#.to_owned()),
        Just(r#"{"type":"ExternalName","externalName":"-- --"}"#.to_owned()),
    ]
}

fn worlds() -> impl Strategy<Value = Snapshot> {
    let services = proptest::collection::btree_map(("[ab]", "[cd]"), specs(), 0..4);
    let slices = proptest::collection::btree_map(
        ("[ab]", "[st]"),
        ("[cd]", proptest::collection::vec((1..6u8, any::<bool>(), any::<bool>()), 0..4)),
        0..4,
    );
    (services, slices).prop_map(|(services, slices)| {
        let mut world = Snapshot::default();
        for ((namespace, name), spec) in services {
            let (key, value) = service(&namespace, &name, &spec);
            world.services.insert(key, value);
        }
        for ((namespace, name), (service, endpoints)) in slices {
            let endpoints: Vec<_> = endpoints
                .iter()
                .map(|(n, ready, named)| {
                    let hostname = if *named { r#","hostname":"h""# } else { "" };
                    format!(r#"{{"addresses":["10.42.0.{n}"],"conditions":{{"ready":{ready}}}{hostname}}}"#)
                })
                .collect();
            let (key, value) = slice(&namespace, &service, &name, &format!("[{}]", endpoints.join(",")));
            world.endpoint_slices.insert(key, value);
        }
        world
    })
}

proptest! {
    #[test]
    fn updates_end_where_a_fresh_start_would(before in worlds(), after in worlds()) {
        let mut updated = records(&before);
        updated.update(&Synced::after_all_lists(after.clone()));
        let fresh = records(&after);
        prop_assert_eq!(&updated.entries, &fresh.entries);
        prop_assert_eq!(&updated.pointers, &fresh.pointers);
        prop_assert_eq!(updated.rejected().collect::<Vec<_>>(), fresh.rejected().collect::<Vec<_>>());
    }

    #[test]
    fn every_name_that_is_given_answers(world in worlds()) {
        let records = records(&world);
        for (address, pointers) in &records.pointers {
            let reply = lines(&ask(&records, &reverse::name(*address), RecordType::Ptr));
            prop_assert_eq!(reply.matches("PTR").count(), pointers.len());
            for target in reply.split("@ PTR ").skip(1) {
                let target = target.trim_end_matches("; ");
                let forth = lines(&ask(&records, target, RecordType::A));
                prop_assert!(forth.split("; ").any(|l| l == format!("@ A {address}")), "{} {}", target, forth);
                // The name's parents exist.
                let (_, parent) = target.split_once('.').unwrap();
                prop_assert!(!lines(&ask(&records, parent, RecordType::Txt)).contains("nxdomain"));
            }
        }
        for (namespace, names) in &records.entries {
            for service in names.keys() {
                for name in [format!("{service}.{namespace}.svc.cluster.local"),
                    format!("_http._tcp.{service}.{namespace}.svc.cluster.local")] {
                    if let Answer::Reply(reply) = ask(&records, &name, RecordType::Srv) {
                        for record in &reply.answers {
                            if let Data::Srv { target, .. } = &record.data {
                                let additional = reply.additionals.iter().any(|r| r.owner == Owner::Name(target.clone()));
                                prop_assert!(additional);
                                prop_assert!(lines(&ask(&records, target, RecordType::A)).contains("@ A "));
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn no_question_panics(name in "[a-d_.-]{0,20}(\\.svc\\.cluster\\.local|\\.in-addr\\.arpa|\\.ip6\\.arpa)?") {
        let records = records(&world());
        ask(&records, &name, RecordType::Any);
    }
}
