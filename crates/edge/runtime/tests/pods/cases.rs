//! The tests.

use crate::world;
use minisvc_runtime::{
    ContainerSpec, ContainerState, Executable, PodBundle, PodDns, PodRecord, RestartDelays, RestartPolicy,
    Runtime, RuntimeConfig, Terminated,
};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

pub const WAIT: Duration = Duration::from_secs(20);

pub fn run<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(body)
}

pub fn runtime() -> Runtime {
    let mut config = RuntimeConfig::new("node1", Executable::current().unwrap());
    config.state_dir = "/run/minisvc/pods".into();
    config.log_dir = "/run/minisvc/logs".into();
    config.volume_dir = "/run/minisvc/volumes".into();
    config.masked = vec!["/var/lib".into(), "/etc/security".into(), "/no/such/directory".into()];
    config.restart_delays = RestartDelays { first: Duration::from_millis(50), ..RestartDelays::default() };
    let images = minisvc_images::Store::new("/run/minisvc/images".into());
    config.images.store = Some(images);
    Runtime::new(config).unwrap()
}

pub fn container(name: &str, image: &str, command: &[&str]) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        image: image.into(),
        command: command.iter().map(|part| (*part).into()).collect(),
        env: vec![("GREETING".into(), "hello".into())],
        ..Default::default()
    }
}

pub fn pod(uid: &str, policy: RestartPolicy, containers: Vec<ContainerSpec>) -> PodBundle {
    PodBundle {
        uid: uid.into(),
        namespace: "default".into(),
        name: "web-0".into(),
        hostname: "web-0".into(),
        addresses: vec![[10, 42, 0, 5].into()],
        netns: Some(world::network_namespace(uid)),
        dns: PodDns {
            nameservers: vec![[10, 43, 0, 10].into()],
            searches: vec!["default.svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        },
        restart_policy: policy,
        containers,
        grace_s: 30,
        ..PodBundle::default()
    }
}

pub fn shell(script: &str) -> Vec<ContainerSpec> {
    vec![container("main", "host", &["sh", "-c", script])]
}

pub async fn wait_for(runtime: &Runtime, uid: &str, what: impl Fn(&PodRecord) -> bool) -> Arc<PodRecord> {
    let mut changes = runtime.subscribe();
    let found = changes.wait_for(|table| table.get(uid).is_some_and(|pod| what(pod)));
    match tokio::time::timeout(WAIT, found).await {
        Ok(table) => Arc::clone(&table.unwrap()[uid]),
        Err(_) => panic!("not reached: {:#?}", runtime.pod(uid)),
    }
}

pub fn ended(pod: &PodRecord) -> Option<&Terminated> {
    match &pod.containers[0].state {
        ContainerState::Terminated(terminated) => Some(terminated),
        _ => None,
    }
}

pub fn log(runtime_dir: &Path) -> String {
    fs::read_to_string(runtime_dir).unwrap_or_default()
}

pub async fn wait_for_log(uid: &str, line: &str) {
    let path = log_of(uid, 0);
    let said = async {
        while !log(&path).contains(line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, said)
        .await
        .unwrap_or_else(|_| panic!("{line:?} is not in {}", path.display()));
}

pub fn log_of(uid: &str, run: u32) -> PathBuf {
    format!("/run/minisvc/logs/default_web-0_{uid}/main/{run}.log").into()
}

pub async fn finish(runtime: &Runtime, uid: &str) {
    runtime.stop(uid, Duration::ZERO).await.unwrap();
    // A second runtime of the same test follows the Pod too, and may write its own last word just now.
    for _ in 0..50 {
        match runtime.remove(uid).await {
            Err(minisvc_runtime::Error::Remove { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => {
                other.unwrap();
                break;
            }
        }
    }
    assert_eq!(fs::read_dir("/run/minisvc/pods").unwrap().count(), 0);
    assert_eq!(fs::read_dir("/run/minisvc/logs").unwrap().count(), 0);
}

pub fn own_world() {
    let script = r#"
        echo "pid $$ host $(hostname) cwd $(pwd) greeting $GREETING processes $(ls /proc | grep -c '^[0-9]')"
        cat /etc/resolv.conf /etc/hosts /etc/hostname
        (echo x > /usr/x) 2>/dev/null && echo "WROTE /usr"
        (echo x > /etc/resolv.conf) 2>/dev/null && echo "WROTE resolv.conf"
        (echo 1 > /proc/sys/kernel/domainname) 2>/dev/null && echo "WROTE sysctl"
        (echo x > /etc/hosts) 2>/dev/null && echo "WROTE hosts"
        mount -o remount,rw / 2>/dev/null && echo "REMOUNTED"
        echo "masked $(ls -A /var/lib | wc -l) $(ls -A /etc/security | wc -l) run $(ls -A /run | grep -vc systemd)"
        (echo x > /var/lib/x) 2>/dev/null && echo "WROTE masked"
        echo x > /tmp/x && echo x > /run/x && echo x > /dev/shm/x && echo "tmp works"
        echo "dev $(ls /dev | tr '\n' ' ')"; echo null > /dev/null && echo "null works"
        echo "links $(ls /sys/class/net | tr '\n' ' ')"
        grep -E 'CapEff|NoNewPrivs|SigIgn|SigBlk' /proc/self/status
        ls -l /proc/self/fd | tail -n +2 | wc -l
        echo error >&2
        exit 7"#;
    run(async {
        let runtime = runtime();
        let started = runtime.start_pod(pod("u1", RestartPolicy::Never, shell(script))).await.unwrap();
        let done = wait_for(&runtime, "u1", |pod| ended(pod).is_some()).await;
        let end = ended(&done).unwrap();
        assert_eq!((end.exit_code, end.signal, end.reason.as_str()), (7, 0, "Error"), "{started:?}");
        let text = log(&log_of("u1", 0));
        for part in [
            "pid 1 host web-0 cwd / greeting hello",
            "nameserver 10.43.0.10",
            "options ndots:5",
            "10.42.0.5\tweb-0",
            "masked 0 0",
            "tmp works",
            "null works",
            "links lo",
            "NoNewPrivs:\t1",
            "CapEff:\t00000000a00425fb",
            " stderr F error",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        // Beyond 31 are the C library's own, which it lets nobody reset.
        let ignored = text.split("SigIgn:\t").nth(1).unwrap().lines().next().unwrap().trim();
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 0x7fff_ffff, 0, "{text}");
        let processes: u32 =
            text.split("processes ").nth(1).unwrap().lines().next().unwrap().trim().parse().unwrap();
        assert!(processes <= 4, "{text}");
        for part in ["WROTE", "REMOUNTED", "vda", "sda", "kmsg", "mem "] {
            assert!(!text.contains(part), "{part:?} is in:\n{text}");
        }
        finish(&runtime, "u1").await;
    });
}

pub fn mapped_image() {
    // A root of its own: the directories, and the host's shell through read-only mounts.
    for dir in ["bin", "lib", "lib64", "usr", "proc", "dev", "tmp", "etc", "run"] {
        fs::create_dir_all(format!("/run/image/{dir}")).unwrap();
    }
    fs::write("/run/image/marker", "x\n").unwrap();
    // As systemd-resolved has it: a link into /run, which is empty in a container.
    std::os::unix::fs::symlink("../run/systemd/resolve/stub-resolv.conf", "/run/image/etc/resolv.conf")
        .unwrap();
    let bind = nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REC;
    let shared: Vec<String> = ["bin", "lib", "lib64", "usr"]
        .into_iter()
        .filter(|dir| Path::new("/").join(dir).exists())
        .map(|dir| {
            let target = format!("/run/image/{dir}");
            nix::mount::mount(Some(&*format!("/{dir}")), &*target, None::<&str>, bind, None::<&str>).unwrap();
            target
        })
        .collect();
    run(async {
        let entrypoint = ["/bin/sh", "-c"].map(str::to_owned);
        let images = minisvc_images::Store::new("/run/minisvc/images".into());
        images.add_root("small", Path::new("/run/image"), &entrypoint).unwrap();
        let runtime = runtime();
        let mut spec = container("main", "small", &[]);
        let script = "ls -A / | tr '\\n' ' '; cat /etc/resolv.conf /marker; echo y > /marker; cat /marker
            echo z > /bin/sh || echo bin kept; exit 3";
        spec.args = vec![script.into()];
        let bundle = pod("u2", RestartPolicy::Never, vec![spec]);
        runtime.start_pod(bundle).await.unwrap();
        let done = wait_for(&runtime, "u2", |pod| ended(pod).is_some()).await;
        let text = log(&log_of("u2", 0));
        assert_eq!(ended(&done).unwrap().exit_code, 3, "{:?}\n{text}", done.containers);
        for part in ["marker", "ndots:5", " x\n", " y\n", "bin kept"] {
            assert!(text.contains(part), "{part:?}: {text}");
        }
        assert!(!text.contains("home"), "{text}");
        assert_eq!(fs::read_to_string("/run/image/marker").unwrap(), "x\n");
        finish(&runtime, "u2").await;
    });
    for target in shared {
        nix::mount::umount2(&*target, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

pub fn start_errors() {
    run(async {
        let runtime = runtime();
        let mut elsewhere = container("main", "host", &["true"]);
        elsewhere.working_dir = Some("/no/such".into());
        for (uid, containers, part) in [
            (
                "e1",
                vec![container("main", "host", &["no-such-program"])],
                "executable file not found in $PATH",
            ),
            ("e2", vec![container("main", "host", &["/etc/passwd"])], "permission denied"),
            ("e3", vec![elsewhere], "/no/such"),
        ] {
            let started = runtime.start_pod(pod(uid, RestartPolicy::Never, containers)).await.unwrap();
            let end = ended(&started).unwrap_or_else(|| panic!("{started:?}"));
            assert_eq!((end.exit_code, end.reason.as_str()), (128, "StartError"));
            assert!(end.message.contains(part), "{}", end.message);
            runtime.remove(uid).await.unwrap();
        }
        let mut bundle = pod("e4", RestartPolicy::Never, shell("true"));
        bundle.netns = Some("/run/netns/missing".into());
        let started = runtime.start_pod(bundle).await.unwrap();
        assert!(ended(&started).unwrap().message.contains("/run/netns/missing"), "{started:?}");
        finish(&runtime, "e4").await;
    });
}

/// The other side of [`survival`]: starts a Pod and waits to be killed.
pub fn starter(uid: &str) {
    run(async {
        let runtime = runtime();
        let containers = shell("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.02; done");
        let bundle = PodBundle {
            netns: Some(format!("/run/netns/{uid}").into()),
            ..pod_without_netns(uid, containers)
        };
        let pod = runtime.start_pod(bundle).await.unwrap();
        wait_for_log(uid, "ready").await;
        println!("{}", pod.containers[0].process.unwrap().pid);
        std::future::pending::<()>().await;
    });
}

fn pod_without_netns(uid: &str, containers: Vec<ContainerSpec>) -> PodBundle {
    PodBundle {
        uid: uid.into(),
        namespace: "default".into(),
        name: "web-0".into(),
        hostname: "web-0".into(),
        restart_policy: RestartPolicy::Never,
        containers,
        grace_s: 30,
        ..PodBundle::default()
    }
}

pub fn survival() {
    world::network_namespace("u3");
    let mut first =
        Command::new("/proc/self/exe").args(["--starter", "u3"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid: i32 = line.trim().parse().unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(world::processes().contains(&pid), "the container died with the server");
    run(async {
        let runtime = runtime();
        let adopted = runtime.adopt().await.unwrap();
        assert_eq!(adopted.len(), 1);
        assert!(adopted[0].containers[0].is_running(), "{adopted:?}");
        assert_eq!(adopted[0].containers[0].process.unwrap().pid, pid);
        assert!(runtime.adopt().await.unwrap().is_empty(), "adopted once");
        runtime.stop("u3", WAIT).await.unwrap();
        let pod = runtime.pod("u3").unwrap();
        assert_eq!(ended(&pod).unwrap().exit_code, 5, "{pod:?}");
        assert!(log(&log_of("u3", 0)).contains("stdout F bye"));
    });
    // Once more, after the container has ended with no server there.
    run(async {
        let runtime = runtime();
        assert_eq!(ended(&runtime.adopt().await.unwrap()[0]).unwrap().exit_code, 5);
        finish(&runtime, "u3").await;
    });
}

pub fn stop() {
    run(async {
        let runtime = runtime();
        let deaf = container("deaf", "host", &["sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000 & wait"]);
        let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done";
        let kind = container("main", "host", &["sh", "-c", script]);
        runtime.start_pod(pod("u4", RestartPolicy::Always, vec![deaf, kind])).await.unwrap();
        // Until it has said how it ends, a first process of its namespace ignores the signal.
        wait_for_log("u4", "ready").await;
        let begin = Instant::now();
        runtime.stop("u4", Duration::from_millis(300)).await.unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(300) && begin.elapsed() < WAIT / 2);
        let pod = runtime.pod("u4").unwrap();
        let codes: Vec<_> = pod
            .containers
            .iter()
            .map(|container| match &container.state {
                ContainerState::Terminated(end) => (end.exit_code, end.signal),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(codes, [(137, 9), (3, 0)]);
        finish(&runtime, "u4").await;
    });
}

pub fn restarts() {
    run(async {
        let runtime = runtime();
        runtime.start_pod(pod("u5", RestartPolicy::OnFailure, shell("echo again; exit 1"))).await.unwrap();
        let pod = wait_for(&runtime, "u5", |pod| pod.containers[0].restart_count >= 3).await;
        assert_eq!(pod.containers[0].last_termination.as_ref().unwrap().exit_code, 1);
        wait_for(&runtime, "u5", |pod| {
            matches!(&pod.containers[0].state, ContainerState::Waiting { reason, .. } if reason == "CrashLoopBackOff")
        })
        .await;
        let files = fs::read_dir(log_of("u5", 0).parent().unwrap()).unwrap();
        let logs = files
            .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "log"))
            .count();
        assert!(logs <= 2, "only this run's log and the last one's are kept");
        finish(&runtime, "u5").await;
    });
}

pub fn shim_killed() {
    run(async {
        let runtime = runtime();
        let started = runtime.start_pod(pod("u6", RestartPolicy::Never, shell("sleep 1000"))).await.unwrap();
        let record = &started.containers[0];
        let (shim, process) = (record.shim.unwrap().pid, record.process.unwrap().pid);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
        let pod = wait_for(&runtime, "u6", |pod| ended(pod).is_some()).await;
        assert_eq!(ended(&pod).unwrap().reason, "ContainerStatusUnknown");
        let begin = Instant::now();
        while world::command_line(process).contains("sleep") {
            assert!(begin.elapsed() < WAIT, "the container outlived its shim");
            tokio::task::yield_now().await;
        }
        finish(&runtime, "u6").await;
    });
}

pub fn echo() {
    assert!(Executable::current().unwrap().is_protected(), "shims must run from a read-only mount");
    run(async {
        let runtime = runtime();
        let begin = Instant::now();
        let bundle = pod("u7", RestartPolicy::Always, vec![container("main", "echo", &[])]);
        let netns = bundle.netns.clone().unwrap();
        let prepared = begin.elapsed();
        let started = runtime.start_pod(bundle).await.unwrap();
        let took = begin.elapsed() - prepared;
        assert!(started.containers[0].is_running(), "{started:?}");
        let ask = |request: &'static str| {
            let netns = netns.clone();
            tokio::task::spawn_blocking(move || {
                world::inside_network(&netns, move || {
                    let begin = Instant::now();
                    let mut stream = loop {
                        match std::net::TcpStream::connect("127.0.0.1:8080") {
                            Ok(stream) => break stream,
                            Err(error) => assert!(begin.elapsed() < WAIT, "{error}"),
                        }
                    };
                    stream.write_all(request.as_bytes()).unwrap();
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    answer
                })
            })
        };
        let line = ask("hi\n").await.unwrap();
        assert!(line.contains("pod=web-0") && line.contains("node=node1 address=10.42.0.5"), "{line}");
        let web = ask("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(web.contains("\"pod\":\"web-0\""), "{web}");
        let record = &started.containers[0];
        println!(
            "measured: start_pod with one echo container {took:?}; resident KiB (all, anonymous): shim {:?}, echo {:?}",
            world::resident_kib(record.shim.unwrap().pid),
            world::resident_kib(record.process.unwrap().pid)
        );
        let begin = Instant::now();
        runtime.stop("u7", WAIT).await.unwrap();
        let code = ended(&runtime.pod("u7").unwrap()).unwrap().exit_code;
        assert_eq!(code, 0);
        println!("measured: polite stop of echo {:?}", begin.elapsed());
        finish(&runtime, "u7").await;
    });
}
