//! What happens to containers, in the words in which the kubelet tells it.

use crate::spec::PodBundle;

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The Pod's uid.
    pub uid: String,
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub pod: String,
    /// Which of the Pod's fields it is about, such as `spec.containers{web}`.
    pub field: String,
    /// Whether it needs attention.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// What can happen.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// Its image is here.
    Pulled { image: String },
    /// Its image is not.
    NoImage { reason: String, message: String },
    /// Its namespaces and process are made.
    Created,
    /// Its program runs.
    Started,
    /// It could not be started.
    NotStarted { message: String },
    /// It is told to end.
    Killing { message: String },
    /// It waits for its restart.
    BackOff,
}

impl Told {
    pub(super) fn new(bundle: &PodBundle, container: &str, what: What) -> Self {
        let list = if bundle.containers.iter().any(|c| c.name == container) {
            "containers"
        } else {
            "initContainers"
        };
        let (warning, reason, message) = match what {
            What::Pulled { image } => {
                (false, "Pulled", format!("Container image {image:?} already present on machine"))
            }
            What::NoImage { reason, message } if reason == "ErrImageNeverPull" => {
                (true, "ErrImageNeverPull", message)
            }
            What::NoImage { message, .. } => (true, "Failed", format!("Error: {message}")),
            What::Created => (false, "Created", format!("Created container: {container}")),
            What::Started => (false, "Started", format!("Started container {container}")),
            What::NotStarted { message } => (true, "Failed", format!("Error: {message}")),
            What::Killing { message } => (false, "Killing", message),
            What::BackOff => {
                let pod = format!("{}_{}({})", bundle.name, bundle.namespace, bundle.uid);
                (true, "BackOff", format!("Back-off restarting failed container {container} in pod {pod}"))
            }
        };
        Self {
            uid: bundle.uid.clone(),
            namespace: bundle.namespace.clone(),
            pod: bundle.name.clone(),
            field: format!("spec.{list}{{{container}}}"),
            warning,
            reason,
            message,
        }
    }
}
