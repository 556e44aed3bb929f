//! Kills a writing process at random moments and looks for every write it had acknowledged.
//!
//! The test runs itself again as the process to be killed: several clients each put a pair of keys in one commit
//! and print the pair's number once the commit is acknowledged.
// It is all test, but without the harness that clippy knows tests by.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use minisvc_apimachinery::storage::{Change, Read};
use minisvc_store::{Limits, Store};
use rand::Rng;
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

const CHILD: &str = "MINISVC_STORE_KILL_TEST";
const ROUNDS: usize = 40;
const CLIENTS: u64 = 8;

fn main() -> ExitCode {
    if let Ok(dir) = std::env::var(CHILD) {
        write_for_ever(Path::new(&dir));
        return ExitCode::FAILURE;
    }
    if std::env::args().any(|arg| arg == "--list") {
        println!("kill: test");
        return ExitCode::SUCCESS;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = vec![0_u64; CLIENTS as usize];
    let mut rounds_with_writes = 0;
    for round in 0..ROUNDS {
        let told = kill_one(dir.path(), &mut acknowledged);
        rounds_with_writes += usize::from(told > 0);
        check(dir.path(), &mut acknowledged, round);
    }
    let writes: u64 = acknowledged.iter().sum();
    assert!(rounds_with_writes > ROUNDS / 2, "the writer was killed before it wrote in most rounds");
    println!("kill: {ROUNDS} kills, {writes} acknowledged pairs, none lost, none torn");
    ExitCode::SUCCESS
}

/// Starts a writer, kills it after a random time, and notes what it acknowledged. Returns how many.
fn kill_one(dir: &Path, acknowledged: &mut [u64]) -> usize {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (first, begun) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut told = Vec::new();
        for line in out.lines() {
            let line = line.unwrap();
            // A last line without its end may have lost digits.
            if let Some((client, n)) = line.strip_suffix('.').and_then(|line| line.split_once(' ')) {
                told.push((client.parse::<usize>().unwrap(), n.parse::<u64>().unwrap()));
                // Nobody listens in the rounds that kill while the store is opened.
                let _ = first.send(());
            }
        }
        told
    });
    // One round in four kills from the start on, the others once writes are under way.
    let mut random = rand::rng();
    if random.random_ratio(3, 4) {
        begun.recv().unwrap();
    }
    // The moment of the kill is what is random here; nothing is waited for.
    std::thread::sleep(Duration::from_micros(random.random_range(0..100_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    let told = reader.join().unwrap();
    for (client, n) in &told {
        acknowledged[*client] = acknowledged[*client].max(*n);
    }
    told.len()
}

fn check(dir: &Path, acknowledged: &mut [u64], round: usize) {
    let store = Store::open(dir, Limits::default()).unwrap();
    let view = store.view();
    for client in 0..CLIENTS {
        let mut newest = 0;
        for n in 1.. {
            let left = view.get(&format!("left/{client}/{n:08}"));
            let right = view.get(&format!("right/{client}/{n:08}"));
            match (left, right) {
                (Some(left), Some(right)) => assert_eq!(left.revision, right.revision, "torn: {client}/{n}"),
                (None, None) => break,
                _ => panic!("round {round}: half a commit: {client}/{n}"),
            }
            newest = n;
        }
        let acknowledged = &mut acknowledged[client as usize];
        assert!(
            newest >= *acknowledged,
            "round {round}: lost: client {client} has {newest} of {acknowledged}"
        );
        // Commits whose acknowledgement died with the process count as done from here on.
        *acknowledged = newest;
        let counter = view
            .get(&format!("_counter/{client}"))
            .map_or(0, |c| u64::from_be_bytes(c.value.as_ref().try_into().unwrap()));
        assert_eq!(counter, newest, "round {round}: the record of client {client} is torn from its objects");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.close());
}

fn write_for_ever(dir: &Path) {
    let store = Store::open(dir, Limits::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async move {
        let clients: Vec<_> =
            (0..CLIENTS).map(|client| tokio::spawn(write_pairs(store.clone(), client))).collect();
        for client in clients {
            client.await.unwrap();
        }
    });
}

async fn write_pairs(store: Store, client: u64) {
    loop {
        let done = store
            .commit(move |view| {
                let counter = format!("_counter/{client}");
                let n = view
                    .get(&counter)
                    .map_or(0, |c| u64::from_be_bytes(c.value.as_ref().try_into().unwrap()));
                let n = n + 1;
                let object = serde_json::json!({"metadata": {}, "padding": "x".repeat((n % 700) as usize)});
                let put = |side| Change::PutObject {
                    key: format!("{side}/{client}/{n:08}"),
                    value: object.clone(),
                };
                let record = Change::PutRecord { key: counter, value: n.to_be_bytes().to_vec().into() };
                Ok::<_, ()>((vec![put("left"), record, put("right")], n))
            })
            .await
            .unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{client} {}.", done.value).and_then(|()| out.flush()).unwrap();
    }
}
