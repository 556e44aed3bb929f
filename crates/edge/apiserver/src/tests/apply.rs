//! Server-side apply, and the owners of fields, over HTTP.

use super::harness::{Answer, CONFIG_MAPS, Client, SERVICES, Server, config_map, revision};
use http::Method;
use serde_json::{Value, json};

async fn apply(client: &mut Client, path: &str, query: &str, body: &str) -> Answer {
    client
        .send(Method::PATCH, &format!("{path}?{query}"), "application/apply-patch+yaml", body.to_owned())
        .await
}

fn map(data: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}).to_string()
}

/// Manager, operation and subresource of each entry.
fn owners(object: &Value) -> Vec<String> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let mut found: Vec<String> = list
        .iter()
        .map(|entry| {
            assert_eq!((&entry["fieldsType"], &entry["apiVersion"]), (&json!("FieldsV1"), &json!("v1")));
            let sub = entry["subresource"].as_str().unwrap_or_default();
            format!("{} {} {sub}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap())
        })
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_configuration_is_applied() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let path = format!("{CONFIG_MAPS}/a");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  one: \"1\"\n  two: \"2\"\n";
    let refused = apply(&mut admin, &path, "", yaml).await;
    assert_eq!(
        (refused.code, refused.message()),
        (
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
        )
    );
    let dry = apply(&mut admin, &path, "fieldManager=me&dryRun=All", yaml).await.expect(201);
    assert_eq!(owners(&dry), ["me Apply "]);
    assert_eq!(admin.get(&path).await.code, 404);
    let made = apply(&mut admin, &path, "fieldManager=me", yaml).await.expect(201);
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(
        made["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:data": {"f:one": {}, "f:two": {}}})
    );

    // Once more: no revision, no new time.
    let before = revision(&server);
    assert_eq!(apply(&mut admin, &path, "fieldManager=me", yaml).await.expect(200), made);
    assert_eq!(revision(&server), before);

    let conflict = apply(&mut admin, &path, "fieldManager=you", &map(&json!({"one": "x"}))).await;
    assert_eq!(
        (conflict.code, conflict.message()),
        (409, "Apply failed with 1 conflict: conflict with \"me\": .data.one")
    );
    assert_eq!(conflict.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let taken = map(&json!({"one": "x"}));
    let forced = apply(&mut admin, &path, "fieldManager=you&force=true", &taken).await.expect(200);
    assert_eq!(forced["data"], json!({"one": "x", "two": "2"}));
    let less = apply(&mut admin, &path, "fieldManager=me", &map(&json!({}))).await.expect(200);
    assert_eq!(less["data"], json!({"one": "x"}));
    // An empty map is something to own.
    assert_eq!(owners(&less), ["me Apply ", "you Apply "]);
    assert_eq!(less["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:data": {}}));

    for (query, body, code, words) in [
        ("fieldManager=me&force=perhaps", map(&json!({})), 400, "force"),
        ("fieldManager=me", "{".to_owned(), 400, "error decoding YAML"),
        ("fieldManager=me", "[]".to_owned(), 400, ""),
        ("fieldManager=me", map(&json!({"one": 1})), 400, "data"),
        (
            "fieldManager=me",
            map(&json!({})).replace("data", "date"),
            400,
            ".date: field not declared in schema",
        ),
        ("fieldManager=me", map(&json!({})).replace("\"a\"", "\"b\""), 422, "metadata.name"),
        ("fieldManager=me", map(&json!({})).replace("ConfigMap", "Secret"), 400, "invalid object type"),
    ] {
        let refused = apply(&mut admin, &path, query, &body).await;
        assert_eq!(refused.code, code, "{body}: {}", refused.text);
        assert!(refused.message().contains(words), "{body}: {}", refused.message());
    }
    let other = apply(&mut admin, &format!("{CONFIG_MAPS}/b"), "fieldManager=me", &map(&json!({}))).await;
    assert!(other.message().contains("does not match the name on the URL"), "{}", other.message());
    let forbidden =
        admin.send(Method::PATCH, &format!("{path}?force=true"), "application/merge-patch+json", "{}").await;
    assert_eq!(forbidden.code, 422);
    assert!(forbidden.message().contains("force: Forbidden"), "{}", forbidden.message());
    assert_eq!(admin.get(&path).await.expect(200), less);
    server.stop().await;
}

#[tokio::test]
async fn every_write_has_an_owner() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let long = "x".repeat(129);
    let refused =
        admin.post(&format!("{CONFIG_MAPS}?fieldManager={long}"), &config_map("a", json!({}))).await;
    assert_eq!(
        (refused.code, refused.message()),
        (
            422,
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes"
        )
    );
    let made = admin.post(CONFIG_MAPS, &config_map("a", json!({}))).await.expect(201);
    assert_eq!(owners(&made), ["unknown Update "]);
    let path = format!("{CONFIG_MAPS}/a");
    let patch = json!({"data": {"a": "2"}});
    let patched = admin.patch(&format!("{path}?fieldManager=b"), "merge-patch", &patch).await.expect(200);
    assert_eq!(owners(&patched).len(), 2);
    // What says nothing of owners keeps them, what says that there are none is heard.
    let mut put = patched.clone();
    put["metadata"]["managedFields"] = Value::Null;
    assert_eq!(admin.put(&path, &put).await.expect(200), patched);
    put["metadata"]["managedFields"] = json!([]);
    assert_eq!(owners(&admin.put(&path, &put).await.expect(200)), [""; 0]);

    // What the server fills in is nobody's; a status is a matter of its own.
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: w}\nspec: {ports: [{port: 80}], type: LoadBalancer}";
    let path = format!("{SERVICES}/w");
    let made = apply(&mut admin, &path, "fieldManager=me", service).await.expect(201);
    assert!(made["spec"]["clusterIP"].is_string() && made["spec"]["ports"][0]["nodePort"].is_number());
    assert_eq!(
        made["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:type": {}}})
    );
    let status = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "w"},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1", "ipMode": "VIP"}]}}});
    let query = "fieldManager=lb";
    let shown = apply(&mut admin, &format!("{path}/status"), query, &status.to_string()).await.expect(200);
    assert_eq!(owners(&shown), ["lb Apply status", "me Apply "]);
    assert_eq!(shown["status"]["loadBalancer"]["ingress"][0]["ip"], "10.0.0.1");
    let again = apply(&mut admin, &path, "fieldManager=me", service).await.expect(200);
    assert_eq!(again, shown);
    let nothing = apply(&mut admin, &format!("{SERVICES}/x/status"), query, &status.to_string()).await;
    assert_eq!(nothing.code, 404);
    server.stop().await;
}
