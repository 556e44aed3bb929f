//! The API over TLS: durable creates, gets, lists of many Services, delivery of watches, memory.
//!
//! The clients share the machine's cores with the server, and each waits for its answer before it asks again.

use crate::{
    client::{Client, Way},
    figures::{Times, row},
    served::Child,
    server::pki,
};
use clap::Args;
use futures::future::try_join_all;
use http::Method;
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

const SERVICES: &str = "/api/v1/namespaces/default/services";

#[derive(Args)]
pub struct Options {
    /// Seconds of each measurement under load
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Services in the list
    #[arg(long, default_value_t = 5000)]
    services: usize,
    /// Watchers that see each change
    #[arg(long, default_value_t = 100)]
    watchers: usize,
}

fn service(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s{number}"), "labels": {"app": "bench"}},
        "spec": {"selector": {"app": format!("a{number}")}, "ports": [{"name": "http", "port": 80}]},
    })
}

/// Runs all of it.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let begun = Instant::now();
    let (served, address) = Child::start(&["serve".as_ref(), dir.path().as_os_str()]).await?;
    let pki = pki(dir.path())?;
    let way = Way::to(address.parse()?, pki.ca_certificate(), &pki.admin_token)?;
    way.connect().await?.get("/readyz").await?;
    row("start to ready, certificates made", &format!("{:.0} ms", begun.elapsed().as_secs_f64() * 1e3));
    row("resident when empty", &format!("{} MiB", served.resident_mib()?.0));
    let made = AtomicUsize::new(0);
    let limit = Duration::from_secs(options.seconds);
    for clients in [1, 16] {
        let (rate, mut times) = load(&way, clients, limit, async |client: &mut Client| {
            let number = made.fetch_add(1, Relaxed);
            client.create(SERVICES, &service(number)).await.map(drop)
        })
        .await?;
        row(&format!("create Service, durable, {clients} clients: a second"), &format!("{rate:.0}"));
        row(&format!("create Service, durable, {clients} clients: p50 / p99"), &times.shown());
    }
    settle(&way, &made, options.services).await?;
    for clients in [1, 16] {
        let next = AtomicUsize::new(0);
        let (rate, mut times) = load(&way, clients, limit, async |client: &mut Client| {
            let number = next.fetch_add(1, Relaxed) % options.services;
            client.get(&format!("{SERVICES}/s{number}")).await.map(drop)
        })
        .await?;
        row(&format!("get Service, {clients} clients: a second"), &format!("{rate:.0}"));
        row(&format!("get Service, {clients} clients: p50 / p99"), &times.shown());
    }
    lists(&way, options, limit).await?;
    watches(&way, options).await?;
    let (now, most) = served.resident_mib()?;
    row(&format!("resident with {} Services: now, most", options.services), &format!("{now}, {most} MiB"));
    served.stop().await
}

/// Has so many clients do the same for a while; what they did a second, and how long each took.
async fn load<F>(way: &Way, clients: usize, limit: Duration, act: F) -> anyhow::Result<(f64, Times)>
where
    F: AsyncFn(&mut Client) -> anyhow::Result<()>,
{
    let mut connections = try_join_all((0..clients).map(|_| way.connect())).await?;
    let begun = Instant::now();
    let act = &act;
    let each = connections.iter_mut().map(|client| async move {
        let mut times = Times::default();
        let mut count = 0_usize;
        while begun.elapsed() < limit {
            let asked = Instant::now();
            act(client).await?;
            times.push(asked.elapsed());
            count += 1;
        }
        Ok::<_, anyhow::Error>((count, times))
    });
    let mut all = Times::default();
    let mut total = 0;
    for (count, times) in try_join_all(each).await? {
        total += count;
        all.extend(times);
    }
    Ok((total as f64 / begun.elapsed().as_secs_f64(), all))
}

/// Makes or deletes Services until there are just so many.
async fn settle(way: &Way, made: &AtomicUsize, wanted: usize) -> anyhow::Result<()> {
    let mut client = way.connect().await?;
    for number in made.load(Relaxed)..wanted {
        client.create(SERVICES, &service(number)).await?;
    }
    for number in wanted..made.load(Relaxed) {
        let path = format!("{SERVICES}/s{number}");
        client.send(Method::DELETE, &path, "application/json", String::new()).await?;
    }
    Ok(())
}

/// Lists, and what a get takes while somebody lists.
async fn lists(way: &Way, options: &Options, limit: Duration) -> anyhow::Result<()> {
    let (mut lister, mut getter) = (way.connect().await?, way.connect().await?);
    let mut times = Times::default();
    let mut bytes = 0;
    for _ in 0..10 {
        let asked = Instant::now();
        bytes = lister.get("/api/v1/services").await?.len();
        times.push(asked.elapsed());
    }
    let size = bytes as f64 / 1e6;
    row(&format!("list of {} Services, {size:.1} MB: p50 / p99", options.services), &times.shown());
    let mut beside = Times::default();
    let begun = Instant::now();
    let get = async {
        while begun.elapsed() < limit {
            let asked = Instant::now();
            getter.get(&format!("{SERVICES}/s1")).await?;
            beside.push(asked.elapsed());
        }
        Ok::<_, anyhow::Error>(())
    };
    let list = async {
        while begun.elapsed() < limit {
            lister.get("/api/v1/services").await?;
        }
        Ok(())
    };
    futures::future::try_join(get, list).await?;
    row("get Service while another client lists all: p50 / p99", &beside.shown());
    Ok(())
}

/// How long after a change was acknowledged, and after it was sent, each watcher has it.
async fn watches(way: &Way, options: &Options) -> anyhow::Result<()> {
    const CHANGES: usize = 100;
    let mut client = way.connect().await?;
    let list: Value = serde_json::from_slice(&client.get("/api/v1/services?limit=1").await?)?;
    let from = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let path = format!("/api/v1/services?watch=true&resourceVersion={from}");
    let mut watchers = Vec::new();
    for _ in 0..options.watchers {
        let mut events = way.connect().await?.watch(&path).await?;
        watchers.push(tokio::spawn(async move {
            let mut seen = Vec::with_capacity(CHANGES);
            for _ in 0..CHANGES {
                events.next().await?;
                seen.push(Instant::now());
            }
            Ok::<_, anyhow::Error>(seen)
        }));
    }
    let mut moments = Vec::with_capacity(CHANGES);
    for number in 0..CHANGES {
        let patch = json!({"metadata": {"labels": {"change": number.to_string()}}});
        let sent = Instant::now();
        let path = format!("{SERVICES}/s{number}");
        client.merge(&path, &patch).await?;
        moments.push((sent, Instant::now()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (mut from_sent, mut from_acknowledged) = (Times::default(), Times::default());
    for watcher in watchers {
        for (seen, (sent, acknowledged)) in watcher.await??.into_iter().zip(&moments) {
            from_sent.push(seen.duration_since(*sent));
            from_acknowledged.push(seen.saturating_duration_since(*acknowledged));
        }
    }
    let watchers = options.watchers;
    row(&format!("change sent → seen by each of {watchers} watchers: p50 / p99"), &from_sent.shown());
    row(
        &format!("acknowledged → seen by each of {watchers} watchers: p50 / p99"),
        &from_acknowledged.shown(),
    );
    Ok(())
}
