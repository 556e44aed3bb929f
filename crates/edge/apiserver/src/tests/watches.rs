use super::harness::{CONFIG_MAPS, Server, config_map, revision};
use minisvc_store::Limits;
use serde_json::{Value, json};

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn watches_go_on_from_a_list() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    admin.post(CONFIG_MAPS, &config_map("a", json!({}))).await.expect(201);
    let list = admin.get(CONFIG_MAPS).await.expect(200);
    let from = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch =
        server.admin().await.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}")).await;
    admin.post(CONFIG_MAPS, &config_map("b", json!({}))).await.expect(201);
    admin.post("/api/v1/namespaces/kube-system/configmaps", &config_map("x", json!({}))).await.expect(201);
    admin.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", &json!({"data": {"k": "v"}})).await.expect(200);
    admin.delete(&format!("{CONFIG_MAPS}/b")).await.expect(200);
    assert_eq!(watch.told().await, pair("ADDED", "b"));
    assert_eq!(watch.told().await, pair("MODIFIED", "a"));
    let deleted = watch.next().await.unwrap();
    assert_eq!((&deleted["type"], &deleted["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("b")));
    assert_eq!(deleted["object"]["metadata"]["resourceVersion"], revision(&server).to_string());
    // Without a version everything that is there comes first.
    let mut fresh = server.admin().await.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    let (kind, _) = fresh.told().await;
    assert_eq!(kind, "ADDED");
    server.stop().await;
}

#[tokio::test]
async fn beginning_and_ceasing_to_match_are_additions_and_deletions() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let from = revision(&server);
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}&labelSelector=app%3Dx");
    let mut watch = server.admin().await.watch(&path).await;
    admin.post(CONFIG_MAPS, &config_map("a", json!({"app": "y"}))).await.expect(201);
    for app in ["x", "y"] {
        let change = json!({"metadata": {"labels": {"app": app}}});
        admin.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", &change).await.expect(200);
    }
    admin.delete(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    admin.post(CONFIG_MAPS, &config_map("b", json!({"app": "x"}))).await.expect(201);
    assert_eq!(watch.told().await, pair("ADDED", "a"));
    let gone = watch.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["metadata"]["labels"]["app"], "x");
    assert_eq!(watch.told().await, pair("ADDED", "b"));
    // One object by its name, not those whose names begin alike.
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}&fieldSelector=metadata.name%3Db");
    let mut one = server.admin().await.watch(&path).await;
    admin.post(CONFIG_MAPS, &config_map("b2", json!({}))).await.expect(201);
    admin.delete(&format!("{CONFIG_MAPS}/b")).await.expect(200);
    assert_eq!(one.told().await, pair("ADDED", "b"));
    assert_eq!(one.told().await, pair("DELETED", "b"));
    server.stop().await;
}

#[tokio::test]
async fn a_version_that_is_gone_or_never_was_is_410() {
    let server = Server::start_with(Limits { log_events: 3, ..Limits::default() }, 10250).await;
    let mut admin = server.admin().await;
    for n in 0..5 {
        admin.post(CONFIG_MAPS, &config_map(&format!("m{n}"), json!({}))).await.expect(201);
    }
    for from in ["1", "999999"] {
        let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}");
        let mut watch = server.admin().await.watch(&path).await;
        let event = watch.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
        assert_eq!(event["object"]["reason"], "Expired");
        assert!(watch.next().await.is_none());
    }
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=x")).await.code, 400);
    server.stop().await;
}

#[tokio::test]
async fn bookmarks_say_how_far_a_watch_came() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    admin.post(CONFIG_MAPS, &config_map("a", json!({}))).await.expect(201);
    let path = format!(
        "{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1"
    );
    let mut watch = server.admin().await.watch(&path).await;
    let mut kinds = Vec::new();
    let mut marks: Vec<Value> = Vec::new();
    while let Some(event) = watch.next().await {
        kinds.push(event["type"].as_str().unwrap().to_owned());
        if event["type"] == "BOOKMARK" {
            marks.push(event["object"]["metadata"].clone());
        }
    }
    // One after the initial objects, one at the end of its time.
    assert_eq!(kinds.first().map(String::as_str), Some("ADDED"));
    assert_eq!(marks.len(), 2);
    assert_eq!(marks[0]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(marks[1]["resourceVersion"], revision(&server).to_string());
    server.stop().await;
}

#[tokio::test]
async fn tables_are_watched_row_by_row() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    admin.post(CONFIG_MAPS, &config_map("a", json!({}))).await.expect(201);
    admin.post(CONFIG_MAPS, &config_map("b", json!({}))).await.expect(201);
    let client = server.admin().await.accept("application/json;as=Table;v=v1;g=meta.k8s.io");
    let mut watch = client.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    let first = watch.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert!(!first["object"]["columnDefinitions"].as_array().unwrap().is_empty());
    let second = watch.next().await.unwrap();
    assert_eq!(second["object"]["columnDefinitions"], json!([]));
    assert_eq!(second["object"]["rows"].as_array().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_ends_its_watches() {
    let server = Server::start().await;
    let from = revision(&server);
    let mut watch =
        server.admin().await.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}")).await;
    server.stop().await;
    assert!(watch.next().await.is_none());
}
