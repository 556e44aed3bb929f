//! Requests made up from the OpenAPI documents that are served: every operation, with bodies and parameters that fit
//! them, fit them nearly, or are something else.
//!
//! No answer is a 500, no connection is dropped, each refusal is a `Status` of its code, and after it all the server
//! lists what it has stored. `MINISVC_SEED` repeats a run, whose seed is printed.

mod requests;
mod values;

use super::harness::{Answer, Client, Server};
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use minisvc_store::Limits;
use requests::{Made, Operation};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use values::Maker;

/// How long requests are made up.
const BUDGET: Duration = Duration::from_secs(25);
/// Connections at a time.
const LANES: u64 = 4;
/// A request that is not answered by then is not going to be: longer than the server waits for a node.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long is listened to what has no end of its own.
const WATCHED: Duration = Duration::from_millis(50);
/// One object of each kind that is valid.
const SAMPLES: &str = include_str!("generated/samples.json");

/// Every operation of every document that is served.
async fn operations(admin: &mut Client) -> Vec<Operation> {
    let index = admin.get("/openapi/v3").await.expect(200);
    let mut found = Vec::new();
    for document in index["paths"].as_object().unwrap().values() {
        let url = document["serverRelativeURL"].as_str().unwrap();
        found.extend(requests::operations(&Arc::new(admin.get(url).await.expect(200))));
    }
    assert!(found.len() > 100, "{} operations", found.len());
    found
}

fn samples() -> BTreeMap<String, Value> {
    serde_json::from_str(SAMPLES).unwrap()
}

/// Stores those samples that are not there, as far as what else is there lets it.
async fn store_samples(admin: &mut Client) -> Vec<u16> {
    let mut codes = Vec::new();
    for (path, object) in samples() {
        codes.push(admin.post(&path, &object).await.code);
    }
    codes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_is_answered() {
    let seed = std::env::var("MINISVC_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random::<u32>).into();
    println!("MINISVC_SEED={seed}");
    // Nobody listens at the port of the nodes' servers.
    let server = Arc::new(Server::start_with(Limits::default(), 1).await);
    let mut admin = server.admin().await;
    let operations = Arc::new(operations(&mut admin).await);
    let codes = store_samples(&mut admin).await;
    assert!(codes.iter().all(|code| *code == 201), "the samples are valid: {codes:?}");
    let lanes = (0..LANES).map(|lane| {
        let (server, operations) = (Arc::clone(&server), Arc::clone(&operations));
        tokio::spawn(async move { run(&server, &operations, Maker::new(seed + (lane << 32))).await })
    });
    let (mut codes, mut served) = (BTreeMap::<u16, usize>::new(), BTreeSet::new());
    for counted in futures::future::join_all(lanes).await {
        for ((operation, code), count) in counted.unwrap() {
            *codes.entry(code).or_default() += count;
            served.extend((code < 300).then_some(operation));
        }
    }
    println!("{} requests of {} operations: {codes:?}", codes.values().sum::<usize>(), operations.len());
    // It is of no use if it is always refused.
    let ours = operations.iter().filter(|operation| !is_passed_on(&operation.path)).count();
    assert!(3 * served.len() > 2 * ours, "{} of {ours} operations were ever carried out", served.len());
    for code in [200, 201, 400, 404, 409, 415, 422] {
        assert!(codes.contains_key(&code), "nothing has tried {code}: {codes:?}");
    }
    still_serves(&server, &operations).await;
    Arc::into_inner(server).unwrap().stop().await;
}

/// Sends one request of each operation, again and again; how often which code was the answer.
async fn run(server: &Server, operations: &[Operation], mut maker: Maker) -> BTreeMap<(String, u16), usize> {
    let begun = Instant::now();
    let samples = samples();
    let mut codes = BTreeMap::new();
    let mut client = server.admin().await;
    while begun.elapsed() < BUDGET {
        for operation in operations {
            if client.is_closed() {
                client = server.admin().await;
            }
            let path = maker.path(operation);
            let mut valid = samples.values().find(|sample| operation.is_of(sample)).cloned();
            if operation.method == Method::PUT && maker.boolean() {
                client.headers.clear();
                let stored = client.get(&path).await;
                valid = if stored.code == 200 { Some(stored.body) } else { valid };
            }
            let made = maker.request(operation, path, valid);
            let code = match tokio::time::timeout(ANSWER_WITHIN, answered(&mut client, &made)).await {
                Ok(Some(answer)) => check(operation, &made, &answer),
                // What goes on for ever has its connection to itself.
                Ok(None) => {
                    client = server.admin().await;
                    200
                }
                Err(_) => panic!("no answer: {made}"),
            };
            *codes.entry((operation.to_string(), code)).or_default() += 1;
            if code == 200 && made.method == Method::DELETE {
                store_samples(&mut server.admin().await).await;
            }
        }
    }
    codes
}

/// The answer; none if its head was fine and its body has no end.
async fn answered(client: &mut Client, made: &Made) -> Option<Answer> {
    client.headers = made.headers.clone();
    let sent = client.try_raw(made.method.clone(), &made.path, "", made.body.clone()).await;
    let (parts, body) = sent.unwrap_or_else(|error| panic!("{error}: {made}")).into_parts();
    let body = tokio::time::timeout(if made.lasts { WATCHED } else { ANSWER_WITHIN }, body.collect()).await;
    let bytes = match body {
        Ok(body) => body.unwrap_or_else(|error| panic!("{error}: {made}")).to_bytes(),
        Err(_) if made.lasts && parts.status == StatusCode::OK => return None,
        Err(_) => panic!("the body does not end: {made}"),
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Some(Answer { code: parts.status.as_u16(), headers: parts.headers, body, text })
}

/// Whether a node or a Pod answers, which may fail there.
fn is_passed_on(path: &str) -> bool {
    ["/proxy", "/log", "/exec", "/attach", "/portforward"].iter().any(|part| path.contains(part))
}

/// What every answer must be.
fn check(operation: &Operation, made: &Made, answer: &Answer) -> u16 {
    let (code, text) = (answer.code, &answer.text);
    // As in Kubernetes, who asks for what is not yet is told to try again.
    let too_new = code == 504 && answer.message().starts_with("Timeout: Too large resource version: ");
    let fine = (200..500).contains(&code)
        || too_new
        || is_passed_on(&made.operation) && [502, 503, 504].contains(&code);
    assert!(fine, "{code}: {made}\n{text}");
    if made.method == Method::HEAD {
        assert!(text.is_empty(), "{made}");
    } else if code >= 400 {
        let status = &answer.body;
        let said = [&status["apiVersion"], &status["kind"], &status["status"], &status["code"]];
        assert_eq!(said, [&json!("v1"), &json!("Status"), &json!("Failure"), &json!(code)], "{made}\n{text}");
        for field in ["reason", "message"] {
            assert!(status[field].as_str().is_some_and(|words| !words.is_empty()), "{field}: {made}\n{text}");
        }
        let names_fields = status["details"]["causes"][0]["field"].is_string();
        assert!(names_fields || !answer.message().contains(" is invalid: "), "{made}\n{text}");
    } else if answer.headers.get(header::CONTENT_TYPE).is_some_and(|media| media == "application/json") {
        assert!(answer.body.is_object(), "{code}: {made}\n{text}");
        // Asked for as they are, objects are what the document says.
        if !made.headers.contains_key(header::ACCEPT) && !made.lasts {
            assert_eq!(operation.misfit(&answer.body), None, "{made}\n{text}");
        }
    }
    code
}

/// All that is stored is listed, as it is and as tables, and can be read one by one.
async fn still_serves(server: &Server, operations: &[Operation]) {
    let mut admin = server.admin().await;
    admin.get("/readyz").await;
    let mut table = server.admin().await.accept("application/json;as=Table;v=v1;g=meta.k8s.io");
    let mut objects = 0;
    for operation in operations.iter().filter(|operation| operation.lists_all) {
        let list = admin.get(&operation.path).await.expect(200);
        let rows = table.get(&operation.path).await.expect(200);
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), rows["rows"].as_array().unwrap().len(), "{}", operation.path);
        for item in items {
            let (namespace, name) =
                (item["metadata"]["namespace"].as_str(), item["metadata"]["name"].as_str());
            let (before, plural) = operation.path.rsplit_once('/').unwrap();
            let place = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
            let path = format!("{before}{place}/{plural}/{}", name.unwrap());
            assert_eq!(admin.get(&path).await.expect(200)["metadata"]["uid"], item["metadata"]["uid"]);
            objects += 1;
        }
    }
    println!("{objects} objects are stored");
}
