//! Claims about who reaches what: nothing is changed by proving them, so they are proved side by side.

use super::{
    place::summary,
    report::{Proof, prove},
    world::{World, answered_by, host, record_type},
};
use crate::{layout::load_balancer_pool, probe::Spec};
use futures::future::{LocalBoxFuture, try_join_all};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// Attempts from each place; from six places all three Pods are met but once in 10^12.
const ATTEMPTS: u32 = 12;
/// Bytes of the large transfer.
const LARGE_BYTES: u64 = 4 << 20;
/// The domain of the cluster's names.
const DOMAIN: &str = "default.svc.cluster.local";

type Claims<'a> = Vec<LocalBoxFuture<'a, Proof>>;

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// All of them, in the order in which they are shown.
pub fn claims(world: &World) -> Claims<'_> {
    let mut claims: Claims<'_> = vec![
        Box::pin(prove("Pods", "three echo Pods are spread over the nodes", "the API", spread(world))),
        Box::pin(prove(
            "Pods",
            "every Pod asks every other by address, HTTP and UDP, and is seen with its own address",
            "3 Pods",
            pod_to_pod(world),
        )),
        Box::pin(prove(
            "Pods",
            format!("{LARGE_BYTES} bytes by TCP from another node's Pod"),
            "3 Pods",
            large(world),
        )),
    ];
    claims.extend(cluster_ip(world));
    claims.push(node_port(world));
    claims.push(Box::pin(prove(
        "LoadBalancer",
        format!("http://{}:80 → targetPort http", host(&world.balancer_ip)),
        "client",
        balanced(world),
    )));
    claims.extend(names(world));
    claims.extend(ingress(world));
    claims
}

async fn spread(world: &World) -> Result<String, String> {
    let mut nodes = BTreeMap::<&str, Vec<&str>>::new();
    for pod in &world.pods {
        nodes.entry(&pod.node).or_default().push(&pod.name);
    }
    let text: Vec<String> = nodes.iter().map(|(node, pods)| format!("{node}: {}", pods.join(" "))).collect();
    if nodes.len() == world.node_names.len().min(world.pods.len()) {
        Ok(text.join(", "))
    } else {
        Err(text.join(", "))
    }
}

async fn pod_to_pod(world: &World) -> Result<String, String> {
    let mut runs = Vec::new();
    for (place, own) in world.inside.iter().zip(&world.pods) {
        for other in world.pods.iter().filter(|other| other.name != own.name) {
            let to = host(&other.address);
            for target in [format!("http://{to}:8080/"), format!("udp://{to}:9090")] {
                runs.push(async move {
                    let attempts = place.run(Spec::new(target.clone(), 3)).await?;
                    let caller = |client: &Option<String>| {
                        let seen = client.as_ref().and_then(|client| client.parse::<SocketAddr>().ok());
                        seen.is_some_and(|seen| seen.ip().to_string() == own.address)
                    };
                    let right = |attempt: &crate::probe::Attempt| {
                        attempt.ok && attempt.pod.as_ref() == Some(&other.name) && caller(&attempt.client)
                    };
                    if attempts.iter().all(right) {
                        Ok(attempts)
                    } else {
                        let seen: Vec<_> =
                            attempts.iter().filter_map(|attempt| attempt.client.as_deref()).collect();
                        Err(format!("{} → {target}: {}, seen as {seen:?}", own.name, summary(&attempts)))
                    }
                });
            }
        }
    }
    try_join_all(runs).await.map(|all| summary(&all.concat()))
}

async fn large(world: &World) -> Result<String, String> {
    let count = world.pods.len();
    let runs = world.inside.iter().enumerate().map(|(at, place)| {
        let other = &world.pods[(at + 1) % count];
        async move {
            let url = format!("http://{}:8080/bytes/{LARGE_BYTES}", host(&other.address));
            let attempts = place.run(Spec { timeout_ms: 10_000, ..Spec::new(url, 1) }).await?;
            match attempts.first() {
                Some(attempt) if attempt.ok && attempt.bytes == Some(LARGE_BYTES) => Ok(attempt.took_us),
                _ => Err(format!("{} → {}: {}", place.name, other.name, summary(&attempts))),
            }
        }
    });
    let slowest = try_join_all(runs).await?.into_iter().max().unwrap_or(1).max(1);
    Ok(format!("complete, the slowest at {} MB/s", LARGE_BYTES / slowest))
}

fn cluster_ip(world: &World) -> Claims<'_> {
    let (echo, given) = (host(&world.echo_ip), host(&world.given_ip));
    let rows = [
        (format!("http://{echo}:80/"), "allocated address, port 80 → targetPort http"),
        (format!("udp://{echo}:90"), "allocated address, port 90 → targetPort dgram"),
        (format!("http://{given}:8000/"), "given address, port 8000 → targetPort 8080"),
        (format!("udp://{given}:9000"), "given address, port 9000 → targetPort 9090"),
    ];
    let mut claims: Claims<'_> = Vec::new();
    for (target, what) in rows {
        let claim = async move |target: String| {
            answered_by(&world.pods_and_nodes(), |_| Spec::new(&target, ATTEMPTS), &world.all_pods()).await
        };
        let tried = format!("{target} ({what})");
        claims.push(Box::pin(prove("ClusterIP", tried, "3 Pods and each node", claim(target))));
    }
    for (scheme, port, rest) in [("http", 80, "/"), ("udp", 90, "")] {
        let claim = async move {
            let short = format!("{scheme}://echo:{port}{rest}");
            let full = format!("{scheme}://echo.{DOMAIN}:{port}{rest}");
            let inside: BTreeSet<&str> = world.inside.iter().map(|place| place.name.as_str()).collect();
            let spec = |place: &super::place::Place| {
                let target = if inside.contains(place.name.as_str()) { &short } else { &full };
                Spec { timeout_ms: 6000, ..Spec::new(target, ATTEMPTS) }
            };
            answered_by(&world.pods_and_nodes(), spec, &world.all_pods()).await
        };
        let tried = format!("{scheme}://echo:{port}, by name (nodes: echo.{DOMAIN})");
        claims.push(Box::pin(prove("ClusterIP", tried, "3 Pods and each node", claim)));
    }
    claims
}

fn node_port(world: &World) -> LocalBoxFuture<'_, Proof> {
    let without: Vec<&str> = world
        .node_names
        .iter()
        .filter(|node| !world.pods.iter().any(|pod| pod.name == "echo-3" && pod.node == **node))
        .map(String::as_str)
        .collect();
    let tried = format!("http://NODE:30080 of every node; {} have no Pod of it", without.join(" and "));
    Box::pin(prove("NodePort", tried, "client", async move {
        let mut answers = 0;
        for node in &world.node_names {
            let url = format!("http://{}:30080/", world.machine(node));
            answered_by(&[&world.outside], |_| Spec::new(&url, 4), &set(&["echo-3"])).await?;
            answers += 4;
        }
        Ok(format!("{answers} answers: echo-3 {answers}"))
    }))
}

async fn balanced(world: &World) -> Result<String, String> {
    let pool = load_balancer_pool(world.family);
    let (first, last) = pool.split_once('-').unwrap_or_default();
    let parse = |text: &str| text.parse::<IpAddr>().map_err(|error| format!("{text}: {error}"));
    let address = parse(&world.balancer_ip)?;
    if !(parse(first)?..=parse(last)?).contains(&address) {
        return Err(format!("{address} is not of the pool {pool}"));
    }
    let url = format!("http://{}/", host(&world.balancer_ip));
    answered_by(&[&world.outside], |_| Spec::new(&url, 4 * ATTEMPTS), &world.all_pods()).await
}

/// Asks for records in a Pod and on a node, and compares.
async fn records(world: &World, name: &str, kind: &str, wanted: &[String]) -> Result<String, String> {
    let places = [world.inside.first(), world.nodes.first()];
    let mut wanted = wanted.to_vec();
    wanted.sort();
    for place in places.into_iter().flatten() {
        let attempts = place.run(Spec::new(format!("dns:{name}.{DOMAIN}/{kind}"), 1)).await?;
        let found = attempts.first().map(|attempt| attempt.records.clone()).unwrap_or_default();
        if !wanted.iter().all(|record| found.contains(record))
            || (kind != "SRV" && found.len() < wanted.len())
        {
            let error = attempts.first().and_then(|attempt| attempt.error.clone()).unwrap_or_default();
            return Err(format!("{}: {found:?} instead of {wanted:?} {error}", place.name));
        }
    }
    Ok(wanted.join(", "))
}

fn names(world: &World) -> Claims<'_> {
    let from = "a Pod and node1";
    let kind = record_type(world.family);
    let addresses = async move {
        let wanted: Vec<String> = world.pods.iter().map(|pod| format!("{kind} {}", pod.address)).collect();
        records(world, "echo-pods", kind, &wanted).await
    };
    let services = async move {
        let place = world.inside.first().ok_or("no Pod")?;
        let attempts = place.run(Spec::new(format!("dns:_http._tcp.echo-pods.{DOMAIN}/SRV"), 1)).await?;
        let found = attempts.first().map(|attempt| attempt.records.clone()).unwrap_or_default();
        let targets: Vec<&str> = found.iter().filter_map(|record| record.strip_prefix("SRV ")).collect();
        if targets.len() != world.pods.len() {
            return Err(format!("{found:?} {}", summary(&attempts)));
        }
        let mut addresses = BTreeSet::new();
        for target in &targets {
            let words: Vec<&str> = target.split_whitespace().collect();
            let [_, _, "8080", name] = words[..] else { return Err(format!("{target}: not port 8080")) };
            let attempts = place.run(Spec::new(format!("dns:{name}/{kind}"), 1)).await?;
            addresses.extend(attempts.into_iter().flat_map(|attempt| attempt.records));
        }
        let wanted: BTreeSet<String> =
            world.pods.iter().map(|pod| format!("{kind} {}", pod.address)).collect();
        if addresses == wanted {
            Ok(targets.join(", "))
        } else {
            Err(format!("{targets:?} lead to {addresses:?}"))
        }
    };
    let alias = async move {
        let wanted = [format!("CNAME echo.{DOMAIN}."), format!("{kind} {}", world.echo_ip)];
        let found = records(world, "echo-alias", kind, &wanted).await?;
        let places: Vec<_> = world.inside.iter().collect();
        let spec = |_: &super::place::Place| Spec {
            timeout_ms: 6000,
            ..Spec::new("http://echo-alias/", 4 * ATTEMPTS)
        };
        Ok(format!("{found}; {}", answered_by(&places, spec, &world.all_pods()).await?))
    };
    vec![
        Box::pin(prove("Headless", format!("echo-pods.{DOMAIN} is the Pods' addresses"), from, addresses)),
        Box::pin(prove("Headless", format!("SRV _http._tcp.echo-pods.{DOMAIN}"), "a Pod", services)),
        Box::pin(prove("ExternalName", "echo-alias is an alias, and http://echo-alias answers", from, alias)),
    ]
}

fn ingress(world: &World) -> Claims<'_> {
    let shop = set(&["echo-1", "echo-2"]);
    let blog = set(&["echo-3"]);
    let routes = async move {
        let rows = [
            ("shop.example", "/", &shop),
            ("shop.example", "/blog", &blog),
            ("blog.example", "/", &blog),
            ("blog.example", "/shop", &shop),
        ];
        for node in &world.node_names {
            for (host, path, pods) in rows {
                let url = format!("http://{}{path}", world.machine(node));
                let spec =
                    |_: &super::place::Place| Spec { host: Some(host.to_owned()), ..Spec::new(&url, 8) };
                let routed = answered_by(&[&world.outside], spec, pods).await;
                routed.map_err(|why| format!("{host}{path} at {node}: {why}"))?;
            }
        }
        let answers = 8 * rows.len() * world.node_names.len();
        Ok(format!("{answers} answers, each by a Pod of the right Service"))
    };
    vec![
        Box::pin(prove(
            "Ingress",
            "shop.example/ and blog.example/shop → shop, blog.example/ and shop.example/blog → blog, at every node",
            "client",
            routes,
        )),
        Box::pin(prove("Ingress", "unknown.example/", "client", status(world, "unknown.example", "/", 404))),
        Box::pin(prove(
            "Ingress",
            "shop.example/soon (Service without endpoints)",
            "client",
            status(world, "shop.example", "/soon", 503),
        )),
    ]
}

fn status<'a>(
    world: &'a World,
    host: &'a str,
    path: &'a str,
    wanted: u16,
) -> LocalBoxFuture<'a, Result<String, String>> {
    Box::pin(async move {
        for node in &world.node_names {
            let url = format!("http://{}{path}", world.machine(node));
            let spec = Spec { host: Some(host.to_owned()), ..Spec::new(url, 2) };
            let attempts = world.outside.run(spec).await?;
            if !attempts.iter().all(|attempt| attempt.status == Some(wanted)) {
                return Err(format!("{node}: {}", summary(&attempts)));
            }
        }
        Ok(format!("{wanted} at every node"))
    })
}
