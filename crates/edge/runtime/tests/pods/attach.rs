//! Attach as the API server asks for it: standard input, terminals, several clients, clients that hang.

use crate::{
    cases::{self, WAIT, finish, log, log_of, pod, run, runtime, shell},
    streams::{Socket, connect, next, own_loopback, serve},
};
use futures::SinkExt;
use minisvc_runtime::{ContainerSpec, RestartPolicy, Runtime};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio_tungstenite::tungstenite::Message;

const PATH: &str = "/attach/default/web-0/main";
const V5: &str = "v5.channel.k8s.io";
const STDIN_CLOSED: &[u8] = b"\xff\0";

fn with(script: &str, change: impl FnOnce(&mut ContainerSpec)) -> Vec<ContainerSpec> {
    let mut containers = shell(script);
    change(&mut containers[0]);
    containers
}

async fn start(uid: &str, containers: Vec<ContainerSpec>) -> (Runtime, SocketAddr) {
    let runtime = runtime();
    runtime.start_pod(pod(uid, RestartPolicy::Never, containers)).await.unwrap();
    let address = serve(&runtime).await;
    (runtime, address)
}

/// A session that stands.
async fn attached(address: SocketAddr, query: &str) -> Socket {
    let mut socket = connect(address, &format!("{PATH}?{query}"), V5).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap(), [1], "the session stands");
    socket
}

async fn say(socket: &mut Socket, message: &[u8]) {
    socket.send(Message::binary(message.to_vec())).await.unwrap();
}

/// Reads standard output until it contains `part`.
#[track_caller]
fn until<'a>(socket: &'a mut Socket, part: &'a str) -> impl Future<Output = String> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let mut seen = String::new();
        while !seen.contains(part) {
            let Some(message) = next(socket).await else { panic!("{caller}: {part:?} not in {seen:?}") };
            assert_eq!(message[0], 1, "{caller}: {}", String::from_utf8_lossy(&message));
            seen.push_str(&String::from_utf8_lossy(&message[1..]));
        }
        seen
    }
}

/// Reads to the end; all of standard output, and the status.
async fn to_the_end(socket: &mut Socket) -> (String, String) {
    let (mut out, mut status) = (String::new(), String::new());
    while let Some(message) = next(socket).await {
        let text = String::from_utf8_lossy(&message[1..]);
        if message[0] == 1 { out.push_str(&text) } else { status.push_str(&text) }
    }
    (out, status)
}

async fn exit_code(runtime: &Runtime, uid: &str) -> i32 {
    let pod = cases::wait_for(runtime, uid, |pod| cases::ended(pod).is_some()).await;
    cases::ended(&pod).unwrap().exit_code
}

pub fn output() {
    own_loopback();
    run(async {
        // It goes on when the test has attached, and told it so. A line need not be whole to be seen.
        let script = "echo before; while ! [ -e /tmp/go ]; do sleep 0.02; done; printf out; sleep 0.1; echo err >&2; sleep 0.3; exit 3";
        let (runtime, address) = start("u10", shell(script)).await;
        let begin = Instant::now();
        while !log(&log_of("u10", 0)).contains("before") {
            assert!(begin.elapsed() < WAIT);
            tokio::task::yield_now().await;
        }
        let refused = connect(address, &format!("{PATH}?input=1&output=1"), V5).await;
        assert!(refused.as_ref().is_err_and(|text| text.contains("stdin: container \"main\" has none")));
        let mut all = attached(address, "output=1&error=1").await;
        let mut out = connect(address, &format!("{PATH}?stdout=true"), "v4.channel.k8s.io").await.unwrap();
        assert_eq!(next(&mut out).await.unwrap(), [1], "the session stands");
        let go = "/exec/default/web-0/main?output=1&command=touch&command=/tmp/go";
        let mut exec = connect(address, go, V5).await.unwrap();
        while next(&mut exec).await.is_some() {}
        // What was written before is not told; the two streams are told apart.
        assert_eq!(next(&mut all).await.unwrap(), b"\x01out");
        assert_eq!(next(&mut all).await.unwrap(), b"\x02err\n");
        assert_eq!(next(&mut out).await.unwrap(), b"\x01out");
        for socket in [&mut all, &mut out] {
            let status = next(socket).await.unwrap();
            assert!(status.starts_with(b"\x03{") && status.ends_with(b"\"Success\"}"), "{status:?}");
            assert_eq!(next(socket).await, None);
        }
        assert!(connect(address, &format!("{PATH}?output=1"), V5).await.is_err());
        finish(&runtime, "u10").await;
    });
}

pub fn input() {
    own_loopback();
    run(async {
        let script = "while read line; do echo got $line; done; echo end of input; exit 4";
        let (runtime, address) = start("u13", with(script, |spec| spec.stdin = true)).await;
        // Several at once: each writes, all see.
        let mut first = attached(address, "stdin=1&stdout=1").await;
        let mut second = attached(address, "stdin=1&stdout=1").await;
        let mut third = attached(address, "stdout=1").await;
        say(&mut first, b"\0one\n").await;
        for socket in [&mut first, &mut second, &mut third] {
            assert_eq!(until(socket, "one\n").await, "got one\n");
        }
        say(&mut third, b"\0not asked for\n").await;
        say(&mut second, b"\0two\n").await;
        assert_eq!(until(&mut first, "two\n").await, "got two\n");
        // Who has no more to say is let go; the container's input stays open.
        say(&mut first, STDIN_CLOSED).await;
        let (out, status) = to_the_end(&mut first).await;
        assert!(out.is_empty() && status.ends_with("\"Success\"}"), "{out} {status}");
        drop((second, third));
        // A server that is replaced loses nothing: the shim holds the container's input.
        let again = crate::cases::runtime();
        again.adopt().await.unwrap();
        let address = serve(&again).await;
        let mut fourth = attached(address, "stdin=1&stdout=1").await;
        say(&mut fourth, b"\0three\n").await;
        assert_eq!(until(&mut fourth, "three\n").await, "got three\n");
        assert!(runtime.pod("u13").unwrap().containers[0].is_running());
        // The first server is not really gone: it sees the end as well, and must have written that down.
        runtime.stop("u13", Duration::ZERO).await.unwrap();
        finish(&again, "u13").await;
    });
}

pub fn input_once() {
    own_loopback();
    run(async {
        let once = |spec: &mut ContainerSpec| (spec.stdin, spec.stdin_once) = (true, true);
        // More than a pipe holds, all of it before the client goes; then the end of the file.
        let (runtime, address) = start("u14", with("sleep 0.2; wc -c; exit 5", once)).await;
        let mut reader = attached(address, "stdout=1").await;
        let mut socket = attached(address, "stdin=1&stdout=1").await;
        for _ in 0..4 {
            say(&mut socket, &[b"\0".as_slice(), &[b'x'; 50_000]].concat()).await;
        }
        say(&mut socket, STDIN_CLOSED).await;
        for socket in [&mut socket, &mut reader] {
            let (out, status) = to_the_end(socket).await;
            assert!(out == "200000\n" && status.ends_with("\"Success\"}"), "{out} {status}");
        }
        assert_eq!(exit_code(&runtime, "u14").await, 5);
        finish(&runtime, "u14").await;
        // The same if the client just goes; later ones find it closed.
        let script = "cat; echo end; while ! [ -e /tmp/go ]; do sleep 0.02; done";
        let (runtime, address) = start("u15", with(script, once)).await;
        let mut reader = attached(address, "stdout=1").await;
        let mut socket = attached(address, "stdin=1&stdout=1").await;
        say(&mut socket, b"\0last words\n").await;
        assert_eq!(until(&mut socket, "words\n").await, "last words\n");
        drop(socket);
        assert_eq!(until(&mut reader, "end\n").await, "last words\nend\n");
        let mut late = attached(address, "stdin=1&stdout=1").await;
        say(&mut late, b"\0nobody reads this\n").await;
        finish(&runtime, "u15").await;
        assert_eq!(to_the_end(&mut late).await.0, "");
    });
}

pub fn terminal() {
    own_loopback();
    run(async {
        let interactive = |spec: &mut ContainerSpec| {
            (spec.stdin, spec.stdin_once, spec.tty) = (true, true, true);
            spec.command = vec!["sh".into()];
        };
        let (runtime, address) = start("u16", with("", interactive)).await;
        let mut socket = attached(address, "stdin=1&stdout=1&stderr=1&tty=1").await;
        say(&mut socket, b"\x04{\"Width\":97,\"Height\":31}").await;
        say(&mut socket, b"\0PS1=; stty size; tty; echo $TERM >&2; echo do''ne\n").await;
        let seen = until(&mut socket, "done\r\n").await;
        // What is typed is echoed; the terminal has a size, a name, a type and one output.
        let answers: Vec<&str> = seen.split("\r\n").skip(1).collect();
        assert_eq!(answers, ["31 97", "/dev/pts/0", "xterm", "done", ""], "{seen:?}");
        // The program is told of a new size, and of the interrupt key.
        let script = b"\0sh -c \"trap 'echo re''sized' WINCH; echo wai''ts; while :; do sleep 0.02; done\"\n";
        say(&mut socket, script).await;
        until(&mut socket, "waits\r\n").await;
        say(&mut socket, b"\x04{\"Width\":40,\"Height\":20}").await;
        until(&mut socket, "resized\r\n").await;
        say(&mut socket, b"\0\x03").await;
        say(&mut socket, b"\0stty size; echo do''ne\n").await;
        assert!(until(&mut socket, "done\r\n").await.contains("\r\n20 40\r\n"));
        // A lost connection takes no terminal away, whatever stdinOnce says.
        drop(socket);
        let mut socket = attached(address, "stdin=1&stdout=1&tty=1").await;
        say(&mut socket, b"\0echo a''gain\nexit 6\n").await;
        let (out, status) = to_the_end(&mut socket).await;
        assert!(out.contains("again\r\n") && status.ends_with("\"Success\"}"), "{out:?} {status}");
        assert_eq!(exit_code(&runtime, "u16").await, 6);
        let log = log(&log_of("u16", 0));
        assert!(log.contains(" stdout F 31 97\n") && !log.contains(" stderr "), "{log}");
        finish(&runtime, "u16").await;
    });
}

pub fn stuck() {
    own_loopback();
    run(async {
        let script = "read go; seq 1 1000000; read rest; exit 7";
        let (runtime, address) = start("u17", with(script, |spec| spec.stdin = true)).await;
        let mut stuck = attached(address, "stdin=1&stdout=1").await;
        let mut fast = attached(address, "stdin=1&stdout=1").await;
        say(&mut fast, b"\0go\n").await;
        // One does not read at all; the other gets everything, and the container goes on.
        let begin = Instant::now();
        let mut count = 0;
        let mut tail = String::new();
        while !tail.ends_with("\n1000000\n") {
            let message = next(&mut fast).await.unwrap();
            count += message[1..].iter().filter(|byte| **byte == b'\n').count();
            tail.push_str(&String::from_utf8_lossy(&message[1..]));
            tail = tail.split_off(tail.len().saturating_sub(20));
        }
        assert_eq!(count, 1_000_000);
        println!("measured: 6.9 MB beside a client that hangs {:?}", begin.elapsed());
        say(&mut fast, b"\0rest\n").await;
        assert!(to_the_end(&mut fast).await.1.ends_with("\"Success\"}"));
        assert_eq!(exit_code(&runtime, "u17").await, 7);
        // It is told that it has not got all.
        let (_, status) = to_the_end(&mut stuck).await;
        assert!(status.is_empty() || status.contains("the client did not read"), "{status}");
        finish(&runtime, "u17").await;
        // A program that does not read stops neither its shim nor anybody's sight of it.
        let script = "while ! [ -e /tmp/go ]; do echo tick; sleep 0.05; done";
        let (runtime, address) = start("u18", with(script, |spec| spec.stdin = true)).await;
        let mut socket = attached(address, "stdin=1&stdout=1").await;
        for _ in 0..64 {
            say(&mut socket, &[b"\0".as_slice(), &[b'x'; 50_000]].concat()).await;
        }
        let mut other = attached(address, "stdout=1").await;
        until(&mut other, "tick\n").await;
        until(&mut socket, "tick\n").await;
        runtime.stop("u18", Duration::ZERO).await.unwrap();
        assert!(to_the_end(&mut socket).await.1.ends_with("\"Success\"}"));
        finish(&runtime, "u18").await;
    });
}

pub fn many() {
    own_loopback();
    run(async {
        let (runtime, address) = start("u19", shell("sleep 1000")).await;
        let mut sockets = Vec::new();
        let refusal = loop {
            match connect(address, &format!("{PATH}?stdout=1"), V5).await {
                Ok(socket) => sockets.push(socket),
                Err(text) => break text,
            }
        };
        assert_eq!(
            (sockets.len(), refusal.as_str()),
            (16, "too many clients are attached to this container")
        );
        drop(sockets);
        // There is room again as soon as they are gone.
        let begin = Instant::now();
        while connect(address, &format!("{PATH}?stdout=1"), V5).await.is_err() {
            assert!(begin.elapsed() < WAIT);
        }
        finish(&runtime, "u19").await;
    });
}
