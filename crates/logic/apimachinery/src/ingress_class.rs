//! Which Ingresses are served here: one rule for whoever routes them and for whoever writes their status.
//!
//! In: an Ingress and the IngressClasses there are. Out: whether it is ours.

use crate::{resource::ObjectKey, snapshot::Objects};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

/// Name of the class that every cluster has.
pub const CLASS: &str = "minisvc";
/// `spec.controller` of the classes whose Ingresses are served here.
pub const CONTROLLER: &str = "minisvc.io/ingress";
/// Annotation of an Ingress that named its class before the field existed.
pub const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Annotation of the class that new Ingresses without one get, with the value `true`.
pub const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// Whether an Ingress is served here: it names no class, or one of our controller. A class that is not there counts by
/// its name, so that what was served stays so while somebody replaces the class.
pub fn is_ours(ingress: &Ingress, classes: &Objects<IngressClass>) -> bool {
    let field = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let annotation = || ingress.metadata.annotations.as_ref()?.get(CLASS_ANNOTATION).map(String::as_str);
    let Some(name) = field.or_else(annotation) else { return true };
    match classes.get(&ObjectKey::cluster(name)) {
        Some(class) => class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(CONTROLLER),
        None => name == CLASS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn ingress(annotation: Option<&str>, class: Option<&str>) -> Ingress {
        let annotations: Value = annotation.map_or(json!({}), |class| json!({ CLASS_ANNOTATION: class }));
        let object = json!({"metadata": {"annotations": annotations}, "spec": {"ingressClassName": class}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn the_controller_decides_and_the_name_where_no_class_is() {
        let mut classes = Objects::new();
        let without = |class: &str| is_ours(&ingress(None, Some(class)), &Objects::new());
        assert!(without("minisvc") && !without("edge") && is_ours(&ingress(None, None), &Objects::new()));
        for (name, controller) in [("edge", CONTROLLER), ("minisvc", "example.com/other")] {
            let class = json!({"metadata": {"name": name}, "spec": {"controller": controller}});
            classes.insert(ObjectKey::cluster(name), Arc::new(serde_json::from_value(class).unwrap()));
        }
        for (annotation, field, ours) in [
            (None, None, true),
            (None, Some("edge"), true),
            (Some("edge"), None, true),
            (None, Some("minisvc"), false),
            (Some("edge"), Some("minisvc"), false),
            (Some("minisvc"), Some("edge"), true),
            (None, Some("nginx"), false),
        ] {
            assert_eq!(is_ours(&ingress(annotation, field), &classes), ours, "{annotation:?} {field:?}");
        }
    }
}
