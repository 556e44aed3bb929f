use super::harness::{Server, revision};
use serde_json::{Value, json};

const OLDER: &str = "/api/v1/namespaces/default/events";
const NEWER: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn newer(name: &str) -> Value {
    json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
        "eventTime": "2026-01-01T00:00:00.000000Z", "regarding": {"kind": "Pod", "name": name, "namespace": "default"},
        "reason": "R", "action": "A", "note": "n", "type": "Normal", "reportingController": "c.io/d",
        "reportingInstance": "i"})
}

#[tokio::test]
async fn both_event_apis_serve_the_same_events() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let from = revision(&server);
    let query = format!("watch=1&resourceVersion={from}&fieldSelector=regarding.name%3Db");
    let mut watch = server.admin().await.watch(&format!("{NEWER}?{query}")).await;
    let mut older_watch =
        server.admin().await.watch(&format!("{OLDER}?watch=1&resourceVersion={from}")).await;
    let made = admin.post(NEWER, &newer("a")).await.expect(201);
    assert_eq!((&made["note"], &made["apiVersion"]), (&json!("n"), &json!("events.k8s.io/v1")));
    let about = json!({"kind": "Pod", "name": "b", "namespace": "default"});
    let old = json!({"metadata": {"name": "b"}, "involvedObject": about, "message": "m", "count": 2});
    admin.post(OLDER, &old).await.expect(201);
    let list = admin.get("/apis/events.k8s.io/v1/events").await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("events.k8s.io/v1")));
    assert_eq!((&list["items"][0]["note"], &list["items"][1]["note"]), (&json!("n"), &json!("m")));
    assert_eq!(list["items"][1]["deprecatedCount"], 2);
    assert_eq!(list["items"][1]["apiVersion"], "events.k8s.io/v1");
    let selected =
        admin.get(&format!("{NEWER}?fieldSelector=reportingController%3Dc.io/d")).await.expect(200);
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    assert_eq!(admin.get(&format!("{NEWER}?fieldSelector=involvedObject.name%3Da")).await.code, 400);
    assert_eq!(admin.get(&format!("{OLDER}/a")).await.expect(200)["message"], "n");
    assert_eq!(admin.get(&format!("{NEWER}/b")).await.expect(200)["regarding"]["name"], "b");
    let patch = json!({"metadata": {"labels": {"x": "y"}}});
    for kind in ["merge-patch", "strategic-merge-patch"] {
        let patched = admin.patch(&format!("{NEWER}/b"), kind, &patch).await.expect(200);
        assert_eq!(patched["note"], "m");
    }
    admin.delete(&format!("{NEWER}/b")).await.expect(200);
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        let told = watch.next().await.unwrap();
        assert_eq!((&told["type"], &told["object"]["note"]), (&json!(kind), &json!("m")));
    }
    assert_eq!(older_watch.next().await.unwrap()["object"]["message"], "n");
    let gone = admin.delete(NEWER).await.expect(200);
    assert_eq!((&gone["kind"], &gone["items"][0]["note"]), (&json!("EventList"), &json!("n")));
    let mut kubectl = server.admin().await.accept("application/json;as=Table;v=v1;g=meta.k8s.io");
    admin.post(NEWER, &newer("c")).await.expect(201);
    let table = kubectl.get(&format!("{NEWER}?includeObject=Object")).await.expect(200);
    assert_eq!(table["rows"][0]["object"]["note"], "n");
    assert_eq!(table["rows"][0]["cells"][2], "R");
    assert_eq!(admin.get(&format!("{NEWER}/none")).await.message(), "events \"none\" not found");
    let mut event = newer("d");
    event["message"] = json!("of the other API");
    let refused = admin.post(&format!("{NEWER}?fieldValidation=Strict"), &event).await;
    assert!(refused.message().contains("unknown field \"message\""), "{}", refused.text);
    server.stop().await;
}
