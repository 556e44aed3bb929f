//! Tokens of ServiceAccounts: what a new one says, and whether what one says still holds.
//!
//! Source: kubernetes `pkg/registry/core/serviceaccount/storage/token.go`, `pkg/serviceaccount/claims.go`.
//!
//! Invariant: nothing is stored; a token ends with its account, with the object it is bound to, or by time.

use crate::{
    Status,
    value::{at, int, items, parse, set, text, time},
};
use minisvc_apimachinery::{
    Cause, ObjectKey, Resource,
    resource::{NODES, PODS, SECRETS, SERVICE_ACCOUNTS, TOKEN_REQUESTS},
    storage::Read,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const SECONDS_DEFAULT: i64 = 3600;
const SECONDS_MIN: i64 = 600;
/// What Kubernetes takes at most.
const SECONDS_LIMIT: i64 = 1 << 32;
/// What a token lasts at most: one that is asked for longer is made for this long.
const SECONDS_MAX: i64 = 365 * 24 * 3600;
/// How far clocks may differ.
const LEEWAY_SECONDS: i64 = 60;
const AUDIENCES_MAX: usize = 64;
/// Bytes of all audiences together: a token is sent with every request.
const AUDIENCE_BYTES_MAX: usize = 4096;

/// An object that a token names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// UID; empty if it was not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// Kubernetes' own claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Reference,
    /// The Pod that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The Secret that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The node that the token is bound to; with a Pod: the node that the Pod was on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
}

/// What a token says (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom it is.
    pub aud: Vec<String>,
    /// Until when, seconds since 1970.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// Its own name.
    pub jti: String,
    /// Kubernetes' own claims.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    /// From when on.
    pub nbf: i64,
    /// Who has it, see [`account_user`].
    pub sub: String,
}

/// What a new token says that its request does not.
#[derive(Clone, Copy, Debug)]
pub struct Issue<'a> {
    /// Who makes it; for whom it is if the request says nothing.
    pub issuer: &'a str,
    /// When.
    pub now: jiff::Timestamp,
    /// Its own name.
    pub id: &'a str,
}

/// The user name of an account.
pub fn account_user(key: &ObjectKey) -> String {
    format!("system:serviceaccount:{}:{}", key.namespace, key.name)
}

/// What the token says that a `TokenRequest` asks for; fills in the request's metadata and spec. Second: a warning.
///
/// # Errors
/// 404 without the account or the bound object, 422 naming every faulty field, 400 for an object that no token can
/// be bound to, 409 if the bound object is another than the request says.
pub fn token_request(
    view: &dyn Read,
    key: &ObjectKey,
    request: &mut Value,
    issue: Issue<'_>,
) -> Result<(Claims, Option<String>), Status> {
    for (field, wanted) in [("name", &key.name), ("namespace", &key.namespace)] {
        let given = text(request, &format!("/metadata/{field}"));
        if !given.is_empty() && given != wanted {
            let why = format!("must match the service account {field} if specified");
            let cause = Cause::invalid(format!("metadata.{field}"), given, &why);
            return Err(Status::invalid(&TOKEN_REQUESTS, &key.name, vec![cause]));
        }
        set(request, "metadata", field, wanted.as_str());
    }
    let account = get(view, &SERVICE_ACCOUNTS, key)?;
    set(request, "metadata", "creationTimestamp", time(issue.now));
    if items(request, "/spec/audiences").is_empty() {
        set(request, "spec", "audiences", vec![issue.issuer]);
    }
    let mut seconds = int(request, "/spec/expirationSeconds").unwrap_or(SECONDS_DEFAULT);
    let causes = faults(request, seconds);
    if !causes.is_empty() {
        return Err(Status::invalid(&TOKEN_REQUESTS, "", causes));
    }
    let warning = (seconds > SECONDS_MAX)
        .then(|| format!("requested expiration of {seconds} seconds shortened to {SECONDS_MAX} seconds"));
    seconds = seconds.min(SECONDS_MAX);
    set(request, "spec", "expirationSeconds", seconds);
    let mut bound = Bound {
        namespace: key.namespace.clone(),
        serviceaccount: reference(&account),
        pod: None,
        secret: None,
        node: None,
    };
    if let Some(to) = at(request, "/spec/boundObjectRef") {
        bind(view, key, to, &mut bound)?;
    }
    let audiences = items(request, "/spec/audiences");
    let now = issue.now.as_second();
    let claims = Claims {
        aud: audiences.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        exp: now + seconds,
        iat: now,
        iss: issue.issuer.to_owned(),
        jti: issue.id.to_owned(),
        kubernetes: bound,
        nbf: now,
        sub: account_user(key),
    };
    Ok((claims, warning))
}

fn faults(request: &Value, seconds: i64) -> Vec<Cause> {
    let mut causes = Vec::new();
    let why = match seconds {
        ..SECONDS_MIN => Some("may not specify a duration less than 10 minutes"),
        SECONDS_MIN..=SECONDS_LIMIT => None,
        _ => Some("may not specify a duration larger than 2^32 seconds"),
    };
    if let Some(why) = why {
        causes.push(Cause::invalid("spec.expirationSeconds", seconds, why));
    }
    let audiences = items(request, "/spec/audiences");
    if audiences.len() > AUDIENCES_MAX {
        causes.push(Cause::too_many("spec.audiences", audiences.len(), AUDIENCES_MAX));
    } else if audiences.iter().filter_map(Value::as_str).map(str::len).sum::<usize>() > AUDIENCE_BYTES_MAX {
        causes.push(Cause::too_long("spec.audiences", AUDIENCE_BYTES_MAX));
    }
    causes
}

fn get(view: &dyn Read, kind: &'static Resource, key: &ObjectKey) -> Result<Value, Status> {
    let stored = view.get(&kind.storage_key(key)).ok_or_else(|| Status::not_found(kind, &key.name))?;
    Ok(parse(&stored))
}

fn reference(object: &Value) -> Reference {
    let text = |pointer| text(object, pointer).to_owned();
    Reference { name: text("/metadata/name"), uid: text("/metadata/uid") }
}

/// Binds a token of an account to the object that a request names.
fn bind(view: &dyn Read, account: &ObjectKey, to: &Value, bound: &mut Bound) -> Result<(), Status> {
    let [version, kind, name, uid] = ["/apiVersion", "/kind", "/name", "/uid"].map(|at| text(to, at));
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let beside = ObjectKey::new(account.namespace.as_str(), name);
    let (object, into) = match (group, kind) {
        ("", "Pod") => {
            let pod = get(view, &PODS, &beside)?;
            if text(&pod, "/spec/serviceAccountName") != account.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    account.name
                )));
            }
            let node = text(&pod, "/spec/nodeName");
            bound.node = (!node.is_empty()).then(|| {
                let known = get(view, &NODES, &ObjectKey::cluster(node));
                known.map_or(Reference { name: node.to_owned(), uid: String::new() }, |node| reference(&node))
            });
            (pod, &mut bound.pod)
        }
        ("", "Secret") => (get(view, &SECRETS, &beside)?, &mut bound.secret),
        ("", "Node") => (get(view, &NODES, &ObjectKey::cluster(name))?, &mut bound.node),
        _ => {
            let why = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(why));
        }
    };
    let found = reference(&object);
    if !uid.is_empty() && uid != found.uid {
        let why = format!(
            "Operation cannot be fulfilled on {kind} {name:?}: the UID in the bound object reference ({uid}) does not \
             match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::failure(409, "Conflict", why));
    }
    *into = Some(found);
    Ok(())
}

/// Whether what a token says holds at this time. Its signature, issuer and audience are looked at elsewhere.
///
/// # Errors
/// What does not hold, in Kubernetes' words.
pub fn check_token(view: &dyn Read, claims: &Claims, now: jiff::Timestamp) -> Result<(), String> {
    let now = now.as_second();
    if now > claims.exp.saturating_add(LEEWAY_SECONDS) {
        return Err("service account token has expired".to_owned());
    }
    if now.saturating_add(LEEWAY_SECONDS) < claims.nbf.max(claims.iat) {
        return Err("service account token is not valid yet".to_owned());
    }
    let Bound { namespace, serviceaccount: account, pod, secret, node } = &claims.kubernetes;
    let key = |name: &str| ObjectKey::new(namespace.as_str(), name);
    if claims.sub != account_user(&key(&account.name)) {
        return Err("service account token names two accounts".to_owned());
    }
    let stands = |kind, key: &ObjectKey, reference: &Reference| stands(view, kind, key, reference, now);
    stands(&SERVICE_ACCOUNTS, &key(&account.name), account)?;
    if let Some(secret) = secret {
        stands(&SECRETS, &key(&secret.name), secret)?;
    }
    match (pod, node) {
        // Where the Pod was is told only.
        (Some(pod), _) => stands(&PODS, &key(&pod.name), pod),
        (None, Some(node)) => stands(&NODES, &ObjectKey::cluster(node.name.as_str()), node),
        (None, None) => Ok(()),
    }
}

/// Whether an object is there, is the same, and is not one that should be gone.
fn stands(
    view: &dyn Read,
    kind: &'static Resource,
    key: &ObjectKey,
    reference: &Reference,
    now: i64,
) -> Result<(), String> {
    let Ok(object) = get(view, kind, key) else {
        return Err(match kind == &SERVICE_ACCOUNTS {
            true => format!("serviceaccounts {:?} not found", key.name),
            false => "service account token has been invalidated".to_owned(),
        });
    };
    let ends = text(&object, "/metadata/deletionTimestamp").parse::<jiff::Timestamp>().ok();
    if ends.is_some_and(|ends| ends.as_second() < now - LEEWAY_SECONDS) {
        return Err("service account token has been invalidated".to_owned());
    }
    let uid = text(&object, "/metadata/uid");
    if uid != reference.uid {
        return Err(format!("{} UID ({uid}) does not match claim ({})", kind.singular, reference.uid));
    }
    Ok(())
}

/// A request as it is answered.
pub fn answered(mut request: Value, token: &str, claims: &Claims) -> Value {
    let until = jiff::Timestamp::from_second(claims.exp).unwrap_or_default();
    request["status"] = json!({"token": token, "expirationTimestamp": time(until)});
    request
}
