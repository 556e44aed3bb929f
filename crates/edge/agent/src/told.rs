//! What the runtime tells of containers, as Events of their Pods.

use minisvc_apimachinery::{ObjectKey, resource::PODS};
use minisvc_client::events::{Occurrence, Recorder};
use minisvc_runtime::Told;
use std::sync::Arc;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// Says it until the runtime ends. Events are no record: what comes faster than it is written is left out.
pub(crate) async fn say_all(mut told: Receiver<Told>, recorder: Arc<Recorder>) {
    loop {
        match told.recv().await {
            Ok(told) => {
                let _nothing_depends_on_it = recorder.record(&occurrence(told), jiff::Timestamp::now()).await;
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

fn occurrence(told: Told) -> Occurrence {
    let Told { uid, namespace, pod, field, warning, reason, message } = told;
    let of = if warning { Occurrence::warning } else { Occurrence::normal };
    let what = of(&PODS, ObjectKey::new(namespace, pod), &uid, reason, message);
    Occurrence { field, ..what }
}
