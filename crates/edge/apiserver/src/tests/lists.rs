use super::harness::{CONFIG_MAPS, SERVICES, Server, config_map, service};
use minisvc_apimachinery::resource;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn lists_are_selected() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    for (name, app) in [("a", "x"), ("b", "y"), ("c", "z")] {
        admin.post(CONFIG_MAPS, &config_map(name, json!({"app": app}))).await.expect(201);
    }
    let other = "/api/v1/namespaces/kube-system/configmaps";
    admin.post(other, &config_map("a", json!({}))).await.expect(201);
    for (query, expected) in [
        ("", vec!["a", "b", "c"]),
        ("?labelSelector=app%3Dx", vec!["a"]),
        ("?labelSelector=app+in+(x,y),app!%3Dy", vec!["a"]),
        ("?labelSelector=app", vec!["a", "b", "c"]),
        ("?fieldSelector=metadata.name%3Db", vec!["b"]),
        ("?fieldSelector=metadata.name!%3Db", vec!["a", "c"]),
        ("?labelSelector=nothing", vec![]),
    ] {
        let list = admin.get(&format!("{CONFIG_MAPS}{query}")).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    }
    let all = admin.get("/api/v1/configmaps").await.expect(200);
    assert_eq!(names(&all), ["a", "b", "c", "a"]);
    for query in ["?labelSelector=a%3D%3D%3D", "?fieldSelector=spec.x%3D1", "?limit=-1", "?limit=x"] {
        assert_eq!(admin.get(&format!("{CONFIG_MAPS}{query}")).await.code, 400, "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn whoever_wants_only_metadata_gets_no_more() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    admin.post(CONFIG_MAPS, &config_map("a", json!({"app": "x"}))).await.expect(201);
    let accept = |form: &str| format!("application/json;as={form};g=meta.k8s.io;v=v1");
    let mut bare = server.admin().await.accept(&accept("PartialObjectMetadataList"));
    let list = bare.get(CONFIG_MAPS).await.expect(200);
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1"))
    );
    let item = &list["items"][0];
    assert_eq!(
        (&item["kind"], &item["metadata"]["labels"]["app"]),
        (&json!("PartialObjectMetadata"), &json!("x"))
    );
    assert_eq!(item.as_object().unwrap().len(), 3, "{item}");
    let mut one = server.admin().await.accept(&accept("PartialObjectMetadata"));
    assert_eq!(one.get(&format!("{CONFIG_MAPS}/a")).await.expect(200)["metadata"], item["metadata"]);
    server.stop().await;
}

#[tokio::test]
async fn pages_show_one_version() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    for n in 0..5 {
        admin.post(CONFIG_MAPS, &config_map(&format!("m{n}"), json!({}))).await.expect(201);
    }
    let first = admin.get(&format!("{CONFIG_MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["m0", "m1"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    // What happens between two pages is not seen.
    admin.delete(&format!("{CONFIG_MAPS}/m3")).await.expect(200);
    admin.post(CONFIG_MAPS, &config_map("m2a", json!({}))).await.expect(201);
    let next = |list: &Value| {
        format!("{CONFIG_MAPS}?limit=2&continue={}", list["metadata"]["continue"].as_str().unwrap())
    };
    let second = admin.get(&next(&first)).await.expect(200);
    assert_eq!(names(&second), ["m2", "m3"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let third = admin.get(&next(&second)).await.expect(200);
    assert_eq!(names(&third), ["m4"]);
    assert!(third["metadata"].get("continue").is_none());
    // Many lists later the version is not kept any more.
    for n in 0..40 {
        let changed = json!({"data": {"n": n.to_string()}});
        admin.patch(&format!("{CONFIG_MAPS}/m0"), "merge-patch", &changed).await.expect(200);
        admin.get(&format!("{CONFIG_MAPS}?limit=1")).await.expect(200);
    }
    let late = admin.get(&next(&first)).await;
    assert_eq!((late.code, &late.body["reason"]), (410, &json!("Expired")));
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.code, 400);
    server.stop().await;
}

#[tokio::test]
async fn versions_of_lists_are_checked() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    admin.post(CONFIG_MAPS, &config_map("a", json!({}))).await.expect(201);
    for (query, code) in [
        ("resourceVersion=0", 200),
        ("resourceVersion=1", 200),
        ("resourceVersion=1&resourceVersionMatch=NotOlderThan", 200),
        ("resourceVersion=1&resourceVersionMatch=Exact", 410),
        ("resourceVersion=999999", 504),
        ("resourceVersion=x", 400),
        ("resourceVersionMatch=Exact", 400),
        ("resourceVersion=1&resourceVersionMatch=Some", 400),
    ] {
        let answer = admin.get(&format!("{CONFIG_MAPS}?{query}")).await;
        assert_eq!(answer.code, code, "{query}: {}", answer.text);
    }
    server.stop().await;
}

#[tokio::test]
async fn kubectl_gets_tables() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    admin.post(SERVICES, &service("web")).await.expect(201);
    let mut kubectl = server.admin().await.accept(
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
    );
    for path in [SERVICES.to_owned(), format!("{SERVICES}/web")] {
        let table = kubectl.get(&path).await.expect(200);
        assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
        assert_eq!(table["rows"][0]["cells"][0], "web");
        assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "web");
        let columns = table["columnDefinitions"].as_array().unwrap();
        assert!(columns.iter().any(|column| column["name"] == "Cluster-IP"), "{columns:?}");
    }
    let whole = kubectl.get(&format!("{SERVICES}?includeObject=Object")).await.expect(200);
    assert_eq!(whole["rows"][0]["object"]["kind"], "Service");
    let mut other = server.admin().await.accept("application/vnd.kubernetes.protobuf");
    assert_eq!(other.get(SERVICES).await.code, 406);
    server.stop().await;
}

#[tokio::test]
async fn what_is_served_can_be_discovered() {
    let server = Server::start().await;
    let mut admin = server.admin().await;
    let core = admin.get("/api/v1").await.expect(200);
    let resources = core["resources"].as_array().unwrap();
    let pods = resources.iter().find(|r| r["name"] == "pods").unwrap();
    assert_eq!(pods["shortNames"], json!(["po"]));
    assert!(resources.iter().any(|r| r["name"] == "pods/log"));
    assert_eq!(admin.get("/api").await.expect(200)["versions"], json!(["v1"]));
    let groups = admin.get("/apis").await.expect(200);
    let served: BTreeSet<&str> =
        resource::served().map(|r| r.group).filter(|group| !group.is_empty()).collect();
    assert_eq!(groups["groups"].as_array().unwrap().len(), served.len());
    let reviews = admin.get("/apis/authentication.k8s.io/v1").await.expect(200);
    assert_eq!(reviews["resources"][0]["verbs"], json!(["create"]));
    assert_eq!(admin.get("/apis/discovery.k8s.io").await.expect(200)["preferredVersion"]["version"], "v1");
    let ingresses = admin.get("/apis/networking.k8s.io/v1").await.expect(200);
    assert_eq!(ingresses["groupVersion"], "networking.k8s.io/v1");
    assert_eq!(admin.get("/apis/batch").await.code, 404);
    let index = admin.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = admin.get(&url).await;
    assert_eq!(document.body["openapi"], "3.0.0");
    let etag = document.headers[http::header::ETAG].clone();
    admin.headers.insert(http::header::IF_NONE_MATCH, etag);
    assert_eq!(admin.get(&url).await.code, 304);
    let mut aggregated = server
        .admin()
        .await
        .accept("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json");
    let core = aggregated.get("/api").await.expect(200);
    assert_eq!(core["kind"], "APIGroupDiscoveryList");
    let count = resource::served().filter(|r| r.group.is_empty()).count();
    assert_eq!(core["items"][0]["versions"][0]["resources"].as_array().unwrap().len(), count);
    let groups = aggregated.get("/apis").await.expect(200);
    assert_eq!(groups["items"].as_array().unwrap().len(), served.len());
    let metrics = admin.get("/metrics").await;
    assert!(metrics.text.contains("apiserver_request_total{verb=\"get\""), "{}", metrics.text);
    assert!(metrics.text.contains("apiserver_storage_revision "), "{}", metrics.text);
    server.stop().await;
}
