//! Init containers and sidecars, as real processes.

use crate::cases::{WAIT, container, ended, finish, log, pod, run, runtime, wait_for};
use minisvc_runtime::{
    ContainerSpec, ContainerState, PodBundle, RestartPolicy,
    life::Life,
    order::{self, Outcome},
};
use std::time::Instant;

/// A container that leaves its name and the time where the test finds it: in its log.
fn says(name: &str, script: &str) -> ContainerSpec {
    container(name, "host", &["sh", "-c", &format!("date +%s%N; {script}")])
}

fn sidecar(name: &str, script: &str) -> ContainerSpec {
    ContainerSpec { life: Life { sidecar: true, ..Life::default() }, ..says(name, script) }
}

fn bundle(uid: &str, policy: RestartPolicy, init: Vec<ContainerSpec>, main: Vec<ContainerSpec>) -> PodBundle {
    PodBundle { init_containers: init, ..pod(uid, policy, main) }
}

/// When a container said its first word, in nanoseconds.
fn started(uid: &str, container: &str) -> u128 {
    let text = log(format!("/run/minisvc/logs/default_web-0_{uid}/{container}/0.log").as_ref());
    let word = text.lines().next().and_then(|line| line.split(' ').nth(3)).unwrap_or_default();
    word.parse().unwrap_or_else(|_| panic!("{container}: {text:?}"))
}

const SERVE: &str = "trap 'exit 0' TERM; while :; do sleep 0.02; done";

pub fn in_order() {
    run(async {
        let runtime = runtime();
        let init = vec![says("a", "sleep 0.2"), says("b", "sleep 0.2")];
        let main = vec![says("main", SERVE), says("other", SERVE)];
        let began = runtime.start_pod(bundle("i1", RestartPolicy::Always, init, main)).await.unwrap();
        assert!(began.init_containers[0].is_running() && !began.init_containers[1].life.begun, "{began:?}");
        assert_eq!(order::outcome(&began), None);
        let pod = wait_for(&runtime, "i1", |pod| pod.containers.iter().all(|c| c.is_running())).await;
        assert!(pod.init_containers.iter().all(|c| c.is_completed() && c.restart_count == 0), "{pod:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let times = ["a", "b", "main", "other"].map(|name| started("i1", name));
        assert!(times.is_sorted(), "{times:?}");
        assert!(times[1] - times[0] >= 200_000_000 && times[2] - times[1] >= 200_000_000, "{times:?}");
        finish(&runtime, "i1").await;
    });
}

pub fn failing() {
    run(async {
        let runtime = runtime();
        let init = vec![sidecar("side", SERVE), says("a", "exit 3"), says("b", "true")];
        runtime.start_pod(bundle("i2", RestartPolicy::Never, init, vec![says("main", SERVE)])).await.unwrap();
        let pod = wait_for(&runtime, "i2", |pod| pod.is_finished()).await;
        assert_eq!(order::outcome(&pod), Some(Outcome::Failed));
        assert!(matches!(&pod.init_containers[0].state, ContainerState::Terminated(_)), "{pod:?}");
        assert!(!pod.init_containers[2].life.begun && !pod.containers[0].life.begun, "{pod:?}");
        finish(&runtime, "i2").await;
    });
}

pub fn again() {
    run(async {
        let runtime = runtime();
        let init = vec![says("a", "exit 1")];
        runtime
            .start_pod(bundle("i3", RestartPolicy::Always, init, vec![says("main", SERVE)]))
            .await
            .unwrap();
        let pod = wait_for(&runtime, "i3", |pod| pod.init_containers[0].restart_count >= 2).await;
        assert!(!pod.containers[0].life.begun, "{pod:?}");
        let waits = |reason: &str| reason == "CrashLoopBackOff";
        wait_for(&runtime, "i3", |pod| {
            matches!(&pod.init_containers[0].state, ContainerState::Waiting { reason, .. } if waits(reason))
        })
        .await;
        finish(&runtime, "i3").await;
    });
}

pub fn sidecars() {
    run(async {
        let runtime = runtime();
        let slow = "trap 'sleep 0.2; exit 0' TERM; while :; do sleep 0.02; done";
        let init = vec![sidecar("s1", SERVE), sidecar("s2", SERVE), says("a", "true")];
        runtime.start_pod(bundle("i4", RestartPolicy::Always, init, vec![says("main", slow)])).await.unwrap();
        let pod = wait_for(&runtime, "i4", |pod| pod.containers[0].is_running()).await;
        assert!(pod.init_containers[..2].iter().all(|c| c.is_running()), "{pod:?}");
        // Time to say how they end.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let mut told = runtime.listen();
        runtime.stop("i4", WAIT).await.unwrap();
        let pod = runtime.pod("i4").unwrap();
        let end = |name: &str| match &pod.container(name).unwrap().state {
            ContainerState::Terminated(end) => end.finished_at,
            other => panic!("{name}: {other:?}"),
        };
        assert!(end("main") < end("s2") && end("s2") < end("s1"), "{pod:#?}");
        let first = told.try_recv().unwrap();
        assert_eq!(
            (first.field.as_str(), first.reason, first.message.as_str()),
            ("spec.initContainers{s1}", "Killing", "Stopping container s1")
        );
        finish(&runtime, "i4").await;
    });
}

pub fn completing() {
    run(async {
        let runtime = runtime();
        let init = vec![sidecar("side", "exit 1"), sidecar("deaf", "while :; do sleep 0.02; done")];
        let mut bundle = bundle("i5", RestartPolicy::Never, init, vec![says("main", "sleep 0.5")]);
        bundle.grace_s = 1;
        runtime.start_pod(bundle).await.unwrap();
        let pod = wait_for(&runtime, "i5", |pod| pod.containers[0].is_running()).await;
        let begin = Instant::now();
        assert!(pod.container("side").unwrap().restart_count <= 5);
        let pod = wait_for(&runtime, "i5", |pod| pod.is_finished()).await;
        assert_eq!(order::outcome(&pod), Some(Outcome::Succeeded), "{pod:?}");
        assert_eq!(ended(&pod).unwrap().exit_code, 0);
        assert!(pod.container("side").unwrap().restart_count >= 1, "sidecars are always started again");
        assert!(begin.elapsed() < WAIT / 2, "the deaf one was killed");
        finish(&runtime, "i5").await;
    });
}

/// A server that comes after goes on where the one before it was, also with what has ended meanwhile.
pub fn survival() {
    run(async {
        let init = vec![says("a", "sleep 0.3"), sidecar("side", SERVE), says("b", "true")];
        runtime()
            .start_pod(bundle("i6", RestartPolicy::Always, init, vec![says("main", SERVE)]))
            .await
            .unwrap();
    });
    std::thread::sleep(std::time::Duration::from_millis(500));
    run(async {
        let runtime = runtime();
        let adopted = runtime.adopt().await.unwrap();
        assert!(!adopted[0].containers[0].life.begun, "{adopted:?}");
        let pod = wait_for(&runtime, "i6", |pod| pod.containers[0].is_running()).await;
        assert!(pod.all().all(|container| container.restart_count == 0), "{pod:?}");
        let times = ["a", "side", "b"].map(|name| started("i6", name));
        assert!(times.is_sorted(), "{times:?}");
        finish(&runtime, "i6").await;
    });
}
