//! Pods that ran here before, and of which nothing is left: the node was switched off, and its records with it.
//!
//! In: what the Pod's status in the API says of its containers. Out: a record that goes on from there. Source: kubelet
//! `computePodActions` with a changed sandbox: init containers run again, what has ended well and need not run stays so, a
//! Pod that is never restarted has failed.

use crate::record::{ContainerState, PodRecord, Terminated};
use crate::spec::RestartPolicy;
use jiff::Timestamp;

/// A container that was started before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// Its name.
    pub container: String,
    /// How often it was started again.
    pub restart_count: u32,
    /// When its newest run began, if it went on.
    pub started_at: Option<Timestamp>,
    /// How its newest run ended; none: it went on.
    pub end: Option<Terminated>,
}

/// Makes a fresh record go on from what was before.
pub(crate) fn go_on(pod: &mut PodRecord, before: &[Before], now: Timestamp) {
    let policy = pod.bundle.restart_policy;
    let ran = |name: &str| before.iter().any(|before| before.container == name);
    let main_ran = pod.containers.iter().any(|record| ran(&record.name));
    let sidecars: Vec<String> = pod
        .bundle
        .init_containers
        .iter()
        .filter(|spec| spec.life.sidecar)
        .map(|spec| spec.name.clone())
        .collect();
    let first: Vec<String> = pod.init_containers.iter().map(|record| record.name.clone()).collect();
    for before in before {
        let Some(record) = pod.all_mut().find(|record| record.name == before.container) else { continue };
        let end = before.end.clone().unwrap_or_else(|| lost(before.started_at, now));
        let stays = match policy {
            RestartPolicy::Never => main_ran || !sidecars.contains(&record.name),
            RestartPolicy::OnFailure => !first.contains(&record.name) && end.exit_code == 0,
            RestartPolicy::Always => false,
        };
        if stays {
            record.restart_count = before.restart_count;
            record.life.begun = true;
            record.state = ContainerState::Terminated(end);
        } else {
            record.restart_count = before.restart_count.saturating_add(1);
            record.last_termination = Some(end);
        }
    }
}

/// The end of a run that nobody saw, as kubelet and containerd tell it after a reboot.
fn lost(started_at: Option<Timestamp>, now: Timestamp) -> Terminated {
    Terminated {
        exit_code: 255,
        signal: 0,
        reason: "Unknown".to_owned(),
        message: String::new(),
        started_at,
        finished_at: now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        order::{self, Next, Outcome},
        spec::{ContainerSpec, PodBundle},
    };

    /// A Pod with one init container `i`, a sidecar `s` and the containers `a` and `b`, after what was before: a name, and the exit
    /// code if it had ended.
    fn after(restart_policy: RestartPolicy, before: &[(&str, Option<i32>)]) -> PodRecord {
        let spec =
            |name: &str| ContainerSpec { name: name.into(), image: "echo".into(), ..Default::default() };
        let mut sidecar = spec("s");
        sidecar.life.sidecar = true;
        let bundle = PodBundle {
            restart_policy,
            init_containers: vec![spec("i"), sidecar],
            containers: vec![spec("a"), spec("b")],
            ..PodBundle::default()
        };
        let now = Timestamp::UNIX_EPOCH;
        let before: Vec<Before> = before
            .iter()
            .map(|(name, code)| Before {
                container: (*name).to_owned(),
                restart_count: 2,
                started_at: None,
                end: code.map(|exit_code| Terminated { exit_code, ..lost(None, now) }),
            })
            .collect();
        let mut pod = PodRecord::new(bundle, now);
        go_on(&mut pod, &before, now);
        pod
    }

    #[test]
    fn what_is_never_restarted_has_failed_or_ended_as_it_had() {
        let all = [("i", Some(0)), ("s", None), ("a", Some(0)), ("b", None)];
        let pod = after(RestartPolicy::Never, &all);
        assert_eq!(order::outcome(&pod), Some(Outcome::Failed));
        assert!(pod.is_finished());
        assert_eq!(pod.container("b").unwrap().restart_count, 2);
        // It had not come so far: the init container that ran has failed, one that had ended well stays so.
        assert_eq!(order::outcome(&after(RestartPolicy::Never, &[("i", None)])), Some(Outcome::Failed));
        let pod = after(RestartPolicy::Never, &[("i", Some(0)), ("s", None)]);
        assert_eq!((order::outcome(&pod), order::next(&pod)), (None, Next::Start("s")));
    }

    #[test]
    fn what_is_restarted_counts_on_and_begins_at_the_beginning() {
        for policy in [RestartPolicy::Always, RestartPolicy::OnFailure] {
            let pod = after(policy, &[("i", Some(0)), ("s", None), ("a", Some(0)), ("b", None)]);
            assert_eq!(order::next(&pod), Next::Start("i"));
            let b = pod.container("b").unwrap();
            assert_eq!((b.restart_count, b.last_termination.as_ref().unwrap().exit_code), (3, 255));
            let done = pod.container("a").unwrap().is_completed();
            assert_eq!(done, policy == RestartPolicy::OnFailure);
        }
        let fresh = after(RestartPolicy::Always, &[]);
        assert_eq!(fresh.container("a").unwrap().restart_count, 0);
    }
}
