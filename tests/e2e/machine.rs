//! A machine: a thread with a network and a mount namespace of its own; what it starts is born there.

use crate::common::{LONG, Said, eventually, run};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{Pid, gettid},
};
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec,
    packet_route::link::{InfoData, InfoKind, InfoVeth},
};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::mpsc,
    time::Duration,
};

/// Address of the first machine on the cable.
const ALPHA: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Address of the second.
pub const BRAVO: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in namespaces of its own.
pub struct Machine {
    jobs: mpsc::Sender<Job>,
    thread: Pid,
}

impl Machine {
    /// Makes one with nothing but a loopback that is down.
    pub fn start() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
            mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
            ready.send(gettid()).unwrap();
            for job in queue {
                job();
            }
        });
        Self { jobs, thread: started.recv().unwrap() }
    }

    /// Runs `body` on this machine. A panic there is one here.
    pub fn run<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            let _ = answer.send(outcome);
        };
        self.jobs.send(Box::new(job)).unwrap();
        answered.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a program on this machine to its end.
    pub fn command(&self, program: &str, words: &[&str], kubeconfig: &Path) -> Said {
        let mut command = Command::new(program);
        command.args(words).env("KUBECONFIG", kubeconfig);
        self.run(move || run(&mut command, ""))
    }

    /// What an HTTP server says to `GET /`, or why there is no answer.
    pub fn get(&self, address: &str) -> Result<String, String> {
        let address: SocketAddr = address.parse().unwrap();
        let ask = move || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        self.run(move || ask().map_err(|error| error.to_string()))
    }

    /// Asks until every one of these Pods has answered.
    pub fn reaches(&self, address: &str, pods: &[&str]) {
        let mut left: Vec<String> = pods.iter().map(|pod| format!("\"pod\":\"{pod}\"")).collect();
        eventually(&format!("{address} is answered by {pods:?}"), LONG, || {
            let said = self.get(address)?;
            left.retain(|pod| !said.contains(pod));
            if left.is_empty() { Ok(()) } else { Err(said) }
        });
    }

    /// The names of its links, and its routes.
    pub fn kernel(&self) -> Vec<String> {
        self.run(|| {
            let links = std::fs::read_dir("/sys/class/net").unwrap().filter_map(Result::ok);
            let mut names: Vec<_> =
                links.map(|link| link.file_name().to_string_lossy().into_owned()).collect();
            let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap();
            names.extend(routes.lines().map(str::to_owned));
            names.sort();
            names
        })
    }
}

/// Joins two machines by one cable, as two cards of a hypervisor's network are.
pub fn cable(alpha: &Machine, bravo: &Machine) {
    let far = u32::try_from(bravo.thread.as_raw()).unwrap();
    alpha.run(move || {
        netlink(async |handle| {
            let named = LinkMessageBuilder::<LinkUnspec>::new().name("eth0".to_owned());
            let veth = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
                .name("eth0".to_owned())
                .set_info_data(InfoData::Veth(InfoVeth::Peer(named.setns_by_pid(far).build())))
                .build();
            handle.link().add(veth).execute().await.unwrap();
        });
    });
    for (machine, address) in [(alpha, ALPHA), (bravo, BRAVO)] {
        machine.run(move || {
            netlink(async |handle| {
                // A new network namespace has `lo` first; the card is the other one.
                for name in ["lo", "eth0"] {
                    let index = nix::net::if_::if_nametoindex(name).unwrap();
                    let up = LinkUnspec::new_with_index(index).up().build();
                    handle.link().set(up).execute().await.unwrap();
                    if name == "eth0" {
                        handle.address().add(index, IpAddr::V4(address), 24).execute().await.unwrap();
                    }
                }
            });
        });
    }
}

fn netlink(body: impl AsyncFnOnce(rtnetlink::Handle)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        body(handle).await;
    });
}
