//! Limits, as the kernel keeps them; and what is said where it cannot.

use crate::cases::{container, ended, finish, pod, run, runtime, wait_for};
use minisvc_runtime::{ContainerSpec, RestartPolicy, Runtime, cgroup::Limits};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

fn spec(script: &str, limits: Limits) -> ContainerSpec {
    ContainerSpec { limits, ..container("main", "host", &["sh", "-c", script]) }
}

/// The directories of a Pod's groups.
fn groups(uid: &str) -> Vec<PathBuf> {
    ["", "cpu", "memory"]
        .map(|root| Path::new("/sys/fs/cgroup").join(root).join("minisvc").join(uid))
        .into_iter()
        .filter(|dir| dir.exists())
        .collect()
}

/// Starts a Pod; false, and a line that says so, if this node cannot keep its limits. Then it is said, and the Pod runs.
async fn is_limited(runtime: &Runtime, uid: &str, spec: ContainerSpec) -> bool {
    let mut told = runtime.listen();
    runtime.start_pod(pod(uid, RestartPolicy::Never, vec![spec])).await.unwrap();
    let mut reasons = Vec::new();
    while let Ok(told) = told.try_recv() {
        reasons.push(told.reason);
    }
    if reasons.contains(&"LimitsNotEnforced") {
        println!("skipped: no control groups here; said: {reasons:?}");
        wait_for(runtime, uid, |pod| pod.containers[0].is_running() || ended(pod).is_some()).await;
        return false;
    }
    assert!(!groups(uid).is_empty());
    true
}

pub fn memory() {
    run(async {
        let runtime = runtime();
        let limits = Limits { memory_bytes: Some(24 << 20), ..Limits::default() };
        let script = "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo survived; exit 0";
        if is_limited(&runtime, "m1", spec(script, limits)).await {
            let done = wait_for(&runtime, "m1", |pod| ended(pod).is_some()).await;
            let end = ended(&done).unwrap();
            assert_eq!((end.exit_code, end.reason.as_str()), (137, "OOMKilled"), "{end:?}");
        }
        finish(&runtime, "m1").await;
        assert_eq!(groups("m1"), [] as [PathBuf; 0]);

        // What is well within its limit is left alone, and so is one without limits, which has no groups.
        runtime.start_pod(pod("m2", RestartPolicy::Never, vec![spec("exit 3", limits)])).await.unwrap();
        let done = wait_for(&runtime, "m2", |pod| ended(pod).is_some()).await;
        assert_eq!((ended(&done).unwrap().exit_code, ended(&done).unwrap().reason.as_str()), (3, "Error"));
        finish(&runtime, "m2").await;
        runtime
            .start_pod(pod("m3", RestartPolicy::Never, vec![spec("sleep 9", Limits::default())]))
            .await
            .unwrap();
        assert_eq!(groups("m3"), [] as [PathBuf; 0]);
        finish(&runtime, "m3").await;
    });
}

pub fn cpu() {
    run(async {
        let runtime = runtime();
        let limits = Limits { cpu_millis: Some(50), cpu_request_millis: Some(50), memory_bytes: None };
        let script = "while :; do :; done";
        if is_limited(&runtime, "c1", spec(script, limits)).await {
            let throttled = || {
                let stat =
                    groups("c1").into_iter().map(|dir| dir.join("main/cpu.stat")).find(|file| file.exists());
                let text = fs::read_to_string(stat.unwrap()).unwrap();
                let line =
                    text.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap().to_owned();
                line.parse::<u64>().unwrap()
            };
            for _ in 0..200 {
                if throttled() > 2 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(throttled() > 2);
            // The next server finds them where they are, and takes nothing away that is in use.
            let next = crate::cases::runtime();
            next.adopt().await.unwrap();
            assert!(throttled() > 2);
        }
        finish(&runtime, "c1").await;
        assert_eq!(groups("c1"), [] as [PathBuf; 0]);
    });
}
