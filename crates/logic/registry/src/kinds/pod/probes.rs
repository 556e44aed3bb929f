//! What a container may say of its probes, and what is filled in.
//!
//! Source: kubernetes `pkg/apis/core/validation` (`validateProbe`, `validateHandler`), `pkg/apis/core/v1/defaults.go`.

use super::validate;
use crate::{
    syntax,
    value::{at, fill, int, items, text},
};
use minisvc_apimachinery::Cause;
use serde_json::{Value, json};

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const NUMBERS: [(&str, i64); 4] =
    [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)];
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// Fills in the probes of a container.
pub(super) fn default(container: &mut Value) {
    for name in PROBES {
        let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) else { continue };
        for (field, number) in NUMBERS {
            if int(probe, &format!("/{field}")).unwrap_or(0) == 0 {
                probe[field] = number.into();
            }
        }
        default_http(probe);
        if let Some(grpc) = probe.get_mut("grpc").filter(|grpc| grpc.is_object())
            && grpc.get("service").is_none_or(Value::is_null)
        {
            grpc["service"] = json!("");
        }
    }
}

/// Fills in how something is asked by HTTP.
pub(super) fn default_http(handler: &mut Value) {
    if let Some(http) = handler.get_mut("httpGet").filter(|http| http.is_object()) {
        fill(http, "path", "/");
        fill(http, "scheme", "HTTP");
    }
}

/// Faults of the probes of the container at `path`.
pub(super) fn check(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    for name in PROBES {
        let Some(probe) = at(container, &format!("/{name}")) else { continue };
        let path = format!("{path}.{name}");
        handler(probe, &path, &["exec", "httpGet", "tcpSocket", "grpc"], None, causes);
        for field in ["initialDelaySeconds"].into_iter().chain(NUMBERS.map(|(field, _)| field)) {
            let number = int(probe, &format!("/{field}")).unwrap_or(0);
            if number < 0 {
                causes.push(Cause::invalid(format!("{path}.{field}"), number, NOT_NEGATIVE));
            }
        }
        let grace = int(probe, "/terminationGracePeriodSeconds");
        let field = format!("{path}.terminationGracePeriodSeconds");
        match grace {
            Some(seconds) if name == "readinessProbe" => {
                causes.push(Cause::invalid(field, seconds, "must not be set for readinessProbes"));
            }
            Some(seconds) if seconds <= 0 => {
                causes.push(Cause::invalid(field, seconds, "must be greater than 0"));
            }
            _ => {}
        }
        let successes = int(probe, "/successThreshold").unwrap_or(1);
        if name != "readinessProbe" && successes != 1 {
            causes.push(Cause::invalid(format!("{path}.successThreshold"), successes, "must be 1"));
        }
    }
}

/// Faults of what is done to a container: one of `kinds`, and `grace` the longest that it may sleep.
pub(super) fn handler(
    handler: &Value,
    path: &str,
    kinds: &[&str],
    grace: Option<i64>,
    causes: &mut Vec<Cause>,
) {
    let mut given = false;
    for kind in kinds {
        let Some(action) = at(handler, &format!("/{kind}")) else { continue };
        let path = format!("{path}.{kind}");
        if std::mem::replace(&mut given, true) {
            causes.push(Cause::forbidden(path, "may not specify more than 1 handler type"));
            continue;
        }
        match *kind {
            "exec" if items(action, "/command").is_empty() => {
                causes.push(Cause::required(format!("{path}.command"), ""));
            }
            "httpGet" => http_get(action, &path, causes),
            "tcpSocket" | "grpc" => port(action, &path, causes),
            "sleep" => sleep(action, path, grace, causes),
            _ => {}
        }
    }
    if !given {
        causes.push(Cause::required(path, "must specify a handler type"));
    }
}

fn http_get(action: &Value, path: &str, causes: &mut Vec<Cause>) {
    if text(action, "/path").is_empty() {
        causes.push(Cause::required(format!("{path}.path"), ""));
    }
    port(action, path, causes);
    validate::choice(action, "/scheme", &format!("{path}.scheme"), &["HTTP", "HTTPS"], causes);
    for header in items(action, "/httpHeaders") {
        let name = text(header, "/name");
        if name.is_empty() || !name.bytes().all(|byte| byte == b'-' || byte.is_ascii_alphanumeric()) {
            let words = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                         'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            causes.push(Cause::invalid(format!("{path}.httpHeaders"), name, words));
        }
    }
}

fn port(action: &Value, path: &str, causes: &mut Vec<Cause>) {
    let field = format!("{path}.port");
    let (value, faults) = match at(action, "/port") {
        Some(Value::String(name)) => (json!(name), syntax::port_name(name)),
        other => {
            let number = other.and_then(Value::as_i64).unwrap_or(0);
            (json!(number), syntax::port_number(number))
        }
    };
    causes.extend(faults.iter().map(|fault| Cause::invalid(&field, value.clone(), fault)));
}

fn sleep(action: &Value, path: String, grace: Option<i64>, causes: &mut Vec<Cause>) {
    let seconds = int(action, "/seconds").unwrap_or(0);
    let Some(grace) = grace else { return };
    if !(0..=grace).contains(&seconds) {
        let words = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        causes.push(Cause::invalid(path, seconds, &words));
    }
}
