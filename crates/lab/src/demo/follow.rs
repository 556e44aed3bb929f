//! Claims about Pods that go and come, under traffic.

use super::{
    PODS,
    cluster::{apply, ready_endpoints, wait_for},
    place::{Place, Running, summary},
    report::{Proof, millis, prove},
    world::{BLOG_POD, LIMIT, World, host, record_type},
};
use crate::probe::{Attempt, Spec, now_us};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use std::time::Duration;

/// The Pod that goes.
const GOES: &str = BLOG_POD;
/// Requests a second through the virtual IP meanwhile.
const RATE: f64 = 200.0;
/// What "at once" is for a refused connection.
const AT_ONCE: Duration = Duration::from_millis(250);

/// When what happened, µs of CLOCK_MONOTONIC.
struct Times {
    deleted: u64,
    endpoint_gone: u64,
}

fn since(from: u64, to: u64) -> String {
    millis(Duration::from_micros(to.saturating_sub(from)))
}

/// Deletes a Pod under traffic and proves what must follow; then brings it back.
///
/// # Errors
/// If the cluster does not get as far as the claims.
pub async fn claims(world: &World) -> Result<Vec<Proof>, String> {
    let caller = world.inside.iter().find(|place| place.name != GOES).ok_or("no Pod stays")?;
    let node = world.nodes.first().ok_or("no node")?;
    let gone_address = world.pod(GOES)?.address.clone();
    let blog = super::world::service(&world.client, "blog").await?;
    let blog = blog.spec.and_then(|spec| spec.cluster_ip).ok_or("Service blog has no clusterIP")?;
    let begun = std::time::Instant::now();

    let traffic =
        Spec { count: None, rate: Some(RATE), ..Spec::new(format!("http://{}/", host(&world.echo_ip)), 0) };
    let traffic = caller.start(traffic).await;
    let last =
        Spec { count: None, rate: Some(RATE / 4.0), ..Spec::new(format!("http://{}/", host(&blog)), 0) };
    let last = node.start(last).await;
    traffic.more(40, 0, LIMIT).await?;
    last.more(5, 0, LIMIT).await?;

    let times = delete(world, &gone_address).await?;
    let refused = refused(&last, &times).await;
    traffic.more(100, times.endpoint_gone, LIMIT).await?;
    let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
    wait_for("the Pod is gone", LIMIT, || async {
        match pods.get_opt(GOES).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err("still there".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    traffic.more(100, now_us(), LIMIT).await?;
    let attempts = traffic.stop().await?;
    let calls = last.stop().await?;
    let mut proofs = vec![
        Proof {
            topic: "Endpoints",
            tried: format!("delete {GOES} while {RATE} requests/s run through {}:80", host(&world.echo_ip)),
            from: caller.name.clone(),
            outcome: judge(&attempts, &times),
            took: begun.elapsed(),
        },
        Proof {
            topic: "Endpoints",
            tried: format!("the last Pod of {}:80 goes: refused at once", host(&blog)),
            from: node.name.clone(),
            outcome: refused.and_then(|text| at_once(&calls, &times).map(|more| format!("{text}, {more}"))),
            took: Duration::from_micros(now_us().saturating_sub(times.deleted)),
        },
    ];
    proofs.extend(elsewhere(world, &gone_address).await);
    proofs.push(returns(world, node).await);
    world.programmed().await?;
    Ok(proofs)
}

async fn delete(world: &World, address: &str) -> Result<Times, String> {
    let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
    let deleted = now_us();
    pods.delete(GOES, &DeleteParams::default()).await.map_err(|error| format!("delete {GOES}: {error}"))?;
    let endpoint_gone = wait_for("the endpoint leaves the slice", LIMIT, || async {
        let ready = ready_endpoints(&world.client, "echo").await?;
        if ready.iter().any(|ready| ready == address) {
            Err(format!("{address} is ready"))
        } else {
            Ok(now_us())
        }
    })
    .await?;
    Ok(Times { deleted, endpoint_gone })
}

fn judge(attempts: &[Attempt], times: &Times) -> Result<String, String> {
    let failed: Vec<&Attempt> = attempts.iter().filter(|attempt| !attempt.ok).collect();
    let after = failed.iter().filter(|attempt| attempt.at_us > times.endpoint_gone).count();
    let text = format!(
        "{} requests, {} failed, {after} of them started after the endpoint was gone ({} after the delete)",
        attempts.len(),
        failed.len(),
        since(times.deleted, times.endpoint_gone),
    );
    if after == 0 { Ok(text) } else { Err(format!("{text}: {}", summary(attempts))) }
}

/// Waits until the Service refuses.
async fn refused(calls: &Running, times: &Times) -> Result<String, String> {
    wait_for("connection refused", LIMIT, || async {
        let attempts = calls.so_far();
        let first = attempts.iter().find(|attempt| attempt.error.as_deref() == Some("refused"));
        let first = first.ok_or_else(|| summary(&attempts))?;
        let later = attempts.iter().filter(|attempt| attempt.at_us > first.at_us).count();
        if later < 10 {
            return Err("too few attempts".to_owned());
        }
        Ok(format!("refused from {} after the delete", since(times.deleted, first.at_us)))
    })
    .await
}

fn at_once(calls: &[Attempt], times: &Times) -> Result<String, String> {
    let failed: Vec<&Attempt> =
        calls.iter().filter(|attempt| !attempt.ok && attempt.at_us > times.deleted).collect();
    let slowest = failed.iter().map(|attempt| attempt.took_us).max().unwrap_or(0);
    let text =
        format!("each within {:.1} ms", f64::from(u32::try_from(slowest).unwrap_or(u32::MAX)) / 1000.0);
    let others = failed.iter().any(|attempt| attempt.error.as_deref() == Some("timeout"));
    if others || Duration::from_micros(slowest) > AT_ONCE {
        return Err(format!("not at once, {text}: {}", summary(calls)));
    }
    Ok(text)
}

async fn elsewhere(world: &World, gone: &str) -> Vec<Proof> {
    let ports = async {
        let mut slowest = 0;
        for node in &world.node_names {
            let spec = Spec::new(format!("http://{}:30080/", world.machine(node)), 3);
            let refused = |a: &Attempt| a.error.as_deref() == Some("refused");
            let attempts = world.outside.until(&spec, LIMIT, |attempts| attempts.iter().all(refused)).await?;
            slowest = slowest.max(attempts.iter().map(|attempt| attempt.took_us).max().unwrap_or(0));
        }
        let text = format!("refused at every node, the slowest within {slowest} µs");
        if Duration::from_micros(slowest) > AT_ONCE { Err(text) } else { Ok(text) }
    };
    let name = async {
        let place = world.nodes.last().ok_or("no node")?;
        let spec =
            Spec::new(format!("dns:echo-pods.default.svc.cluster.local/{}", record_type(world.family)), 1);
        let left = |a: &Attempt| {
            a.ok && a.records.len() == 2 && !a.records.iter().any(|r| r.ends_with(&format!(" {gone}")))
        };
        let attempts = place.until(&spec, LIMIT, |attempts| attempts.iter().all(left)).await?;
        Ok(attempts.first().map(|attempt| attempt.records.join(", ")).unwrap_or_default())
    };
    let ingress = async {
        let url = format!("http://{}/", world.machine("node1"));
        let spec = Spec { host: Some("blog.example".to_owned()), ..Spec::new(url, 2) };
        let wanted = |attempts: &[Attempt]| attempts.iter().all(|attempt| attempt.status == Some(503));
        world.outside.until(&spec, LIMIT, wanted).await.map(|_| "503".to_owned())
    };
    let (ports, name, ingress) = tokio::join!(
        prove("Endpoints", "http://NODE:30080 without a Pod", "client", ports),
        prove("Headless", format!("{GOES} leaves the answer for echo-pods"), "the last node", name),
        prove("Ingress", "blog.example/ after its last Pod has gone", "client", ingress),
    );
    vec![ports, name, ingress]
}

/// The same Pod, applied again, answers again.
async fn returns(world: &World, node: &Place) -> Proof {
    prove(
        "Endpoints",
        format!("apply {GOES} again: it answers through {}:80", host(&world.echo_ip)),
        node.name.clone(),
        async {
            apply(&world.lab, PODS).await?;
            let spec = Spec::new(format!("http://{}/", host(&world.echo_ip)), 10);
            let back =
                |attempts: &[Attempt]| attempts.iter().any(|attempt| attempt.pod.as_deref() == Some(GOES));
            let attempts = node.until(&spec, LIMIT, back).await?;
            if attempts.iter().all(|attempt| attempt.ok) {
                Ok(summary(&attempts))
            } else {
                Err(summary(&attempts))
            }
        },
    )
    .await
}
