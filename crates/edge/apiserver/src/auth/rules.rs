//! The built-in roles as rules, in the words of Kubernetes' RBAC.
//!
//! In: a user. Out: the rules that hold for it, which requests, reviews and `kubectl auth can-i --list` all read.
//!
//! Invariant: what no rule allows is forbidden; there are no rules that deny.

use super::{Guard, User, tokens::ACCOUNTS};
use minisvc_apimachinery::{
    join,
    resource::{self, RESOURCES, SECRETS},
    selector::FieldSelector,
};
use minisvc_registry::AccountRole;
use std::{collections::BTreeMap, sync::LazyLock};

/// Type of the Secrets that Ingresses name.
const CERTIFICATE: &str = "kubernetes.io/tls";
/// Namespace of the nodes' Leases.
const NODE_LEASES: &str = "kube-node-lease";
const ANY: &str = "*";
const READ: &[&str] = &["get", "list", "watch"];
/// Kubernetes' `system:discovery`.
const DISCOVERY: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];

/// Where the issuer of tokens says of itself where its keys are.
pub(crate) const ISSUER_PATHS: [&str; 2] =
    ["/.well-known/openid-configuration", "/.well-known/openid-configuration/"];
/// The keys by which tokens are verified.
pub(crate) const KEY_SET_PATHS: [&str; 2] = ["/openid/v1/jwks", "/openid/v1/jwks/"];

/// What is asked for, as rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    /// Plural.
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// `fieldSelector` of a list or a watch, as it was sent.
    pub(crate) fields: &'a str,
}

/// What a rule's objects have in common beyond their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    None,
    /// They are named as the node that asks.
    OwnName,
    /// They are Pods bound to the node that asks.
    Bound,
    /// They are named by Pods that are bound to the node that asks.
    Named,
    /// They are tokens for Pods that are bound to the node that asks.
    ForBound,
    /// They are Secrets that hold certificates, asked for by their type.
    Certificates,
}

/// What is allowed.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) verbs: &'static [&'static str],
    pub(crate) group: &'static str,
    /// Plurals, subresources as `pods/log`.
    pub(crate) resources: Vec<String>,
    /// Empty: all of them.
    pub(crate) namespace: &'static str,
    pub(crate) limit: Limit,
}

impl Rule {
    fn new(verbs: &'static [&'static str], group: &'static str, resources: &[&str]) -> Self {
        let resources = resources.iter().map(|name| (*name).to_owned()).collect();
        Self { verbs, group, resources, namespace: "", limit: Limit::None }
    }

    fn limited(self, limit: Limit) -> Self {
        Self { limit, ..self }
    }

    fn names(&self, asked: &Attributes<'_>) -> bool {
        self.resources.iter().any(|resource| {
            let rest = resource.strip_prefix(asked.resource);
            let same = match asked.subresource {
                "" => rest == Some(""),
                subresource => rest.and_then(|rest| rest.strip_prefix('/')) == Some(subresource),
            };
            resource == ANY || same
        })
    }

    /// What must hold of the object if this rule allows the request; None: it does not.
    pub(crate) fn allows(&self, user: &User, asked: &Attributes<'_>) -> Option<Guard> {
        let verb = self.verbs.iter().any(|verb| *verb == ANY || *verb == asked.verb);
        let group = self.group == ANY || self.group == asked.group;
        let namespace = self.namespace.is_empty() || self.namespace == asked.namespace;
        if !(verb && group && namespace && self.names(asked)) {
            return None;
        }
        match (self.limit, user.node()) {
            (Limit::None, _) => Some(Guard::None),
            (Limit::OwnName, Some(node)) if asked.verb == "create" => {
                (asked.name.is_empty() || asked.name == node).then(|| Guard::Named(node.to_owned()))
            }
            (Limit::OwnName, Some(node)) => (asked.name == node).then_some(Guard::None),
            (Limit::Bound, Some(node)) => Some(Guard::BoundTo(node.to_owned())),
            (Limit::Named, Some(node)) => Some(Guard::NamedByPodsOf(node.to_owned())),
            (Limit::ForBound, Some(node)) => Some(Guard::TokenForPodOf(node.to_owned())),
            (Limit::Certificates, Some(_)) => {
                let fields = FieldSelector::parse(asked.fields, &SECRETS).ok()?;
                (fields.exact("type") == Some(CERTIFICATE)).then_some(Guard::None)
            }
            (_, None) => None,
        }
    }
}

/// Rules, and the paths outside of the API's objects that may be read.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) rules: Vec<Rule>,
    pub(crate) path_verbs: &'static [&'static str],
    pub(crate) paths: &'static [&'static str],
}

impl Role {
    /// Whether a path that names no objects is allowed.
    pub(crate) fn allows_path(&self, verb: &str, path: &str) -> bool {
        let matches = |pattern: &&str| match pattern.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == *pattern,
        };
        self.path_verbs.iter().any(|allowed| *allowed == ANY || *allowed == verb)
            && self.paths.iter().any(matches)
    }
}

/// Kubernetes' `cluster-admin`.
static ADMIN: LazyLock<Role> =
    LazyLock::new(|| Role { rules: vec![Rule::new(&[ANY], ANY, &[ANY])], path_verbs: &[ANY], paths: &[ANY] });

/// Kubernetes' `system:discovery` and `system:basic-user`: whoever has proved who they are.
static AUTHENTICATED: LazyLock<Role> = LazyLock::new(|| Role {
    rules: vec![
        Rule::new(
            &["create"],
            "authorization.k8s.io",
            &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        ),
        Rule::new(&["create"], "authentication.k8s.io", &["selfsubjectreviews"]),
    ],
    path_verbs: &["get"],
    paths: DISCOVERY,
});

/// Kubernetes' `view`, for every kind that is served: reads all but Secrets; opens nothing in a Pod.
static VIEW: LazyLock<Role> = LazyLock::new(|| {
    let mut groups: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for kind in RESOURCES.iter().filter(|kind| **kind != &SECRETS) {
        let found = groups.entry(kind.group).or_default();
        found.push(kind.plural.to_owned());
        let readable = kind.subresources.iter().filter(|name| matches!(**name, "status" | "scale"));
        found.extend(readable.map(|name| format!("{}/{name}", kind.plural)));
        if **kind == resource::PODS {
            found.push("pods/log".to_owned());
        }
    }
    let rule = |(group, resources)| Rule { resources, ..Rule::new(READ, group, &[]) };
    Role { rules: groups.into_iter().map(rule).collect(), path_verbs: &[], paths: &[] }
});

/// Kubernetes' `system:node` with what its node authorizer and NodeRestriction add.
static NODE: LazyLock<Role> = LazyLock::new(|| {
    let readable = ["namespaces", "nodes", "pods", "services"];
    let leases = |verbs| Rule {
        namespace: NODE_LEASES,
        limit: Limit::OwnName,
        ..Rule::new(verbs, "coordination.k8s.io", &["leases"])
    };
    Role {
        rules: vec![
            Rule::new(READ, "", &readable),
            Rule::new(&["get"], "", &["configmaps", "secrets"]).limited(Limit::Named),
            Rule::new(&["create"], "", &["serviceaccounts/token"]).limited(Limit::ForBound),
            // Each node is a way in for every Ingress.
            Rule::new(&["list", "watch"], "", &["secrets"]).limited(Limit::Certificates),
            Rule::new(READ, "discovery.k8s.io", &["endpointslices"]),
            Rule::new(READ, "networking.k8s.io", &["ingresses", "ingressclasses", "servicecidrs"]),
            Rule::new(READ, "coordination.k8s.io", &["leases"]),
            Rule::new(&["create"], "", &["nodes"]).limited(Limit::OwnName),
            Rule::new(&["get", "patch", "update"], "", &["nodes", "nodes/status"]).limited(Limit::OwnName),
            Rule::new(&["get", "patch", "update"], "", &["pods/status"]).limited(Limit::Bound),
            Rule::new(&["delete"], "", &["pods"]).limited(Limit::Bound),
            leases(&["create"]),
            leases(&["patch", "update"]),
            Rule::new(&["create", "patch", "update"], "", &["events"]),
        ],
        path_verbs: &[],
        paths: &[],
    }
});

/// Kubernetes' `system:service-account-issuer-discovery`: how to verify tokens of ServiceAccounts.
static ISSUER_DISCOVERY: LazyLock<Role> = LazyLock::new(|| Role {
    rules: Vec::new(),
    path_verbs: &["get"],
    paths: &[ISSUER_PATHS[0], ISSUER_PATHS[1], KEY_SET_PATHS[0], KEY_SET_PATHS[1]],
});

/// The roles that a user has by its groups, and by what a ServiceAccount was given.
pub(crate) fn roles(user: &User) -> impl Iterator<Item = &'static Role> {
    let held = [
        (user.is_in(join::MASTERS) || user.role == Some(AccountRole::Admin), &ADMIN),
        (user.node().is_some(), &NODE),
        (user.is_in(join::VIEWERS) || user.role == Some(AccountRole::View), &VIEW),
        (user.is_in(ACCOUNTS), &ISSUER_DISCOVERY),
        (user.is_in(join::AUTHENTICATED), &AUTHENTICATED),
    ];
    held.into_iter().filter(|(held, _)| *held).map(|(_, role)| &**role)
}
