//! networking.k8s.io/v1 IPAddress: an address that has an owner.
//!
//! A Service's addresses have one each, written and deleted in the same commit as the Service; others keep an address for
//! whatever they name. Source: kubernetes `pkg/apis/networking/validation`, `pkg/registry/core/service/ipallocator`.

use super::{reads_as, service};
use crate::{
    Context, Status,
    context::Subject,
    strategy::Strategy,
    syntax,
    table::{Column, age, name},
    value::{at, items, parse, set, text, time},
};
use k8s_openapi::api::networking::v1::IPAddress;
use minisvc_apimachinery::{
    Cause, Family, ObjectKey,
    resource::{IP_ADDRESSES, SERVICES},
    storage::{Change, Read},
};
use serde_json::{Value, json};
use std::net::IpAddr;

const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";

/// Storage key of the object of an address.
pub(crate) fn key(address: IpAddr) -> String {
    IP_ADDRESSES.storage_key(&ObjectKey::cluster(address.to_string()))
}

/// A Service gets an address: the object that says so.
pub(crate) fn taken(ctx: &mut Context<'_>, address: IpAddr, service: &ObjectKey) -> Change {
    let family = Family::of(address).name();
    let value = json!({
        "apiVersion": IP_ADDRESSES.api_version(), "kind": IP_ADDRESSES.kind,
        "metadata": {
            "name": address.to_string(), "uid": (ctx.uid)(), "creationTimestamp": time(ctx.now),
            "labels": { FAMILY_LABEL: family, MANAGED_BY_LABEL: ALLOCATOR },
        },
        "spec": { "parentRef": {
            "group": "", "resource": SERVICES.plural, "namespace": service.namespace, "name": service.name,
        } },
    });
    Change::PutObject { key: key(address), value }
}

/// A Service gives an address back. While somebody's finalizer holds the object, the address stays taken.
pub(super) fn freed(ctx: &Context<'_>, view: &dyn Read, key: &str) -> Change {
    let key = key.to_owned();
    match view.get(&key).map(|stored| parse(&stored)) {
        Some(mut value) if !items(&value, "/metadata/finalizers").is_empty() => {
            set(&mut value, "metadata", "deletionTimestamp", time(ctx.now));
            set(&mut value, "metadata", "deletionGracePeriodSeconds", 0);
            Change::PutObject { key, value }
        }
        _ => Change::Delete { key },
    }
}

/// The Service that holds an address, if one does.
pub(super) fn holder(object: &Value, view: &dyn Read) -> Option<ObjectKey> {
    let part = |name: &str| text(object, &format!("/spec/parentRef/{name}"));
    if !part("group").is_empty() || part("resource") != SERVICES.plural {
        return None;
    }
    let service = ObjectKey::new(part("namespace"), part("name"));
    let stored = view.get(&SERVICES.storage_key(&service))?;
    let record = IP_ADDRESSES.storage_key(&ObjectKey::cluster(text(object, "/metadata/name")));
    service::allocate::held(&parse(&stored)).contains(&record).then_some(service)
}

pub(crate) struct IpAddresses;

impl Strategy for IpAddresses {
    fn check_types(&self, object: &Value) -> Result<(), String> {
        reads_as::<IPAddress>(object)
    }

    fn check_name(&self, name: &str) -> syntax::Faults {
        match name.parse::<IpAddr>() {
            Ok(address) if address.to_string() == name => syntax::Faults::new(),
            Ok(_) => vec!["must be a canonical format IP address".to_owned()],
            Err(_) => syntax::ip(name),
        }
    }

    fn validate(&self, object: &Value, _subject: &Subject<'_>) -> Vec<Cause> {
        let Some(parent) = at(object, "/spec/parentRef") else {
            return vec![Cause::required("spec.parentRef", "")];
        };
        let mut causes = Vec::new();
        let field = |name: &str| format!("spec.parentRef.{name}");
        let group = text(parent, "/group");
        for fault in if group.is_empty() { Vec::new() } else { syntax::subdomain(group) } {
            causes.push(Cause::invalid(field("group"), group, &fault));
        }
        for part in ["resource", "name", "namespace"] {
            let given = text(parent, &format!("/{part}"));
            if given.is_empty() && part != "namespace" {
                causes.push(Cause::required(field(part), ""));
            }
            for fault in syntax::path_segment(given) {
                causes.push(Cause::invalid(field(part), given, &fault));
            }
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let (parent, before) = (at(new, "/spec/parentRef"), at(old, "/spec/parentRef"));
        if parent == before {
            return Vec::new();
        }
        let given = parent.cloned().unwrap_or_default();
        vec![Cause::invalid("spec.parentRef", given, "field is immutable")]
    }

    fn admit(
        &self,
        _view: &dyn Read,
        new: &Value,
        old: Option<&Value>,
        subject: &Subject<'_>,
    ) -> Result<(), Status> {
        let claims = |object: &Value| {
            object.pointer("/metadata/labels").and_then(|labels| labels.get(MANAGED_BY_LABEL))
                == Some(&json!(ALLOCATOR))
        };
        let refuse = |why: &str| Err(Status::forbidden(subject.resource, &subject.key.name, why));
        if claims(new) && !old.is_some_and(claims) {
            return refuse(&format!(
                "metadata.labels: {MANAGED_BY_LABEL}={ALLOCATOR} is kept for the addresses of Services, which come with the Service"
            ));
        }
        let address = subject.key.name.parse::<IpAddr>().ok();
        match address.and_then(|address| service::allocate::kept_for(subject.cluster, address)) {
            Some(service) if old.is_none() => refuse(&format!("the address is kept for Service {service}")),
            _ => Ok(()),
        }
    }

    fn undeletable(&self, object: &Value, view: &dyn Read, _subject: &Subject<'_>) -> Option<String> {
        let service = holder(object, view)?;
        Some(format!("the address is held by Service {service}: it goes with the Service"))
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::name(), Column::new("ParentRef", "string"), Column::new("Age", "string")] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let parent = match at(object, "/spec/parentRef") {
            None => "<none>".to_owned(),
            Some(parent) => {
                let part = |name: &str| text(parent, &format!("/{name}"));
                let resource = match part("group") {
                    "" => part("resource").to_owned(),
                    group => format!("{}.{group}", part("resource")),
                };
                let mut words = vec![resource.to_lowercase()];
                words.extend([part("namespace")].into_iter().filter(|n| !n.is_empty()).map(str::to_owned));
                words.push(part("name").to_owned());
                words.join("/")
            }
        };
        vec![name(object), json!(parent), age(object, now)]
    }
}
