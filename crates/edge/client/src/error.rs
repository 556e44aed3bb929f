//! What can go wrong between us and the API server.

use minisvc_apimachinery::Status;
use std::time::Duration;

/// A request that was not carried out, or a client that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's URL is none, or not https.
    #[error("the API server's address {url:?} is not of the form https://HOST:PORT")]
    Url {
        /// What was given.
        url: String,
    },
    /// A certificate or a key is not PEM.
    #[error("{what} is not valid PEM: {source}")]
    Pem {
        /// Which of them.
        what: &'static str,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// The kubeconfig cannot be used.
    #[error("cannot use kubeconfig {path}: {source}")]
    Kubeconfig {
        /// File.
        path: String,
        /// Why.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The connection's certificates, keys or token cannot be used together.
    #[error("cannot set up the connection to {url}: {source}")]
    Connector {
        /// API server.
        url: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A credential cannot be given to the TLS library.
    #[error("cannot encode the credentials: {source}")]
    Credentials {
        /// Why.
        source: serde_json::Error,
    },
    /// A name that cannot be part of a URL path.
    #[error("{operation}: {name:?} is not a name")]
    InvalidName {
        /// What was tried.
        operation: &'static str,
        /// The name.
        name: String,
    },
    /// The request could not be built.
    #[error("{operation} {object}: bad request: {source}")]
    Build {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        object: String,
        /// Why.
        source: http::Error,
    },
    /// An object could not be turned into JSON.
    #[error("{operation} {object}: cannot encode: {source}")]
    Encode {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        object: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The answer is not what was asked for.
    #[error("{operation} {object}: cannot decode the answer: {source}")]
    Decode {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        object: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The answer's body broke off or is larger than allowed.
    #[error("{operation} {object}: cannot read the answer: {source}")]
    Body {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        object: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer: not connected, TLS refused, connection lost.
    #[error("{operation} {object}: {}", chain(source.as_ref()))]
    Transport {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        object: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("{operation} {object}: no answer within {} s", after.as_secs())]
    Timeout {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        object: String,
        /// Limit.
        after: Duration,
    },
    /// The server's own refusal.
    #[error("{operation} {object}: {status}")]
    Api {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        object: String,
        /// The server's words.
        status: Box<Status>,
    },
}

/// An error with its causes, outermost first: the innermost says what to do.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

impl ClientError {
    /// The server's refusal, if it answered at all.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api { status, .. } => Some(status),
            _ => None,
        }
    }

    fn reason_is(&self, reason: &str) -> bool {
        self.status().is_some_and(|status| status.reason == reason)
    }

    /// 404: the object (or its namespace) is not there.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    /// 409 on a stale `resourceVersion` or another precondition.
    pub fn is_conflict(&self) -> bool {
        self.reason_is("Conflict")
    }

    /// 409 on a create.
    pub fn is_already_exists(&self) -> bool {
        self.reason_is("AlreadyExists")
    }

    /// Why the server would not, in its own words; else what went wrong.
    pub fn refusal(&self) -> String {
        match self {
            Self::Api { status, .. } => status.message.clone(),
            other => other.to_string(),
        }
    }

    /// Whether the server said that it did not carry the request out. If false, it may have been carried out.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Api { status, .. } => status.code < 500,
            Self::InvalidName { .. } | Self::Build { .. } | Self::Encode { .. } => true,
            _ => false,
        }
    }
}
