//! From a request to its answer: who asks, what for, may they, and then the part that answers.

use crate::{
    ApiServer, accept,
    auth::{self, Asked, User},
    body, discovery, join,
    path::{self, Parameters, Route, Target},
    proxy, read, respond, review, token_request, watch,
    write::Write,
};
use axum::{
    extract::{Extension, Request, State},
    response::Response,
};
use http::{Method, StatusCode};
use minisvc_apimachinery::{Status, resource::REVIEWS};
use std::{sync::Arc, time::Instant};

/// Who is at the other end of a connection, as far as TLS knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer(pub(crate) Option<User>);

/// Labels of a request in the metrics.
struct Labels {
    verb: &'static str,
    resource: &'static str,
    /// Whether its length says nothing: watches, logs that follow.
    lasting: bool,
}

/// Answers every request.
pub(crate) async fn handle(
    State(api): State<Arc<ApiServer>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let begun = Instant::now();
    let mut labels = Labels { verb: "other", resource: "", lasting: false };
    let response = match route(&api, &peer, request, &mut labels).await {
        Ok(response) => response,
        Err(status) => respond::status(&status),
    };
    let took = (!labels.lasting).then(|| begun.elapsed());
    api.metrics.answered(labels.verb, labels.resource, response.status().as_u16(), took);
    response
}

async fn route(
    api: &Arc<ApiServer>,
    peer: &Peer,
    request: Request,
    labels: &mut Labels,
) -> Result<Response, Status> {
    let route = path::parse(request.uri().path());
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads {
        labels.verb = "get";
        // What anybody may know, and must before they have proved who they are.
        match &route {
            Ok(Route::Health) => {
                return Ok(health(api, request.uri().path(), &Parameters::of(request.uri())?));
            }
            Ok(Route::Version) => return Ok(respond::json(StatusCode::OK, &discovery::version())),
            Ok(Route::CaCertificate) => {
                let ca = api.pki.ca_certificate().to_owned();
                return Ok(respond::bytes(StatusCode::OK, "application/x-pem-file", ca));
            }
            _ => {}
        }
    }
    let user =
        api.tokens.authenticate(request.headers(), peer.0.as_ref())?.ok_or_else(Status::unauthorized)?;
    auth::refuse_impersonation(&user, request.headers())?;
    let route = match route {
        Ok(Route::Resource(target)) => return objects(api, &user, &target, request, labels).await,
        Ok(Route::Join) if *request.method() == Method::POST => {
            labels.verb = "create";
            auth::authorize_join(&user)?;
            let body = body::read(request.into_body()).await?;
            return join::join(&api.store, &api.pki, &api.cluster, &body).await;
        }
        other => other?,
    };
    let verb = if reads { "get" } else { "post" };
    auth::authorize_path(&user, verb, request.uri().path())?;
    if !reads {
        return Err(Status::failure(
            405,
            "MethodNotAllowed",
            format!("{} is not served here", request.method()),
        ));
    }
    let headers = request.headers();
    match route {
        Route::Core => Ok(discovery::core(headers)),
        Route::Groups => Ok(discovery::group_list(headers)),
        Route::Group(group) => Ok(discovery::group(&group)),
        Route::GroupVersion(group, version) => Ok(discovery::resources(group, version)),
        Route::OpenApiIndex => Ok(discovery::openapi_index()),
        Route::OpenApi(path) => discovery::openapi(&path, headers),
        Route::Metrics => {
            let text = api.metrics.text(&api.store).map_err(Status::internal)?;
            let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            Ok(respond::bytes(StatusCode::OK, media, text))
        }
        Route::Issuer => Ok(discovery::issuer(&api.cluster.issuer())),
        Route::KeySet => Ok(discovery::key_set(&api.pki.account_key.key_set())),
        // Answered above; a join by another method is not served.
        Route::Health | Route::Version | Route::CaCertificate | Route::Resource(_) | Route::Join => {
            Err(Status::failure(405, "MethodNotAllowed", format!("{} is not served here", request.method())))
        }
    }
}

/// `/healthz`, `/livez`, `/readyz`, with `?verbose` each check by its name.
fn health(api: &ApiServer, path: &str, parameters: &Parameters) -> Response {
    let mut checks = vec![("ping", Ok(()))];
    if path != "/livez" {
        checks.push(("store", api.store.health().map_err(|error| error.to_string())));
    }
    let ok = checks.iter().all(|(_, result)| result.is_ok());
    let name = path.trim_start_matches('/');
    let mut text = String::new();
    if parameters.has("verbose") || !ok {
        for (check, result) in &checks {
            match result {
                Ok(()) => text.push_str(&format!("[+]{check} ok\n")),
                Err(why) => text.push_str(&format!("[-]{check} failed: {why}\n")),
            }
        }
        text.push_str(&format!("{name} check {}\n", if ok { "passed" } else { "failed" }));
    } else {
        text.push_str("ok");
    }
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond::text(status, text)
}

/// Whether the subresource takes this verb.
fn is_served(target: &Target, verb: &str) -> bool {
    let listed = target.resource.subresources.contains(&target.subresource.as_str());
    match target.subresource.as_str() {
        "" => target.resource.verbs.contains(&verb) && (verb != "create" || target.name.is_empty()),
        "log" => target.resource.kind == "Pod" && verb == "get",
        "attach" | "exec" | "portforward" => {
            target.resource.kind == "Pod" && matches!(verb, "get" | "create")
        }
        "proxy" => ["Node", "Pod", "Service"].contains(&target.resource.kind),
        "binding" | "eviction" | "token" => listed && verb == "create",
        "finalize" => listed && verb == "update",
        _ => listed && matches!(verb, "get" | "update" | "patch"),
    }
}

async fn objects(
    api: &Arc<ApiServer>,
    user: &User,
    target: &Target,
    request: Request,
    labels: &mut Labels,
) -> Result<Response, Status> {
    let parameters = Parameters::of(request.uri())?;
    let verb = path::verb(request.method(), target, parameters.flag("watch")?);
    let verb =
        verb.ok_or_else(|| Status::method_not_supported(target.resource, request.method().as_str()))?;
    (labels.verb, labels.resource) = (verb, target.resource.plural);
    let fields = match verb {
        "list" | "watch" => parameters.get("fieldSelector").unwrap_or_default(),
        _ => "",
    };
    let asked = Asked { user, verb, target, fields };
    let guard = auth::authorize(&asked)?;
    if !is_served(target, verb) {
        let subresource = target.subresource.as_str();
        return Err(match subresource.is_empty() || target.resource.subresources.contains(&subresource) {
            true => Status::method_not_supported(target.resource, verb),
            false => Status::no_such_path(),
        });
    }
    match (target.subresource.as_str(), verb) {
        ("log", _) => {
            labels.lasting = true;
            return proxy::log(&api.nodes, &api.store, target, request.uri(), &parameters).await;
        }
        ("proxy", _) => {
            labels.lasting = true;
            return proxy::proxy(api, target, request).await;
        }
        ("attach" | "exec" | "portforward", _) => {
            labels.lasting = true;
            let shutdown = api.shutdown.clone();
            return proxy::stream(&api.nodes, &api.store, shutdown, target, &parameters, request).await;
        }
        _ => {}
    }
    if matches!(verb, "get" | "list" | "watch") {
        asked.check(&guard, &api.store.view(), None)?;
        let form = accept::form(request.headers())?;
        return match verb {
            "get" => read::get(&api.store, target, form, &parameters),
            "list" => read::list(&api.store, &api.pages, target, form, &parameters).await,
            _ => {
                labels.lasting = true;
                watch::watch(&api.store, &api.metrics, api.shutdown.clone(), target, form, &parameters)
            }
        };
    }
    let (parts, body) = request.into_parts();
    let body = body::read(body).await?;
    if REVIEWS.contains(&target.resource) {
        return review::answer(api, user, target, &parts.headers, &parameters, &body);
    }
    if target.subresource == "token" {
        return token_request::answer(api, &asked, &guard, &parts.headers, &parameters, &body);
    }
    let write = Write {
        store: &api.store,
        cluster: &api.cluster,
        user,
        verb,
        guard,
        target,
        parameters: &parameters,
        headers: &parts.headers,
    };
    match verb {
        "create" => write.create(body).await,
        "update" => write.update(body).await,
        "patch" => write.patch(body).await,
        "delete" => write.delete(body).await,
        _ => write.delete_collection(body).await,
    }
}
