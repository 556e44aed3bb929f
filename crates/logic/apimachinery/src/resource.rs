//! The kinds that minisvc serves, as one table.
//!
//! In: a group, version and plural from a URL, or a kind from a manifest. Out: the [`Resource`] row, from
//! which paths, storage keys and discovery documents follow.
//!
//! Invariant: a kind is served if and only if it has a row here; [`RESOURCES`] are the kinds that are stored,
//! [`REVIEWS`] those that are only answered.

use std::fmt;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectKey {
    /// Names an object of a namespaced kind.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Names an object of a cluster-scoped kind.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self::new("", name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One row of the table: how a kind is named, where it is served, what can be done with it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// API version, such as `v1`.
    pub version: &'static str,
    /// Kind, such as `Service`.
    pub kind: &'static str,
    /// Plural as in URLs, such as `services`.
    pub plural: &'static str,
    /// Singular as kubectl takes it, such as `service`.
    pub singular: &'static str,
    /// Short names as kubectl takes them, such as `svc`.
    pub short_names: &'static [&'static str],
    /// Categories, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Subresources that take get, update and patch, such as `status`.
    pub subresources: &'static [&'static str],
    /// What can be done with objects of this kind, as discovery names it.
    pub verbs: &'static [&'static str],
    /// The kind in whose form the objects are stored, if they are served by another API too ([`crate::convert`]).
    pub stored_as: Option<&'static Resource>,
}

/// Verbs of every kind that is stored, as discovery names them.
pub const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Resource {
    /// `v1` or `group/version`, as in `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `services` or `endpointslices.discovery.k8s.io`: the name Kubernetes prints in messages.
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `service` or `endpointslice.discovery.k8s.io`: the prefix of `-o name`.
    pub fn qualified_singular(&self) -> String {
        if self.group.is_empty() {
            self.singular.to_owned()
        } else {
            format!("{}.{}", self.singular, self.group)
        }
    }

    /// The kind in whose form objects of this kind are stored, which may be itself.
    pub fn stored(&'static self) -> &'static Resource {
        self.stored_as.unwrap_or(self)
    }

    /// Prefix of the storage keys of this kind, of one namespace if one is given; ends with a slash.
    pub fn storage_prefix(&self, namespace: Option<&str>) -> String {
        let kind = self.stored_as.unwrap_or(self).qualified_plural();
        match namespace {
            Some(namespace) if self.namespaced => format!("{kind}/{namespace}/"),
            _ => format!("{kind}/"),
        }
    }

    /// Storage key of one object.
    pub fn storage_key(&self, key: &ObjectKey) -> String {
        let kind = self.stored_as.unwrap_or(self).qualified_plural();
        if self.namespaced {
            format!("{kind}/{}/{}", key.namespace, key.name)
        } else {
            format!("{kind}/{}", key.name)
        }
    }

    /// URL path of the collection, or of one object if a name is given.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let (true, Some(namespace)) = (self.namespaced, namespace) {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}

const fn core(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    namespaced: bool,
) -> Resource {
    Resource {
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
        categories: &[],
        namespaced,
        subresources: &[],
        verbs: VERBS,
        stored_as: None,
    }
}

const fn workload(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> Resource {
    Resource {
        group: "apps",
        categories: &["all"],
        subresources: &["status", "scale"],
        ..core(kind, plural, singular, short_names, true)
    }
}

/// v1 Namespace.
pub static NAMESPACES: Resource = Resource {
    subresources: &["status", "finalize"],
    ..core("Namespace", "namespaces", "namespace", &["ns"], false)
};
/// v1 Node.
pub static NODES: Resource =
    Resource { subresources: &["status"], ..core("Node", "nodes", "node", &["no"], false) };
/// v1 Pod.
pub static PODS: Resource = Resource {
    categories: &["all"],
    subresources: &["status", "binding", "eviction"],
    ..core("Pod", "pods", "pod", &["po"], true)
};
/// v1 Service.
pub static SERVICES: Resource = Resource {
    categories: &["all"],
    subresources: &["status"],
    ..core("Service", "services", "service", &["svc"], true)
};
/// v1 Endpoints.
pub static ENDPOINTS: Resource = core("Endpoints", "endpoints", "endpoints", &["ep"], true);
/// v1 Event.
pub static EVENTS: Resource = core("Event", "events", "event", &["ev"], true);
/// events.k8s.io/v1 Event: the same objects as [`EVENTS`], in newer words.
pub static EVENTS_K8S_IO: Resource = Resource {
    group: "events.k8s.io",
    stored_as: Some(&EVENTS),
    ..core("Event", "events", "event", &["ev"], true)
};
/// v1 Secret.
pub static SECRETS: Resource = core("Secret", "secrets", "secret", &[], true);
/// v1 ConfigMap.
pub static CONFIG_MAPS: Resource = core("ConfigMap", "configmaps", "configmap", &["cm"], true);
/// v1 ServiceAccount.
pub static SERVICE_ACCOUNTS: Resource = Resource {
    subresources: &["token"],
    ..core("ServiceAccount", "serviceaccounts", "serviceaccount", &["sa"], true)
};
/// discovery.k8s.io/v1 EndpointSlice.
pub static ENDPOINT_SLICES: Resource = Resource {
    group: "discovery.k8s.io",
    ..core("EndpointSlice", "endpointslices", "endpointslice", &[], true)
};
/// networking.k8s.io/v1 Ingress.
pub static INGRESSES: Resource = Resource {
    group: "networking.k8s.io",
    subresources: &["status"],
    ..core("Ingress", "ingresses", "ingress", &["ing"], true)
};
/// networking.k8s.io/v1 IngressClass.
pub static INGRESS_CLASSES: Resource = Resource {
    group: "networking.k8s.io",
    ..core("IngressClass", "ingressclasses", "ingressclass", &[], false)
};
/// apps/v1 Deployment.
pub static DEPLOYMENTS: Resource = workload("Deployment", "deployments", "deployment", &["deploy"]);
/// apps/v1 ReplicaSet.
pub static REPLICA_SETS: Resource = workload("ReplicaSet", "replicasets", "replicaset", &["rs"]);
/// autoscaling/v1 Scale: what the subresource `scale` is read and written as; stored nowhere.
pub static SCALE: Resource =
    Resource { group: "autoscaling", verbs: &[], ..core("Scale", "scales", "scale", &[], true) };
/// networking.k8s.io/v1 IPAddress.
pub static IP_ADDRESSES: Resource =
    Resource { group: "networking.k8s.io", ..core("IPAddress", "ipaddresses", "ipaddress", &["ip"], false) };
/// networking.k8s.io/v1 ServiceCIDR.
pub static SERVICE_CIDRS: Resource = Resource {
    group: "networking.k8s.io",
    subresources: &["status"],
    ..core("ServiceCIDR", "servicecidrs", "servicecidr", &[], false)
};
/// coordination.k8s.io/v1 Lease.
pub static LEASES: Resource =
    Resource { group: "coordination.k8s.io", ..core("Lease", "leases", "lease", &[], true) };

/// Every kind that is stored, core group first; those that are stored as another one too.
pub static RESOURCES: &[&Resource] = &[
    &CONFIG_MAPS,
    &ENDPOINTS,
    &EVENTS,
    &NAMESPACES,
    &NODES,
    &PODS,
    &SECRETS,
    &SERVICE_ACCOUNTS,
    &SERVICES,
    &DEPLOYMENTS,
    &REPLICA_SETS,
    &LEASES,
    &ENDPOINT_SLICES,
    &EVENTS_K8S_IO,
    &INGRESS_CLASSES,
    &INGRESSES,
    &IP_ADDRESSES,
    &SERVICE_CIDRS,
];

const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    namespaced: bool,
) -> Resource {
    Resource { group, verbs: &["create"], ..core(kind, plural, singular, &[], namespaced) }
}

/// What is POSTed to `serviceaccounts/NAME/token`; has no collection.
pub static TOKEN_REQUESTS: Resource =
    review("authentication.k8s.io", "TokenRequest", "tokenrequests", "tokenrequest", true);

/// Questions that are answered and not stored: create is their only verb.
pub static REVIEWS: &[&Resource] = &[
    &review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", false),
    &review("authentication.k8s.io", "TokenReview", "tokenreviews", "tokenreview", false),
    &review(
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        true,
    ),
    &review(
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        false,
    ),
    &review(
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        false,
    ),
    &review(
        "authorization.k8s.io",
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
        false,
    ),
];

/// Every kind that is served, stored or not.
pub fn served() -> impl Iterator<Item = &'static Resource> {
    RESOURCES.iter().chain(REVIEWS).copied()
}

/// The row of a group, version and plural from a URL.
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    served().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The row of an `apiVersion` and `kind` from a manifest.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    served().find(|r| r.group == group && r.version == version && r.kind == kind)
}

/// The row of what a person types: plural, singular, short name, kind in any case, or `plural.group`.
pub fn by_alias(word: &str) -> Option<&'static Resource> {
    let word = word.to_ascii_lowercase();
    let (name, group) = match word.split_once('.') {
        Some((name, group)) => (name, Some(group)),
        None => (word.as_str(), None),
    };
    RESOURCES.iter().copied().find(|r| {
        group.is_none_or(|group| group == r.group || group == format!("{}.{}", r.version, r.group))
            && (r.plural == name
                || r.singular == name
                || r.short_names.contains(&name)
                || r.kind.eq_ignore_ascii_case(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_keys_follow_from_the_row() {
        let key = ObjectKey::new("default", "web");
        assert_eq!(SERVICES.storage_key(&key), "services/default/web");
        assert_eq!(ENDPOINT_SLICES.storage_prefix(None), "endpointslices.discovery.k8s.io/");
        assert_eq!(
            INGRESSES.path(Some("default"), Some("web")),
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses/web"
        );
        assert_eq!(EVENTS_K8S_IO.storage_key(&key), EVENTS.storage_key(&key));
        assert_eq!(NODES.path(None, Some("node1")), "/api/v1/nodes/node1");
    }

    #[test]
    fn people_find_kinds_by_any_of_their_names() {
        for word in ["svc", "service", "services", "Service"] {
            assert_eq!(by_alias(word), Some(&SERVICES));
        }
        assert_eq!(by_alias("ingresses.networking.k8s.io"), Some(&INGRESSES));
        assert_eq!(by_alias("services.apps"), None);
    }
}
