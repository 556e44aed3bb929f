//! Whether and when a container that has ended is started again: a pure function of its record.

use crate::record::{ContainerRecord, RestartDelays, Terminated};
use crate::spec::RestartPolicy;
use jiff::{SignedDuration, Timestamp};

/// What to do about a container that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Leave it ended.
    Stay,
    /// Start it again at that time, which may be now or earlier.
    Restart {
        /// When.
        at: Timestamp,
        /// Runs in a row that ended soon, this one included.
        crashes: u32,
    },
}

/// Decides from the policy, the record and how the container ended.
///
/// The first restart is immediate; each further one waits twice as long as the one before, from
/// `delays.first` to `delays.max`. A run of at least `delays.reset_after` starts over.
/// One that was ended for another image starts at once, whatever the policy.
/// Source: kubelet's crash-loop back-off (concepts/workloads/pods/pod-lifecycle).
pub fn decide(
    policy: RestartPolicy,
    record: &ContainerRecord,
    ended: &Terminated,
    delays: &RestartDelays,
    now: Timestamp,
) -> Decision {
    if record.renewed {
        return Decision::Restart { at: now, crashes: 0 };
    }
    match policy {
        RestartPolicy::Never => return Decision::Stay,
        RestartPolicy::OnFailure if ended.exit_code == 0 => return Decision::Stay,
        RestartPolicy::OnFailure | RestartPolicy::Always => {}
    }
    let ran = ended.started_at.map_or(SignedDuration::ZERO, |start| ended.finished_at.duration_since(start));
    let long = SignedDuration::try_from(delays.reset_after).is_ok_and(|limit| ran >= limit);
    let crashes = if long { 0 } else { record.crashes };
    let wait = match crashes.checked_sub(1) {
        None => std::time::Duration::ZERO,
        Some(doublings) => {
            delays.first.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(delays.max)
        }
    };
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    let at = now.checked_add(wait).unwrap_or(Timestamp::MAX);
    Decision::Restart { at, crashes: crashes.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ContainerSpec;

    fn ended(exit_code: i32, ran_s: i64) -> Terminated {
        let finished_at = Timestamp::from_second(1_000_000).unwrap();
        Terminated {
            exit_code,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            started_at: Some(finished_at - SignedDuration::from_secs(ran_s)),
            finished_at,
        }
    }

    fn delays_s(policy: RestartPolicy, exits: &[(i32, i64)]) -> Vec<Option<i64>> {
        let mut record = ContainerRecord::new(&ContainerSpec::default());
        let now = Timestamp::from_second(1_000_000).unwrap();
        exits
            .iter()
            .map(|(code, ran)| {
                match decide(policy, &record, &ended(*code, *ran), &RestartDelays::default(), now) {
                    Decision::Stay => None,
                    Decision::Restart { at, crashes } => {
                        record.crashes = crashes;
                        Some(at.duration_since(now).as_secs())
                    }
                }
            })
            .collect()
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_next_wait_longer_up_to_five_minutes() {
        let waits = delays_s(RestartPolicy::Always, &[(1, 0); 9]);
        let expected = [0, 10, 20, 40, 80, 160, 300, 300, 300].map(Some);
        assert_eq!(waits, expected);
    }

    #[test]
    fn a_long_run_is_forgiven() {
        assert_eq!(
            delays_s(RestartPolicy::Always, &[(1, 0), (1, 0), (1, 600), (1, 0)]),
            [Some(0), Some(10), Some(0), Some(10)]
        );
    }

    #[test]
    fn policies() {
        assert_eq!(delays_s(RestartPolicy::Never, &[(1, 0)]), [None]);
        assert_eq!(delays_s(RestartPolicy::OnFailure, &[(0, 0)]), [None]);
        assert_eq!(delays_s(RestartPolicy::OnFailure, &[(7, 0)]), [Some(0)]);
        assert_eq!(delays_s(RestartPolicy::Always, &[(0, 0)]), [Some(0)]);
    }

    #[test]
    fn counting_crashes_for_ever_does_not_overflow() {
        let mut record = ContainerRecord::new(&ContainerSpec::default());
        record.crashes = u32::MAX;
        let now = Timestamp::from_second(0).unwrap();
        let decision = decide(RestartPolicy::Always, &record, &ended(1, 0), &RestartDelays::default(), now);
        assert_eq!(
            decision,
            Decision::Restart { at: Timestamp::from_second(300).unwrap(), crashes: u32::MAX }
        );
    }
}
