//! Values that fit a schema, nearly fit it, or do not.

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value, json};

/// Names of objects, the samples' among them.
pub(super) const NAMES: [&str; 8] =
    ["web", "web", "web", "web", "web", "other", "default", "kube-root-ca.crt"];
/// How deep schemas are followed.
const DEPTH_MAX: usize = 9;

const ADDRESSES: [&str; 9] =
    ["10.43.0.5", "10.43.0.6", "10.99.0.7", "127.0.0.1", "::1", "fd00::1", "None", "10.0.0.0/8", "300.1.1.1"];
const WORDS: [&str; 30] = [
    "",
    "a",
    "web",
    "default",
    "http",
    "TCP",
    "UDP",
    "ClusterIP",
    "NodePort",
    "LoadBalancer",
    "ExternalName",
    "Always",
    "Never",
    "Cluster",
    "Local",
    "None",
    "IPv4",
    "IPv6",
    "SingleStack",
    "PreferDualStack",
    "Exact",
    "Prefix",
    "Running",
    "True",
    "Opaque",
    "example.com",
    "a/b",
    "node1",
    "echo",
    "kubernetes.io/service-account-token",
];
const ODD: [&str; 13] = [
    "A_b",
    "..",
    ".",
    "a b",
    "a\u{0}b",
    "\u{202e}💥",
    "%2F",
    "-1",
    "1e9",
    "null",
    "a,b=c in (d",
    "99999999",
    "\n",
];
const NUMBERS: [i64; 10] = [0, 1, 2, 5, 80, 443, 30001, 32767, 65535, 65536];
const ODD_NUMBERS: [i64; 5] = [-1, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN];

/// What of a value does not fit a schema. Fields that it does not know are kept by the server and say nothing.
pub(super) fn misfit(schemas: &Value, schema: &Value, value: &Value) -> Option<String> {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    if let Some(known) = reference.and_then(|reference| reference.rsplit('/').next()) {
        return misfit(schemas, &schemas[known], value);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = choices.iter().any(|choice| misfit(schemas, choice, value).is_none());
        return (!fits).then(|| format!(": {value} is none of {choices:?}"));
    }
    let fits = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    if !fits && !value.is_null() {
        return Some(format!(": {value} is no {}", schema["type"]));
    }
    let within = |key: &str, schema: &Value, value: &Value| {
        misfit(schemas, schema, value).map(|words| format!(".{key}{words}"))
    };
    let items = value.as_array().into_iter().flatten().enumerate();
    let fields = value.as_object().into_iter().flatten();
    let wrong = items.into_iter().find_map(|(i, item)| within(&i.to_string(), &schema["items"], item));
    wrong.or_else(|| {
        fields.into_iter().find_map(|(key, field)| match &schema["properties"][key] {
            Value::Null => within(key, &schema["additionalProperties"], field),
            known => within(key, known, field),
        })
    })
}

/// Makes values up, the same ones from the same seed.
pub(super) struct Maker {
    random: StdRng,
    /// One value in so many does not fit.
    odd: usize,
}

impl Maker {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), odd: usize::MAX }
    }

    /// Decides how odd the next request is: not at all, here and there, or all over.
    pub(super) fn begin(&mut self) {
        self.odd = *self.pick(&[usize::MAX, usize::MAX, 100, 15]);
    }

    /// Less than `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound)
    }

    pub(super) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub(super) fn boolean(&mut self) -> bool {
        self.one_in(2)
    }

    pub(super) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    pub(super) fn integer(&mut self) -> i64 {
        if self.one_in(self.odd) { *self.pick(&ODD_NUMBERS) } else { *self.pick(&NUMBERS) }
    }

    /// A text for a field or parameter of that name.
    pub(super) fn text(&mut self, name: &str) -> String {
        if self.one_in(self.odd) {
            return match self.below(8) {
                0 => "x".repeat(300),
                _ => (*self.pick(&ODD)).to_owned(),
            };
        }
        let list: &[&str] = match name {
            "name" | "generateName" | "nodeName" | "serviceName" | "serviceAccountName" => &NAMES,
            "namespace" => &["default", "default", "kube-system"],
            "protocol" => &["TCP", "UDP", "SCTP", "tcp"],
            // Nobody outside is ever connected to: nodes are here, and Pods not where the cluster has any.
            "address" => &["127.0.0.1", "::1", "node1"],
            "clusterIP" | "ip" | "ips" | "addresses" | "podIP" | "hostIP" | "cidr" => &ADDRESSES,
            "podCIDR" | "loadBalancerSourceRanges" => &["10.42.0.0/24", "10.42.1.0/24", "10.0.0.0"],
            "dryRun" => &["All"],
            "fieldValidation" => &["Strict", "Warn", "Ignore"],
            "fieldSelector" => {
                &["metadata.name=web", "spec.nodeName!=a", "status.phase=Running", "type=Opaque", "a=b", "a"]
            }
            "labelSelector" => &["a=b", "a in (b,c),!d", "a", "a==", "a notin (", "x!=y"],
            "propagationPolicy" => &["Background", "Foreground", "Orphan"],
            "resourceVersion" => &["0", "1", "5"],
            "resourceVersionMatch" => &["Exact", "NotOlderThan", "x"],
            "continue" => &["x", "e30", "eyJ2IjoxfQ"],
            "operator" => &["In", "NotIn", "Exists", "DoesNotExist", "Equal", "x"],
            "effect" => &["NoSchedule", "NoExecute", "x"],
            _ => &WORDS,
        };
        (*self.pick(list)).to_owned()
    }

    /// Anything at all.
    pub(super) fn any(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 7 } else { 9 }) {
            0 => Value::Null,
            1 => json!(self.boolean()),
            2 => json!(self.integer()),
            3 => json!(1.5),
            4 => json!(self.text("")),
            5 => json!([]),
            6 => json!({}),
            7 => json!([self.any(depth - 1)]),
            _ => json!({ self.text(""): self.any(depth - 1) }),
        }
    }

    /// A value for a field of that name; seldom one that does not fit.
    pub(super) fn value(&mut self, schemas: &Value, schema: &Value, name: &str) -> Value {
        self.value_at(schemas, schema, name, 0)
    }

    fn value_at(&mut self, schemas: &Value, schema: &Value, name: &str, depth: usize) -> Value {
        if self.one_in(self.odd) {
            return self.any(3);
        }
        let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
        if let Some(reference) = reference {
            let known = reference.rsplit('/').next().unwrap();
            assert!(schemas[known].is_object(), "{reference} leads nowhere");
            return self.value_at(schemas, &schemas[known], name, depth);
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let choice = self.pick(choices);
            return self.value_at(schemas, choice, name, depth);
        }
        match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("string"), Some("date-time")) => {
                json!(self.pick(&["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456Z"]))
            }
            (Some("string"), Some("byte")) => json!(self.pick(&["YQ==", "", "AAECAw=="])),
            (Some("string"), _) => json!(self.text(name)),
            (Some("integer"), _) => json!(self.integer()),
            (Some("number"), _) => json!(1.5),
            (Some("boolean"), _) => json!(self.boolean()),
            (Some("array"), _) => {
                let count = if depth < DEPTH_MAX { self.below(3) } else { 0 };
                (0..count).map(|_| self.value_at(schemas, &schema["items"], name, depth + 1)).collect()
            }
            (Some("object"), _) => self.object(schemas, schema, depth),
            _ => self.any(1),
        }
    }

    fn object(&mut self, schemas: &Value, schema: &Value, depth: usize) -> Value {
        let mut object = Map::new();
        let required =
            |name: &str| schema["required"].as_array().is_some_and(|list| list.iter().any(|r| r == name));
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let often = match depth {
                _ if required(name)
                    || depth == 0 && ["metadata", "spec", "data"].contains(&name.as_str()) =>
                {
                    1
                }
                0..=2 => 4,
                _ => 7,
            };
            if depth < DEPTH_MAX && self.one_in(often) && !self.one_in(12) {
                object.insert(name.clone(), self.value_at(schemas, field, name, depth + 1));
            }
        }
        if schema["additionalProperties"].is_object() && depth < DEPTH_MAX {
            for _ in 0..self.below(3) {
                let (key, fields) = (self.text(""), &schema["additionalProperties"]);
                object.insert(key, self.value_at(schemas, fields, "", depth + 1));
            }
        }
        Value::Object(object)
    }

    /// Changes something somewhere in a value.
    pub(super) fn change(&mut self, value: &mut Value) {
        let go_on = !self.one_in(8);
        match value {
            Value::Object(map) if go_on && !map.is_empty() => {
                let at = self.below(map.len());
                let key = map.keys().nth(at).unwrap().clone();
                if self.one_in(12) {
                    map.remove(&key);
                } else if let Some(field) = map.get_mut(&key) {
                    self.change(field);
                }
            }
            Value::Array(list) if go_on && !list.is_empty() => {
                let at = self.below(list.len());
                if self.one_in(12) {
                    list.push(list[at].clone());
                } else {
                    self.change(&mut list[at]);
                }
            }
            // Mostly of the same type.
            Value::String(_) if !self.one_in(4) => *value = json!(self.text("")),
            Value::Number(_) if !self.one_in(4) => *value = json!(self.integer()),
            Value::Bool(was) if !self.one_in(4) => *value = json!(!*was),
            _ => *value = self.any(2),
        }
    }
}
