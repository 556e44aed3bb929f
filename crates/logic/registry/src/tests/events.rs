//! Events by both of their APIs.

use super::{World, key, says};
use crate::{DeleteOptions, IncludeObject, apply, table};
use minisvc_apimachinery::{
    managed::Force,
    resource::{EVENTS, EVENTS_K8S_IO},
};
use serde_json::{Value, json};

fn newer() -> Value {
    json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "R", "action": "A", "note": "n", "type": "Normal", "reportingController": "c.io/d",
        "reportingInstance": "i"})
}

#[test]
fn what_comes_by_one_api_is_answered_by_both() {
    let mut world = World::new();
    let made = world.create(newer()).unwrap();
    assert_eq!((&made.object["note"], &made.object["apiVersion"]), (&json!("n"), &json!("events.k8s.io/v1")));
    let owned = &made.object["metadata"]["managedFields"][0];
    assert_eq!(owned["apiVersion"], "events.k8s.io/v1");
    assert!(owned["fieldsV1"]["f:regarding"].is_object(), "{owned}");
    let stored = world.get(&EVENTS, "a").unwrap();
    assert_eq!(world.get(&EVENTS_K8S_IO, "a").unwrap(), stored, "one object");
    assert_eq!((&stored["message"], &stored["apiVersion"]), (&json!("n"), &json!("v1")));
    assert_eq!(stored["involvedObject"]["name"], "p");
    assert_eq!(stored["reportingComponent"], "c.io/d");
    says(&world.refused(newer()), "events \"a\" already exists");
    // Counted by the older API, seen by the newer.
    world.change(&EVENTS, "a", None, |object| object["count"] = json!(3)).unwrap();
    let seen = world.change(&EVENTS_K8S_IO, "a", None, |object| {
        assert_eq!(object["deprecatedCount"], 3);
        object["series"] = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"});
    });
    assert_eq!(seen.unwrap().object["series"]["count"], 2);
    let mut replaced = newer();
    replaced["deprecatedCount"] = json!(3);
    let replaced = world.update(replaced, None).unwrap().object;
    assert_eq!((&replaced["kind"], replaced.get("series")), (&json!("Event"), None));
    let gone = world.delete(&EVENTS_K8S_IO, "a", &DeleteOptions::default()).unwrap();
    assert_eq!(gone.object["note"], "n");
    assert_eq!(world.get(&EVENTS, "a"), None);
    // An update of what is not there makes it, by the same rules.
    let missing = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"}});
    says(&world.update(missing, None).unwrap_err().message, "eventTime: Required value");
    assert!(world.update(newer(), None).unwrap().created);
}

#[test]
fn the_newer_api_changes_the_series_only() {
    let mut world = World::new();
    let old = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "old"}, "message": "m",
        "involvedObject": {"kind": "Pod", "namespace": "default"}});
    world.create(old).unwrap();
    for (field, to, said) in [
        ("note", json!("x"), "message: Invalid value: \"x\": field is immutable"),
        ("type", json!("Normal"), "type: Invalid value: \"Normal\": field is immutable"),
        ("reportingController", json!("c"), "reportingController: Invalid value: \"c\": field is immutable"),
        (
            "series",
            json!({"count": 1}),
            "[series.count: Invalid value: \"\": should be at least 2, series.last",
        ),
    ] {
        let refused = world.change(&EVENTS_K8S_IO, "old", None, |object| object[field] = to.clone());
        says(&refused.unwrap_err().message, said);
    }
    world.change(&EVENTS, "old", None, |object| object["message"] = json!("other")).unwrap();
    let labelled = world.change(&EVENTS_K8S_IO, "old", None, |object| {
        object["metadata"]["labels"] = json!({"a": "b"});
        object["deprecatedCount"] = json!(0);
    });
    assert_eq!(labelled.unwrap().object["metadata"]["labels"]["a"], "b", "nothing said is as nothing there");
}

#[test]
fn an_event_is_applied_in_the_words_of_its_api() {
    let mut world = World::new();
    let mut apply = |object: &Value, manager: &'static str| {
        world.manager = manager;
        let applied = world.run(|ctx, view| {
            apply(ctx, view, &EVENTS_K8S_IO, &key(&EVENTS_K8S_IO, "a"), object, Force::No, None)
        });
        if let Ok(outcome) = &applied {
            world.store.commit(&outcome.changes);
        }
        applied
    };
    let made = apply(&newer(), "one").unwrap();
    assert!(made.created);
    assert_eq!(made.object["metadata"]["managedFields"][0]["fieldsV1"]["f:note"], json!({}));
    let mut other = newer();
    other["note"] = json!("other");
    let refused = apply(&other, "two").unwrap_err();
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"one\": .note");
    other = newer();
    other["message"] = json!("of the other form");
    says(&apply(&other, "one").unwrap_err().message, ".message: field not declared in schema");
}

#[test]
fn tables_are_alike_and_carry_the_form_asked_for() {
    let mut world = World::new();
    world.create(newer()).unwrap();
    let stored = world.get(&EVENTS, "a").unwrap();
    let row = |r| table(r, &[&stored], world.now, IncludeObject::Object)["rows"][0].clone();
    let (older, newer) = (row(&EVENTS), row(&EVENTS_K8S_IO));
    assert_eq!(older["cells"], newer["cells"]);
    assert_eq!((&older["object"]["message"], &newer["object"]["note"]), (&json!("n"), &json!("n")));
}
