use super::*;
use crate::record::Terminated;
use jiff::Timestamp;
use proptest::prelude::*;

/// What becomes of a container that is started.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Ends(i32),
    Runs,
}

fn spec(name: &str, sidecar: bool) -> ContainerSpec {
    let life = Life { sidecar, ..Life::default() };
    ContainerSpec { name: name.to_owned(), life, ..ContainerSpec::default() }
}

fn pod(init: &[(&str, bool)], main: &[&str]) -> PodRecord {
    let bundle = PodBundle {
        restart_policy: RestartPolicy::Never,
        init_containers: init.iter().map(|(name, sidecar)| spec(name, *sidecar)).collect(),
        containers: main.iter().map(|name| spec(name, false)).collect(),
        ..PodBundle::default()
    };
    PodRecord::new(bundle, Timestamp::UNIX_EPOCH)
}

fn set(pod: &mut PodRecord, name: &str, fate: Fate) {
    let record = pod.all_mut().find(|record| record.name == name).unwrap();
    record.life.begun = true;
    record.state = match fate {
        Fate::Runs => ContainerState::Running { started_at: Timestamp::UNIX_EPOCH },
        Fate::Ends(exit_code) => ContainerState::Terminated(Terminated {
            exit_code,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
        }),
    };
}

#[test]
fn init_containers_come_one_after_the_other_and_all_before_the_others() {
    let mut pod = pod(&[("a", false), ("side", true), ("b", false)], &["x", "y"]);
    pod.bundle.init_containers[1].life.startup = Some(crate::life::Probe {
        action: crate::life::Action::Sleep { seconds: 0 },
        initial_delay_s: 0,
        timeout_s: 1,
        period_s: 1,
        success_threshold: 1,
        failure_threshold: 1,
        grace_s: None,
    });
    assert_eq!(next(&pod), Next::Start("a"));
    set(&mut pod, "a", Fate::Runs);
    assert_eq!(next(&pod), Next::Wait);
    set(&mut pod, "a", Fate::Ends(0));
    assert_eq!(next(&pod), Next::Start("side"));
    set(&mut pod, "side", Fate::Runs);
    assert_eq!(next(&pod), Next::Wait, "its startup probe has not succeeded");
    pod.init_containers[1].life.started = true;
    assert_eq!(next(&pod), Next::Start("b"));
    set(&mut pod, "b", Fate::Runs);
    // A sidecar that is started again holds nobody up.
    pod.init_containers[1].state = ContainerState::creating();
    set(&mut pod, "b", Fate::Ends(0));
    assert_eq!(next(&pod), Next::Start("x"));
    set(&mut pod, "x", Fate::Runs);
    assert_eq!(next(&pod), Next::Start("y"));
    set(&mut pod, "y", Fate::Ends(0));
    assert_eq!((next(&pod), outcome(&pod)), (Next::Wait, None));
    set(&mut pod, "side", Fate::Runs);
    set(&mut pod, "x", Fate::Ends(0));
    assert_eq!((next(&pod), outcome(&pod)), (Next::End, Some(Outcome::Succeeded)), "the sidecar is ended");
    assert!(!pod.is_finished());
    set(&mut pod, "side", Fate::Ends(143));
    assert!(pod.is_finished());
    assert_eq!((next(&pod), outcome(&pod)), (Next::Wait, Some(Outcome::Succeeded)));
}

#[test]
fn what_fails_before_the_others_fails_the_pod() {
    let mut pod = pod(&[("side", true), ("a", false)], &["x"]);
    set(&mut pod, "side", Fate::Runs);
    set(&mut pod, "a", Fate::Ends(1));
    assert_eq!((next(&pod), outcome(&pod)), (Next::End, Some(Outcome::Failed)));
}

#[test]
fn a_hook_after_the_start_holds_up_the_next_container() {
    let mut pod = pod(&[], &["x", "y"]);
    pod.bundle.containers[0].life.post_start = Some(crate::life::Action::Sleep { seconds: 1 });
    set(&mut pod, "x", Fate::Runs);
    let life = pod.bundle.containers[0].life.clone();
    assert!(!is_started(&life, &pod.containers[0]) && !is_ready(&life, &pod.containers[0]));
    assert_eq!(next(&pod), Next::Wait);
    pod.containers[0].life.hooked = true;
    assert!(is_ready(&life, &pod.containers[0]));
    assert_eq!(next(&pod), Next::Start("y"));
}

#[test]
fn a_pod_that_stops_starts_nothing_and_sidecars_end_last_in_reverse_order() {
    let mut pod = pod(&[("s1", true), ("s2", true), ("a", false)], &["x"]);
    for name in ["s1", "s2", "x"] {
        set(&mut pod, name, Fate::Runs);
    }
    pod.stopping = true;
    assert_eq!(next(&pod), Next::Wait);
    let may = |pod: &PodRecord| ["s1", "s2", "a", "x"].map(|name| may_end(pod, name));
    assert_eq!(may(&pod), [false, false, true, true]);
    set(&mut pod, "x", Fate::Ends(0));
    assert_eq!(may(&pod), [false, true, true, true]);
    set(&mut pod, "s2", Fate::Ends(0));
    assert_eq!(may(&pod), [true; 4]);
}

#[test]
fn who_is_started_again() {
    let pod = pod(&[("side", true), ("a", false)], &["x"]);
    let mut bundle = pod.bundle;
    let of = |bundle: &PodBundle| ["side", "a", "x"].map(|name| restart_policy(bundle, name));
    use RestartPolicy::{Always, Never, OnFailure};
    assert_eq!(of(&bundle), [Always, Never, Never]);
    bundle.restart_policy = OnFailure;
    assert_eq!(of(&bundle), [Always, OnFailure, OnFailure]);
    bundle.restart_policy = Always;
    assert_eq!(of(&bundle), [Always, OnFailure, Always]);
}

#[test]
fn a_pod_of_before_init_containers_is_taken_over_as_it_was() {
    let old = serde_json::json!({
        "bundle": {"uid": "u", "namespace": "default", "name": "web", "hostname": "web", "addresses": ["10.42.0.2"],
            "netns": "/n", "dns": {"nameservers": [], "searches": [], "options": []}, "restartPolicy": "Always",
            "containers": [{"name": "c", "image": "echo"}]},
        "createdAt": "2026-01-01T00:00:00Z", "stopping": false,
        "containers": [{"name": "c", "image": "echo", "state": {"type": "running", "startedAt": "2026-01-01T00:00:00Z"},
            "lastTermination": null, "restartCount": 0, "crashes": 0, "restartAt": null,
            "process": {"pid": 2, "startTime": 3}, "shim": {"pid": 1, "startTime": 3}}],
    });
    let pod: PodRecord = serde_json::from_value(old).unwrap();
    assert_eq!((next(&pod), outcome(&pod), pod.bundle.grace_s), (Next::Wait, None, 30));
    assert!(is_ready(&pod.bundle.containers[0].life, &pod.containers[0]), "it was ready");
}

proptest! {
    /// Whatever becomes of the containers: no container is begun before those it must wait for, and what has an
    /// outcome comes to its end.
    #[test]
    fn every_pod_comes_to_rest(
        init in prop::collection::vec((any::<bool>(), any::<bool>()), 0..5),
        main in prop::collection::vec(any::<bool>(), 1..4),
    ) {
        let names: Vec<String> = (0..init.len() + main.len()).map(|n| format!("c{n}")).collect();
        let list: Vec<(&str, bool)> = init.iter().zip(&names).map(|((sidecar, _), name)| (name.as_str(), *sidecar)).collect();
        let of_main: Vec<&str> = names[init.len()..].iter().map(String::as_str).collect();
        let mut pod = pod(&list, &of_main);
        let ends_well: Vec<bool> = init.iter().map(|(_, well)| *well).chain(main.iter().copied()).collect();
        let mut begun = Vec::new();
        for _ in 0..100 {
            match next(&pod) {
                Next::Start(name) => {
                    let at = names.iter().position(|known| known == name).unwrap();
                    prop_assert_eq!(at, begun.len(), "in order");
                    begun.push(at);
                    let name = names[at].clone();
                    let sidecar = init.get(at).is_some_and(|(sidecar, _)| *sidecar);
                    let fate = if sidecar { Fate::Runs } else { Fate::Ends(i32::from(!ends_well[at])) };
                    set(&mut pod, &name, fate);
                }
                Next::End => {
                    let ends: Vec<String> = pod.all().filter(|c| c.is_active()).map(|c| c.name.clone()).collect();
                    ends.iter().for_each(|name| set(&mut pod, name, Fate::Ends(143)));
                }
                Next::Wait => break,
            }
        }
        prop_assert!(pod.is_finished());
        let failed_init = init.iter().any(|(sidecar, well)| !sidecar && !well);
        let failed = failed_init || main.iter().any(|well| !well);
        prop_assert_eq!(outcome(&pod), Some(if failed { Outcome::Failed } else { Outcome::Succeeded }));
        prop_assert_eq!(pod.containers.iter().any(|c| c.life.begun), !failed_init);
    }
}
