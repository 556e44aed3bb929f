//! Probes and hooks of real processes.

use crate::cases::{WAIT, container, ended, finish, log, log_of, pod, run, runtime, wait_for, wait_for_log};
use minisvc_runtime::{
    ContainerSpec, PodBundle, PodRecord, RestartPolicy, Runtime, Told,
    life::{Action, LastWords, Life, Probe},
    order,
};
use std::time::{Duration, Instant};
use tokio::sync::broadcast::Receiver;

const SERVE: &str = "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.02; done";
const DEAF: &str = "while :; do sleep 0.02; done";

fn exec(script: &str) -> Action {
    Action::Exec { command: ["sh", "-c", script].map(str::to_owned).to_vec() }
}

fn probe(script: &str) -> Probe {
    let (initial_delay_s, timeout_s, period_s) = (0, 1, 1);
    let (success_threshold, failure_threshold, grace_s) = (1, 2, None);
    let action = exec(script);
    Probe { action, initial_delay_s, timeout_s, period_s, success_threshold, failure_threshold, grace_s }
}

fn bundle(uid: &str, policy: RestartPolicy, script: &str, life: Life) -> PodBundle {
    let spec = ContainerSpec { life, ..container("main", "host", &["sh", "-c", script]) };
    PodBundle { grace_s: 1, ..pod(uid, policy, vec![spec]) }
}

fn is_ready(pod: &PodRecord) -> bool {
    order::is_ready(&pod.bundle.containers[0].life, &pod.containers[0])
}

/// What was told, as `reason: message`.
fn heard(told: &mut Receiver<Told>) -> Vec<String> {
    std::iter::from_fn(|| told.try_recv().ok())
        .map(|told| format!("{}: {}", told.reason, told.message))
        .collect()
}

async fn start(runtime: &Runtime, bundle: PodBundle) -> Receiver<Told> {
    let told = runtime.listen();
    runtime.start_pod(bundle).await.unwrap();
    told
}

pub fn readiness() {
    run(async {
        let runtime = runtime();
        let life =
            Life { readiness: Some(probe("test -e /tmp/up || { echo nothing; false; }")), ..Life::default() };
        let script = "sleep 0.5; touch /tmp/up; sleep 2; rm /tmp/up; while :; do sleep 0.02; done";
        let begin = Instant::now();
        let mut told = start(&runtime, bundle("p1", RestartPolicy::Always, script, life)).await;
        assert!(!is_ready(&runtime.pod("p1").unwrap()));
        let pod = wait_for(&runtime, "p1", is_ready).await;
        let took = begin.elapsed();
        // Sooner than a period after it came up.
        assert!(took >= Duration::from_millis(500) && took < Duration::from_millis(1500), "{took:?}");
        assert!(pod.containers[0].is_running());
        assert_eq!(heard(&mut told).len(), 3, "nothing is said of what is early");
        let pod = wait_for(&runtime, "p1", |pod| !is_ready(pod)).await;
        assert_eq!((pod.containers[0].is_running(), pod.containers[0].restart_count), (true, 0));
        let said = heard(&mut told);
        assert!(said.contains(&"Unhealthy: Readiness probe failed: nothing\n".to_owned()), "{said:?}");
        finish(&runtime, "p1").await;
    });
}

pub fn liveness() {
    run(async {
        let runtime = runtime();
        let life = Life { liveness: Some(probe("echo bad >&2; exit 1")), ..Life::default() };
        let mut told = start(&runtime, bundle("p2", RestartPolicy::Always, DEAF, life)).await;
        let begin = Instant::now();
        let pod = wait_for(&runtime, "p2", |pod| pod.containers[0].restart_count == 1).await;
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(3) && took < WAIT / 2, "two periods, and the grace: {took:?}");
        assert_eq!(pod.containers[0].last_termination.as_ref().unwrap().signal, 9, "{pod:?}");
        let said = heard(&mut told);
        for words in [
            "Unhealthy: Liveness probe failed: bad\n",
            "Killing: Container main failed liveness probe, will be restarted",
        ] {
            assert!(said.iter().any(|said| said == words), "{words}: {said:?}");
        }
        finish(&runtime, "p2").await;
        // One that may not be started again.
        let life =
            Life { startup: Some(Probe { failure_threshold: 1, ..probe("exit 1") }), ..Life::default() };
        let mut told = start(&runtime, bundle("p3", RestartPolicy::Never, SERVE, life)).await;
        let pod = wait_for(&runtime, "p3", |pod| ended(pod).is_some()).await;
        assert_eq!(ended(&pod).unwrap().exit_code, 0);
        let said = heard(&mut told);
        assert!(said.contains(&"Killing: Container main failed startup probe".to_owned()), "{said:?}");
        finish(&runtime, "p3").await;
    });
}

pub fn startup() {
    run(async {
        let runtime = runtime();
        let life = Life {
            startup: Some(probe("test -e /tmp/up")),
            readiness: Some(probe("true")),
            liveness: Some(Probe { failure_threshold: 1, ..probe("test -e /tmp/up") }),
            ..Life::default()
        };
        let script = "sleep 2.5; touch /tmp/up; while :; do sleep 0.02; done";
        let patient =
            Life { startup: life.startup.clone().map(|p| Probe { failure_threshold: 9, ..p }), ..life };
        start(&runtime, bundle("p4", RestartPolicy::Always, script, patient.clone())).await;
        let begin = Instant::now();
        let pod = wait_for(&runtime, "p4", is_ready).await;
        assert!(begin.elapsed() >= Duration::from_millis(2400), "{:?}", begin.elapsed());
        assert!(
            order::is_started(&patient, &pod.containers[0]) && pod.containers[0].restart_count == 0,
            "{pod:?}"
        );
        finish(&runtime, "p4").await;
    });
}

pub fn timeouts() {
    run(async {
        let runtime = runtime();
        let life = Life { liveness: Some(probe("sleep 1000")), ..Life::default() };
        let mut told = start(&runtime, bundle("p5", RestartPolicy::Always, SERVE, life)).await;
        wait_for(&runtime, "p5", |pod| pod.containers[0].restart_count == 1).await;
        let said = heard(&mut told);
        let words = "Unhealthy: Liveness probe failed: command \"sh -c sleep 1000\" timed out";
        assert!(said.iter().any(|said| said == words), "{said:?}");
        finish(&runtime, "p5").await;
    });
}

/// What a probe said counts until it says otherwise, also for the next server.
pub fn survival() {
    run(async {
        let runtime = runtime();
        let life = Life { readiness: Some(Probe { period_s: 1000, ..probe("true") }), ..Life::default() };
        start(&runtime, bundle("p6", RestartPolicy::Always, SERVE, life)).await;
        wait_for(&runtime, "p6", is_ready).await;
    });
    run(async {
        let runtime = runtime();
        assert!(is_ready(&runtime.adopt().await.unwrap()[0]));
        finish(&runtime, "p6").await;
    });
}

pub fn hooks() {
    run(async {
        let runtime = runtime();
        let life = Life {
            post_start: Some(exec("sleep 0.5; echo started > /proc/1/fd/1")),
            pre_stop: Some(exec("echo ending > /proc/1/fd/1; sleep 0.5")),
            ..Life::default()
        };
        let mut bundle = bundle("p7", RestartPolicy::Always, SERVE, life);
        bundle.containers.push(container("next", "host", &["sh", "-c", SERVE]));
        let begin = Instant::now();
        let mut told = start(&runtime, bundle).await;
        let pod = runtime.pod("p7").unwrap();
        assert!(
            pod.containers[0].is_running() && !is_ready(&pod) && !pod.containers[1].life.begun,
            "{pod:?}"
        );
        wait_for(&runtime, "p7", |pod| is_ready(pod) && pod.containers[1].is_running()).await;
        assert!(begin.elapsed() >= Duration::from_millis(500));
        wait_for_log("p7", "started").await;
        runtime.stop("p7", WAIT).await.unwrap();
        let text = log(&log_of("p7", 0));
        let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word}: {text}"));
        assert!(at("ending") < at("told"), "{text}");
        let end = ended(&runtime.pod("p7").unwrap()).unwrap().clone();
        assert_eq!(end.exit_code, 0);
        assert!(!heard(&mut told).iter().any(|said| said.starts_with("Failed")));
        finish(&runtime, "p7").await;
    });
}

pub fn bad_hooks() {
    run(async {
        let runtime = runtime();
        let life = Life { post_start: Some(exec("exit 1")), ..Life::default() };
        let mut told = start(&runtime, bundle("p8", RestartPolicy::Never, SERVE, life)).await;
        wait_for(&runtime, "p8", |pod| ended(pod).is_some()).await;
        let said = heard(&mut told);
        for words in ["FailedPostStartHook: PostStartHook failed", "Killing: FailedPostStartHook"] {
            assert!(said.iter().any(|said| said == words), "{said:?}");
        }
        finish(&runtime, "p8").await;
        // What takes too long is left behind; a moment is left for the container.
        let life = Life { pre_stop: Some(exec("sleep 1000")), ..Life::default() };
        let mut told = start(&runtime, bundle("p9", RestartPolicy::Never, SERVE, life)).await;
        wait_for_log("p9", "ready").await;
        let begin = Instant::now();
        runtime.stop("p9", Duration::from_secs(1)).await.unwrap();
        assert!(begin.elapsed() >= Duration::from_secs(1) && begin.elapsed() < Duration::from_secs(3));
        assert_eq!(ended(&runtime.pod("p9").unwrap()).unwrap().exit_code, 0);
        finish(&runtime, "p9").await;
        let life =
            Life { pre_stop: Some(Action::Impossible { why: "invalid handler".into() }), ..Life::default() };
        told = {
            drop(told);
            start(&runtime, bundle("p10", RestartPolicy::Never, SERVE, life)).await
        };
        wait_for_log("p10", "ready").await;
        runtime.stop("p10", WAIT).await.unwrap();
        let said = heard(&mut told);
        assert!(said.contains(&"FailedPreStopHook: PreStopHook failed".to_owned()), "{said:?}");
        finish(&runtime, "p10").await;
    });
}

pub fn last_words() {
    run(async {
        let runtime = runtime();
        let life = |path: &str, or_log| Life {
            last_words: LastWords { path: path.into(), or_log },
            ..Life::default()
        };
        for (uid, path, or_log, script, expected) in [
            (
                "w1",
                "/dev/termination-log",
                false,
                "echo log; echo word > /dev/termination-log; exit 3",
                "word\n",
            ),
            ("w2", "/tmp/deep/word", false, "printf word > /tmp/deep/word", "word"),
            ("w3", "/dev/termination-log", true, "echo log; exit 3", "log\n"),
            ("w4", "/dev/termination-log", true, "echo log", ""),
        ] {
            start(&runtime, bundle(uid, RestartPolicy::Never, script, life(path, or_log))).await;
            let pod = wait_for(&runtime, uid, |pod| ended(pod).is_some()).await;
            assert_eq!(ended(&pod).unwrap().message, expected, "{uid}");
            finish(&runtime, uid).await;
        }
        start(&runtime, bundle("w5", RestartPolicy::Never, SERVE, life("/usr/no/place", false))).await;
        let pod = wait_for(&runtime, "w5", |pod| ended(pod).is_some()).await;
        let message = &ended(&pod).unwrap().message;
        assert!(message.contains("mount terminationMessagePath /usr/no/place: "), "{message}");
        finish(&runtime, "w5").await;
    });
}
