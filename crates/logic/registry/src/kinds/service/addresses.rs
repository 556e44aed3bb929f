//! What a Service may say of its virtual addresses and their families, and what of it may change.
//!
//! In: a Service whose families are settled (`fields::settle_families`). Source: kubernetes
//! `ValidateServiceClusterIPsRelatedFields`, `validateUpgradeDowngrade…`, `storage/alloc.go` (`initIPFamilyFields`).

use super::fields::{configured, family, has_cluster_ip, has_selector, is_headless};
use crate::{
    syntax,
    value::{at, items, text},
};
use minisvc_apimachinery::{Cause, ClusterConfig};
use serde_json::Value;
use std::collections::BTreeSet;

const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// Faults of a Service by itself, on this cluster. Addresses still to be allocated may be absent.
pub(super) fn check(object: &Value, cluster: &ClusterConfig, causes: &mut Vec<Cause>) {
    if !has_cluster_ip(object) {
        return;
    }
    let faults = well_formed(object);
    // Of what is not well formed it makes no sense to say that the cluster has it not.
    if faults.is_empty() && causes.is_empty() {
        on_cluster(object, cluster, causes);
    }
    causes.extend(faults);
}

fn list(values: &[Value]) -> Value {
    Value::Array(values.to_vec())
}

fn well_formed(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let ips = items(object, "/spec/clusterIPs");
    match (text(object, "/spec/clusterIP"), ips) {
        ("", []) => {}
        ("", _) => {
            let words = "must be empty when `clusterIP` is not specified";
            causes.push(Cause::invalid("spec.clusterIPs", list(ips), words));
        }
        (_, []) => causes.push(Cause::required("spec.clusterIPs", "")),
        (one, [first, ..]) if first != one => {
            causes.push(Cause::invalid("spec.clusterIPs", list(ips), "first value must match `clusterIP`"));
        }
        _ => {}
    }
    let families = items(object, "/spec/ipFamilies");
    let mut seen = BTreeSet::new();
    for (i, given) in families.iter().enumerate() {
        let (field, name) = (format!("spec.ipFamilies[{i}]"), given.as_str().unwrap_or_default());
        if !FAMILIES.contains(&name) {
            causes.push(Cause::not_supported(field.as_str(), name, &FAMILIES));
        }
        if !seen.insert(name) {
            causes.push(Cause::duplicate(field, name));
        }
    }
    if let Some(policy) = at(object, "/spec/ipFamilyPolicy").and_then(Value::as_str)
        && !POLICIES.contains(&policy)
    {
        causes.push(Cause::not_supported("spec.ipFamilyPolicy", policy, &POLICIES));
    }
    causes.extend(well_formed_ips(ips, families));
    causes
}

fn well_formed_ips(ips: &[Value], families: &[Value]) -> Vec<Cause> {
    let mut causes = Vec::new();
    let all = |words: &str| Cause::invalid("spec.clusterIPs", list(ips), words);
    let texts: Vec<&str> = ips.iter().map(|ip| ip.as_str().unwrap_or_default()).collect();
    for (i, ip) in texts.iter().enumerate() {
        if i == 0 && *ip == "None" {
            if ips.len() > 1 {
                causes.push(all("'None' must be the first and only value"));
            }
            continue;
        }
        let field = format!("spec.clusterIPs[{i}]");
        causes.extend(syntax::ip(ip).iter().map(|fault| Cause::invalid(&field, *ip, fault)));
    }
    let malformed = !causes.is_empty();
    if ips.len() > 2 {
        causes.push(all("may only hold up to 2 values"));
    }
    if malformed {
        return causes;
    }
    let of: Vec<Option<&str>> = texts.iter().map(|ip| family(ip)).collect();
    if ips.len() > 1 && !FAMILIES.iter().all(|family| of.contains(&Some(family))) {
        causes.push(all("may specify no more than one IP for each IP family"));
    }
    for (i, (expected, given)) in families.iter().zip(&of).enumerate() {
        let expected = expected.as_str().unwrap_or_default();
        if given.is_some_and(|given| given != expected) && FAMILIES.contains(&expected) {
            let words = format!("expected an {expected} value as indicated by `ipFamilies[{i}]`");
            causes.push(Cause::invalid(format!("spec.clusterIPs[{i}]"), texts[i], &words));
        }
    }
    causes
}

fn on_cluster(object: &Value, cluster: &ClusterConfig, causes: &mut Vec<Cause>) {
    let policy = text(object, "/spec/ipFamilyPolicy");
    let families = items(object, "/spec/ipFamilies");
    let ips = items(object, "/spec/clusterIPs");
    if policy == "SingleStack" {
        for (many, what) in [(ips.len() > 1, "cluster IPs"), (families.len() > 1, "IP families")] {
            if many {
                let words = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                );
                causes.push(Cause::invalid("spec.ipFamilyPolicy", policy, &words));
            }
        }
    }
    let known = configured(cluster);
    for (i, ip) in ips.iter().enumerate().skip(families.len()) {
        if let Some(family) = family(ip.as_str().unwrap_or_default())
            && !known.contains(&family)
        {
            let words = format!("{family} is not configured on this cluster");
            causes.push(Cause::invalid(format!("spec.clusterIPs[{i}]"), list(ips), &words));
        }
    }
    // A headless Service without selector may name families that the cluster has no virtual addresses for.
    if !causes.is_empty() || is_headless(object) && !has_selector(object) {
        return;
    }
    if policy == "RequireDualStack" && known.len() < 2 {
        let words = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", policy, words));
    }
    for (i, name) in families.iter().filter_map(Value::as_str).enumerate() {
        if !known.contains(&name) {
            let field = format!("spec.ipFamilies[{i}]");
            causes.push(Cause::invalid(field, name, "not configured on this cluster"));
        }
    }
}

/// Faults of a change: a second address or family may come and go, the first one stays.
pub(super) fn check_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    if !has_cluster_ip(old) || !has_cluster_ip(new) || !well_formed(new).is_empty() {
        return;
    }
    let of = |object, field: &str| items(object, &format!("/spec/{field}")).to_vec();
    let (was, is) = (of(old, "clusterIPs"), of(new, "clusterIPs"));
    let (was_families, families) = (of(old, "ipFamilies"), of(new, "ipFamilies"));
    let policy = text(new, "/spec/ipFamilyPolicy");
    if policy == "SingleStack" && (is.len() > 1 || families.len() > 1) {
        return; // said of the Service by itself
    }
    if policy != "SingleStack" {
        let fewer = |was: &[Value], is: &[Value]| !is.is_empty() && is.len() < was.len();
        let released = [(fewer(&was, &is), "cluster IP"), (fewer(&was_families, &families), "IP family")];
        for (_, what) in released.into_iter().filter(|(fewer, _)| *fewer) {
            let words = format!("must be 'SingleStack' to release the secondary {what}");
            causes.push(Cause::invalid("spec.ipFamilyPolicy", policy, &words));
        }
        if !causes.is_empty() {
            return;
        }
    }
    let once = "may not change once set";
    for (i, _) in was.iter().zip(&is).enumerate().filter(|(_, (was, is))| was != is) {
        causes.push(Cause::invalid(format!("spec.clusterIPs[{i}]"), list(&is), once));
    }
    // Whose addresses are those of its endpoints may have them in other families from now on.
    if !is_headless(old) && !is_headless(new) {
        for _ in was_families.iter().zip(&families).filter(|(was, is)| was != is) {
            causes.push(Cause::invalid("spec.ipFamilies[0]", list(&families), once));
        }
    }
}
