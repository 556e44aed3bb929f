//! How lists and maps merge: the extensions that k8s-openapi's schemas leave out.
//!
//! Source: the `+listType`, `+listMapKey`, `+structType` and `patchStrategy` markers of Kubernetes 1.33's types
//! (k8s.io/api, k8s.io/apimachinery). A list that is not named here is replaced as a whole.

use anyhow::Context;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Schema and field names that no document has used yet.
pub type Fields = BTreeSet<(&'static str, &'static str)>;

enum Merge {
    /// List replaced as a whole.
    Atomic,
    /// List of distinct scalars; strategic merge patches replace it.
    Set,
    /// List of distinct scalars that strategic merge patches merge.
    MergedSet,
    /// List of objects with these keys; strategic merge patches merge it by the first.
    Keyed(&'static [&'static str]),
    /// As `Keyed`, and a patch may name which fields of an item to keep.
    RetainKeys(&'static [&'static str]),
    /// As `Keyed` for server-side apply only.
    AppliedByKey(&'static [&'static str]),
    /// Atomic for server-side apply, merged by this key in strategic merge patches.
    AtomicMergedBy(&'static str),
    /// Map or object replaced as a whole.
    AtomicMap,
}
use Merge::*;

const CORE: &str = "io.k8s.api.core.v1.";

/// Fields whose merging Kubernetes declares. A schema without a dot is one of the core group.
const FIELDS: &[(&str, &[(&str, Merge)])] = &[
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        &[("finalizers", MergedSet), ("managedFields", Atomic), ("ownerReferences", Keyed(&["uid"]))],
    ),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", &[("dryRun", Atomic)]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector", &[("matchExpressions", Atomic)]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelectorRequirement", &[("values", Atomic)]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.StatusDetails", &[("causes", Atomic)]),
    (
        "ServiceSpec",
        &[
            ("clusterIPs", Atomic),
            ("externalIPs", Atomic),
            ("ipFamilies", Atomic),
            ("loadBalancerSourceRanges", Atomic),
            ("ports", Keyed(&["port", "protocol"])),
            ("selector", AtomicMap),
        ],
    ),
    ("ServiceStatus", &[("conditions", Keyed(&["type"]))]),
    ("LoadBalancerStatus", &[("ingress", Atomic)]),
    ("LoadBalancerIngress", &[("ports", Atomic)]),
    ("Endpoints", &[("subsets", Atomic)]),
    ("EndpointSubset", &[("addresses", Atomic), ("notReadyAddresses", Atomic), ("ports", Atomic)]),
    ("ServiceAccount", &[("imagePullSecrets", Atomic), ("secrets", Keyed(&["name"]))]),
    ("NamespaceSpec", &[("finalizers", Atomic)]),
    ("NamespaceStatus", &[("conditions", Keyed(&["type"]))]),
    ("NodeSpec", &[("podCIDRs", MergedSet), ("taints", Atomic)]),
    (
        "NodeStatus",
        &[
            ("addresses", Keyed(&["type"])),
            ("conditions", Keyed(&["type"])),
            ("images", Atomic),
            ("runtimeHandlers", Atomic),
            ("volumesAttached", Atomic),
            ("volumesInUse", Atomic),
        ],
    ),
    ("ContainerImage", &[("names", Atomic)]),
    ("NodeSelector", &[("nodeSelectorTerms", Atomic)]),
    ("NodeSelectorTerm", &[("matchExpressions", Atomic), ("matchFields", Atomic)]),
    ("NodeSelectorRequirement", &[("values", Atomic)]),
    (
        "PodSpec",
        &[
            ("containers", Keyed(&["name"])),
            ("ephemeralContainers", Keyed(&["name"])),
            ("hostAliases", Keyed(&["ip"])),
            ("imagePullSecrets", Keyed(&["name"])),
            ("initContainers", Keyed(&["name"])),
            ("nodeSelector", AtomicMap),
            ("readinessGates", Atomic),
            ("resourceClaims", RetainKeys(&["name"])),
            ("schedulingGates", Keyed(&["name"])),
            ("tolerations", Atomic),
            ("topologySpreadConstraints", Keyed(&["topologyKey", "whenUnsatisfiable"])),
            ("volumes", RetainKeys(&["name"])),
        ],
    ),
    (
        "PodStatus",
        &[
            ("conditions", Keyed(&["type"])),
            ("containerStatuses", Atomic),
            ("ephemeralContainerStatuses", Atomic),
            ("hostIPs", AtomicMergedBy("ip")),
            ("initContainerStatuses", Atomic),
            ("podIPs", Keyed(&["ip"])),
            ("resourceClaimStatuses", RetainKeys(&["name"])),
        ],
    ),
    ("Container", CONTAINER),
    ("EphemeralContainer", CONTAINER),
    (
        "ContainerStatus",
        &[("allocatedResourcesStatus", Keyed(&["name"])), ("volumeMounts", Keyed(&["mountPath"]))],
    ),
    ("LinuxContainerUser", &[("supplementalGroups", Atomic)]),
    ("ResourceStatus", &[("resources", AppliedByKey(&["resourceID"]))]),
    ("ResourceRequirements", &[("claims", AppliedByKey(&["name"]))]),
    ("ExecAction", &[("command", Atomic)]),
    ("HTTPGetAction", &[("httpHeaders", Atomic)]),
    ("Capabilities", &[("add", Atomic), ("drop", Atomic)]),
    ("PodSecurityContext", &[("supplementalGroups", Atomic), ("sysctls", Atomic)]),
    ("PodDNSConfig", &[("nameservers", Atomic), ("options", Atomic), ("searches", Atomic)]),
    ("NodeAffinity", &[("preferredDuringSchedulingIgnoredDuringExecution", Atomic)]),
    ("PodAffinity", AFFINITY),
    ("PodAntiAffinity", AFFINITY),
    ("PodAffinityTerm", &[("matchLabelKeys", Atomic), ("mismatchLabelKeys", Atomic), ("namespaces", Atomic)]),
    ("TopologySpreadConstraint", &[("matchLabelKeys", Atomic)]),
    ("ConfigMapVolumeSource", &[("items", Atomic)]),
    ("ConfigMapProjection", &[("items", Atomic)]),
    ("SecretVolumeSource", &[("items", Atomic)]),
    ("SecretProjection", &[("items", Atomic)]),
    ("DownwardAPIVolumeSource", &[("items", Atomic)]),
    ("DownwardAPIProjection", &[("items", Atomic)]),
    ("ProjectedVolumeSource", &[("sources", Atomic)]),
    ("PersistentVolumeClaimSpec", &[("accessModes", Atomic)]),
    ("CephFSVolumeSource", &[("monitors", Atomic)]),
    ("RBDVolumeSource", &[("monitors", Atomic)]),
    ("FCVolumeSource", &[("targetWWNs", Atomic), ("wwids", Atomic)]),
    ("ISCSIVolumeSource", &[("portals", Atomic)]),
    ("io.k8s.api.discovery.v1.EndpointSlice", &[("endpoints", Atomic), ("ports", Atomic)]),
    ("io.k8s.api.discovery.v1.Endpoint", &[("addresses", Set)]),
    ("io.k8s.api.discovery.v1.EndpointHints", &[("forNodes", Atomic), ("forZones", Atomic)]),
    ("io.k8s.api.networking.v1.IngressSpec", &[("rules", Atomic), ("tls", Atomic)]),
    ("io.k8s.api.networking.v1.IngressTLS", &[("hosts", Atomic)]),
    ("io.k8s.api.networking.v1.HTTPIngressRuleValue", &[("paths", Atomic)]),
    ("io.k8s.api.networking.v1.IngressLoadBalancerStatus", &[("ingress", Atomic)]),
    ("io.k8s.api.networking.v1.IngressLoadBalancerIngress", &[("ports", Atomic)]),
];

const CONTAINER: &[(&str, Merge)] = &[
    ("args", Atomic),
    ("command", Atomic),
    ("env", Keyed(&["name"])),
    ("envFrom", Atomic),
    ("ports", Keyed(&["containerPort", "protocol"])),
    ("resizePolicy", Atomic),
    ("volumeDevices", Keyed(&["devicePath"])),
    ("volumeMounts", Keyed(&["mountPath"])),
];

const AFFINITY: &[(&str, Merge)] = &[
    ("preferredDuringSchedulingIgnoredDuringExecution", Atomic),
    ("requiredDuringSchedulingIgnoredDuringExecution", Atomic),
];

/// Schemas whose objects are replaced as a whole by server-side apply.
const ATOMIC_OBJECTS: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.EndpointAddress",
    "io.k8s.api.core.v1.EndpointPort",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.NodeSelectorTerm",
    "io.k8s.api.core.v1.ObjectFieldSelector",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.ResourceFieldSelector",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
    "io.k8s.api.discovery.v1.EndpointPort",
    "io.k8s.api.networking.v1.ServiceBackendPort",
];

/// Keys of list items that have a default, without which items could not be told apart.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "TCP"),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "TCP"),
];

/// Every field of the table.
pub fn fields() -> Fields {
    FIELDS
        .iter()
        .flat_map(|(schema, fields)| fields.iter().map(move |(field, _)| (*schema, *field)))
        .collect()
}

/// Adds the extensions to the schemas of one document, and strikes what was used off `unused`.
///
/// # Errors
/// A schema of the table lacks the field.
pub fn apply(schemas: &mut Map<String, Value>, unused: &mut Fields) -> anyhow::Result<()> {
    for (name, fields) in FIELDS {
        let full = if name.contains('.') { (*name).to_owned() } else { format!("{CORE}{name}") };
        let Some(schema) = schemas.get_mut(&full) else { continue };
        for (field, merge) in *fields {
            let property = property(schema, &full, field)?;
            property.extend(extensions(merge));
            unused.remove(&(*name, *field));
        }
    }
    for name in ATOMIC_OBJECTS {
        if let Some(schema) = schemas.get_mut(*name).and_then(Value::as_object_mut) {
            schema.extend(extensions(&AtomicMap));
        }
    }
    for (name, field, default) in DEFAULTS {
        if let Some(schema) = schemas.get_mut(*name) {
            property(schema, name, field)?.insert("default".to_owned(), json!(default));
        }
    }
    Ok(())
}

fn property<'a>(
    schema: &'a mut Value,
    name: &str,
    field: &str,
) -> anyhow::Result<&'a mut Map<String, Value>> {
    let property = schema.get_mut("properties").and_then(|properties| properties.get_mut(field));
    property.and_then(Value::as_object_mut).with_context(|| format!("{name} has no field {field}"))
}

fn extensions(merge: &Merge) -> Map<String, Value> {
    let list = |kind: &str| ("x-kubernetes-list-type", json!(kind));
    let keys = |keys: &[&str]| ("x-kubernetes-list-map-keys", json!(keys));
    let strategy = |words: &str| ("x-kubernetes-patch-strategy", json!(words));
    let key = |key: &str| ("x-kubernetes-patch-merge-key", json!(key));
    let entries = match merge {
        Atomic => vec![list("atomic")],
        Set => vec![list("set")],
        MergedSet => vec![list("set"), strategy("merge")],
        Keyed(names) => vec![list("map"), keys(names), key(names[0]), strategy("merge")],
        RetainKeys(names) => vec![list("map"), keys(names), key(names[0]), strategy("merge,retainKeys")],
        AppliedByKey(names) => vec![list("map"), keys(names)],
        AtomicMergedBy(name) => vec![list("atomic"), key(name), strategy("merge")],
        AtomicMap => vec![("x-kubernetes-map-type", json!("atomic"))],
    };
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
