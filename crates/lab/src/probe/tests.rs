//! Probes against small servers of this test's own.

use super::*;
use std::{cell::RefCell, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, BufReader},
    net::{TcpListener, UdpSocket},
};

/// Answers everything on one port: HTTP, lines, datagrams.
async fn server() -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let line =
        |client: SocketAddr| format!("pod=p namespace=d node=n address=1.1.1.1 client={client} protocol=X\n");
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, client)) = tcp.accept().await {
            tokio::task::spawn_local(async move {
                let mut buffer = [0; 512];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    let http = buffer[..length].starts_with(b"GET ");
                    let body = format!("{{\"pod\":\"p\",\"node\":\"n\",\"client\":\"{client}\"}}");
                    let text = if http {
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                    } else {
                        line(client)
                    };
                    stream.write_all(text.as_bytes()).await.unwrap();
                    if http {
                        return;
                    }
                }
            });
        }
    });
    tokio::task::spawn_local(async move {
        let mut buffer = [0; 512];
        while let Ok((_, client)) = udp.recv_from(&mut buffer).await {
            udp.send_to(line(client).as_bytes(), client).await.unwrap();
        }
    });
    address
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

async fn tried(spec: &Spec) -> Vec<Attempt> {
    let (report, mut reported) = mpsc::channel(1024);
    let (_stop, stopped) = watch::channel(false);
    run(spec, stopped, report).await.unwrap();
    let mut all = Vec::new();
    while let Some(attempt) = reported.recv().await {
        all.push(attempt);
    }
    all
}

#[test]
fn every_kind_of_connection_tells_who_answered() {
    local(async {
        let address = server().await;
        for target in [format!("http://{address}/x"), format!("tcp://{address}"), format!("udp://{address}")]
        {
            for attempt in tried(&Spec::new(&target, 3)).await {
                assert!(attempt.ok && attempt.at_us > 0, "{target}: {attempt:?}");
                assert_eq!((attempt.pod.as_deref(), attempt.node.as_deref()), (Some("p"), Some("n")));
                assert!(attempt.client.unwrap().starts_with("127.0.0.1:"));
            }
        }
        let by_name = Spec::new(format!("http://localhost:{}/", address.port()), 1);
        assert!(tried(&by_name).await[0].ok);
    });
}

#[test]
fn a_held_connection_is_one_connection() {
    local(async {
        let address = server().await;
        let spec = Spec { hold_ms: Some(1), ..Spec::new(format!("tcp://{address}"), 5) };
        let seen: std::collections::BTreeSet<_> = tried(&spec).await.into_iter().map(|a| a.client).collect();
        assert_eq!(seen.len(), 1, "{seen:?}");
    });
}

#[test]
fn a_held_port_is_one_port_that_outlives_silence() {
    local(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let answer = async {
            let mut buffer = [0; 64];
            for question in 0..5 {
                let (_, client) = socket.recv_from(&mut buffer).await.unwrap();
                if question >= 2 {
                    socket.send_to(format!("pod=p client={client}\n").as_bytes(), client).await.unwrap();
                }
            }
        };
        let spec = Spec { hold_ms: Some(1), timeout_ms: 50, ..Spec::new(format!("udp://{address}"), 5) };
        let (seen, ()) = tokio::join!(tried(&spec), answer);
        let errors: Vec<_> = seen.iter().map(|attempt| attempt.error.as_deref()).collect();
        assert_eq!(errors, [Some("timeout"), Some("timeout"), None, None, None]);
        let ports: std::collections::BTreeSet<_> =
            seen.into_iter().filter_map(|attempt| attempt.client).collect();
        assert_eq!(ports.len(), 1, "{ports:?}");
    });
}

#[test]
fn what_fails_is_told_apart() {
    local(async {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let refused = tried(&Spec::new(format!("http://{closed}/"), 1)).await;
        assert_eq!(refused[0].error.as_deref(), Some("refused"));
        let refused = tried(&Spec::new(format!("udp://{closed}"), 1)).await;
        assert_eq!(refused[0].error.as_deref(), Some("refused"));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spec = Spec { timeout_ms: 20, ..Spec::new(format!("tcp://{}", silent.local_addr().unwrap()), 1) };
        let late = tried(&spec).await;
        assert_eq!(late[0].error.as_deref(), Some("timeout"));
        assert!(late[0].took_us >= 20_000);
        for bad in ["ftp://x", "tcp://x", "dns:x", "http://", "udp://x:99999"] {
            let (_stop, stopped) = watch::channel(false);
            assert!(run(&Spec::new(bad, 1), stopped, mpsc::channel(1).0).await.is_err(), "{bad}");
        }
    });
}

#[test]
fn a_process_serves_many_probes_until_its_input_ends() {
    local(async {
        let address = server().await;
        let (mut orders, input) = tokio::io::duplex(4096);
        let (output, answers) = tokio::io::duplex(4096);
        let serving = serve(BufReader::new(input), output);
        let talk = async {
            let endless =
                Spec { count: None, rate: Some(1000.0), ..Spec::new(format!("tcp://{address}"), 0) };
            for order in [
                Order::Start { id: 1, spec: endless },
                Order::Start { id: 2, spec: Spec::new(format!("udp://{address}"), 2) },
                Order::Start { id: 3, spec: Spec::new("nonsense", 2) },
            ] {
                let mut line = serde_json::to_vec(&order).unwrap();
                line.push(b'\n');
                orders.write_all(&line).await.unwrap();
            }
            let (seen, ended) =
                (RefCell::new(std::collections::BTreeMap::<u64, u32>::new()), RefCell::new(0));
            let mut orders = Some(orders);
            let mut lines = BufReader::new(answers).lines();
            while let Some(line) = lines.next_line().await.unwrap() {
                let said: Said = serde_json::from_str(&line).unwrap();
                match said.attempt {
                    Some(_) => *seen.borrow_mut().entry(said.id).or_default() += 1,
                    None => *ended.borrow_mut() += 1,
                }
                if *ended.borrow() == 2 && seen.borrow().get(&1).is_some_and(|count| *count > 10) {
                    orders = None; // closes the input
                }
            }
            assert!(orders.is_none());
            assert_eq!(*ended.borrow(), 3);
            assert_eq!((seen.borrow()[&2], seen.borrow()[&3]), (2, 1));
        };
        let (served, ()) = tokio::join!(serving, talk);
        served.unwrap();
    });
}
