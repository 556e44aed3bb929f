//! Durable commits a second with 1, 16 and 64 clients: `cargo run --release -p minisvc-store --example commits [DIR]`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use minisvc_apimachinery::storage::Change;
use minisvc_store::{Limits, Store};
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into);
    println!(
        "{:>8} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "clients", "commits/s", "p50 ms", "p99 ms", "max ms", "watch p99 ms"
    );
    for clients in [1, 16, 64] {
        let dir = tempfile::tempdir_in(&base).unwrap();
        let store = Store::open(dir.path(), Limits::default()).unwrap();
        let watch = tokio::spawn(watch(store.clone()));
        let start = Instant::now();
        let tasks: Vec<_> =
            (0..clients).map(|client| tokio::spawn(write(store.clone(), client, start))).collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        let rate = times.len() as f64 / start.elapsed().as_secs_f64();
        store.close().await;
        let mut delays = watch.await.unwrap();
        let (p50, p99, max) = (at(&mut times, 0.5), at(&mut times, 0.99), at(&mut times, 1.0));
        println!(
            "{clients:>8} {rate:>10.0} {p50:>10.2} {p99:>10.2} {max:>10.2} {:>12.2}",
            at(&mut delays, 0.99)
        );
    }
}

/// Milliseconds at this place of the sorted times.
fn at(times: &mut [Duration], place: f64) -> f64 {
    times.sort_unstable();
    let index = ((times.len() - 1) as f64 * place) as usize;
    times[index].as_secs_f64() * 1000.0
}

async fn write(store: Store, client: usize, start: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while start.elapsed() < RUN {
        let begun = Instant::now();
        let key = format!("services/default/{client}-{}", times.len());
        let object =
            serde_json::json!({"metadata": {"name": key}, "sent": nanos(), "padding": "x".repeat(400)});
        store
            .commit(move |_| Ok::<_, ()>((vec![Change::PutObject { key, value: object }], ())))
            .await
            .unwrap();
        times.push(begun.elapsed());
    }
    times
}

fn nanos() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Time from the request to its event, commit included.
async fn watch(store: Store) -> Vec<Duration> {
    let mut watcher = store.watch("services/", 0).unwrap();
    drop(store);
    let mut delays = Vec::new();
    while let Ok(events) = watcher.next().await {
        for event in events {
            let object: serde_json::Value = serde_json::from_slice(&event.new.unwrap().value).unwrap();
            delays.push(Duration::from_nanos(nanos() - object["sent"].as_u64().unwrap()));
        }
    }
    delays
}
