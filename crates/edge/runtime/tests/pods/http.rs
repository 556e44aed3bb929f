//! Logs and exec as the API server asks for them.

use crate::{
    cases::{WAIT, finish, log, log_of, pod, run, runtime, shell},
    world,
};
use futures::{SinkExt, StreamExt};
use minisvc_runtime::{RestartPolicy, node};
use std::{
    fs,
    time::{Duration, Instant},
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

struct Session {
    out: Vec<u8>,
    err: Vec<u8>,
    status: serde_json::Value,
}

/// Speaks the client's side of exec; `input` messages are sent at once.
async fn exec(address: std::net::SocketAddr, query: &str, input: &[&[u8]]) -> Session {
    let url = format!("ws://{address}/exec/default/web-0/main?{query}");
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    for message in input {
        socket.send(Message::binary(message.to_vec())).await.unwrap();
    }
    let mut session = Session { out: Vec::new(), err: Vec::new(), status: serde_json::Value::Null };
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            match bytes[0] {
                1 => session.out.extend(&bytes[1..]),
                2 => session.err.extend(&bytes[1..]),
                3 if bytes.len() > 1 => session.status = serde_json::from_slice(&bytes[1..]).unwrap(),
                _ => {}
            }
        }
    }
    session
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(WAIT, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

pub fn logs_and_exec() {
    // This process' own network namespace has no loopback yet.
    let netns = world::network_namespace("own");
    nix::sched::setns(fs::File::open(netns).unwrap(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    run(async {
        let runtime = runtime();
        let script = "echo one; echo two; while :; do sleep 0.02; done";
        let started = runtime.start_pod(pod("u8", RestartPolicy::Never, shell(script))).await.unwrap();
        let container = started.containers[0].process.unwrap().pid;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = node::router(runtime.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await });

        let begin = Instant::now();
        while !log(&log_of("u8", 0)).contains("two") {
            assert!(begin.elapsed() < WAIT);
            tokio::task::yield_now().await;
        }
        assert!(
            get(address, "/containerLogs/default/web-0/main?tailLines=1").await.ends_with("\r\n\r\ntwo\n")
        );
        assert!(get(address, "/containerLogs/default/web-0/other").await.starts_with("HTTP/1.0 404"));
        assert!(get(address, "/containerLogs/default/web-0/main?tailLines=x").await.contains("tailLines"));
        assert!(get(address, "/exec/default/web-0/main?command=ls").await.contains("at least 1 of stdin"));

        let query = "output=1&error=1&command=sh&command=-c&command=";
        let result =
            exec(address, &format!("{query}hostname;echo+%24GREETING;echo+no+%3E%262;exit+7"), &[]).await;
        assert_eq!(String::from_utf8(result.out).unwrap(), "web-0\nhello\n");
        assert_eq!(String::from_utf8(result.err).unwrap(), "no\n");
        assert_eq!(result.status["details"]["causes"][0]["message"], "7");

        let result =
            exec(address, "stdin=true&stdout=true&command=cat", &[b"\0to and ", b"\0fro", b"\xff\0"]).await;
        assert_eq!(String::from_utf8(result.out).unwrap(), "to and fro");
        assert_eq!(result.status["status"], "Success");

        let result = exec(address, "stdout=1&command=no-such-program", &[]).await;
        assert!(
            result.status["message"].as_str().unwrap().contains("not found in $PATH"),
            "{}",
            result.status
        );

        let input: [&[u8]; 2] =
            [b"\x04{\"Width\":97,\"Height\":31}", b"\0stty size; tty; echo $TERM; exit 4\n"];
        let result = exec(address, "tty=1&input=1&output=1&command=sh", &input).await;
        let out = String::from_utf8_lossy(&result.out);
        assert!(out.contains("31 97\r\n/dev/pts/0\r\nxterm\r\n"), "{out}");
        assert_eq!(result.status["details"]["causes"][0]["message"], "4");

        // The client goes away: its program ends, the container goes on.
        let before = world::processes();
        let going = exec(address, "stdin=1&stdout=1&command=sleep&command=1234", &[]);
        let seen = async {
            while !world::processes().iter().any(|pid| world::command_line(*pid) == "sleep 1234") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! { _ = going => panic!("ended"), r = tokio::time::timeout(WAIT, seen) => r.unwrap() }
        let begin = Instant::now();
        while world::processes().iter().any(|pid| world::command_line(*pid) == "sleep 1234") {
            assert!(begin.elapsed() < WAIT, "the program outlived its client");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(before.contains(&container) && world::processes().contains(&container));

        let follow = get(address, "/containerLogs/default/web-0/main?follow=true");
        let (text, stopped) = tokio::join!(follow, runtime.stop("u8", Duration::from_millis(50)));
        stopped.unwrap();
        assert!(text.ends_with("one\ntwo\n"), "{text}");
        finish(&runtime, "u8").await;
        server.abort();
    });
}
