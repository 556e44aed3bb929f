//! The tunnel's own process on the real kernel: it outlives whoever started it, by whatever way that ends.
//!
//! Without the usual harness: the worker is this same program, and must fork before any thread is started.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod world;

use minisvc_apimachinery::Overlay;
use minisvc_datapath::tun::{
    control::{Request, Wanted, ask, end, is_running, program},
    worker,
};
use minisvc_lab::testing::in_namespaces;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};
use world::{PATIENCE, World, receive_checked, send_checked, tcp_server};

const NAME: &str = "a_tunnel_outlives_its_starter";
const STARTER: &str = "starter";
const SOCKET: &str = "/run/tunnel.sock";
const UPGRADED: &str = "/run/upgraded";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(status) = worker::run(std::env::args_os()) {
        std::process::exit(status);
    }
    match args.get(1).map(String::as_str) {
        Some(STARTER) => starter(&args[2]),
        Some(filter) if !filter.starts_with('-') && !NAME.contains(filter) => {}
        _ => {
            in_namespaces(NAME, outlives_its_starter);
            println!("test {NAME} ... ok: 1 passed");
        }
    }
}

/// Stands for the server: has a worker carry the tunnel, and lives until it is killed.
fn starter(wanted: &str) {
    let wanted: Wanted = serde_json::from_str(wanted).expect("a tunnel");
    println!("{}", told(wanted));
    loop {
        std::thread::park();
    }
}

/// Has the worker carry this tunnel; its process.
fn told(wanted: Wanted) -> u32 {
    let answer = worker::carry(Path::new(SOCKET), wanted).expect("an answer");
    assert_eq!((answer.error, answer.program), (None, program().unwrap()));
    answer.pid
}

fn start_starter(program: &str, wanted: &Wanted) -> (Child, u32) {
    let mut child = Command::new(program)
        .args([STARTER, &serde_json::to_string(wanted).unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().expect("the worker's process"))
}

fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"x").unwrap();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    to.read_exact(&mut [0]).unwrap();
}

/// A byte there and back.
fn exchange(here: &mut TcpStream, there: &mut TcpStream) {
    pass(here, there);
    pass(there, here);
}

fn kill_and_wait(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    let killed = Instant::now();
    while is_running(Path::new(SOCKET)) {
        assert!(killed.elapsed() < PATIENCE, "a killed worker holds its lock");
        std::thread::yield_now();
    }
}

fn outlives_its_starter() {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        println!("skipped: tun overlay needs /dev/net/tun: {error}");
        return;
    }
    let socket = Path::new(SOCKET);
    let mut world = World::new(Overlay::Tun, 2);
    let pods = [world.pod(0, 2), world.pod(1, 2)];
    let planned = world.planned(0);
    world.with_target(0, async |target| target.converge(&planned.links).await.unwrap());
    world.converge_one(1);
    let tunnel = planned.tunnel.unwrap();
    let wanted = Wanted {
        link: "msvtun".to_owned(),
        local: tunnel.local,
        mtu_bytes: tunnel.mtu_bytes,
        queues: 2,
        peers: tunnel.peers,
    };
    let (mut starter, first) = world.on_node(0, || start_starter("/proc/self/exe", &wanted));
    let listener = world.in_pod(&pods[1], || tcp_server(pods[1].2));
    let address = listener.local_addr().unwrap();
    let mut here = world.in_pod(&pods[0], || TcpStream::connect_timeout(&address, PATIENCE)).unwrap();
    let (mut there, _) = listener.accept().unwrap();
    exchange(&mut here, &mut there);

    starter.kill().unwrap();
    starter.wait().unwrap();
    exchange(&mut here, &mut there);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_checked(&listener, 1 << 20));
        world.in_pod(&pods[0], || send_checked(address, 1 << 20));
        assert_eq!(receiver.join().unwrap().ip(), pods[0].2, "a new connection");
    });

    // Whoever comes next finds it, and cannot start another or talk it into nonsense.
    assert_eq!(told(wanted.clone()), first);
    let refused = worker::start(socket).unwrap_err().to_string();
    assert!(refused.contains("lock /run/tunnel.sock.lock"), "{refused}");
    let nonsense = Request::Run(Wanted { mtu_bytes: 1, ..wanted.clone() });
    assert!(ask(socket, &nonsense).unwrap().error.unwrap().starts_with("mtuBytes 1:"));
    exchange(&mut here, &mut there);

    // Killed, it is replaced, and what was open goes on.
    kill_and_wait(first);
    let second = world.on_node(0, || told(wanted.clone()));
    assert_ne!(second, first);
    exchange(&mut here, &mut there);

    // Another program, as after an upgrade, brings its own worker.
    std::fs::copy("/proc/self/exe", UPGRADED).unwrap();
    let (mut upgraded, third) = world.on_node(0, || start_starter(UPGRADED, &wanted));
    assert_ne!(third, second);
    exchange(&mut here, &mut there);
    upgraded.kill().unwrap();
    upgraded.wait().unwrap();
    exchange(&mut here, &mut there);

    // One that cannot be reached any more is ended all the same, and so is one that can.
    std::fs::remove_file(socket).unwrap();
    end(socket).unwrap();
    assert!(!is_running(socket));
    world.on_node(0, || told(wanted));
    exchange(&mut here, &mut there);
    end(socket).unwrap();
    assert!(!is_running(socket) && !socket.exists());
}
