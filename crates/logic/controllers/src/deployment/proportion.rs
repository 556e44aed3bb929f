//! How a new number of Pods is shared out among the ReplicaSets of an update under way.
//!
//! Source: kubernetes `pkg/controller/deployment/sync.go` (`scale`), `util/deployment_util.go` (`getReplicaSetFraction`).

use super::{Rollout, Set, revision};
use std::cmp::Reverse;

/// The new size of each: each gets its share of the difference, the largest what rounding left.
pub(super) fn shares<'a>(active: &[Set<'a>], rollout: &Rollout<'_>) -> Vec<(Set<'a>, i32)> {
    let allowed = if rollout.replicas > 0 { rollout.replicas + rollout.limits.surge } else { 0 };
    let difference = allowed - active.iter().map(|set| set.wanted).sum::<i32>();
    let mut sets = active.to_vec();
    // What is added goes to the newest of equal ones first, what is taken to the oldest.
    let created = |set: &Set<'_>| set.object.metadata.creation_timestamp.clone();
    if difference > 0 {
        sets.sort_by_key(|set| (Reverse(set.wanted), Reverse(created(set))));
    } else {
        sets.sort_by_key(|set| (Reverse(set.wanted), created(set)));
    }
    let mut added = 0;
    let mut shares: Vec<(Set<'a>, i32)> = Vec::new();
    for set in sets {
        let left = difference - added;
        let share = match difference {
            0 => 0,
            1.. => fraction(set, rollout).min(left),
            _ => fraction(set, rollout).max(left),
        };
        added += share;
        shares.push((set, set.wanted + share));
    }
    if let Some((_, size)) = shares.first_mut() {
        *size = (*size + difference - added).max(0);
    }
    shares
}

/// By how much a ReplicaSet would change if it kept its part of the whole.
fn fraction(set: Set<'_>, rollout: &Rollout<'_>) -> i32 {
    if rollout.replicas == 0 {
        return -set.wanted;
    }
    let status = rollout.deployment.status.as_ref();
    let before = revision::max(set.object).or_else(|| status.and_then(|s| s.replicas)).unwrap_or(0);
    if before <= 0 {
        return 0;
    }
    let now = f64::from(rollout.replicas + rollout.limits.surge);
    let size = (f64::from(set.wanted) * now / f64::from(before)).round();
    size as i32 - set.wanted
}
