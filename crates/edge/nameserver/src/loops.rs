//! A name server that would ask itself, by way of a resolver that asks it, does not ask.
//!
//! A name that nobody else can know is asked of the node's resolvers. If the question comes back here they lead in a
//! circle, and names outside the cluster fail at once until a later try does not come back (CoreDNS' plugin `loop`).

use crate::Shared;
use hickory_resolver::proto::rr::{Name, RecordType};
use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::sleep;

/// Between two tries; a circle may be made while we run.
const EVERY: Duration = Duration::from_secs(600);
/// The same while there is a circle.
const EVERY_IN_A_CIRCLE: Duration = Duration::from_secs(30);

/// A name of two labels that nobody can guess.
pub(crate) fn secret() -> [String; 2] {
    [0, 1].map(|part: u8| format!("{:016x}", RandomState::new().hash_one(part)))
}

/// Whether these are the labels of our secret name.
pub(crate) fn is_ours(shared: &Shared, labels: &[&[u8]]) -> bool {
    labels.len() == 2 && labels.iter().zip(&shared.secret).all(|(label, secret)| *label == secret.as_bytes())
}

/// Looks for a circle for ever.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let Ok(name) = Name::from_labels(shared.secret.iter().map(String::as_bytes)) else { return };
    loop {
        let before = shared.in_circle.swap(false, Relaxed);
        // HINFO as CoreDNS: no resolver has such a record by chance.
        let _only_whether_it_comes_back = shared.forwarder.ask(name.clone(), RecordType::HINFO).await;
        let now = shared.in_circle.load(Relaxed);
        if now && !before {
            tracing::warn!(
                "the node's resolvers ask this name server: names outside the cluster are not answered"
            );
        }
        sleep(if now { EVERY_IN_A_CIRCLE } else { EVERY }).await;
    }
}
