//! Who owns what after applies and updates, in Kubernetes' own terms.

use super::*;
use crate::{
    resource::{CONFIG_MAPS, PODS, SERVICES},
    status::Status,
};
use proptest::prelude::*;
use serde_json::json;

/// An object, as it is after what was done to it.
struct Live {
    resource: &'static Resource,
    object: Option<Value>,
    clock: u32,
}

impl Live {
    fn new(resource: &'static Resource) -> Self {
        Self { resource, object: None, clock: 0 }
    }

    fn write<T>(&mut self, manager: &str, f: impl FnOnce(&Write<'_>, Option<&Value>) -> T) -> T {
        self.clock += 1;
        let time = format!("2026-01-01T00:{:02}:{:02}Z", self.clock / 60, self.clock % 60);
        f(&Write { resource: self.resource, subresource: None, manager, time: &time }, self.object.as_ref())
    }

    fn full(&self, mut object: Value) -> Value {
        object["apiVersion"] = self.resource.api_version().into();
        object["kind"] = self.resource.kind.into();
        object["metadata"]["name"] = "x".into();
        object
    }

    fn apply(&mut self, manager: &str, patch: Value) -> Result<(), Status> {
        self.apply_with(manager, patch, Force::No)
    }

    fn apply_with(&mut self, manager: &str, patch: Value, force: Force) -> Result<(), Status> {
        let patch = self.full(patch);
        self.object = Some(self.write(manager, |write, live| apply(write, live, &patch, force))?);
        Ok(())
    }

    fn update(&mut self, manager: &str, new: Value) {
        let mut new = self.full(new);
        let sent = take(&mut new);
        self.write(manager, |write, live| update(write, live, &mut new, sent.as_ref()));
        self.object = Some(new);
    }

    fn object(&self) -> Value {
        let mut object = self.object.clone().unwrap();
        take(&mut object);
        object
    }

    /// The fields of a manager.
    fn owned(&self, manager: &str, operation: &str) -> Value {
        let list = self.object.as_ref().and_then(managed_fields).cloned().unwrap_or_default();
        let entries = list.as_array().cloned().unwrap_or_default();
        let entry = entries.iter().find(|e| e["manager"] == manager && e["operation"] == operation);
        entry.map(|entry| entry["fieldsV1"].clone()).unwrap_or_default()
    }
}

#[test]
fn sets_are_written_as_kubernetes_writes_them() {
    for text in [
        r#"{}"#,
        r#"{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{},"f:targetPort":{}}},"f:selector":{}}}"#,
        r#"{"f:metadata":{"f:finalizers":{".":{},"v:\"a.b/c\"":{}}}}"#,
        r#"{"f:list":{"i:0":{},"i:1":{"f:x":{}}}}"#,
        r#"{"f:a":{"v:\"\\u003cb\\u003e\"":{}}}"#,
    ] {
        let set = Set::from_value(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(set.to_value().to_string(), text);
    }
    // Keys are sorted, spaces are nothing, and what is not known is left out.
    let odd = json!({"f:p": {"k:{ \"protocol\": \"TCP\", \"port\": 8e1 }": {}, "x:1": {}}});
    let set = Set::from_value(&odd).unwrap();
    assert!(set.has(&[
        PathElement::Field("p".into()),
        PathElement::Key(vec![("port".into(), Scalar(json!(80))), ("protocol".into(), Scalar(json!("TCP")))]),
    ]));
    for bad in [json!({"f:a": 1}), json!({"nonsense": {}}), json!({"k:[]": {}}), json!([])] {
        assert!(Set::from_value(&bad).is_err(), "{bad}");
    }
}

#[test]
fn what_a_manager_stops_to_apply_goes() {
    let mut live = Live::new(&CONFIG_MAPS);
    live.apply("a", json!({"data": {"one": "1", "two": "2"}})).unwrap();
    assert_eq!(live.owned("a", "Apply"), json!({"f:data": {"f:one": {}, "f:two": {}}}));
    live.apply("b", json!({"data": {"two": "2", "three": "3"}})).unwrap();
    live.apply("a", json!({"data": {"one": "1"}})).unwrap();
    assert_eq!(live.object()["data"], json!({"one": "1", "two": "2", "three": "3"}));
    live.apply("b", json!({})).unwrap();
    assert_eq!(live.object()["data"], json!({"one": "1"}));
    live.apply("a", json!({})).unwrap();
    assert_eq!(live.object().get("data"), None);
    assert_eq!(managed_fields(live.object.as_ref().unwrap()), None);
}

#[test]
fn a_conflict_names_who_and_what() {
    let mut live = Live::new(&SERVICES);
    live.update(
        "kubectl-client-side-apply",
        json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}], "type": "ClusterIP"}}),
    );
    let status = live.apply("me", json!({"spec": {"ports": [{"port": 80, "targetPort": 81}]}})).unwrap_err();
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: \
         .spec.ports[port=80,protocol=\"TCP\"].targetPort"
    );
    let cause = serde_json::to_value(&status.details.unwrap().causes[0]).unwrap();
    assert_eq!(
        cause,
        json!({"reason": "FieldManagerConflict", "message": "conflict with \"kubectl-client-side-apply\" using v1",
               "field": ".spec.ports[port=80,protocol=\"TCP\"].targetPort"})
    );
    live.apply("other", json!({"metadata": {"labels": {"a": "1"}}})).unwrap();
    let status = live
        .apply(
            "me",
            json!({"metadata": {"labels": {"a": "2"}},
            "spec": {"type": "NodePort", "ports": [{"port": 80, "targetPort": 81}]}}),
        )
        .unwrap_err();
    assert_eq!(
        status.message,
        "Apply failed with 3 conflicts: conflicts with \"kubectl-client-side-apply\" using v1:\n- .spec.type\n\
         - .spec.ports[port=80,protocol=\"TCP\"].targetPort\nconflicts with \"other\":\n- .metadata.labels.a"
    );
    live.apply_with("me", json!({"spec": {"type": "NodePort"}}), Force::Yes).unwrap();
    assert_eq!(live.object()["spec"]["type"], "NodePort");
    assert_eq!(live.owned("kubectl-client-side-apply", "Update")["f:spec"].get("f:type"), None);
}

#[test]
fn lists_merge_as_their_schema_says() {
    let mut live = Live::new(&SERVICES);
    live.apply(
        "a",
        json!({"metadata": {"finalizers": ["x/a"]}, "spec": {"selector": {"app": "a", "tier": "b"},
        "ports": [{"port": 53, "protocol": "UDP", "name": "u"}, {"port": 80, "name": "w"}]}}),
    )
    .unwrap();
    // Keyed: port and protocol, where TCP is the default. A set: its values. Granular: labels.
    live.apply(
        "b",
        json!({"metadata": {"finalizers": ["x/b"], "labels": {"l": "1"}},
        "spec": {"ports": [{"port": 53, "protocol": "TCP", "name": "t"}, {"port": 80, "targetPort": 8}]}}),
    )
    .unwrap();
    assert_eq!(
        live.object()["spec"]["ports"],
        json!([{"port": 53, "protocol": "UDP", "name": "u"}, {"port": 53, "protocol": "TCP", "name": "t"},
               {"port": 80, "name": "w", "targetPort": 8}])
    );
    assert_eq!(live.object()["metadata"]["finalizers"], json!(["x/a", "x/b"]));
    // Atomic: the selector as a whole.
    assert_eq!(live.owned("a", "Apply")["f:spec"]["f:selector"], json!({}));
    let status = live.apply("b", json!({"spec": {"selector": {"app": "a"}}})).unwrap_err();
    assert!(status.message.ends_with("conflict with \"a\": .spec.selector"), "{status}");
    // What b applied goes item by item; what both name stays.
    live.apply("b", json!({"metadata": {"labels": {"m": "2"}}})).unwrap();
    assert_eq!(live.object()["metadata"]["finalizers"], json!(["x/a"]));
    assert_eq!(live.object()["metadata"]["labels"], json!({"m": "2"}));
    assert_eq!(
        live.object()["spec"]["ports"],
        json!([{"port": 53, "protocol": "UDP", "name": "u"}, {"port": 80, "name": "w"}])
    );

    let mut live = Live::new(&PODS);
    live.apply("a", json!({"spec": {"containers": [{"name": "one", "image": "a", "args": ["x", "y"]}]}}))
        .unwrap();
    live.apply("b", json!({"spec": {"containers": [{"name": "two", "image": "b"}]}})).unwrap();
    assert_eq!(live.object()["spec"]["containers"][1]["name"], "two");
    live.apply("a", json!({"spec": {"containers": [{"name": "one", "image": "a"}]}})).unwrap();
    assert_eq!(
        live.object()["spec"]["containers"],
        json!([{"name": "one", "image": "a"}, {"name": "two", "image": "b"}])
    );
}

#[test]
fn an_update_takes_what_it_changes() {
    let mut live = Live::new(&CONFIG_MAPS);
    live.apply("a", json!({"data": {"one": "1", "two": "2"}})).unwrap();
    live.update("b", json!({"data": {"one": "x", "two": "2"}}));
    // The sent object without managedFields keeps the stored ones.
    assert_eq!(live.owned("a", "Apply"), json!({"f:data": {"f:two": {}}}));
    assert_eq!(live.owned("b", "Update"), json!({"f:data": {"f:one": {}}}));
    live.update("b", json!({"data": {"one": "x"}}));
    assert_eq!(live.owned("a", "Apply"), Value::Null);
    live.update("b", json!({"data": {"one": "x"}, "metadata": {"managedFields": [{}]}}));
    assert_eq!(managed_fields(live.object.as_ref().unwrap()), None);
    // Nobody is tracked from here on, until the first apply.
    live.update("b", json!({"data": {"one": "y"}}));
    assert_eq!(managed_fields(live.object.as_ref().unwrap()), None);
    live.apply("a", json!({"data": {"two": "2"}})).unwrap();
    assert_eq!(live.owned("before-first-apply", "Update"), json!({"f:data": {".": {}, "f:one": {}}}));
}

#[test]
fn the_oldest_updates_are_folded_together() {
    let mut live = Live::new(&CONFIG_MAPS);
    let mut data = json!({});
    for i in 0..14 {
        data[format!("k{i}")] = "v".into();
        live.update(&format!("m{i}"), json!({"data": data}));
    }
    let list = managed_fields(live.object.as_ref().unwrap()).unwrap().as_array().unwrap().clone();
    assert_eq!(list.len(), 10);
    assert_eq!(list[0]["manager"], "ancient-changes");
    let folded = live.owned("ancient-changes", "Update");
    assert_eq!(folded["f:data"].as_object().unwrap().len(), 6, "{folded}");
}

#[test]
fn a_client_side_apply_can_become_a_server_side_one() {
    let mut live = Live::new(&CONFIG_MAPS);
    let last = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"},
                      "data": {"one": "1", "two": "2"}});
    let note = json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
    live.update(
        "kubectl-client-side-apply",
        json!({"metadata": {"annotations": note}, "data": {"one": "1", "two": "2"}}),
    );
    // Only kubectl takes the annotation for its own.
    assert_eq!(live.apply("other", json!({"data": {"one": "x"}})).unwrap_err().code, 409);
    live.apply("kubectl", json!({"data": {"one": "x"}})).unwrap();
    assert_eq!(live.object()["data"], json!({"one": "x", "two": "2"}));
    let annotation = live.object()["metadata"]["annotations"].as_object().unwrap().values().next().cloned();
    let annotation = annotation.unwrap();
    assert!(annotation.as_str().unwrap().contains("\"one\":\"x\""), "{annotation}");
}

#[test]
fn what_cannot_be_applied_is_named() {
    for (patch, words) in [
        (json!({"spec": {"nonsense": 1}}), ".spec.nonsense: field not declared in schema"),
        (
            json!({"spec": {"ports": [{"port": 80}, {"port": 80, "protocol": "TCP"}]}}),
            ".spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]",
        ),
        (json!({"metadata": {"managedFields": []}}), "metadata.managedFields must be nil"),
        (json!({"metadata": {"finalizers": [null]}}), "has an element that's an explicit null"),
    ] {
        let status = Live::new(&SERVICES).apply("a", patch).unwrap_err();
        assert_eq!(status.code, 400);
        assert!(status.message.contains(words), "{status}");
    }
    let write = Write { resource: &SERVICES, subresource: None, manager: "a", time: "" };
    let status = apply(&write, None, &json!({"apiVersion": "v1", "kind": "Pod"}), Force::No).unwrap_err();
    assert_eq!(status.message, "invalid object type: /v1, Kind=Pod");
}

#[test]
fn the_managers_of_an_object_are_bounded() {
    let mut live = Live::new(&CONFIG_MAPS);
    live.apply("first", json!({"data": {"k": "1"}})).unwrap();
    let one = managed_fields(live.object.as_ref().unwrap()).unwrap()[0].clone();
    let list = |count: usize| -> Value {
        let entry = |i: usize| {
            let mut entry = one.clone();
            entry["manager"] = format!("m{i}").into();
            entry
        };
        (0..count).map(entry).collect()
    };
    live.update("u", json!({"data": {"k": "1"}, "metadata": {"managedFields": list(ENTRIES_MAX + 1)}}));
    assert_eq!(live.owned("first", "Apply"), one["fieldsV1"], "too many are as none");
    live.update("u", json!({"data": {"k": "1"}, "metadata": {"managedFields": list(ENTRIES_MAX)}}));
    assert_eq!(live.owned("first", "Apply"), Value::Null);
    let status = live.apply("another", json!({"data": {"k": "1"}})).unwrap_err();
    assert_eq!(status.code, 422);
    assert!(
        status.message.contains("metadata.managedFields: Too many: 1001: must have at most 1000"),
        "{status}"
    );
    live.apply("m7", json!({"data": {"k": "1"}})).unwrap();
}

#[test]
fn status_is_not_of_who_writes_the_object() {
    let mut live = Live::new(&SERVICES);
    live.apply("a", json!({"spec": {"type": "ClusterIP"}, "status": {"loadBalancer": {}}})).unwrap();
    assert_eq!(live.owned("a", "Apply"), json!({"f:spec": {"f:type": {}}}));
    let stored = live.object.clone().unwrap();
    let mut new = stored.clone();
    new["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}});
    let write = Write {
        resource: &SERVICES,
        subresource: Some("status"),
        manager: "lb",
        time: "2026-01-01T00:09:00Z",
    };
    update(&write, Some(&stored), &mut new, None);
    let entry = &managed_fields(&new).unwrap()[1];
    assert_eq!((&entry["subresource"], &entry["manager"]), (&json!("status"), &json!("lb")));
    assert_eq!(entry["fieldsV1"], json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}}}));
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        (0..4i64).prop_map(|n| json!(n)),
        "[ab]".prop_map(|s| json!(s))
    ]
}

/// Anything, with the names that mean something.
fn anything() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("ports"),
        Just("port"),
        Just("protocol"),
        Just("finalizers"),
        Just("labels"),
        Just("selector"),
        Just("containers"),
        Just("name"),
        Just("data"),
        Just("status")
    ];
    scalar().prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

fn data() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-d]", "[xy]", 0..4).prop_map(|map| json!({"data": map}))
}

fn set() -> impl Strategy<Value = Set> {
    anything().prop_map(|value| {
        let shape = shape(&SERVICES);
        Typed::root(schema::schemas(), &shape).fields(&value).children
    })
}

proptest! {
    #[test]
    fn what_one_manager_applied_last_is_all_there_is(a in data(), b in data()) {
        let mut live = Live::new(&CONFIG_MAPS);
        live.apply("m", a).unwrap();
        live.apply("m", b.clone()).unwrap();
        let mut only = Live::new(&CONFIG_MAPS);
        only.apply("m", b).unwrap();
        let data = |live: &Live| live.object()["data"].as_object().cloned().unwrap_or_default();
        prop_assert_eq!(data(&live), data(&only));
        prop_assert_eq!(live.owned("m", "Apply"), only.owned("m", "Apply"));
    }

    #[test]
    fn sets_survive_writing_and_obey_the_laws_of_sets(a in set(), b in set()) {
        prop_assert_eq!(&Set::from_value(&a.to_value()).unwrap(), &a);
        let (union, difference) = (a.clone().union(b.clone()), a.clone().difference(&b));
        prop_assert_eq!(&union, &b.clone().union(a.clone()));
        prop_assert_eq!(&a.clone().intersection(&b).union(difference.clone()), &a);
        prop_assert!(difference.intersection(&b).is_empty());
        prop_assert!(a.clone().difference(&a).is_empty());
        for path in a.paths() {
            prop_assert!(union.has(&path));
            prop_assert!(a.clone().without(&b).has(&path) <= !b.has(&path));
        }
    }

    #[test]
    fn no_object_is_too_odd(a in anything(), b in anything(), fields in anything()) {
        for resource in [&SERVICES, &PODS] {
            let write = Write { resource, subresource: None, manager: "m", time: "2026-01-01T00:00:00Z" };
            let mut new = b.clone();
            update(&write, Some(&a), &mut new, Some(&fields));
            update(&write, None, &mut new, Some(&json!([{"manager": "x", "operation": "Update", "apiVersion": "v1",
                "fieldsType": "FieldsV1", "fieldsV1": fields}])));
            let mut patch = b.clone();
            if patch.is_object() {
                patch["apiVersion"] = "v1".into();
                patch["kind"] = resource.kind.into();
            }
            let _ = apply(&write, Some(&a), &patch, Force::No);
            if let Ok(applied) = apply(&write, None, &patch, Force::Yes) {
                // Once more changes nothing.
                prop_assert_eq!(&apply(&write, Some(&applied), &patch, Force::No).unwrap(), &applied);
            }
        }
    }
}
