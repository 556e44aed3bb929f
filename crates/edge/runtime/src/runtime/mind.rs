//! What is asked and told of one run of a container: the hook after its start, its probes, and what follows from them.
//!
//! Invariants: tasks live no longer than the run they are of, and change the record of that run only; counted answers come
//! every `periodSeconds`. Before a container has started or is ready, it is asked more often than that, so that it is soon known, but
//! those answers count only if they are good. Source: kubelet `pkg/kubelet/prober/worker.go`.

use super::{
    Inner, end,
    told::{Kind, What},
};
use crate::{
    ask::{Answer, Target},
    exec::Order,
    life::{Action, Life, LifeRecord, Probe},
    order,
    record::{ContainerRecord, ContainerState, PodRecord},
    spec::RestartPolicy,
};
use jiff::Timestamp;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// How soon what has not come up is asked again at first; each further time is twice as long.
const EARLY: Duration = Duration::from_millis(100);

/// Counts answers: so many in a row of one kind are a verdict.
#[derive(Debug)]
struct Tally {
    thresholds: (u32, u32),
    last: bool,
    in_a_row: u32,
}

impl Tally {
    fn new(probe: &Probe) -> Self {
        Self { thresholds: (probe.success_threshold, probe.failure_threshold), last: false, in_a_row: 0 }
    }

    /// The verdict, if this answer makes one.
    fn count(&mut self, good: bool) -> Option<bool> {
        self.in_a_row = if good == self.last { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = good;
        let threshold = if good { self.thresholds.0 } else { self.thresholds.1 };
        (self.in_a_row >= threshold).then_some(good)
    }
}

/// One run of a container.
#[derive(Clone)]
struct Run {
    inner: Arc<Inner>,
    uid: String,
    container: String,
    number: u32,
    started_at: Timestamp,
}

/// Begins to look after the run that goes on now, until what is returned is dropped. `adopted`: it was started by an
/// earlier server.
pub(super) fn mind(inner: &Arc<Inner>, uid: &str, container: &str, adopted: bool) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let Some(pod) = inner.pod(uid) else { return tasks };
    let (Some(spec), Some(record)) = (pod.bundle.spec(container), pod.container(container)) else {
        return tasks;
    };
    let ContainerState::Running { started_at } = record.state else { return tasks };
    let run = Run {
        inner: Arc::clone(inner),
        uid: uid.to_owned(),
        container: container.to_owned(),
        number: record.restart_count,
        started_at,
    };
    if record.life.ending && !pod.stopping {
        let grace = Duration::from_secs(pod.bundle.grace_s);
        let run = run.clone();
        tasks.spawn(async move { run.end(grace, String::new()).await });
    }
    let Life { startup, readiness, liveness, post_start, .. } = spec.life.clone();
    if let Some(action) = post_start.filter(|_| !record.life.hooked) {
        tasks.spawn(run.clone().hook(action));
    }
    for (kind, probe) in [(Kind::Startup, startup), (Kind::Readiness, readiness), (Kind::Liveness, liveness)]
    {
        if let Some(probe) = probe {
            tasks.spawn(run.clone().probe(kind, probe, adopted));
        }
    }
    tasks
}

/// How a container is asked and told things from outside.
pub(super) fn target<'a>(inner: &'a Inner, pod: &PodRecord, container: &str) -> Option<Target<'a>> {
    let record = pod.container(container)?;
    let order = match record.process {
        Some(process) => {
            let settings = super::spawn::settings_of(&inner.config, pod, container)?;
            Some(Order { process, argv: Vec::new(), settings, tty: false })
        }
        None => None,
    };
    Some(Target { address: pod.bundle.address(), executable: &inner.config.executable, order })
}

impl Run {
    /// What is known of this run; none: it is over.
    fn record<'p>(&self, pod: &'p PodRecord) -> Option<&'p ContainerRecord> {
        pod.container(&self.container)
            .filter(|record| record.is_running() && record.restart_count == self.number)
    }

    /// Waits until this run is so far. For ever, if it ends before.
    async fn until(&self, so_far: impl Fn(&Life, &ContainerRecord) -> bool) {
        let mut changes = self.inner.table.subscribe();
        let reached = changes.wait_for(|table| {
            let pod = table.get(&self.uid);
            let found = pod.and_then(|pod| Some((pod.bundle.spec(&self.container)?, self.record(pod)?)));
            found.is_some_and(|(spec, record)| so_far(&spec.life, record))
        });
        if reached.await.is_err() {
            std::future::pending().await
        }
    }

    /// Changes what is known of this run.
    fn note(&self, change: impl FnOnce(&mut LifeRecord)) {
        self.inner.update_container(&self.uid, &self.container, |_, _, record| {
            if record.is_running() && record.restart_count == self.number {
                change(&mut record.life);
            }
        });
    }

    fn tell(&self, what: What) {
        if let Some(pod) = self.inner.pod(&self.uid) {
            self.inner.tell(&pod.bundle, &self.container, what);
        }
    }

    /// Ends this run; it is started again if its Pod's policy says so.
    async fn end(&self, grace: Duration, words: String) {
        let ending = end::Ending {
            uid: &self.uid,
            container: &self.container,
            run: self.number,
            grace,
            words,
            in_turn: false,
        };
        if !end::one(&self.inner, ending).await {
            tracing::error!(uid = self.uid, container = self.container, "a container outlives SIGKILL");
        }
    }

    /// Does what is to be done after the start.
    async fn hook(self, action: Action) {
        let Some(pod) = self.inner.pod(&self.uid) else { return };
        let Some(target) = target(&self.inner, &pod, &self.container) else { return };
        match target.tell(&action).await {
            Ok(()) => self.note(|life| life.hooked = true),
            Err(why) => {
                tracing::warn!(pod = pod.bundle.name, container = self.container, why, "postStart hook");
                self.tell(What::HookFailed { stopping: false });
                self.end(Duration::from_secs(pod.bundle.grace_s), "FailedPostStartHook".to_owned()).await;
            }
        }
    }

    async fn probe(self, kind: Kind, probe: Probe, adopted: bool) {
        let period = Duration::from_secs(probe.period_s.max(1).into());
        let begun = self.inner.pod(&self.uid).and_then(|pod| self.record(&pod).map(|record| record.life));
        let Some(life) = begun else { return };
        if kind == Kind::Startup && life.started {
            return;
        }
        if adopted {
            // All at once would be too much for a server that has just come.
            tokio::time::sleep(self.share_of(period, kind)).await;
        }
        match kind {
            Kind::Startup => self.until(|life, record| !order::is_hook_pending(life, record)).await,
            Kind::Readiness | Kind::Liveness => self.until(order::is_started).await,
        }
        let since = Timestamp::now().duration_since(self.started_at);
        let since = Duration::try_from(since).unwrap_or_default();
        let delay = Duration::from_secs(probe.initial_delay_s.into()).saturating_sub(since);
        tokio::time::sleep(delay).await;
        let mut tally = Tally::new(&probe);
        let mut next = Instant::now();
        let has_come_up = match kind {
            Kind::Startup => life.started,
            Kind::Readiness => life.ready,
            Kind::Liveness => true,
        };
        if !has_come_up {
            next += period;
            if self.is_early(&probe, next).await {
                next = Instant::now() + period;
                if self.count(kind, &probe, &mut tally, true).await {
                    return;
                }
            }
        } else if kind == Kind::Liveness && probe.initial_delay_s == 0 {
            // A program is not asked whether it lives before it had time to begin.
            next += period;
        }
        loop {
            tokio::time::sleep_until(next).await;
            next = Instant::now() + period;
            let answer = self.ask(&probe).await;
            if kind != Kind::Readiness && self.is_told_to_end() {
                return;
            }
            let good = match &answer {
                Answer::Good | Answer::Doubtful(_) => Some(true),
                Answer::Bad(_) => Some(false),
                Answer::Unknown(_) => None,
            };
            if let Some(what) = What::probed(kind, answer) {
                self.tell(what);
            }
            if let Some(good) = good
                && self.count(kind, &probe, &mut tally, good).await
            {
                return;
            }
        }
    }

    /// Counts an answer. True: nothing more is to be asked.
    async fn count(&self, kind: Kind, probe: &Probe, tally: &mut Tally, good: bool) -> bool {
        match tally.count(good) {
            Some(verdict) => self.conclude(kind, probe, verdict).await,
            None => false,
        }
    }

    /// Asks until an answer is good (true), or until the first one that counts whatever it is (false).
    async fn is_early(&self, probe: &Probe, end: Instant) -> bool {
        let mut wait = EARLY;
        loop {
            if matches!(self.ask(probe).await, Answer::Good | Answer::Doubtful(_)) {
                return true;
            }
            let next = Instant::now() + wait;
            if next >= end {
                return false;
            }
            tokio::time::sleep_until(next).await;
            wait *= 2;
        }
    }

    async fn ask(&self, probe: &Probe) -> Answer {
        let Some(pod) = self.inner.pod(&self.uid) else { return Answer::Unknown(String::new()) };
        match target(&self.inner, &pod, &self.container) {
            Some(target) => {
                target.probe(&probe.action, Duration::from_secs(probe.timeout_s.max(1).into())).await
            }
            None => Answer::Unknown(String::new()),
        }
    }

    fn is_told_to_end(&self) -> bool {
        let pod = self.inner.pod(&self.uid);
        pod.is_none_or(|pod| pod.stopping || self.record(&pod).is_none_or(|record| record.life.ending))
    }

    /// Draws the consequences. True: nothing more is to be asked.
    async fn conclude(&self, kind: Kind, probe: &Probe, verdict: bool) -> bool {
        match (kind, verdict) {
            (Kind::Readiness, verdict) => {
                self.note(|life| life.ready = verdict);
                false
            }
            (Kind::Liveness, true) => false,
            (Kind::Startup, true) => {
                self.note(|life| life.started = true);
                true
            }
            (Kind::Startup | Kind::Liveness, false) => {
                let Some(pod) = self.inner.pod(&self.uid) else { return true };
                let grace = Duration::from_secs(probe.grace_s.unwrap_or(pod.bundle.grace_s));
                self.end(grace, self.condemned(&pod, kind)).await;
                true
            }
        }
    }

    fn condemned(&self, pod: &PodRecord, kind: Kind) -> String {
        let is_init = pod.bundle.init_containers.iter().any(|spec| spec.name == self.container);
        let who = if is_init { "Init container" } else { "Container" };
        let again = order::restart_policy(&pod.bundle, &self.container) != RestartPolicy::Never;
        let probe = kind.word().to_ascii_lowercase();
        let then = if again { ", will be restarted" } else { "" };
        format!("{who} {} failed {probe} probe{then}", self.container)
    }

    /// A part of a period that is this probe's own.
    fn share_of(&self, period: Duration, kind: Kind) -> Duration {
        let mut hasher = DefaultHasher::new();
        (&self.uid, &self.container, kind.word()).hash(&mut hasher);
        period.mul_f64(f64::from(u16::try_from(hasher.finish() >> 48).unwrap_or(0)) / f64::from(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(success: u32, failure: u32, answers: &[bool]) -> Vec<Option<bool>> {
        let action = Action::Sleep { seconds: 0 };
        let (initial_delay_s, timeout_s, period_s, grace_s) = (0, 1, 1, None);
        let (success_threshold, failure_threshold) = (success, failure);
        let probe = Probe {
            action,
            initial_delay_s,
            timeout_s,
            period_s,
            success_threshold,
            failure_threshold,
            grace_s,
        };
        let mut tally = Tally::new(&probe);
        answers.iter().map(|good| tally.count(*good)).collect()
    }

    #[test]
    fn so_many_answers_in_a_row_are_a_verdict() {
        let (y, n) = (Some(true), Some(false));
        assert_eq!(
            verdicts(1, 3, &[true, false, false, true, false, false, false, false]),
            [y, None, None, y, None, None, n, n]
        );
        assert_eq!(verdicts(2, 1, &[true, true, false, true, false]), [None, y, n, None, n]);
    }
}
