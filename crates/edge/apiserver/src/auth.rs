//! Who asks, and whether they may: by the rules of `rules`.
//!
//! Invariant: what a node may write is checked again in the store's writer against the stored object
//! ([`Guard`]), because the path alone does not say which node a Pod is on.

mod rules;
mod tokens;

pub(crate) use rules::{Attributes, ISSUER_PATHS, KEY_SET_PATHS, Limit, roles};
pub(crate) use tokens::Tokens;

use crate::path::Target;
use http::HeaderMap;
use k8s_openapi::api::core::v1::Pod;
use memchr::memmem;
use minisvc_apimachinery::{
    ObjectKey, Status, join,
    references::{References, references},
    resource::{CONFIG_MAPS, PODS},
    storage::Read,
};
use minisvc_registry::AccountRole;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use std::collections::BTreeMap;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    /// UID of the object that this user is; empty if it is none.
    pub(crate) uid: String,
    /// What else is known, by Kubernetes' names.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
    /// What a ServiceAccount may do beyond what its groups may.
    pub(crate) role: Option<AccountRole>,
}

impl User {
    fn new(name: &str, group: &str) -> Self {
        Self::authenticated(name.to_owned(), vec![group.to_owned()])
    }

    /// Whoever has proved who they are is in one more group.
    fn authenticated(name: String, mut groups: Vec<String>) -> Self {
        if !groups.iter().any(|group| group == join::AUTHENTICATED) {
            groups.push(join::AUTHENTICATED.to_owned());
        }
        Self { name, groups, ..Self::default() }
    }

    /// The common name and organisations of a certificate that TLS has verified.
    pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        Some(Self::authenticated(name, groups))
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name, if this is a node.
    pub(crate) fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|name| !name.is_empty() && self.is_in(join::NODES))
    }
}

/// Refuses to act for somebody else: no role may impersonate, so headers that ask for it must not be passed over.
///
/// # Errors
/// 403 in Kubernetes' words.
pub(crate) fn refuse_impersonation(user: &User, headers: &HeaderMap) -> Result<(), Status> {
    let Some((header, value)) = headers.iter().find(|(name, _)| name.as_str().starts_with("impersonate-"))
    else {
        return Ok(());
    };
    let resource = match header.as_str() {
        "impersonate-user" => "users",
        "impersonate-group" => "groups",
        "impersonate-uid" => "uids",
        _ => "userextras",
    };
    let whom = String::from_utf8_lossy(value.as_bytes());
    let why = format!(
        "{resource} {whom:?} is forbidden: User {:?} cannot impersonate resource {resource:?} in API group \"\" at the \
         cluster scope",
        user.name
    );
    Err(Status::failure(403, "Forbidden", why))
}

/// What must hold of the stored or sent object for the request to be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Nothing.
    None,
    /// The object that is sent has this name.
    Named(String),
    /// The stored Pod is bound to this node.
    BoundTo(String),
    /// A Pod that is bound to this node names the object.
    NamedByPodsOf(String),
    /// The token that is asked for is bound to a Pod that is bound to this node.
    TokenForPodOf(String),
}

/// A request, as far as authorization is concerned.
pub(crate) struct Asked<'a> {
    pub(crate) user: &'a User,
    pub(crate) verb: &'static str,
    pub(crate) target: &'a Target,
    /// `fieldSelector` of a list or a watch, as it was sent; else empty.
    pub(crate) fields: &'a str,
}

/// Decides on a request for objects.
///
/// # Errors
/// 403 in Kubernetes' words.
pub(crate) fn authorize(asked: &Asked<'_>) -> Result<Guard, Status> {
    let Target { resource, namespace, name, subresource } = asked.target;
    let attributes = Attributes {
        verb: asked.verb,
        group: resource.group,
        resource: resource.plural,
        subresource,
        namespace,
        name,
        fields: asked.fields,
    };
    decide(asked.user, &attributes).ok_or_else(|| asked.forbidden(""))
}

/// Decides on a request for anything else: discovery, schemas, metrics.
pub(crate) fn authorize_path(user: &User, verb: &str, path: &str) -> Result<(), Status> {
    if roles(user).any(|role| role.allows_path(verb, path)) {
        return Ok(());
    }
    let message = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
    Err(Status::failure(403, "Forbidden", message))
}

/// Decides on a join.
pub(crate) fn authorize_join(user: &User) -> Result<(), Status> {
    if user.is_in(join::BOOTSTRAPPERS) || user.is_in(join::MASTERS) {
        return Ok(());
    }
    authorize_path(user, "post", join::JOIN_PATH)
}

/// What must hold of the object for the user to do this; None: it may not.
pub(crate) fn decide(user: &User, asked: &Attributes<'_>) -> Option<Guard> {
    let mut found = None;
    for rule in roles(user).flat_map(|role| &role.rules) {
        match rule.allows(user, asked) {
            Some(Guard::None) => return Some(Guard::None),
            guard => found = found.or(guard),
        }
    }
    found
}

/// Whether the stored Pod is bound to this node; None: there is no such Pod.
pub(crate) fn is_bound_to(view: &dyn Read, storage_key: &str, node: &str) -> Option<bool> {
    let stored = view.get(storage_key)?;
    let pod: Option<Value> = serde_json::from_slice(&stored.value).ok();
    Some(pod?.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node))
}

/// Whether a Pod that is bound to this node names a ConfigMap or a Secret.
///
/// Source: kubernetes `plugin/pkg/auth/authorizer/node`, which keeps a graph of it. Here each question reads the Pods of the
/// namespace; but of those only the few are decoded in whose bytes both names are found.
pub(crate) fn is_named_by_pods_of(
    view: &dyn Read,
    plural: &str,
    namespace: &str,
    name: &str,
    node: &str,
) -> bool {
    let (of_name, of_node) = (memmem::Finder::new(name), memmem::Finder::new(node));
    let names = |pod: &Pod| {
        let References { config_maps, secrets } = references(pod);
        let names = if plural == CONFIG_MAPS.plural { config_maps } else { secrets };
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node) && names.contains(name)
    };
    let mut found = false;
    if !namespace.is_empty() && !name.is_empty() {
        view.scan(&PODS.storage_prefix(Some(namespace)), None, &mut |_, stored| {
            let bytes = &stored.value;
            found = of_name.find(bytes).is_some()
                && of_node.find(bytes).is_some()
                && serde_json::from_slice::<Pod>(bytes).is_ok_and(|pod| names(&pod));
            !found
        });
    }
    found
}

impl Asked<'_> {
    fn forbidden(&self, detail: &str) -> Status {
        let Target { resource, namespace, name, subresource } = self.target;
        let sub = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
        let place = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {namespace:?}")
        };
        let why = format!(
            "User {:?} cannot {} resource \"{}{sub}\" in API group {:?} {place}{detail}",
            self.user.name, self.verb, resource.plural, resource.group
        );
        Status::forbidden(resource, name, &why)
    }

    /// Checks what only the writer can: the stored object and the one that is sent.
    ///
    /// # Errors
    /// 403 in Kubernetes' words.
    pub(crate) fn check(&self, guard: &Guard, view: &dyn Read, sent: Option<&Value>) -> Result<(), Status> {
        match guard {
            Guard::None => Ok(()),
            Guard::Named(wanted) => {
                let name = sent.and_then(|sent| sent.pointer("/metadata/name")).and_then(Value::as_str);
                if name == Some(wanted) {
                    return Ok(());
                }
                Err(self.forbidden(&format!(": node {wanted:?} can only write objects of its own name")))
            }
            Guard::BoundTo(node) => {
                let key = ObjectKey::new(&*self.target.namespace, &*self.target.name);
                // What is not there is answered by the registry, as for everybody.
                if is_bound_to(view, &self.target.resource.storage_key(&key), node).unwrap_or(true) {
                    return Ok(());
                }
                Err(self.forbidden(&format!(": node {node:?} can only write pods that are bound to it")))
            }
            Guard::TokenForPodOf(node) => self.check_token(node, view, sent),
            Guard::NamedByPodsOf(node) => {
                let Target { resource, namespace, name, .. } = self.target;
                if is_named_by_pods_of(view, resource.plural, namespace, name, node) {
                    return Ok(());
                }
                Err(self.forbidden(&format!(": no relationship found between node '{node}' and this object")))
            }
        }
    }
}

impl Asked<'_> {
    /// Source: kubernetes `plugin/pkg/admission/noderestriction` (`admitServiceAccount`).
    fn check_token(&self, node: &str, view: &dyn Read, sent: Option<&Value>) -> Result<(), Status> {
        let to = sent.and_then(|sent| sent.pointer("/spec/boundObjectRef"));
        let said = |field: &str| to.and_then(|to| to.get(field)).and_then(Value::as_str).unwrap_or_default();
        let why = if (said("kind"), said("apiVersion")) != ("Pod", "v1") || said("name").is_empty() {
            "node requested token not bound to a pod"
        } else if said("uid").is_empty() {
            "node requested token with a pod binding without a uid"
        } else {
            let key = ObjectKey::new(&*self.target.namespace, said("name"));
            // What is not there, or is another, is answered by the registry, as for everybody.
            match is_bound_to(view, &PODS.storage_key(&key), node) {
                Some(false) => "node requested token bound to a pod scheduled on a different node",
                Some(true) | None => return Ok(()),
            }
        };
        Err(self.forbidden(&format!(": {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::{Route, parse};

    fn decide(user: &User, verb: &'static str, path: &str) -> Result<Guard, String> {
        let bare = path.split('?').next().unwrap_or_default();
        let Ok(Route::Resource(target)) = parse(bare) else { return Err(format!("no path {path}")) };
        let (_, fields) = path.split_once("?fieldSelector=").unwrap_or_default();
        authorize(&Asked { user, verb, target: &target, fields }).map_err(|status| status.message)
    }

    #[test]
    fn nodes_read_what_they_need_and_write_only_their_own() {
        let node = User::new("system:node:n1", join::NODES);
        let own = Ok(Guard::None);
        for path in ["/api/v1/services", "/api/v1/pods", "/api/v1/nodes/n2"] {
            assert_eq!(decide(&node, if path.matches('/').count() > 3 { "get" } else { "watch" }, path), own);
        }
        for path in ["/api/v1/namespaces/a/secrets/x", "/api/v1/namespaces/a/configmaps/x"] {
            assert_eq!(decide(&node, "get", path), Ok(Guard::NamedByPodsOf("n1".into())));
        }
        for fields in ["type=kubernetes.io/tls", "metadata.namespace=a,type==kubernetes.io/tls"] {
            assert_eq!(decide(&node, "watch", &format!("/api/v1/secrets?fieldSelector={fields}")), own);
        }
        let token = "/api/v1/namespaces/a/serviceaccounts/x/token";
        assert_eq!(decide(&node, "create", token), Ok(Guard::TokenForPodOf("n1".into())));
        assert_eq!(decide(&node, "patch", "/api/v1/nodes/n1/status"), own);
        assert_eq!(decide(&node, "create", "/api/v1/nodes"), Ok(Guard::Named("n1".into())));
        let pods = "/api/v1/namespaces/a/pods/x";
        assert_eq!(decide(&node, "patch", &format!("{pods}/status")), Ok(Guard::BoundTo("n1".into())));
        assert_eq!(decide(&node, "delete", pods), Ok(Guard::BoundTo("n1".into())));
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
        assert_eq!(decide(&node, "update", lease), own);
        assert_eq!(decide(&node, "create", "/api/v1/namespaces/a/events"), own);
        for (verb, path) in [
            ("patch", "/api/v1/nodes/n2/status"),
            ("delete", "/api/v1/nodes/n1"),
            ("create", "/api/v1/namespaces/a/pods"),
            ("update", pods),
            ("create", "/api/v1/namespaces/a/pods/x/binding"),
            ("get", "/api/v1/namespaces/a/pods/x/exec"),
            ("get", "/api/v1/namespaces/a/pods/x/attach"),
            ("create", "/api/v1/namespaces/a/pods/x/portforward"),
            ("get", "/api/v1/namespaces/a/pods/x/proxy/y"),
            ("get", "/api/v1/namespaces/a/services/x/proxy"),
            ("get", "/api/v1/nodes/n1/proxy/healthz"),
            ("", "/api/v1/namespaces/a/pods/x/proxy"),
            ("update", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2"),
            ("update", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/n1"),
            ("create", "/api/v1/namespaces/a/services"),
            ("update", "/api/v1/namespaces/a/services/x/status"),
            ("deletecollection", "/api/v1/namespaces/a/pods"),
            ("list", "/api/v1/secrets"),
            ("watch", "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name=x"),
            ("list", "/api/v1/secrets?fieldSelector=type!=kubernetes.io/tls"),
            ("list", "/api/v1/secrets?fieldSelector=metadata.namespace!=a\\,type=kubernetes.io/tls"),
            ("list", "/api/v1/namespaces/a/configmaps"),
            ("watch", "/api/v1/configmaps?fieldSelector=type=kubernetes.io/tls"),
        ] {
            assert!(decide(&node, verb, path).is_err(), "{verb} {path}");
        }
    }

    #[test]
    fn refusals_are_kubernetes_words() {
        let nobody = User::new("jane", "developers");
        assert_eq!(
            decide(&nobody, "list", "/api/v1/namespaces/default/pods"),
            Err(r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
                .to_owned())
        );
        assert_eq!(
            decide(&nobody, "get", "/api/v1/nodes/n1"),
            Err(r#"nodes "n1" is forbidden: User "jane" cannot get resource "nodes" in API group "" at the cluster scope"#
                .to_owned())
        );
        // A name alone makes no node: the organisation is what the CA vouches for.
        assert!(decide(&User::new("system:node:n1", "developers"), "list", "/api/v1/pods").is_err());
    }

    #[test]
    fn viewers_read_all_but_secrets_and_open_nothing() {
        let viewer = User::new(join::VIEWER, join::VIEWERS);
        for path in ["/api/v1/namespaces/a/pods", "/api/v1/nodes", "/api/v1/namespaces/a/configmaps"] {
            for verb in ["list", "watch"] {
                assert_eq!(decide(&viewer, verb, path), Ok(Guard::None), "{verb} {path}");
            }
            for verb in ["create", "deletecollection"] {
                assert!(decide(&viewer, verb, path).is_err(), "{verb} {path}");
            }
        }
        let pod = "/api/v1/namespaces/a/pods/x";
        for (verb, subresource, may) in [
            ("get", "", true),
            ("get", "/status", true),
            ("get", "/log", true),
            ("get", "/exec", false),
            ("create", "/exec", false),
            ("get", "/attach", false),
            ("get", "/portforward", false),
            ("create", "/binding", false),
            ("create", "/eviction", false),
            ("patch", "/status", false),
            ("update", "", false),
            ("patch", "", false),
            ("delete", "", false),
        ] {
            assert_eq!(
                decide(&viewer, verb, &format!("{pod}{subresource}")).is_ok(),
                may,
                "{verb} {subresource}"
            );
        }
        let secrets = decide(&viewer, "list", "/api/v1/namespaces/a/secrets");
        assert_eq!(
            secrets,
            Err(r#"secrets is forbidden: User "minisvc:viewer" cannot list resource "secrets" in API group "" in the namespace "a""#
                .to_owned())
        );
        assert!(decide(&viewer, "create", "/api/v1/namespaces/a/serviceaccounts/x/token").is_err());
        assert!(authorize_path(&viewer, "get", "/metrics").is_err());
    }

    #[test]
    fn whoever_has_proved_who_they_are_discovers_and_asks_about_themselves() {
        let account = User::new("system:serviceaccount:a:default", "system:serviceaccounts");
        for path in ["/api", "/apis/apps/v1", "/openapi/v3", "/version"] {
            assert_eq!(authorize_path(&account, "get", path), Ok(()));
            assert!(authorize_path(&account, "post", path).is_err());
        }
        let refused = authorize_path(&account, "get", "/metrics").unwrap_err().message;
        let words = r#"forbidden: User "system:serviceaccount:a:default" cannot get path "/metrics""#;
        assert_eq!(refused, words);
        let own = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        assert_eq!(decide(&account, "create", own), Ok(Guard::None));
        for path in ["/apis/authorization.k8s.io/v1/subjectaccessreviews", "/api/v1/namespaces/a/pods"] {
            assert!(decide(&account, "create", path).is_err(), "{path}");
        }
        assert!(decide(&account, "list", "/api/v1/namespaces/a/pods").is_err());
    }
}
