//! The text of a kubeconfig with everything in it, so that one file is enough.

use crate::pki::Identity;
use base64::{Engine, engine::general_purpose::STANDARD};

/// A kubeconfig for the API at `server` (an https URL) as this identity. JSON, which is YAML too.
pub(crate) fn text(server: &str, ca: &str, identity: &Identity, user: &str) -> String {
    let (server, user) = (serde_json::json!(server), serde_json::json!(user));
    let (ca, certificate, key) =
        (STANDARD.encode(ca), STANDARD.encode(&identity.certificate), STANDARD.encode(&identity.key));
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: minisvc\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    \
         client-key-data: {key}\ncontexts:\n- name: minisvc\n  context:\n    cluster: minisvc\n    user: {user}\n\
         current-context: minisvc\npreferences: {{}}\n"
    )
}
