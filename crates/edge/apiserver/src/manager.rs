//! In whose name a write happens: the `fieldManager` of the request, else its User-Agent.
//!
//! Source: k8s.io/apiserver `endpoints/handlers/create.go`, k8s.io/apimachinery `meta/v1/validation`.

use crate::{patch::Patch, path::Parameters};
use http::{HeaderMap, header::USER_AGENT};
use minisvc_apimachinery::{
    Cause, Status,
    managed::{Force, MANAGER_BYTES_MAX},
    status::Details,
};

/// The manager that a request names, or the first part of its User-Agent; empty if it has neither.
///
/// # Errors
/// 422 for a name that is too long or cannot be printed. `options` is the kind of the request's options.
pub(crate) fn of(parameters: &Parameters, headers: &HeaderMap, options: &str) -> Result<String, Status> {
    let Some(name) = parameters.get("fieldManager").filter(|name| !name.is_empty()) else {
        let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        return Ok(agent_name(agent));
    };
    let cause = if name.len() > MANAGER_BYTES_MAX {
        Cause::too_long("fieldManager", MANAGER_BYTES_MAX)
    } else if name.chars().any(char::is_control) {
        Cause::invalid("fieldManager", name, "should only contain printable characters")
    } else {
        return Ok(name.to_owned());
    };
    Err(refusal(options, cause))
}

/// The manager of a patch, and whether it takes over what others own.
///
/// # Errors
/// Those of [`of`]; 422 for an apply without a manager, and for `force` with another kind of patch.
pub(crate) fn of_patch(
    parameters: &Parameters,
    headers: &HeaderMap,
    patch: &Patch,
) -> Result<(String, Force), Status> {
    const OPTIONS: &str = "PatchOptions";
    let is_apply = matches!(patch, Patch::Apply { .. });
    let force = if parameters.has("force") { Some(parameters.flag("force")?) } else { None };
    if is_apply && parameters.get("fieldManager").unwrap_or_default().is_empty() {
        return Err(refusal(OPTIONS, Cause::required("fieldManager", "is required for apply patch")));
    }
    if !is_apply && force.is_some() {
        return Err(refusal(OPTIONS, Cause::forbidden("force", "may not be specified for non-apply patch")));
    }
    let force = if force == Some(true) { Force::Yes } else { Force::No };
    Ok((of(parameters, headers, OPTIONS)?, force))
}

/// The first part of a User-Agent, without what cannot be printed, cut to the length of a manager.
fn agent_name(agent: &str) -> String {
    let mut name = String::new();
    for letter in agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()) {
        if name.len() + letter.len_utf8() > MANAGER_BYTES_MAX {
            break;
        }
        name.push(letter);
    }
    name
}

fn refusal(options: &str, cause: Cause) -> Status {
    let message = format!("{options}.meta.k8s.io \"\" is invalid: {cause}");
    let mut status = Status::failure(422, "Invalid", message);
    status.details = Some(Details {
        group: "meta.k8s.io".to_owned(),
        kind: options.to_owned(),
        causes: vec![cause],
        ..Details::default()
    });
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_known_by_its_first_part() {
        assert_eq!(agent_name("kubectl/v1.32.0 (linux/amd64) kubernetes/70d3cc9"), "kubectl");
        assert_eq!(agent_name("Mozilla/5.0"), "Mozilla");
        assert_eq!(agent_name(""), "");
        assert_eq!(agent_name(&"é".repeat(100)).len(), MANAGER_BYTES_MAX);
    }
}
