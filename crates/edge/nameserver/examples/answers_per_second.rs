//! Prints how many questions about 10,000 Services the name server answers in a second, server and load on the
//! same cores. Run with `cargo run --release -p minisvc-nameserver --example answers_per_second`.
#![allow(clippy::print_stdout, clippy::expect_used)]

use minisvc_apimachinery::{ClusterConfig, ObjectKey, Snapshot, Synced};
use minisvc_dns::Records;
use minisvc_nameserver::{Config, Nameserver};
use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// Services asked for in turn.
const SERVICES: usize = 10_000;
/// Questions of one client that wait for an answer.
const WINDOW: usize = 64;
/// Clients, each on its own thread.
const CLIENTS: usize = 2;
const DURATION: Duration = Duration::from_secs(5);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let guard = runtime.enter();
    let nameserver = Nameserver::bind(&Config {
        addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        sockets_per_address: 2,
        ..Config::default()
    })
    .expect("a free port");
    nameserver.handle().publish(records());
    let address = nameserver.addresses()[0];
    runtime.spawn(nameserver.serve(std::future::pending()));
    drop(guard);
    let clients: Vec<_> = (0..CLIENTS).map(|n| thread::spawn(move || client(address, n))).collect();
    let mut waits = Vec::new();
    for client in clients {
        waits.extend(client.join().expect("a client"));
    }
    waits.sort();
    let at = |part: usize| waits.get(waits.len() * part / 1000).copied().unwrap_or_default();
    let rate = waits.len() as f64 / DURATION.as_secs_f64();
    println!("{rate:.0} answers/s, p50 {:?}, p99 {:?}, window {WINDOW} x {CLIENTS}", at(500), at(990));
}

fn records() -> Records {
    let mut world = Snapshot::default();
    for n in 0..SERVICES {
        let name = format!("svc-{n}");
        let address = format!("10.43.{}.{}", n / 250 + 1, n % 250 + 1);
        let object = serde_json::json!({"metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": address, "ports": [{"port": 80}]}});
        let service = serde_json::from_value(object).expect("a Service");
        world.services.insert(ObjectKey::new("default", name), Arc::new(service));
    }
    Records::new(&ClusterConfig::default(), &Synced::after_all_lists(world))
}

/// Asks with a fixed number of questions in flight; returns how long each answer took.
fn client(server: SocketAddr, seed: usize) -> Vec<Duration> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(server).expect("the server's address");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let mut sent = vec![Instant::now(); WINDOW];
    let mut waits = Vec::new();
    let start = Instant::now();
    let ask = |id: usize, n: usize, sent: &mut [Instant]| {
        sent[id] = Instant::now();
        socket.send(&question(id as u16, n % SERVICES)).expect("room for a question");
    };
    for id in 0..WINDOW {
        ask(id, seed + id, &mut sent);
    }
    let mut buffer = [0; 512];
    while start.elapsed() < DURATION {
        let length = socket.recv(&mut buffer).expect("an answer within a second");
        assert!(length > 30 && buffer[3] & 0xf == 0 && buffer[7] == 1, "one record and no error");
        let id = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
        waits.push(sent[id].elapsed());
        ask(id, seed + waits.len() * 7, &mut sent);
    }
    waits
}

fn question(id: u16, n: usize) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [&format!("svc-{n}"), "default", "svc", "cluster", "local"] {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}
