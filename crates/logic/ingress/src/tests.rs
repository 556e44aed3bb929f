//! Whole tables from whole worlds, and a naive reference.

use super::*;
use minisvc_apimachinery::{ObjectKey, Snapshot, Synced};
use minisvc_reconcile::Planned;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn ingress(world: &mut Snapshot, name: &str, created: &str, spec: Value) {
    let object = json!({"metadata": {"namespace": "default", "name": name, "creationTimestamp": created}, "spec": spec});
    world
        .ingresses
        .insert(ObjectKey::new("default", name), Arc::new(serde_json::from_value(object).unwrap()));
}

fn service(world: &mut Snapshot, name: &str, endpoints: Value) {
    let key = ObjectKey::new("default", name);
    let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": {"clusterIP": "10.43.0.9", "ports": [
        {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}, {"name": "udp", "port": 81, "protocol": "UDP"}]}});
    world.services.insert(key.clone(), Arc::new(serde_json::from_value(object).unwrap()));
    let slice = json!({"metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "other", "port": 9, "protocol": "TCP"}]});
    world.endpoint_slices.insert(key, Arc::new(serde_json::from_value(slice).unwrap()));
}

fn path(path: &str, kind: &str, service: &str) -> Value {
    json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"number": 80}}}})
}

fn rule(host: &str, paths: &[Value]) -> Value {
    json!({"host": host, "http": {"paths": paths}})
}

fn world() -> Snapshot {
    let mut world = Snapshot::default();
    for (n, name) in ["a", "b", "c"].iter().enumerate() {
        service(&mut world, name, json!([{"addresses": [format!("10.42.0.{}", n + 1)]}]));
    }
    service(&mut world, "empty", json!([{"addresses": ["10.42.0.9"], "conditions": {"ready": false}}]));
    world
}

fn plan(world: &Snapshot) -> Planned<RouteTable> {
    desired(&Synced::after_all_lists(world.clone()))
}

fn target(table: &RouteTable, host: &str, path: &str) -> String {
    match table.route(host, path) {
        Route::Backend(backend) => backend.service.name.clone(),
        Route::NotFound => "404".into(),
        Route::NoEndpoints(_) => "503".into(),
    }
}

fn reasons(planned: &Planned<RouteTable>) -> Vec<(String, &'static str)> {
    planned.rejected.iter().map(|r| (r.name.clone(), r.reason)).collect()
}

#[test]
fn hosts_and_paths_are_routed_as_the_api_defines_them() {
    let mut world = world();
    ingress(
        &mut world,
        "one",
        "2026-01-01T00:00:00Z",
        json!({"ingressClassName": "minisvc", "rules": [
            rule("a.test", &[path("/", "Prefix", "a"), path("/foo/", "Prefix", "b"), path("/foo/bar", "Exact", "c")]),
            rule("*.wild.test", &[path("/", "ImplementationSpecific", "b")]),
            rule("x.wild.test", &[path("/only", "Prefix", "c")]),
            rule("empty.test", &[path("/", "Prefix", "empty")]),
            {"http": {"paths": [path("/everywhere", "Exact", "c")]}},
        ]}),
    );
    let planned = plan(&world);
    assert_eq!(planned.rejected, []);
    for (host, path, expected) in [
        ("a.test", "/", "a"),
        ("A.Test:8080", "/x/y", "a"),
        ("a.test.", "/foo", "b"),
        ("a.test", "/foo/", "b"),
        ("a.test", "/foo/x", "b"),
        ("a.test", "/foobar", "a"),
        ("a.test", "/foo/bar", "c"),
        ("a.test", "/foo/bar/", "b"),
        ("a.test", "/Foo", "a"),
        ("z.wild.test", "/any", "b"),
        ("z.z.wild.test", "/any", "404"),
        ("wild.test", "/", "404"),
        ("x.wild.test", "/only/this", "c"),
        ("x.wild.test", "/other", "b"),
        ("empty.test", "/", "503"),
        ("nobody.test", "/", "404"),
        ("nobody.test", "/everywhere", "c"),
        ("*.wild.test", "/", "b"),
        ("", "/everywhere", "c"),
        ("a.test", "*", "404"),
    ] {
        assert_eq!(target(&planned.desired, host, path), expected, "{host} {path}");
    }
}

#[test]
fn only_ready_endpoints_of_the_named_port_are_used() {
    let mut world = world();
    service(
        &mut world,
        "a",
        json!([
            {"addresses": ["10.42.0.7"], "conditions": {"ready": true}}, {"addresses": ["10.42.0.5"]},
            {"addresses": ["10.42.0.5"]}, {"addresses": ["10.42.0.6"], "conditions": {"ready": false}},
            {"addresses": ["127.0.0.1"]}, {"addresses": ["169.254.1.1"]}, {"addresses": ["www.example.com"]},
        ]),
    );
    let mut six: Value = json!(world.endpoint_slices[&ObjectKey::new("default", "a")]);
    six["addressType"] = json!("IPv6");
    six["endpoints"] = json!([{"addresses": ["fd42::7"]}, {"addresses": ["fe80::7"]}, {"addresses": ["::1"]},
        {"addresses": ["::ffff:127.0.0.1"]}, {"addresses": ["::ffff:169.254.169.254"]}]);
    world
        .endpoint_slices
        .insert(ObjectKey::new("default", "a6"), Arc::new(serde_json::from_value(six).unwrap()));
    let backend = json!({"service": {"name": "a", "port": {"name": "http"}}});
    ingress(&mut world, "one", "2026-01-01T00:00:00Z", json!({"defaultBackend": backend}));
    let planned = plan(&world);
    let Route::Backend(backend) = planned.desired.route("x", "/") else { panic!("no backend") };
    let expected = ["10.42.0.5:8080", "10.42.0.7:8080", "[fd42::7]:8080"].map(|text| text.parse().unwrap());
    assert_eq!(backend.endpoints, expected);
}

#[test]
fn what_is_wrong_is_rejected_and_blocks_nobody() {
    let mut world = world();
    let port = |port: Value| json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "a", "port": port}}});
    for (name, rules) in [
        ("bad-host", json!([rule("a_b.test", &[path("/", "Prefix", "a")])])),
        ("bad-ip", json!([rule("10.0.0.1", &[path("/", "Prefix", "a")])])),
        ("bad-star", json!([rule("*", &[path("/", "Prefix", "a")])])),
        ("bad-type", json!([rule("t.test", &[path("/", "Regex", "a")])])),
        ("bad-path", json!([rule("p.test", &[path("x", "Prefix", "a")])])),
        ("no-service", json!([rule("s.test", &[path("/", "Prefix", "nobody")])])),
        ("no-port", json!([rule("n.test", &[port(json!({"number": 8080}))])])),
        ("udp-port", json!([rule("u.test", &[port(json!({"number": 81}))])])),
        (
            "resource",
            json!([rule(
                "r.test",
                &[json!({"path": "/", "pathType": "Prefix",
            "backend": {"resource": {"kind": "Bucket", "name": "b"}}})]
            )]),
        ),
    ] {
        ingress(&mut world, name, "2026-01-01T00:00:00Z", json!({"rules": rules}));
    }
    ingress(
        &mut world,
        "good",
        "2026-01-02T00:00:00Z",
        json!({"rules": [rule("good.test", &[path("/", "Prefix", "a")])]}),
    );
    ingress(
        &mut world,
        "foreign",
        "2026-01-01T00:00:00Z",
        json!({"ingressClassName": "nginx", "rules": [rule("good.test", &[path("/", "Prefix", "b")])]}),
    );
    let planned = plan(&world);
    let expected = [
        ("bad-host", "InvalidHost"),
        ("bad-ip", "InvalidHost"),
        ("bad-path", "InvalidPath"),
        ("bad-star", "InvalidHost"),
        ("bad-type", "InvalidPathType"),
        ("no-port", "ServicePortNotFound"),
        ("no-service", "ServiceNotFound"),
        ("resource", "UnsupportedBackend"),
        ("udp-port", "ServicePortNotFound"),
    ];
    assert_eq!(reasons(&planned), expected.map(|(name, reason)| (name.to_owned(), reason)));
    for (host, expected) in [("good.test", "a"), ("s.test", "503"), ("n.test", "503"), ("r.test", "404")] {
        assert_eq!(target(&planned.desired, host, "/"), expected, "{host}");
    }
}

#[test]
fn the_older_ingress_has_what_two_claim() {
    let mut world = world();
    let rules = |service: &str, more: &str| {
        json!({"rules": [rule("h.test", &[
        path("/", "Prefix", service), path(more, "Exact", service)])],
        "defaultBackend": {"service": {"name": service, "port": {"number": 80}}}})
    };
    ingress(&mut world, "a-newer", "2026-01-02T00:00:00Z", rules("a", "/a"));
    ingress(&mut world, "z-older", "2026-01-01T00:00:00Z", rules("b", "/b"));
    ingress(&mut world, "b-newer", "2026-01-02T00:00:00Z", rules("c", "/a"));
    let planned = plan(&world);
    for (host, path, expected) in
        [("h.test", "/", "b"), ("h.test", "/a", "a"), ("h.test", "/b", "b"), ("x", "/", "b")]
    {
        assert_eq!(target(&planned.desired, host, path), expected);
    }
    assert_eq!(planned.rejected.iter().filter(|r| r.reason == "Conflict").count(), 5);
}

#[test]
fn certificates_follow_hosts_and_secrets() {
    let mut world = world();
    for (name, data) in [
        ("one", json!({"tls.crt": "Q0hBSU4=", "tls.key": "S0VZ"})),
        ("two", json!({"tls.crt": "Q0hBSU4=", "tls.key": "S0VZ"})),
        ("half", json!({"tls.crt": "Q0hBSU4="})),
    ] {
        let secret = json!({"metadata": {"namespace": "default", "name": name}, "data": data});
        world
            .secrets
            .insert(ObjectKey::new("default", name), Arc::new(serde_json::from_value(secret).unwrap()));
    }
    ingress(
        &mut world,
        "a",
        "2026-01-01T00:00:00Z",
        json!({"tls": [
            {"hosts": ["a.test", "*.wild.test"], "secretName": "one"}, {"hosts": ["a.test"], "secretName": "two"},
            {"hosts": ["b.test"], "secretName": "half"}, {"hosts": ["c.test"], "secretName": "gone"},
            {"hosts": ["d.test"]},
        ]}),
    );
    let planned = plan(&world);
    let secret = |name: &str| planned.desired.certificate(name).map(|c| c.secret.name.clone());
    assert_eq!(secret("A.test").as_deref(), Some("one"));
    assert_eq!(secret("x.wild.test").as_deref(), Some("one"));
    assert_eq!(secret("x.x.wild.test"), None);
    assert_eq!(secret("b.test"), None);
    assert_eq!(planned.desired.certificate("a.test").unwrap().chain_pem, b"CHAIN");
    assert!(!format!("{:?}", planned.desired).contains("key_pem"), "keys stay out of logs");
    let reasons: Vec<_> = planned.rejected.iter().map(|r| r.reason).collect();
    assert_eq!(reasons, ["Conflict", "InvalidSecret", "SecretNotFound"]);
}

#[test]
fn only_changes_of_what_ingresses_lead_to_make_another_table() {
    let mut world = world();
    let mut follower = Follower::default();
    let mut after = |world: &Snapshot| {
        let planned = follower.update(&Synced::after_all_lists(world.clone()));
        assert!(planned.iter().all(|planned| *planned == plan(world)));
        planned.is_some()
    };
    assert!(after(&world), "the first");
    assert!(!after(&world));
    let rules = json!({"rules": [rule("h.test", &[path("/", "Prefix", "a"), path("/later", "Prefix", "later")])],
        "defaultBackend": {"service": {"name": "c", "port": {"number": 80}}}});
    ingress(&mut world, "one", "2026-01-01T00:00:00Z", rules);
    assert!(after(&world), "an Ingress");
    for (name, expected) in [("b", false), ("a", true), ("c", true), ("later", true), ("other", false)] {
        service(&mut world, name, json!([{"addresses": ["10.42.0.99"]}]));
        assert_eq!(after(&world), expected, "{name}");
    }
    world.endpoint_slices.remove(&ObjectKey::new("default", "a"));
    assert!(after(&world), "no endpoints");
    world.ingresses.clear();
    assert!(after(&world), "no Ingress");
    service(&mut world, "a", json!([]));
    assert!(!after(&world), "led to no more");
}

type GeneratedRule = (String, String, bool, usize);

/// The specification, read aloud: collect all that matches, then compare.
fn reference(rules: &[GeneratedRule], host: &str, path: &str) -> Option<usize> {
    let elements =
        |p: &str| p.strip_suffix('/').unwrap_or(p).split('/').map(str::to_owned).collect::<Vec<_>>();
    let host_rank = |pattern: &str| match pattern.strip_prefix('*') {
        _ if pattern.is_empty() => Some(0),
        Some(suffix) => {
            host.split_once('.').is_some_and(|(_, rest)| format!(".{rest}") == suffix).then_some(1)
        }
        None => (pattern == host).then_some(2),
    };
    let path_rank = |rule: &str, exact: bool| {
        let (want, have) = (elements(rule), elements(path));
        if exact {
            (rule == path).then_some((usize::MAX, true))
        } else {
            have.starts_with(&want).then_some((want.len(), false))
        }
    };
    let mut best = None;
    for (pattern, rule, exact, service) in rules {
        if let (Some(host), Some(path)) = (host_rank(pattern), path_rank(rule, *exact))
            && best.is_none_or(|(rank, _)| (host, path) > rank)
        {
            best = Some(((host, path), *service));
        }
    }
    best.map(|(_, service)| service)
}

proptest! {
    #[test]
    fn routes_agree_with_the_naive_reference(
        rules in proptest::collection::vec(("(|a\\.t|b\\.t|\\*\\.t)", "(/[ab]){0,3}/?", any::<bool>(), 0..3usize), 0..8),
        requests in proptest::collection::vec(("(a|b|c|a\\.a)\\.t", "(/[ab]?){1,4}"), 20),
        per_ingress in 1..4usize,
    ) {
        let rules: Vec<GeneratedRule> = rules.into_iter()
            .map(|(h, p, e, s)| (h, if p.is_empty() { "/".to_owned() } else { p }, e, s)).collect();
        let names = ["a", "b", "c"];
        let mut world = world();
        for (n, chunk) in rules.chunks(per_ingress).enumerate() {
            let rules: Vec<_> = chunk.iter().map(|(host, p, exact, service)| {
                let kind = if *exact { "Exact" } else { "Prefix" };
                let mut rule = rule(host, &[path(p, kind, names[*service])]);
                if host.is_empty() { rule["host"] = Value::Null; }
                rule
            }).collect();
            // Older ones sort last by name, so that time decides.
            ingress(&mut world, &format!("i{}", 9 - n), &format!("2026-01-01T00:00:0{n}Z"), json!({"rules": rules}));
        }
        let planned = plan(&world);
        for (host, path) in requests {
            let expected = reference(&rules, &host, &path).map_or("404", |service| names[service]);
            prop_assert_eq!(target(&planned.desired, &host, &path), expected, "{} {}", host, path);
        }
    }
}
