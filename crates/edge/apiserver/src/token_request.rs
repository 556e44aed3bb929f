//! `serviceaccounts/NAME/token`: makes a token of an account.
//!
//! Invariant: nothing is stored, so a token that was handed out cannot be listed; it ends with what it is bound to.

use crate::{
    ApiServer,
    auth::{Asked, Guard},
    body::{self, Validation},
    path::Parameters,
    respond, review, write,
};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use minisvc_apimachinery::{ObjectKey, Status, resource::TOKEN_REQUESTS};
use minisvc_registry::Issue;

/// Answers a POST of a TokenRequest.
///
/// # Errors
/// 403 if it is not for whom the guard wants it, 404 without the account, 400, 409 or 422 naming what is wrong with the request.
pub(crate) fn answer(
    api: &ApiServer,
    asked: &Asked<'_>,
    guard: &Guard,
    headers: &HeaderMap,
    parameters: &Parameters,
    body: &[u8],
) -> Result<Response, Status> {
    let decoded = body::decode(headers, body)?;
    let mut request = decoded.value;
    review::check_kind(&TOKEN_REQUESTS, &mut request)?;
    body::dry_run(parameters)?;
    let mut warnings = Validation::of(parameters)?.check(&TOKEN_REQUESTS, &request, &decoded.duplicates)?;
    let view = api.store.view();
    asked.check(guard, &view, Some(&request))?;
    let key = ObjectKey::new(&*asked.target.namespace, &*asked.target.name);
    let issue = Issue { issuer: &api.cluster.issuer(), now: Timestamp::now(), id: &write::uid() };
    let (claims, warning) = minisvc_registry::token_request(&view, &key, &mut request, issue)?;
    warnings.extend(warning);
    let token =
        api.pki.account_key.sign(&claims).ok_or_else(|| Status::internal("no token could be signed"))?;
    let answer = minisvc_registry::answered(request, &token, &claims);
    let mut response = respond::json(StatusCode::CREATED, &answer);
    body::warn(response.headers_mut(), &warnings);
    Ok(response)
}
