//! Both families, endpoints that share a name, and names of what is not ready.

use super::*;
use RecordType::{A, Aaaa, Any, Ns, Ptr, Srv};

fn slice_of(name: &str, family: &str, endpoints: &str) -> (ObjectKey, Arc<EndpointSlice>) {
    let (key, slice) = slice("default", "db", name, endpoints);
    (key, Arc::new(EndpointSlice { address_type: family.to_owned(), ..(*slice).clone() }))
}

fn dual_stack() -> Records {
    let mut world = Snapshot::default();
    for (key, value) in [
        service(
            "default",
            "web",
            r#"{"clusterIP":"10.43.0.20","clusterIPs":["10.43.0.20","fd00:43::20"],"ports":[{"name":"http","port":80}]}"#,
        ),
        service("default", "db", r#"{"clusterIP":"None","publishNotReadyAddresses":true}"#),
        service("default", "six", r#"{"clusterIP":"fd00:43::21","ports":[{"name":"http","port":80}]}"#),
    ] {
        world.services.insert(key, value);
    }
    for (key, value) in [
        slice_of(
            "db-4",
            "IPv4",
            r#"[{"addresses":["10.42.0.3"],"hostname":"db-0"},{"addresses":["10.42.0.4"],"conditions":{"ready":false}}]"#,
        ),
        slice_of(
            "db-6",
            "IPv6",
            r#"[{"addresses":["fd00:42::3"],"hostname":"db-0"},{"addresses":["fd00:42::4"],"conditions":{"ready":false}}]"#,
        ),
    ] {
        world.endpoint_slices.insert(key, value);
    }
    let config = ClusterConfig {
        service_cidrs: ["10.43.0.0/16", "fd00:43::/112"].map(|cidr| cidr.parse().unwrap()).into(),
        cluster_cidrs: ["10.42.0.0/16", "fd00:42::/48"].map(|cidr| cidr.parse().unwrap()).into(),
        ..ClusterConfig::default()
    };
    Records::new(&config, &Synced::after_all_lists(world))
}

#[test]
fn names_have_addresses_of_both_families_and_addresses_of_both_have_names() {
    let records = dual_stack();
    let web = "web.default.svc.cluster.local";
    let table = [
        (web.to_owned(), A, "@ A 10.43.0.20".to_owned()),
        (web.to_owned(), Aaaa, "@ A fd00:43::20".to_owned()),
        (web.to_owned(), Any, "@ A 10.43.0.20; @ A fd00:43::20".to_owned()),
        (
            format!("_http._tcp.{web}"),
            Srv,
            format!("@ SRV 100 80 {web}; + {web} A 10.43.0.20; + {web} A fd00:43::20"),
        ),
        (reverse::name("fd00:43::20".parse().unwrap()), Ptr, format!("@ PTR {web}")),
        (
            reverse::name("fd00:42::3".parse().unwrap()),
            Ptr,
            "@ PTR db-0.db.default.svc.cluster.local".to_owned(),
        ),
        (
            reverse::name("fd00:42::4".parse().unwrap()),
            Ptr,
            "@ PTR fd00-42--4.db.default.svc.cluster.local".to_owned(),
        ),
    ];
    for (name, kind, expected) in table {
        assert_eq!(lines(&ask(&records, &name, kind)), expected, "{name} {kind:?}");
    }
    // The other nibbles of a network in use exist, those of none do not.
    assert_eq!(lines(&ask(&records, "3.4.0.0.0.0.d.f.ip6.arpa", A)).matches("nxdomain").count(), 0);
    assert!(lines(&ask(&records, &reverse::name("fd00:43::22".parse().unwrap()), Ptr)).contains("nxdomain"));
}

#[test]
fn a_service_of_one_family_exists_without_addresses_of_the_other() {
    let records = dual_stack();
    let six = "six.default.svc.cluster.local";
    for (name, kind, expected) in [
        (six.to_owned(), Aaaa, "@ A fd00:43::21".to_owned()),
        (six.to_owned(), A, NODATA.to_owned()),
        (format!("_http._tcp.{six}"), Srv, format!("@ SRV 100 80 {six}; + {six} A fd00:43::21")),
    ] {
        assert_eq!(lines(&ask(&records, &name, kind)), expected, "{name} {kind:?}");
    }
}

#[test]
fn the_name_server_has_an_address_of_each_family() {
    let records = dual_stack();
    let server = "ns.dns.cluster.local";
    assert_eq!(lines(&ask(&records, server, A)), "@ A 10.43.0.10");
    assert_eq!(lines(&ask(&records, server, Aaaa)), "@ A fd00:43::a");
    let glue = format!("@ NS {server}; + {server} A 10.43.0.10; + {server} A fd00:43::a");
    // The zone itself, and one of each reverse domain.
    for apex in [
        "cluster.local",
        "43.10.in-addr.arpa",
        "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.0.0.0.0.d.f.ip6.arpa",
    ] {
        assert_eq!(lines(&ask(&records, apex, Ns)), glue, "{apex}");
    }
}

#[test]
fn endpoints_of_one_hostname_share_it_and_those_without_have_their_addresses_with_dashes() {
    let records = dual_stack();
    let zone = "db.default.svc.cluster.local";
    let table = [
        (format!("db-0.{zone}"), Any, "@ A 10.42.0.3; @ A fd00:42::3"),
        (format!("db-0.{zone}"), Aaaa, "@ A fd00:42::3"),
        (format!("10-42-0-4.{zone}"), A, "@ A 10.42.0.4"),
        (format!("10-42-0-4.{zone}"), Aaaa, NODATA),
        (format!("fd00-42--4.{zone}"), Aaaa, "@ A fd00:42::4"),
        // Who has a hostname is not called by its address.
        (format!("10-42-0-3.{zone}"), A, NXDOMAIN),
        (zone.to_owned(), Any, "@ A 10.42.0.3; @ A 10.42.0.4; @ A fd00:42::3; @ A fd00:42::4"),
    ];
    for (name, kind, expected) in table {
        assert_eq!(lines(&ask(&records, &name, kind)), expected, "{name} {kind:?}");
    }
    let srv = lines(&ask(&records, &format!("_http._tcp.{zone}"), Srv));
    assert_eq!(srv.matches("SRV 33 8080").count(), 3, "one a name and port: {srv}");
    assert_eq!(srv.matches(&format!("+ db-0.{zone} A ")).count(), 2, "{srv}");
}
