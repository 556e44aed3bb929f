//! Throughput of one TCP stream between two nodes, bare and by each overlay, all in one run:
//! `cargo run --release -p minisvc-datapath --example overlays`. Sender, receiver and tunnel share this machine.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "../tests/world/mod.rs"]
mod world;

use minisvc_apimachinery::Overlay;
use minisvc_lab::namespaces::{Isolation, isolate};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use world::{World, tcp_server};

const INSIDE: &str = "MINISVC_BENCH_OVERLAY";
const MEASURED: Duration = Duration::from_secs(3);

fn main() {
    if let Ok(what) = std::env::var(INSIDE) {
        println!("{}", measure(&what));
        return;
    }
    let mut bare = None;
    for what in ["bare", "host-gw", "vxlan", "vxlan-no-offload", "tun"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        isolate(command.env(INSIDE, what), Isolation::whole()).unwrap();
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let Ok(rate) = text.trim().parse::<f64>() else {
            println!("{what:17} failed: {}", String::from_utf8_lossy(&output.stderr));
            continue;
        };
        let ratio = rate / *bare.get_or_insert(rate);
        println!("{what:17} {:6.2} Gbit/s  {ratio:.2} of bare", rate / 1e9);
    }
}

/// Bits per second from a Pod on node 1 to a Pod on node 2, or from node to node if bare.
fn measure(what: &str) -> f64 {
    let overlay = match what {
        "tun" => Overlay::Tun,
        "bare" | "host-gw" => Overlay::HostGw,
        _ => Overlay::Vxlan,
    };
    let mut world = World::new(overlay, 2);
    world.hardware = what == "vxlan-no-offload";
    let (from, to) = (world.pod(0, 2), world.pod(1, 2));
    world.converge();
    if what == "bare" {
        let listener = world.on_node(1, || tcp_server([192, 0, 2, 2].into()));
        let address = listener.local_addr().unwrap();
        return stream(&listener, |body| world.on_node(0, || body(address)));
    }
    let listener = world.in_pod(&to, || tcp_server(to.2));
    let address = listener.local_addr().unwrap();
    stream(&listener, |body| world.in_pod(&from, || body(address)))
}

fn stream(listener: &TcpListener, run_sender: impl FnOnce(fn(SocketAddr))) -> f64 {
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 1 << 20];
            let (mut bytes, started) = (0u64, Instant::now());
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => return bytes as f64 * 8.0 / started.elapsed().as_secs_f64(),
                    length => bytes += length as u64,
                }
            }
        });
        run_sender(send);
        receiver.join().unwrap()
    })
}

fn send(to: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&to, world::PATIENCE).unwrap();
    let block = vec![7; 1 << 18];
    let started = Instant::now();
    while started.elapsed() < MEASURED {
        stream.write_all(&block).unwrap();
    }
}
