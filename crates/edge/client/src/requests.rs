//! Requests by row of the resource table.

use crate::{ApiClient, ClientError};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use minisvc_apimachinery::{ObjectKey, Resource, Status};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Largest answer that is read, bytes. A list of 100,000 endpoints stays below it.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How a patch is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386: lists are replaced.
    Merge,
    /// Kubernetes' own: lists are merged by key.
    Strategic,
    /// RFC 6902.
    Json,
}

impl PatchKind {
    fn content_type(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Json => "application/json-patch+json",
        }
    }
}

/// How and under which conditions to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Only the object with this UID.
    pub uid: Option<String>,
    /// Only this version of it.
    pub resource_version: Option<String>,
    /// Seconds a Pod gets to end; 0: at once.
    pub grace_seconds: Option<i64>,
    /// Whether what it owns goes before it.
    pub foreground: bool,
}

impl DeleteOptions {
    fn body(&self) -> Value {
        let policy = if self.foreground { "Foreground" } else { "Background" };
        let mut body = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy });
        if self.uid.is_some() || self.resource_version.is_some() {
            let mut preconditions = json!({});
            if let Some(uid) = &self.uid {
                preconditions["uid"] = uid.as_str().into();
            }
            if let Some(version) = &self.resource_version {
                preconditions["resourceVersion"] = version.as_str().into();
            }
            body["preconditions"] = preconditions;
        }
        if let Some(seconds) = self.grace_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        body
    }
}

/// One request, before its body.
struct Call<'a> {
    operation: &'static str,
    resource: &'a Resource,
    key: &'a ObjectKey,
    subresource: Option<&'a str>,
    query: &'a str,
    method: Method,
    content_type: &'static str,
}

impl Call<'_> {
    /// `services default/web`: for errors.
    fn object(&self) -> String {
        let tail = self.subresource.map(|name| format!("/{name}")).unwrap_or_default();
        format!("{} {}{tail}", self.resource.qualified_plural(), self.key)
    }

    fn path(&self) -> Result<String, ClientError> {
        for name in [&self.key.namespace, &self.key.name] {
            if name.contains(|c: char| !(c.is_ascii_alphanumeric() || "-._:".contains(c))) || name == ".." {
                return Err(ClientError::InvalidName { operation: self.operation, name: name.clone() });
            }
        }
        let namespace = Some(self.key.namespace.as_str()).filter(|namespace| !namespace.is_empty());
        let name = Some(self.key.name.as_str()).filter(|name| !name.is_empty());
        let mut path = self.resource.path(namespace, name);
        if let Some(subresource) = self.subresource {
            path.push('/');
            path.push_str(subresource);
        }
        if !self.query.is_empty() {
            path.push('?');
            path.push_str(self.query);
        }
        Ok(path)
    }
}

const JSON: &str = "application/json";

impl ApiClient {
    /// Reads one object.
    ///
    /// # Errors
    /// If it is not there or cannot be had.
    pub async fn get<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        key: &ObjectKey,
    ) -> Result<T, ClientError> {
        let call = Call {
            operation: "get",
            resource,
            key,
            subresource: None,
            query: "",
            method: Method::GET,
            content_type: JSON,
        };
        self.call(&call, Vec::new()).await
    }

    /// Reads one object, or says that it is not there.
    ///
    /// # Errors
    /// If that cannot be found out.
    pub async fn get_optional<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        key: &ObjectKey,
    ) -> Result<Option<T>, ClientError> {
        match self.get(resource, key).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists a kind (of one namespace, unless that is empty); `query` is appended as it is, such as `limit=1`.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn list<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        query: &str,
    ) -> Result<T, ClientError> {
        let key = ObjectKey::new(namespace, "");
        let call = Call {
            operation: "list",
            resource,
            key: &key,
            subresource: None,
            query,
            method: Method::GET,
            content_type: JSON,
        };
        self.call(&call, Vec::new()).await
    }

    /// Creates an object in a namespace (empty for cluster-scoped kinds); returns it as stored.
    ///
    /// # Errors
    /// If it is there already, or refused.
    pub async fn create<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        object: &impl Serialize,
    ) -> Result<T, ClientError> {
        let key = ObjectKey::new(namespace, "");
        let call = Call {
            operation: "create",
            resource,
            key: &key,
            subresource: None,
            query: "",
            method: Method::POST,
            content_type: JSON,
        };
        let body = encode(&call, object)?;
        self.call(&call, body).await
    }

    /// POSTs to a subresource, such as a Pod's `binding`.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn create_sub<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        key: &ObjectKey,
        subresource: &str,
        object: &impl Serialize,
    ) -> Result<T, ClientError> {
        let call = Call {
            operation: "create",
            resource,
            key,
            subresource: Some(subresource),
            query: "",
            method: Method::POST,
            content_type: JSON,
        };
        let body = encode(&call, object)?;
        self.call(&call, body).await
    }

    /// Replaces an object, or its subresource (`status`, `finalize`). A `resourceVersion` in it must be the newest.
    ///
    /// # Errors
    /// `Conflict` if it is not; others if it is refused.
    pub async fn replace<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        key: &ObjectKey,
        subresource: Option<&str>,
        object: &impl Serialize,
    ) -> Result<T, ClientError> {
        let call = Call {
            operation: "update",
            resource,
            key,
            subresource,
            query: "",
            method: Method::PUT,
            content_type: JSON,
        };
        let body = encode(&call, object)?;
        self.call(&call, body).await
    }

    /// Patches an object, or its subresource. A `metadata.resourceVersion` in a merge patch must be the newest.
    ///
    /// # Errors
    /// `Conflict` if it is not; others if it is refused.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        key: &ObjectKey,
        subresource: Option<&str>,
        kind: PatchKind,
        patch: &impl Serialize,
    ) -> Result<T, ClientError> {
        let call = Call {
            operation: "patch",
            resource,
            key,
            subresource,
            query: "fieldManager=minisvc",
            method: Method::PATCH,
            content_type: kind.content_type(),
        };
        let body = encode(&call, patch)?;
        self.call(&call, body).await
    }

    /// Deletes an object; false if it was not there.
    ///
    /// # Errors
    /// If a precondition fails or the request is refused.
    pub async fn delete(
        &self,
        resource: &Resource,
        key: &ObjectKey,
        options: &DeleteOptions,
    ) -> Result<bool, ClientError> {
        let call = Call {
            operation: "delete",
            resource,
            key,
            subresource: None,
            query: "",
            method: Method::DELETE,
            content_type: JSON,
        };
        let body = encode(&call, &options.body())?;
        match self.call::<Value>(&call, body).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes all objects of a kind in a namespace.
    ///
    /// # Errors
    /// If the request is refused.
    pub async fn delete_collection(&self, resource: &Resource, namespace: &str) -> Result<(), ClientError> {
        let key = ObjectKey::new(namespace, "");
        let call = Call {
            operation: "delete collection",
            resource,
            key: &key,
            subresource: None,
            query: "",
            method: Method::DELETE,
            content_type: JSON,
        };
        let body = encode(&call, &DeleteOptions::default().body())?;
        self.call::<Value>(&call, body).await.map(|_| ())
    }

    /// GETs a path such as `/version`; any answer of the server counts as a sign of life, an error status too.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn ping(&self, path: &'static str) -> Result<http::StatusCode, ClientError> {
        let request = Request::get(path)
            .body(Body::from(Vec::new()))
            .map_err(|source| ClientError::Build { operation: "get", object: path.to_owned(), source })?;
        let (status, _) = self.exchange("get", &|| path.to_owned(), request).await?;
        Ok(status)
    }

    async fn call<T: DeserializeOwned>(&self, call: &Call<'_>, body: Vec<u8>) -> Result<T, ClientError> {
        let operation = call.operation;
        let request = Request::builder()
            .method(call.method.clone())
            .uri(call.path()?)
            .header(header::CONTENT_TYPE, call.content_type)
            .header(header::ACCEPT, JSON)
            .body(Body::from(body))
            .map_err(|source| ClientError::Build { operation, object: call.object(), source })?;
        let (code, bytes) = self.exchange(operation, &|| call.object(), request).await?;
        if code.is_success() {
            return serde_json::from_slice(&bytes).map_err(|source| ClientError::Decode {
                operation,
                object: call.object(),
                source,
            });
        }
        let status = serde_json::from_slice::<Status>(&bytes).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&bytes);
            Status::failure(
                code.as_u16(),
                "",
                format!("{code}: {}", text.chars().take(200).collect::<String>()),
            )
        });
        Err(ClientError::Api { operation, object: call.object(), status: Box::new(status) })
    }

    async fn exchange(
        &self,
        operation: &'static str,
        object: &(dyn Fn() -> String + Sync),
        request: Request<Body>,
    ) -> Result<(http::StatusCode, Bytes), ClientError> {
        let work = async {
            let answer: Response<Body> = self.kube.send(request).await.map_err(|source| {
                ClientError::Transport { operation, object: object(), source: Box::new(source) }
            })?;
            let code = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|source| ClientError::Body { operation, object: object(), source })?;
            Ok((code, body.to_bytes()))
        };
        let after = self.request_timeout;
        tokio::time::timeout(after, work)
            .await
            .unwrap_or_else(|_| Err(ClientError::Timeout { operation, object: object(), after }))
    }
}

fn encode(call: &Call<'_>, object: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(object).map_err(|source| ClientError::Encode {
        operation: call.operation,
        object: call.object(),
        source,
    })
}
