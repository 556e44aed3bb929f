//! What a Pod may say about the names it sees: `dnsPolicy`, `dnsConfig`, `hostAliases`.
//!
//! Source: kubernetes `pkg/apis/core/validation`, `validateDNSPolicy`, `validatePodDNSConfig`, `ValidateHostAliases`.

use super::validate::choice;
use crate::{
    syntax,
    value::{at, items, text},
};
use minisvc_apimachinery::Cause;
use serde_json::Value;

/// Name servers a resolver asks (glibc's `MAXNS`).
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
/// Length of the search list, spaces included.
const SEARCH_LIST_CHARS_MAX: usize = 2048;

/// Faults of the three fields of the spec that stands at `path`.
pub(super) fn check(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let policy = text(spec, "/dnsPolicy");
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    choice(spec, "/dnsPolicy", &format!("{path}.dnsPolicy"), &policies, causes);
    dns_config(at(spec, "/dnsConfig"), policy, &format!("{path}.dnsConfig"), causes);
    for (i, alias) in items(spec, "/hostAliases").iter().enumerate() {
        let path = format!("{path}.hostAliases[{i}]");
        address(text(alias, "/ip"), format!("{path}.ip"), causes);
        for (j, name) in texts(alias, "/hostnames").into_iter().enumerate() {
            let faults = syntax::subdomain(name);
            causes
                .extend(faults.iter().map(|why| Cause::invalid(format!("{path}.hostnames[{j}]"), name, why)));
        }
    }
}

fn dns_config(config: Option<&Value>, policy: &str, path: &str, causes: &mut Vec<Cause>) {
    let Some(config) = config.filter(|config| config.is_object()) else {
        if policy == "None" {
            causes.push(Cause::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
        }
        return;
    };
    let servers = texts(config, "/nameservers");
    let field = format!("{path}.nameservers");
    if policy == "None" && servers.is_empty() {
        let words = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        causes.push(Cause::required(field, words));
        return;
    }
    if servers.len() > NAMESERVERS_MAX {
        let words = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        causes.push(Cause::invalid(&field, servers.clone(), &words));
    }
    for (i, server) in servers.into_iter().enumerate() {
        address(server, format!("{field}[{i}]"), causes);
    }
    let searches = texts(config, "/searches");
    let field = format!("{path}.searches");
    if searches.len() > SEARCHES_MAX {
        let words = format!("must not have more than {SEARCHES_MAX} search paths");
        causes.push(Cause::invalid(&field, searches.clone(), &words));
    }
    if searches.join(" ").chars().count() > SEARCH_LIST_CHARS_MAX {
        let words = format!(
            "must not have more than {SEARCH_LIST_CHARS_MAX} characters (including spaces) in the search list"
        );
        causes.push(Cause::invalid(&field, searches.clone(), &words));
    }
    for (i, search) in searches.into_iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        let faults = syntax::subdomain_with_underscore(search);
        causes.extend(faults.iter().map(|why| Cause::invalid(format!("{field}[{i}]"), search, why)));
    }
    for (i, option) in items(config, "/options").iter().enumerate() {
        if text(option, "/name").is_empty() {
            causes.push(Cause::required(format!("{path}.options[{i}]"), "must not be empty"));
        }
    }
}

fn address(text: &str, field: String, causes: &mut Vec<Cause>) {
    causes.extend(syntax::ip(text).iter().map(|why| Cause::invalid(&field, text, why)));
}

fn texts<'v>(object: &'v Value, pointer: &str) -> Vec<&'v str> {
    items(object, pointer).iter().map(|item| item.as_str().unwrap_or_default()).collect()
}
