//! Claims about what is killed: node 1's server, and a whole node.

use super::{
    cluster::{node_ready, wait_for},
    place::{Place, Running, summary},
    report::{Proof, millis, prove},
    world::{LIMIT, World, host, pods_ready},
};
use crate::{
    control::{self, Request, Response},
    probe::{Attempt, Spec, now_us},
};
use futures::future::try_join_all;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::Ingress,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The node whose server is killed: the one with the API.
const KILLED: &str = "node1";
/// Attempts of each kind that must be answered while the server is away.
const WHILE_AWAY: usize = 25;
/// How long one answer may take.
const PATIENCE_MS: u64 = 2000;

async fn uids<K>(api: Api<K>) -> Result<BTreeMap<String, String>, String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let list = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
    let name = |object: &K| {
        format!("{}/{}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any())
    };
    Ok(list.items.iter().map(|object| (name(object), object.uid().unwrap_or_default())).collect())
}

/// Every object of the kinds that the examples and the control plane make, with its uid.
async fn objects(client: &Client) -> Result<BTreeMap<String, String>, String> {
    let mut all = uids::<Service>(Api::all(client.clone())).await?;
    all.extend(uids::<Pod>(Api::all(client.clone())).await?);
    all.extend(uids::<EndpointSlice>(Api::all(client.clone())).await?);
    all.extend(uids::<Ingress>(Api::all(client.clone())).await?);
    all.extend(uids::<Node>(Api::all(client.clone())).await?);
    Ok(all)
}

/// What tells whether a container was started anew.
async fn containers(client: &Client) -> Result<BTreeMap<String, String>, String> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let list =
        pods.list(&ListParams::default().labels("app=echo")).await.map_err(|error| error.to_string())?;
    let lives = list.items.iter().map(|pod| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let one = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
            let started =
                status.state.as_ref().and_then(|s| s.running.as_ref()).and_then(|r| r.started_at.as_ref());
            format!("{:?} {} {:?}", status.container_id, status.restart_count, started)
        };
        (pod.name_any(), format!("{:?} {:?}", pod.uid(), statuses.map(one).collect::<Vec<_>>()))
    });
    Ok(lives.collect())
}

/// Creates ConfigMaps until told to stop or the API is gone; returns the names that were acknowledged.
async fn write(client: Client, mut stop: watch::Receiver<bool>) -> BTreeSet<String> {
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let mut acknowledged = BTreeSet::new();
    for number in 0..10_000 {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(format!("written-{number}"));
        object.metadata.labels = Some([("demo".to_owned(), "written".to_owned())].into());
        let parameters = PostParams::default();
        let created = tokio::select! {
            created = api.create(&parameters, &object) => created,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match created {
            Ok(created) => acknowledged.insert(created.name_any()),
            Err(_) => break,
        };
    }
    acknowledged
}

fn held(address: &str) -> Spec {
    let target = format!("tcp://{address}:8000");
    Spec { count: None, hold_ms: Some(20), timeout_ms: PATIENCE_MS, ..Spec::new(target, 0) }
}

fn fresh(url: &str) -> Spec {
    Spec { count: None, rate: Some(50.0), timeout_ms: PATIENCE_MS, ..Spec::new(url, 0) }
}

/// Kills node 1's server under traffic and starts it again.
///
/// # Errors
/// If the cluster does not get as far as the claims.
pub async fn server_killed(world: &World) -> Result<Vec<Proof>, String> {
    let begun = Instant::now();
    let vip = &host(&world.given_ip);
    let node = world.on(KILLED)?;
    let far = world.nodes.last().ok_or("no node")?;
    let (before, lives) = (objects(&world.client).await?, containers(&world.client).await?);
    let kernel = node.start(Spec { count: None, ..Spec::new("kernel:", 0) }).await;
    let established = [node.start(held(vip)).await, far.start(held(vip)).await];
    let outside = format!("http://{}:30080/", world.machine(KILLED));
    let url = format!("http://{vip}:8000/");
    let new = [
        node.start(fresh(&url)).await,
        far.start(fresh(&url)).await,
        world.outside.start(fresh(&outside)).await,
    ];
    let (stop, stopped) = watch::channel(false);
    let writing = tokio::spawn(write(world.client.clone(), stopped));
    try_join_all(established.iter().chain(&new).map(|running| running.more(5, 0, LIMIT))).await?;

    let socket = world.lab.member(KILLED).socket();
    control::ask(&socket, &Request::KillServer).await.map_err(|error| error.to_string())?;
    let killed = now_us();
    stop.send_replace(true);
    wait_for("the server is gone", LIMIT, || async {
        match control::ask(&socket, &Request::Status).await {
            Ok(Response::Server { pid: None, .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let acknowledged = writing.await.map_err(|error| error.to_string())?;
    let away = now_us();
    let waits = established.iter().chain(&new).map(|running| running.more(WHILE_AWAY, away, LIMIT));
    let answered = try_join_all(waits).await;
    let start = Request::Start { member: KILLED.to_owned() };
    control::ask(&socket, &start).await.map_err(|error| error.to_string())?;
    let restarted = Instant::now();
    let mut proofs = traffic_proofs(vip, established, new, killed, answered, begun).await;
    proofs.push(
        prove("Server killed", "started again: every acknowledged object is served", "the API", async {
            served_again(world, &before, &acknowledged, restarted).await
        })
        .await,
    );
    proofs.push(
        prove("Server killed", "its Pods are adopted, not restarted", "the API", adopted(world, &lives))
            .await,
    );
    proofs.push(
        prove("Server killed", "what was right in the kernel of node1 is not touched", KILLED, async {
            untouched(world, node, kernel).await
        })
        .await,
    );
    forget(world).await?;
    Ok(proofs)
}

async fn traffic_proofs(
    vip: &str,
    established: [Running; 2],
    new: [Running; 3],
    killed: u64,
    answered: Result<Vec<()>, String>,
    begun: Instant,
) -> Vec<Proof> {
    let proof = |tried: &str, from: &str, outcome| Proof {
        topic: "Server killed",
        tried: tried.to_owned(),
        from: from.to_owned(),
        outcome,
        took: begun.elapsed(),
    };
    let held = async |running: Running| {
        let attempts = running.stop().await?;
        let clients: BTreeSet<_> = attempts.iter().filter_map(|attempt| attempt.client.clone()).collect();
        let after = attempts.iter().filter(|attempt| attempt.at_us > killed).count();
        if clients.len() == 1 && attempts.iter().all(|attempt| attempt.ok) {
            Ok(after)
        } else {
            Err(format!("{} over {} connections", summary(&attempts), clients.len()))
        }
    };
    let mut go_on = Ok(0);
    for running in established {
        let place = running.place.clone();
        let one = held(running).await.map_err(|why| format!("{place}: {why}"));
        go_on = go_on.and_then(|sum| one.map(|count| sum + count));
    }
    let mut all = Vec::new();
    let mut gone = None;
    for running in new {
        match running.stop().await {
            Ok(attempts) => all.extend(attempts),
            Err(why) => gone = Some(why),
        }
    }
    let late: Vec<Attempt> = all.into_iter().filter(|attempt| attempt.at_us > killed).collect();
    let fresh = match (answered, gone) {
        (Err(why), _) | (_, Some(why)) => Err(why),
        _ if late.iter().all(|attempt| attempt.ok) => Ok(summary(&late)),
        _ => Err(summary(&late)),
    };
    let go_on = go_on.map(|count| format!("{count} more answers over the same 2 connections"));
    let old = format!("kill -9 on node1: established TCP connections through {vip} go on while it is away");
    let new = format!("new connections are answered while it is away: {vip}:8000, and node1:30080");
    vec![proof(&old, "node1 and the last node", go_on), proof(&new, "node1, the last node, client", fresh)]
}

async fn served_again(
    world: &World,
    before: &BTreeMap<String, String>,
    acknowledged: &BTreeSet<String>,
    restarted: Instant,
) -> Result<String, String> {
    let after = wait_for("the API answers", LIMIT, || objects(&world.client)).await?;
    let answered = restarted.elapsed();
    let lost: Vec<&String> =
        before.iter().filter(|(name, uid)| after.get(*name) != Some(*uid)).map(|(n, _)| n).collect();
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    let list =
        api.list(&ListParams::default().labels("demo=written")).await.map_err(|error| error.to_string())?;
    let written: BTreeSet<String> = list.items.iter().map(ResourceExt::name_any).collect();
    let unwritten: Vec<&String> = acknowledged.difference(&written).collect();
    if !lost.is_empty() || !unwritten.is_empty() {
        return Err(format!("lost: {lost:?} {unwritten:?}"));
    }
    if acknowledged.is_empty() {
        return Err("nothing was written before the kill".to_owned());
    }
    let count = before.len();
    Ok(format!(
        "{count} objects, and {} written up to the kill; API back in {}",
        acknowledged.len(),
        millis(answered)
    ))
}

async fn adopted(world: &World, lives: &BTreeMap<String, String>) -> Result<String, String> {
    wait_for("node1 is Ready", LIMIT, || node_ready(&world.client, KILLED)).await?;
    let now = wait_for("the Pods are read", LIMIT, || containers(&world.client)).await?;
    if now == *lives {
        Ok(format!("{} Pods with the same uid, container and start time", now.len()))
    } else {
        Err(format!("before {lives:?}, now {now:?}"))
    }
}

/// Once a new Pod runs on the node, its loops have all made a pass over the kernel.
async fn untouched(world: &World, node: &Place, kernel: Running) -> Result<String, String> {
    let health = Spec::new(format!("http://{}:10256/healthz", world.machine(KILLED)), 1);
    node.until(&health, LIMIT, |attempts| attempts.iter().all(|attempt| attempt.ok)).await?;
    let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
    let late = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late", "labels": {"demo": "written"}},
        "spec": {"nodeName": KILLED, "containers": [{"name": "echo", "image": "echo"}]},
    });
    let late: Pod = serde_json::from_value(late).map_err(|error| error.to_string())?;
    pods.create(&PostParams::default(), &late).await.map_err(|error| format!("create pod late: {error}"))?;
    let address = wait_for("a new Pod runs on node1", LIMIT, || async {
        let pod = pods.get("late").await.map_err(|error| error.to_string())?;
        let status = pod.status.filter(|status| status.phase.as_deref() == Some("Running"));
        status.and_then(|status| status.pod_ip).ok_or_else(|| "not yet".to_owned())
    })
    .await?;
    let answers = node
        .until(&Spec::new(format!("http://{}:8080/", host(&address)), 1), LIMIT, |a| a.iter().all(|a| a.ok))
        .await?;
    let seen = kernel.stop().await?;
    let generation = |attempt: Option<&Attempt>| {
        attempt
            .and_then(|attempt| attempt.records.first().cloned())
            .filter(|text| text.starts_with("generation"))
    };
    let (first, last) = (generation(seen.first()), generation(seen.last()));
    let changes: Vec<&String> =
        seen.iter().flat_map(|attempt| &attempt.records).filter(|text| !is_state(text)).collect();
    if first.is_none() || first != last || !changes.is_empty() {
        return Err(format!("nftables {first:?}, then {last:?}; changes: {changes:?}"));
    }
    let text = first.unwrap_or_default();
    Ok(format!(
        "nftables {text} as before; no link, address, route or neighbour changed; new Pod: {}",
        summary(&answers)
    ))
}

fn is_state(text: &str) -> bool {
    text.starts_with("generation ") || text.starts_with("address ")
}

/// Removes what the claims wrote.
async fn forget(world: &World) -> Result<(), String> {
    let written = ListParams::default().labels("demo=written");
    let maps: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
    maps.delete_collection(&DeleteParams::default(), &written).await.map_err(|error| error.to_string())?;
    pods.delete("late", &DeleteParams::default()).await.map_err(|error| error.to_string())?;
    Ok(())
}

/// The node, other than `except`, that has the address.
async fn holder(world: &World, address: &str, except: Option<&str>) -> Result<String, String> {
    for place in world.nodes.iter().filter(|place| Some(place.name.as_str()) != except) {
        let seen = place.run(Spec::new("kernel:", 1)).await?;
        let has = |record: &String| record.split_whitespace().nth(1) == Some(address);
        if seen.iter().flat_map(|attempt| &attempt.records).any(has) {
            return Ok(place.name.clone());
        }
    }
    Err(format!("no node has {address}"))
}

/// Pulls the plug of the node that holds the load balancer's address.
///
/// # Errors
/// If the cluster does not get as far as the claims.
pub async fn node_lost(world: &World) -> Result<Vec<Proof>, String> {
    let address = &world.balancer_ip;
    let lost = wait_for("a holder", LIMIT, || holder(world, address, None)).await?;
    let url = format!("http://{}/", host(address));
    let takeover =
        prove("LoadBalancer", format!("power off {lost}, which holds {address}"), "client", async {
            let spec = Spec { timeout_ms: 400, count: None, rate: Some(20.0), ..Spec::new(&url, 0) };
            let calls = world.outside.start(spec).await;
            calls.more(5, 0, LIMIT).await?;
            let request = Request::PowerOff { member: lost.clone() };
            control::ask(&world.lab.control_socket(), &request).await.map_err(|error| error.to_string())?;
            let off = now_us();
            let heir = wait_for("another holder", LIMIT, || holder(world, address, Some(&lost))).await?;
            let taken = now_us();
            let again = wait_for("the address answers again", LIMIT, || async {
                let attempts = calls.so_far();
                let answer = attempts.iter().find(|attempt| attempt.ok && attempt.at_us > taken);
                answer.map(|attempt| attempt.at_us).ok_or_else(|| summary(&attempts))
            })
            .await?;
            calls.stop().await?;
            Ok(format!(
                "{heir} has it, and answers {} after the power-off",
                millis(Duration::from_micros(again - off))
            ))
        })
        .await;
    let back =
        prove("LoadBalancer", format!("power on {lost}: it joins again, its Pods run"), "client", async {
            let request = Request::Start { member: lost.clone() };
            control::ask(&world.lab.control_socket(), &request).await.map_err(|error| error.to_string())?;
            wait_for("the node is Ready", LIMIT, || node_ready(&world.client, &lost)).await?;
            let pods = pods_ready(&world.client, world.pods.len()).await?;
            let all = pods.into_iter().map(|pod| pod.name).collect::<BTreeSet<_>>();
            let wanted = |attempts: &[Attempt]| {
                attempts.iter().all(|attempt| attempt.ok) && super::world::answered(attempts) == all
            };
            let attempts =
                world.outside.until(&Spec { timeout_ms: 400, ..Spec::new(&url, 30) }, LIMIT, wanted).await?;
            Ok(summary(&attempts))
        })
        .await;
    Ok(vec![takeover, back])
}
