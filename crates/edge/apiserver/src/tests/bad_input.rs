//! Bad input, over every way in: a `Status` that says what is wrong, and nothing changed.

use super::harness::{Answer, CONFIG_MAPS, Client, Server, config_map, revision};
use http::Method;
use serde_json::{Value, json};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

/// A stored ConfigMap `kept`, and whether it is still what it was.
struct Kept {
    server: Server,
    object: Value,
    at: u64,
}

impl Kept {
    async fn start() -> Self {
        let server = Server::start().await;
        let object = server.admin().await.post(CONFIG_MAPS, &config_map("kept", json!({}))).await.expect(201);
        let at = revision(&server);
        Self { server, object, at }
    }

    fn check(&self, answer: &Answer, code: u16, what: &str) {
        assert_eq!(answer.code, code, "{what}: {}", answer.text);
        let status = [&answer.body["kind"], &answer.body["status"], &answer.body["code"]];
        assert_eq!(status, [&json!("Status"), &json!("Failure"), &json!(code)], "{what}");
        assert!(!answer.message().is_empty(), "{what}");
        assert_eq!(revision(&self.server), self.at, "{what}: nothing changes");
    }

    /// Sends a body by every verb that takes one of this media type, each on a connection of its own.
    async fn refuses(&self, media: &str, body: impl AsRef<[u8]>, code: u16, what: &str) {
        let one = format!("{CONFIG_MAPS}/kept");
        let force = if media == APPLY { "&force=true" } else { "" };
        let ways = match media.contains("patch") {
            true => vec![(Method::PATCH, format!("{one}?fieldManager=me{force}"))],
            false => vec![(Method::POST, CONFIG_MAPS.to_owned()), (Method::PUT, one)],
        };
        for (method, path) in ways {
            let mut admin = self.server.admin().await;
            let answer = admin.send(method.clone(), &path, media, body.as_ref().to_vec()).await;
            self.check(&answer, code, &format!("{what}, {method} {media}"));
        }
    }

    async fn end(self) {
        let kept = self.server.admin().await.get(&format!("{CONFIG_MAPS}/kept")).await.expect(200);
        assert_eq!(kept, self.object);
        self.server.stop().await;
    }
}

#[tokio::test]
async fn broken_texts() {
    let kept = Kept::start().await;
    let whole = config_map("kept", json!({})).to_string();
    for media in [JSON, MERGE, "application/json-patch+json", "application/strategic-merge-patch+json"] {
        for broken in ["", "{", "{\"a\":}", "nul", "{\"a\":1}}", &whole[..whole.len() - 1]] {
            kept.refuses(media, broken, 400, "broken JSON").await;
        }
    }
    for media in [YAML, APPLY] {
        for broken in ["a: [", "\t- a", "a: b: c", "- just a list", "%YAML 9.9\n---\n"] {
            kept.refuses(media, broken, 400, "broken YAML").await;
        }
    }
    for bytes in [&b"{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"kept\"},\"data\":{\"a\":\"\xff\"}}"[..], b"\xff\xfe{}"] {
        for media in [JSON, YAML, MERGE, APPLY] {
            kept.refuses(media, bytes, 400, "invalid UTF-8").await;
        }
    }
    let mut admin = kept.server.admin().await;
    for path in [format!("{CONFIG_MAPS}/%ff"), format!("{CONFIG_MAPS}/%zz"), format!("{CONFIG_MAPS}/%2")] {
        kept.check(&admin.get(&path).await, 400, &path);
    }
    kept.end().await;
}

#[tokio::test]
async fn more_than_one_object() {
    let kept = Kept::start().await;
    let one = config_map("kept", json!({})).to_string();
    kept.refuses(JSON, format!("{one}\n{one}"), 400, "two objects").await;
    kept.refuses(JSON, format!("[{one},{one}]"), 400, "a list").await;
    kept.refuses(MERGE, format!("{one}{one}"), 400, "two objects").await;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [config_map("kept", json!({})), config_map("b", json!({}))]});
    kept.refuses(JSON, list.to_string(), 400, "a v1 List").await;
    for media in [YAML, APPLY] {
        kept.refuses(media, format!("{one}\n---\n{one}"), 400, "two documents").await;
        kept.refuses(media, list.to_string(), 400, "a v1 List").await;
    }
    kept.end().await;
}

#[tokio::test]
async fn objects_of_another_kind_or_place() {
    let kept = Kept::start().await;
    for (field, value, by_patch) in [
        ("/kind", "Secret", 400),
        ("/kind", "", 400),
        ("/apiVersion", "v2", 400),
        ("/apiVersion", "apps/v1", 400),
        ("/metadata/namespace", "kube-system", 422),
    ] {
        let mut object = config_map("kept", json!({}));
        object["metadata"]["namespace"] = "default".into();
        *object.pointer_mut(field).unwrap() = value.into();
        for (media, code) in [(JSON, 400), (YAML, 400), (APPLY, by_patch), (MERGE, by_patch)] {
            kept.refuses(media, object.to_string(), code, field).await;
        }
    }
    let mut admin = kept.server.admin().await;
    let renamed = admin.put(&format!("{CONFIG_MAPS}/kept"), &config_map("other", json!({}))).await;
    kept.check(&renamed, 400, "another name than the path's");
    for path in
        ["/api/v1/namespaces/default/secrets", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"]
    {
        kept.check(&admin.post(path, &config_map("x", json!({}))).await, 400, path);
    }
    kept.end().await;
}

#[tokio::test]
async fn texts_without_measure() {
    let kept = Kept::start().await;
    let data = |length: usize| {
        let mut object = config_map("kept", json!({}));
        object["data"]["a"] = "x".repeat(length).into();
        object.to_string()
    };
    for media in [JSON, YAML, MERGE, APPLY] {
        kept.refuses(media, data(10 << 20), 413, "10 MB").await;
        kept.refuses(media, data((1 << 20) + 1), 422, "more than a ConfigMap holds").await;
    }
    for depth in [101, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let middle = if open == "[" { "" } else { "1" };
            let nested = format!("{}{middle}{}", open.repeat(depth), close.repeat(depth));
            let object = format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"kept"}},"x":{nested}}}"#
            );
            for media in [JSON, YAML, MERGE, APPLY] {
                kept.refuses(media, &object, 400, "deep nesting").await;
            }
        }
    }
    let block: String = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    kept.refuses(YAML, block, 400, "deep nesting by indentation").await;
    // CVE-2019-11253: nine levels of nine references each would be 387 million nodes.
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let before = vec![format!("*a{}", level - 1); 9].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    let merging = "x: &x {a: b}\ndata: {<<: *x}\n";
    for media in [YAML, APPLY] {
        kept.refuses(media, &bomb, 400, "an alias bomb").await;
        kept.refuses(media, merging, 400, "any alias").await;
    }
    kept.end().await;
}

/// What is within the bounds is taken, by every step that walks an object, on the stack that there is.
#[tokio::test]
async fn nesting_within_the_bound() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let mut nested = json!("x");
    for _ in 0..95 {
        nested = json!({"a": nested});
    }
    let mut object = config_map("deep", json!({}));
    object["x"] = nested.clone();
    let made = admin.post(CONFIG_MAPS, &object).await.expect(201);
    assert_eq!(made["x"], nested, "unknown fields survive");
    let path = format!("{CONFIG_MAPS}/deep");
    for kind in ["merge-patch", "strategic-merge-patch"] {
        nested = json!({"b": nested["a"]});
        let changed = admin.patch(&path, kind, &json!({"x": nested})).await.expect(200);
        assert_eq!(changed["x"]["b"], nested["b"]);
        nested = json!({"a": nested["b"]});
    }
    admin.put(&path, &object).await.expect(200);
    assert_eq!(admin.get(CONFIG_MAPS).await.code, 200);
    admin.delete(&path).await.expect(200);
    server.stop().await;
}

async fn patch(admin: &mut Client, kind: &str, body: &Value) -> Answer {
    let path = format!("{CONFIG_MAPS}/kept?fieldManager=me");
    admin.send(Method::PATCH, &path, kind, body.to_string()).await
}

#[tokio::test]
async fn patches_that_are_none_or_leave_nothing_good() {
    let kept = Kept::start().await;
    let mut admin = kept.server.admin().await;
    for kind in ["application/json", "application/x-patch+json", "application/cbor", "text/plain", ""] {
        kept.check(&patch(&mut admin, kind, &json!({})).await, 415, kind);
    }
    let strategic = "application/strategic-merge-patch+json";
    let by_steps = "application/json-patch+json";
    let replace = |path: &str, value: Value| json!([{"op": "replace", "path": path, "value": value}]);
    for (kind, body, code) in [
        (MERGE, json!({"data": {"a b": "1"}}), 422),
        (MERGE, json!({"data": {"a": 1}}), 400),
        (MERGE, json!({"data": "x"}), 400),
        (MERGE, json!({"metadata": {"labels": {"-": "x"}}}), 422),
        (MERGE, json!({"metadata": {"name": "other"}}), 422),
        (MERGE, json!({"metadata": {"uid": "other"}}), 409),
        (MERGE, json!({"metadata": null}), 422),
        (MERGE, json!([]), 400),
        (strategic, json!({"data": {"a b": "1"}}), 422),
        (strategic, json!({"$patch": "explode"}), 400),
        (strategic, json!({"data": []}), 400),
        (by_steps, replace("/data/a b", json!("1")), 422),
        (by_steps, replace("/nowhere/at/all", json!("1")), 422),
        (by_steps, replace("/metadata/name", json!("other")), 422),
        (by_steps, replace("", json!(null)), 400),
        (by_steps, json!([{"op": "test", "path": "/data/a", "value": "other"}]), 422),
        (by_steps, json!([{"op": "explode", "path": "/data"}]), 400),
        (by_steps, json!({"op": "remove"}), 400),
        (
            APPLY,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a b": "1"}}),
            422,
        ),
        (
            APPLY,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "nonsense": 1}),
            400,
        ),
        (APPLY, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}}), 422),
    ] {
        let answer = patch(&mut admin, kind, &body).await;
        kept.check(&answer, code, &format!("{kind} {body}"));
    }
    kept.end().await;
}

#[tokio::test]
async fn watches_and_lists_of_another_time() {
    let kept = Kept::start().await;
    let mut admin = kept.server.admin().await;
    for from in ["x", "-1", "1.5", "99999999999999999999999"] {
        for query in [format!("?watch=1&resourceVersion={from}"), format!("?resourceVersion={from}")] {
            kept.check(&admin.get(&format!("{CONFIG_MAPS}{query}")).await, 400, &query);
        }
    }
    // The head of a watch is sent before its events, as in Kubernetes.
    let future = kept.at + 1000;
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={future}");
    let mut watch = kept.server.admin().await.watch(&path).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("ERROR"), &json!("Status")));
    assert_eq!((&event["object"]["code"], &event["object"]["reason"]), (&json!(410), &json!("Expired")));
    assert!(watch.next().await.is_none(), "and the watch ends");
    let listed = admin.get(&format!("{CONFIG_MAPS}?resourceVersion={future}")).await;
    assert_eq!((listed.code, &listed.body["reason"]), (504, &json!("Timeout")));
    kept.end().await;
}
