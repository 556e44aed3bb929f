//! What a URL asks for.
//!
//! Invariant: a segment is percent-decoded after the path was split, so an encoded slash never makes a segment.

use crate::auth;
use axum::extract::Query;
use http::{Method, Uri};
use minisvc_apimachinery::{
    Resource, Status, join,
    resource::{NAMESPACES, by_path, served},
};

/// A path of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Objects or one object.
    Resource(Target),
    /// `/api`.
    Core,
    /// `/apis`.
    Groups,
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`.
    GroupVersion(&'static str, &'static str),
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/<path>`.
    OpenApi(String),
    /// `/version`.
    Version,
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/metrics`.
    Metrics,
    /// The CA's certificate.
    CaCertificate,
    /// A node wants to join.
    Join,
    /// Where the keys are by which tokens are verified.
    Issuer,
    /// Those keys.
    KeySet,
}

/// A collection, an object or a subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) resource: &'static Resource,
    /// Empty for cluster-scoped kinds and for collections of all namespaces.
    pub(crate) namespace: String,
    /// Empty for collections.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
}

impl Target {
    /// The namespace, if the collection is of one.
    pub(crate) fn one_namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }
}

/// Reads a path.
///
/// # Errors
/// 404 in Kubernetes' words.
pub(crate) fn parse(path: &str) -> Result<Route, Status> {
    let segments: Option<Vec<String>> =
        path.split('/').filter(|segment| !segment.is_empty()).map(percent_decode).collect();
    let segments = segments.ok_or_else(|| Status::bad_request("the path is not percent-encoded UTF-8"))?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let route = match segments.as_slice() {
        ["api"] => Some(Route::Core),
        ["api", version, rest @ ..] => versioned("", version, rest),
        ["apis"] => Some(Route::Groups),
        ["apis", group] => {
            served().any(|r| r.group == *group && !group.is_empty()).then(|| Route::Group((*group).into()))
        }
        ["apis", group, version, rest @ ..] if !group.is_empty() => versioned(group, version, rest),
        ["openapi", "v3"] => Some(Route::OpenApiIndex),
        ["openapi", "v3", rest @ ..] => Some(Route::OpenApi(rest.join("/"))),
        ["version"] => Some(Route::Version),
        ["healthz" | "livez" | "readyz"] => Some(Route::Health),
        ["metrics"] => Some(Route::Metrics),
        _ if path == join::CA_PATH => Some(Route::CaCertificate),
        _ if path == join::JOIN_PATH => Some(Route::Join),
        _ if auth::ISSUER_PATHS.contains(&path) => Some(Route::Issuer),
        _ if auth::KEY_SET_PATHS.contains(&path) => Some(Route::KeySet),
        _ => None,
    };
    route.ok_or_else(Status::no_such_path)
}

fn versioned(group: &str, version: &str, rest: &[&str]) -> Option<Route> {
    let target = |namespace: &str, plural: &str, rest: &[&str]| {
        let resource = by_path(group, version, plural)?;
        let (name, subresource) = match rest {
            [] => ("", ""),
            [name] => (*name, ""),
            [name, subresource] => (*name, *subresource),
            // What follows is a path of the backend's, and is read as it was sent.
            [name, "proxy", ..] => (*name, "proxy"),
            _ => return None,
        };
        // A namespaced object has its namespace in the path; only collections are served for all of them.
        let misplaced = namespace.is_empty() == resource.namespaced;
        let all_namespaces = namespace.is_empty() && name.is_empty();
        (!misplaced || all_namespaces).then(|| {
            Route::Resource(Target {
                resource,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                subresource: subresource.to_owned(),
            })
        })
    };
    match rest {
        [] => {
            let resource = served().find(|r| r.group == group && r.version == version)?;
            Some(Route::GroupVersion(resource.group, resource.version))
        }
        // The subresources of a Namespace look like kinds in it.
        ["namespaces", name, subresource] if NAMESPACES.subresources.contains(subresource) => {
            target("", "namespaces", &[name, subresource])
        }
        ["namespaces", namespace, plural, rest @ ..] => target(namespace, plural, rest),
        [plural, rest @ ..] => target("", plural, rest),
    }
}

fn percent_decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let value = digit(rest.next())? * 16 + digit(rest.next())?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The parameters of a URL, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(crate) fn of(uri: &Uri) -> Result<Self, Status> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Status::bad_request(format!("query: {error}")))?;
        Ok(Self(pairs))
    }

    /// The value of a parameter; empty counts as absent, as in Kubernetes.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the parameter is there at all, empty or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// A number.
    pub(crate) fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, Status> {
        self.get(name)
            .map(|text| text.parse().map_err(|_| invalid(name, text, "must be a whole number")))
            .transpose()
    }

    /// A truth value; `?watch` alone is true, as in Kubernetes.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Status> {
        match self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()) {
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some(text) => Err(invalid(name, text, "must be true or false")),
        }
    }
}

pub(crate) fn invalid(name: &str, value: &str, why: &str) -> Status {
    Status::bad_request(format!("{name}: Invalid value: {value:?}: {why}"))
}

/// Kubernetes' word for what a request does; None: the method is not served there.
pub(crate) fn verb(method: &Method, target: &Target, watch: bool) -> Option<&'static str> {
    let one = !target.name.is_empty();
    Some(match *method {
        Method::GET | Method::HEAD if one => "get",
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST if !one || !target.subresource.is_empty() => "create",
        Method::PUT if one => "update",
        Method::PATCH if one => "patch",
        // As in Kubernetes: no rule but one for everything allows it.
        Method::OPTIONS if target.subresource == "proxy" => "",
        Method::DELETE if one => "delete",
        // Nobody empties all namespaces at a stroke.
        Method::DELETE if target.namespace.is_empty() && target.resource.namespaced => return None,
        Method::DELETE => "deletecollection",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> String {
        match parse(path) {
            Ok(Route::Resource(t)) => {
                format!("{}|{}|{}|{}", t.resource.plural, t.namespace, t.name, t.subresource)
            }
            Ok(other) => format!("{other:?}"),
            Err(status) => status.code.to_string(),
        }
    }

    #[test]
    fn paths_are_kubernetes_own() {
        for (path, expected) in [
            ("/api/v1/pods", "pods|||"),
            ("/api/v1/namespaces/a/pods", "pods|a||"),
            ("/api/v1/namespaces/a/pods/x", "pods|a|x|"),
            ("/api/v1/namespaces/a/pods/x/log", "pods|a|x|log"),
            ("/api/v1/namespaces/a", "namespaces||a|"),
            ("/api/v1/namespaces/a/status", "namespaces||a|status"),
            ("/api/v1/namespaces/a/finalize", "namespaces||a|finalize"),
            ("/api/v1/nodes/n/status", "nodes||n|status"),
            ("/api/v1/nodes/n/proxy/healthz", "nodes||n|proxy"),
            ("/api/v1/namespaces/a/services/http:x:80/proxy", "services|a|http:x:80|proxy"),
            ("/api/v1/namespaces/a/pods/x/proxy/b%2Fc//d", "pods|a|x|proxy"),
            ("/api/v1/namespaces/a/pods/x/log/y", "404"),
            ("/apis/networking.k8s.io/v1/namespaces/a/ingresses/x", "ingresses|a|x|"),
            ("/api/v1/namespaces/a/nodes/n", "404"),
            ("/api/v1/pods/x", "404"),
            ("/api/v2/pods", "404"),
            ("/apis/apps/v1/daemonsets", "404"),
            ("/apis/apps/v1/namespaces/a/deployments/x/scale", "deployments|a|x|scale"),
            ("/api/v1/namespaces/a%2Fb/pods", "pods|a/b||"),
            ("/api/v1/namespaces/%zz/pods", "400"),
            ("/api/v1", "GroupVersion(\"\", \"v1\")"),
            ("/apis/discovery.k8s.io", "Group(\"discovery.k8s.io\")"),
            ("/openapi/v3/apis/discovery.k8s.io/v1", "OpenApi(\"apis/discovery.k8s.io/v1\")"),
            ("/cacerts", "CaCertificate"),
            ("/minisvc/v1/join", "Join"),
            ("/", "404"),
        ] {
            assert_eq!(shown(path), expected, "{path}");
        }
    }

    #[test]
    fn parameters_are_read_as_kubernetes_does() {
        let uri: Uri = "/x?watch&limit=5&timeoutSeconds=x&labelSelector=a%3Db%2Cc&empty=".parse().unwrap();
        let parameters = Parameters::of(&uri).unwrap();
        assert_eq!(parameters.flag("watch"), Ok(true));
        assert_eq!(parameters.number::<u64>("limit"), Ok(Some(5)));
        assert_eq!(parameters.get("labelSelector"), Some("a=b,c"));
        assert_eq!(parameters.get("empty"), None);
        assert!(
            parameters.number::<u64>("timeoutSeconds").unwrap_err().message.starts_with("timeoutSeconds: ")
        );
    }
}
