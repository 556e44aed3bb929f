//! What happens to containers, in the words in which the kubelet tells it.

use crate::{ask::Answer, spec::PodBundle};

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
    /// Some of its limits are not kept.
    NotLimited { message: String },
    /// It is told to end.
    Killing { message: String },
    /// It waits for its restart.
    BackOff,
    /// A hook of it has failed: that before its end, or that after its start.
    HookFailed { stopping: bool },
    /// It did not answer as it should.
    Unhealthy { message: String },
    /// It did, with a word of caution.
    Doubtful { message: String },
}

/// What a container is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whether it has started.
    Startup,
    /// Whether it takes requests.
    Readiness,
    /// Whether it lives.
    Liveness,
}

impl Kind {
    /// As messages begin.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

impl What {
    /// What to tell of an answer; none: it is as it should be.
    pub(super) fn probed(kind: Kind, answer: Answer) -> Option<Self> {
        let kind = kind.word();
        match answer {
            Answer::Good => None,
            Answer::Doubtful(text) => {
                Some(Self::Doubtful { message: format!("{kind} probe warning: {text}") })
            }
            Answer::Bad(text) => Some(Self::Unhealthy { message: format!("{kind} probe failed: {text}") }),
            Answer::Unknown(why) => Some(Self::Unhealthy {
                message: format!("{kind} probe errored and resulted in unknown state: {why}"),
            }),
        }
    }
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
            What::NotLimited { message } => (
                true,
                "LimitsNotEnforced",
                format!("Container {container} runs without some of its limits: {message}"),
            ),
            What::Killing { message } => (false, "Killing", message),
            What::BackOff => {
                let pod = format!("{}_{}({})", bundle.name, bundle.namespace, bundle.uid);
                (true, "BackOff", format!("Back-off restarting failed container {container} in pod {pod}"))
            }
            What::HookFailed { stopping: false } => {
                (true, "FailedPostStartHook", "PostStartHook failed".to_owned())
            }
            What::HookFailed { stopping: true } => {
                (true, "FailedPreStopHook", "PreStopHook failed".to_owned())
            }
            What::Unhealthy { message } => (true, "Unhealthy", message),
            What::Doubtful { message } => (true, "ProbeWarning", message),
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
