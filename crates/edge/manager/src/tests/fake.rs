//! An API server in this process, as far as list/watch clients and controllers need one: versions, conflicts, watches
//! with a window, `410 Gone`. It can be killed and started again on the same port.

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use minisvc_apimachinery::resource::RESOURCES;
use minisvc_client::ApiClient;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

type Body = UnsyncBoxBody<Bytes, Infallible>;
/// Plural, namespace, name.
type Key = (String, String, String);

#[derive(Default)]
pub(super) struct State {
    pub objects: BTreeMap<Key, Value>,
    pub revision: u64,
    log: Vec<(u64, String, Value)>,
    window_from: u64,
    pub writes: Vec<String>,
}

pub(super) struct Fake {
    pub state: Arc<Mutex<State>>,
    revisions: watch::Sender<u64>,
    address: SocketAddr,
    tasks: JoinSet<()>,
}

struct Route {
    key: Key,
    sub: String,
    query: BTreeMap<String, String>,
}

impl State {
    fn log(&mut self, kind: &str, key: &Key, object: &Value) {
        self.log.push((self.revision, key.0.clone(), json!({ "type": kind, "object": object })));
    }

    pub(super) fn put(&mut self, key: &Key, mut object: Value) -> Value {
        self.revision += 1;
        let there = self.objects.contains_key(key);
        let resource = RESOURCES.iter().find(|r| r.plural == key.0).unwrap();
        (object["apiVersion"], object["kind"]) = (resource.api_version().into(), resource.kind.into());
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.revision).into();
            object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        self.objects.insert(key.clone(), object.clone());
        self.log(if there { "MODIFIED" } else { "ADDED" }, key, &object);
        object
    }

    pub(super) fn delete(&mut self, key: &Key) {
        if let Some(mut object) = self.objects.remove(key) {
            self.revision += 1;
            object["metadata"]["resourceVersion"] = self.revision.to_string().into();
            self.log("DELETED", key, &object);
        }
    }
}

pub(super) fn key(plural: &str, namespace: &str, name: &str) -> Key {
    (plural.to_owned(), namespace.to_owned(), name.to_owned())
}

impl Fake {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (revisions, _) = watch::channel(0);
        let mut fake = Self { state: Arc::default(), revisions, address, tasks: JoinSet::new() };
        fake.serve(listener);
        fake
    }

    fn serve(&mut self, listener: TcpListener) {
        let (state, revisions) = (Arc::clone(&self.state), self.revisions.clone());
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (state, revisions) = (Arc::clone(&state), revisions.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let (state, revisions) = (Arc::clone(&state), revisions.clone());
                        async move { Ok::<_, Infallible>(answer(&state, &revisions, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
    }

    /// Ends the listener and every connection.
    pub(super) async fn kill(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Listens again, without the watch window of before.
    pub(super) async fn start_again(&mut self) {
        self.forget_window();
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    /// Watches from before now get `410 Gone`.
    pub(super) fn forget_window(&self) {
        let mut state = self.state.lock().unwrap();
        state.window_from = state.revision;
        state.log.clear();
    }

    pub(super) fn client(&self) -> ApiClient {
        let config = kube::Config::new(format!("http://{}", self.address).parse().unwrap());
        ApiClient::from_config(&config).unwrap()
    }

    pub(super) fn put(&self, key: &Key, mut object: Value) {
        object["metadata"]["name"] = key.2.as_str().into();
        if !key.1.is_empty() {
            object["metadata"]["namespace"] = key.1.as_str().into();
        }
        let mut state = self.state.lock().unwrap();
        if let Some(old) = state.objects.get(key) {
            object["metadata"]["uid"] = old["metadata"]["uid"].clone();
        }
        state.put(key, object);
        self.revisions.send_replace(state.revision);
    }

    pub(super) fn delete(&self, key: &Key) {
        let mut state = self.state.lock().unwrap();
        state.delete(key);
        self.revisions.send_replace(state.revision);
    }

    pub(super) fn get(&self, key: &Key) -> Option<Value> {
        self.state.lock().unwrap().objects.get(key).cloned()
    }
}

fn full(code: u16, value: &Value) -> Response<Body> {
    let body = http_body_util::Full::new(Bytes::from(serde_json::to_vec(value).unwrap()));
    Response::builder().status(code).body(body.boxed_unsync()).unwrap()
}

fn failure(code: u16, reason: &str) -> Response<Body> {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "reason": reason, "message": reason, "code": code,
    });
    full(code, &status)
}

fn route(request: &Request<Incoming>) -> Route {
    let mut parts: Vec<&str> = request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
    parts.drain(..if parts.first() == Some(&"apis") { 3 } else { 2.min(parts.len()) });
    let mut namespace = "";
    if parts.len() >= 3 && parts[0] == "namespaces" && !["finalize", "status"].contains(&parts[2]) {
        namespace = parts[1];
        parts.drain(..2);
    }
    let part = |n: usize| parts.get(n).copied().unwrap_or_default();
    let query = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    Route {
        key: key(part(0), namespace, part(1)),
        sub: part(2).to_owned(),
        query: query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }
}

async fn answer(
    state: &Arc<Mutex<State>>,
    revisions: &watch::Sender<u64>,
    request: Request<Incoming>,
) -> Response<Body> {
    let route = route(&request);
    let method = request.method().clone();
    let in_namespace = |key: &Key| key.0 == route.key.0 && (route.key.1.is_empty() || key.1 == route.key.1);
    if method == Method::GET && route.key.2.is_empty() {
        if route.query.get("watch").is_some_and(|watch| watch == "true") {
            let from = route.query["resourceVersion"].parse().unwrap();
            return watching(Arc::clone(state), revisions.subscribe(), route.key.0, from);
        }
        let state = state.lock().unwrap();
        let items: Vec<&Value> =
            state.objects.iter().filter(|(key, _)| in_namespace(key)).map(|(_, o)| o).collect();
        let list = json!({
            "apiVersion": "v1", "kind": "List",
            "metadata": { "resourceVersion": state.revision.to_string() }, "items": items,
        });
        return full(200, &list);
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut state = state.lock().unwrap();
    if method != Method::GET {
        state.writes.push(format!("{method} {:?} {}", route.key, route.sub));
    }
    let answer = write(&mut state, &method, &route, body, &in_namespace);
    revisions.send_replace(state.revision);
    answer
}

fn write(
    state: &mut State,
    method: &Method,
    route: &Route,
    body: Value,
    in_namespace: &dyn Fn(&Key) -> bool,
) -> Response<Body> {
    let mut key = route.key.clone();
    let present = state.objects.get(&key).cloned();
    let stale = |present: &Value, body: &Value| {
        let wanted = &body["metadata"]["resourceVersion"];
        !wanted.is_null() && *wanted != present["metadata"]["resourceVersion"]
    };
    match (method.as_str(), present) {
        ("POST", None) if key.2.is_empty() => {
            key.2 = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if state.objects.contains_key(&key) {
                return failure(409, "AlreadyExists");
            }
            full(201, &state.put(&key, body))
        }
        ("POST", Some(mut object)) if route.sub == "binding" => {
            object["spec"]["nodeName"] = body["target"]["name"].clone();
            state.put(&key, object);
            full(201, &json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }))
        }
        ("DELETE", None) if key.2.is_empty() => {
            let keys: Vec<Key> = state.objects.keys().filter(|key| in_namespace(key)).cloned().collect();
            keys.iter().for_each(|key| state.delete(key));
            full(200, &json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }))
        }
        ("GET", Some(object)) => full(200, &object),
        (_, Some(object)) if stale(&object, &body) => failure(409, "Conflict"),
        ("PUT", Some(object)) if route.sub == "finalize" => {
            state.delete(&key);
            full(200, &object)
        }
        ("PUT", Some(_)) => full(200, &state.put(&key, body)),
        ("PATCH", Some(mut object)) => {
            json_patch::merge(&mut object, &body);
            full(200, &state.put(&key, object))
        }
        ("DELETE", Some(object)) => {
            state.delete(&key);
            full(200, &object)
        }
        _ => failure(404, "NotFound"),
    }
}

fn watching(
    state: Arc<Mutex<State>>,
    revisions: watch::Receiver<u64>,
    plural: String,
    from: u64,
) -> Response<Body> {
    let lines = futures::stream::unfold(
        (state, revisions, plural, Some(from)),
        |(state, mut revisions, plural, from)| async move {
            let from = from?;
            loop {
                revisions.mark_unchanged();
                let (mut text, mut next) = (String::new(), Some(from));
                {
                    let state = state.lock().unwrap();
                    if from < state.window_from {
                        let gone = json!({ "kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired", "message": "too old", "status": "Failure" });
                        text = format!("{}\n", json!({ "type": "ERROR", "object": gone }));
                        next = None;
                    } else {
                        for (revision, kind, event) in &state.log {
                            if *revision > from && *kind == plural {
                                text.push_str(&format!("{event}\n"));
                                next = Some(*revision);
                            }
                        }
                    }
                }
                if !text.is_empty() {
                    return Some((Bytes::from(text), (state, revisions, plural, next)));
                }
                revisions.changed().await.ok()?;
            }
        },
    );
    let body = StreamBody::new(lines.map(|line| Ok::<_, Infallible>(Frame::data(line))));
    Response::new(body.boxed_unsync())
}
