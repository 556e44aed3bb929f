use super::*;
use crate::resource::{NODES, PODS, SERVICES};
use serde_json::json;

fn strategic(resource: &Resource, object: Value, patch: Value) -> Value {
    apply(PatchType::Strategic, resource, &object, &patch).unwrap()
}

fn refused(kind: PatchType, object: Value, patch: Value) -> (u16, String) {
    let status = apply(kind, &PODS, &object, &patch).unwrap_err();
    (status.code, status.message)
}

#[test]
fn json_patches_apply_whole_or_not_at_all() {
    let object = json!({"a": [1, 2], "b": {"c": 1}});
    let patch = json!([{"op": "test", "path": "/b/c", "value": 1}, {"op": "add", "path": "/a/-", "value": 3},
        {"op": "move", "from": "/b/c", "path": "/d"}, {"op": "copy", "from": "/a", "path": "/e"}, {"op": "remove", "path": "/b"}]);
    let expected = json!({"a": [1, 2, 3], "d": 1, "e": [1, 2, 3]});
    assert_eq!(apply(PatchType::Json, &PODS, &object, &patch).unwrap(), expected);
    let failing = json!([{"op": "test", "path": "/b/c", "value": 2}]);
    assert_eq!(
        refused(PatchType::Json, object.clone(), failing),
        (422, "operation 0 at \"/b/c\": testing value failed".to_owned())
    );
    assert_eq!(refused(PatchType::Json, object.clone(), json!([{"op": "remove", "path": "/x"}])).0, 422);
    assert_eq!(refused(PatchType::Json, object.clone(), json!({"op": "remove"})).0, 400);
    assert_eq!(refused(PatchType::Json, object, json!([{"op": "grow", "path": "/x"}])).0, 400);
}

#[test]
fn json_patches_cannot_blow_up() {
    let object = json!({"a": ["x".repeat(1000)]});
    let double = json!({"op": "copy", "from": "/a", "path": "/a/-"});
    let (code, message) = refused(PatchType::Json, object.clone(), Value::Array(vec![double; 60]));
    assert!(code == 413 || message.contains("nested"), "{message}");
    let wide = json!({"op": "copy", "from": "/a", "path": "/b"});
    assert_eq!(refused(PatchType::Json, object.clone(), Value::Array(vec![wide; 9_000])).0, 413);
    let many = vec![json!({"op": "test", "path": "", "value": 1}); OPERATIONS_MAX + 1];
    assert_eq!(refused(PatchType::Json, object, Value::Array(many)).0, 413);
}

#[test]
fn merge_patches_replace_lists_and_drop_nulls() {
    let object = json!({"a": [1, 2], "b": {"c": 1, "d": 2}});
    let patch = json!({"a": [3], "b": {"c": null}, "e": {"f": null, "g": 1}});
    let expected = json!({"a": [3], "b": {"d": 2}, "e": {"g": 1}});
    assert_eq!(apply(PatchType::Merge, &PODS, &object, &patch).unwrap(), expected);
    assert_eq!(refused(PatchType::Merge, object, json!([])).0, 400);
    assert_eq!(
        PatchType::from_content_type("application/merge-patch+json; charset=utf-8"),
        Ok(PatchType::Merge)
    );
    assert_eq!(PatchType::from_content_type("application/json").unwrap_err().code, 415);
}

#[test]
fn strategic_patches_merge_lists_by_key() {
    let pod = json!({"spec": {"containers": [{"name": "a", "image": "1", "args": ["x"],
        "ports": [{"containerPort": 80, "protocol": "TCP"}]}, {"name": "b"}], "nodeSelector": {"k": "v"}}});
    let patch = json!({"spec": {"containers": [{"name": "a", "image": "2", "args": ["y"], "ports":
        [{"containerPort": 81}]}, {"name": "c"}, {"name": "b", "$patch": "delete"}], "nodeSelector": {"l": "w"}}});
    let expected = json!({"spec": {"containers": [{"name": "a", "image": "2", "args": ["y"], "ports":
        [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 81}]}, {"name": "c"}],
        "nodeSelector": {"k": "v", "l": "w"}}});
    assert_eq!(strategic(&PODS, pod.clone(), patch), expected);
    let nameless = json!({"spec": {"containers": [{"image": "2"}]}});
    assert!(refused(PatchType::Strategic, pod.clone(), nameless).1.contains("declared merge key: name"));
    let odd = json!({"spec": {"$patch": "turn"}});
    assert_eq!(refused(PatchType::Strategic, pod, odd), (400, "unknown patch type found: turn".to_owned()));
}

#[test]
fn strategic_directives_are_obeyed() {
    let pod = || {
        json!({"metadata": {"finalizers": ["x/a", "x/b"]},
        "spec": {"nodeSelector": {"a": "1", "b": "2"}, "containers": [{"name": "a"}, {"name": "b"}]}})
    };
    let containers =
        |patch: Value| strategic(&PODS, pod(), json!({"spec": patch}))["spec"]["containers"].take();
    assert_eq!(
        containers(json!({"containers": [{"$patch": "replace"}, {"name": "c"}]})),
        json!([{"name": "c"}])
    );
    assert_eq!(
        containers(
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c"}]})
        ),
        json!([{"name": "c"}, {"name": "a"}, {"name": "b"}])
    );
    assert_eq!(
        containers(json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]})),
        json!([{"name": "b"}, {"name": "a"}])
    );
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"], "finalizers": ["x/c", "x/b"]},
        "spec": {"nodeSelector": {"$patch": "replace", "c": "3"}}});
    let patched = strategic(&PODS, pod(), patch);
    assert_eq!(patched["metadata"]["finalizers"], json!(["x/b", "x/c"]));
    assert_eq!(patched["spec"]["nodeSelector"], json!({"c": "3"}));
    let patched = strategic(&PODS, pod(), json!({"spec": {"nodeSelector": {"$patch": "delete"}}}));
    assert_eq!(patched["spec"]["nodeSelector"], json!({}));
    let keep = json!({"spec": {"$retainKeys": ["nodeSelector"], "nodeSelector": {"a": "9"}}});
    assert_eq!(strategic(&PODS, pod(), keep)["spec"], json!({"nodeSelector": {"a": "9", "b": "2"}}));
    let wrong = json!({"spec": {"$retainKeys": ["containers"], "nodeSelector": {"a": "9"}}});
    assert_eq!(refused(PatchType::Strategic, pod(), wrong).0, 400);
    let unordered =
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "z"}]}});
    assert_eq!(refused(PatchType::Strategic, pod(), unordered).0, 400);
}

#[test]
fn where_nothing_was_directives_and_nulls_leave_no_trace() {
    let patch = json!({"spec": {"$retainKeys": ["x"], "x": null, "containers": [{"name": "a", "y": null},
        {"name": "b", "$patch": "delete"}], "$setElementOrder/containers": [{"name": "a"}]}});
    assert_eq!(strategic(&PODS, json!({}), patch), json!({"spec": {"containers": [{"name": "a"}]}}));
    let conditions = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(strategic(&NODES, json!({}), conditions.clone()), conditions);
}

#[test]
fn ports_of_two_protocols_are_told_apart() {
    let dns = json!({"spec": {"ports": [{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
    let patch = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "name": "udp"}]}});
    let ports = strategic(&SERVICES, dns, patch)["spec"]["ports"].take();
    assert_eq!(
        ports,
        json!([{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "name": "udp"}])
    );
}

#[test]
fn fields_without_a_schema_merge_like_a_merge_patch() {
    let patched =
        strategic(&PODS, json!({"x": {"l": [{"name": "a"}]}}), json!({"x": {"l": [{"name": "b"}], "y": 1}}));
    assert_eq!(patched, json!({"x": {"l": [{"name": "b"}], "y": 1}}));
}
