//! The one shape of every control loop: desired state, actual state, the difference, and who applies it.
//!
//! ```text
//! Synced<Snapshot> ── pure desired() ──▶ State ── pure diff(actual) ──▶ [Op] ── apply (IO)
//! ```
//!
//! Invariants: keys are ordered so that what is created first sorts first; deletes run before puts and replacements, in
//! reverse order; no key has two steps; `apply(diff(desired, actual), actual) == desired`; `diff(desired, desired)` is empty.

mod backoff;

pub use backoff::Backoff;
use std::collections::BTreeMap;

/// Desired or actual state: what exists, by key, in creation order.
pub type State<K, S> = BTreeMap<K, S>;

/// One step from the actual to the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<K, S> {
    /// Removes what has this key. Removing what is absent is no error.
    Delete(K),
    /// Creates what has this key.
    Put(K, S),
    /// Makes what has this key as given: it is there, and different.
    Replace(K, S),
}

impl<K, S> Op<K, S> {
    /// What the step is about.
    pub fn key(&self) -> &K {
        let (Self::Delete(key) | Self::Put(key, _) | Self::Replace(key, _)) = self;
        key
    }
}

/// What a planner decided: the state to reach, and the objects it left out with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned<T> {
    /// The state to reach.
    pub desired: T,
    /// Objects that could not be planned; they block nobody else.
    pub rejected: Vec<Rejection>,
}

/// An object a planner left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    /// Kind of the object, such as `Service`.
    pub kind: &'static str,
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Reason for an Event, such as `InvalidAddress`.
    pub reason: &'static str,
    /// What is wrong, for a person.
    pub message: String,
}

/// The steps from `actual` to `desired`: deletes in reverse key order, then puts and replacements in key order.
pub fn diff<K: Ord + Clone, S: Eq + Clone>(desired: &State<K, S>, actual: &State<K, S>) -> Vec<Op<K, S>> {
    let deletes = actual.keys().rev().filter(|key| !desired.contains_key(key)).cloned().map(Op::Delete);
    let puts = desired.iter().filter_map(|(key, spec)| match actual.get(key) {
        None => Some(Op::Put(key.clone(), spec.clone())),
        Some(present) if present != spec => Some(Op::Replace(key.clone(), spec.clone())),
        Some(_) => None,
    });
    deletes.chain(puts).collect()
}

/// Where a state is made real: the kernel, the API, a fake in a test.
///
/// `observe` returns only what we own, normalized so that what was applied is read back equal.
pub trait Target<K, S> {
    /// What can go wrong.
    type Error;
    /// Reads the actual state.
    ///
    /// # Errors
    /// If the state cannot be read.
    fn observe(&mut self) -> Result<State<K, S>, Self::Error>;
    /// Carries out the steps in order.
    ///
    /// # Errors
    /// If a step fails; steps before it may have been carried out, the caller observes again.
    fn apply(&mut self, ops: &[Op<K, S>]) -> Result<(), Self::Error>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn applied(ops: Vec<Op<u8, u8>>, mut state: State<u8, u8>) -> State<u8, u8> {
        for op in ops {
            let present = state.contains_key(op.key());
            let done = match op {
                Op::Delete(key) => present && state.remove(&key).is_some(),
                Op::Put(key, spec) => !present && state.insert(key, spec).is_none(),
                Op::Replace(key, spec) => present && state.insert(key, spec).is_some(),
            };
            assert!(done, "a step that says what is not so");
        }
        state
    }

    proptest! {
        #[test]
        fn applying_the_difference_reaches_the_desired_state(
            desired: BTreeMap<u8, u8>, actual: BTreeMap<u8, u8>,
        ) {
            prop_assert_eq!(applied(diff(&desired, &actual), actual), desired.clone());
            prop_assert!(diff(&desired, &desired).is_empty());
        }
    }
}
