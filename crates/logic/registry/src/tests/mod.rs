//! A world to try requests in: a store in memory, a clock that stands still, numbers that count up.

use crate::{Context, DeleteOptions, Outcome, Status, create, delete, patch, update};
use bytes::Bytes;
use minisvc_apimachinery::{
    ClusterConfig, ObjectKey, Resource,
    resource::{IP_ADDRESSES, NAMESPACES, by_kind},
    storage::{Change, Read, Stored},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

mod events;
mod families;
mod kinds;
mod metadata;
mod networks;
mod odd;
mod owners;
mod pod_host;
mod pod_life;
mod pods;
mod properties;
mod refusals;
mod service_tables;
mod services;
mod services_update;
mod tables;
mod tokens;
mod workloads;

#[derive(Default)]
pub(super) struct Memory {
    pub(super) entries: BTreeMap<String, Arc<Stored>>,
    revision: u64,
}

impl Read for Memory {
    fn revision(&self) -> u64 {
        self.revision
    }
    fn get(&self, key: &str) -> Option<Arc<Stored>> {
        self.entries.get(key).cloned()
    }
    fn scan(&self, prefix: &str, after: Option<&str>, visit: &mut dyn FnMut(&str, &Arc<Stored>) -> bool) {
        for (key, stored) in self.entries.range(prefix.to_owned()..) {
            let wanted = after.is_none_or(|after| key.as_str() > after);
            if !key.starts_with(prefix) || (wanted && !visit(key, stored)) {
                return;
            }
        }
    }
}

impl Memory {
    pub(super) fn commit(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        self.revision += 1;
        let revision = self.revision;
        for change in changes {
            match change.clone() {
                Change::PutObject { key, mut value } => {
                    value["metadata"]["resourceVersion"] = json!(revision.to_string());
                    let value = Bytes::from(serde_json::to_vec(&value).unwrap());
                    self.entries.insert(key, Arc::new(Stored { revision, value }));
                }
                Change::PutRecord { key, value } => {
                    self.entries.insert(key, Arc::new(Stored { revision, value }));
                }
                Change::Delete { key } => {
                    self.entries.remove(&key);
                }
            }
        }
    }
}

pub(super) struct World {
    pub(super) store: Memory,
    pub(super) cluster: ClusterConfig,
    pub(super) now: jiff::Timestamp,
    pub(super) dry_run: bool,
    pub(super) manager: &'static str,
    counter: u64,
}

impl World {
    /// A cluster with the namespaces `default` and `kube-system`.
    pub(super) fn new() -> Self {
        let mut world = Self {
            store: Memory::default(),
            cluster: ClusterConfig::default(),
            now: "2026-01-02T03:04:05Z".parse().unwrap(),
            dry_run: false,
            manager: "test",
            counter: 0,
        };
        for name in ["default", "kube-system"] {
            world
                .create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
                .unwrap();
        }
        world
    }

    pub(super) fn run<T>(&mut self, request: impl FnOnce(&mut Context<'_>, &Memory) -> T) -> T {
        let counter = std::cell::Cell::new(self.counter);
        let mut uid = || {
            counter.set(counter.get() + 1);
            format!("uid-{}", counter.get())
        };
        let mut random = || {
            counter.set(counter.get() + 1);
            counter.get().wrapping_mul(0x9e37_79b9_7f4a_7c15)
        };
        let mut ctx = Context {
            now: self.now,
            uid: &mut uid,
            random: &mut random,
            cluster: &self.cluster,
            dry_run: self.dry_run,
            manager: self.manager,
        };
        let outcome = request(&mut ctx, &self.store);
        self.counter = counter.get();
        outcome
    }

    fn finish(&mut self, outcome: Result<Outcome, Status>) -> Result<Outcome, Status> {
        let outcome = outcome?;
        self.store.commit(&outcome.changes);
        Ok(outcome)
    }

    pub(super) fn create(&mut self, object: Value) -> Result<Outcome, Status> {
        let r = kind_of(&object);
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        let namespace = r.namespaced.then(|| namespace.unwrap_or_else(|| "default".to_owned()));
        let outcome = self.run(|ctx, view| create(ctx, view, r, namespace.as_deref(), object));
        self.finish(outcome)
    }

    pub(super) fn update(&mut self, object: Value, subresource: Option<&str>) -> Result<Outcome, Status> {
        let r = kind_of(&object);
        let key = key_of(r, &object);
        let outcome = self.run(|ctx, view| update(ctx, view, r, &key, object, subresource));
        self.finish(outcome)
    }

    pub(super) fn change(
        &mut self,
        r: &'static Resource,
        name: &str,
        subresource: Option<&str>,
        change: impl Fn(&mut Value),
    ) -> Result<Outcome, Status> {
        let key = key(r, name);
        let apply = |old: &Value| {
            let mut new = old.clone();
            change(&mut new);
            Ok(new)
        };
        let outcome = self.run(|ctx, view| patch(ctx, view, r, &key, &apply, subresource));
        self.finish(outcome)
    }

    pub(super) fn delete(
        &mut self,
        r: &'static Resource,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Outcome, Status> {
        let key = key(r, name);
        let outcome = self.run(|ctx, view| delete(ctx, view, r, &key, options));
        self.finish(outcome)
    }

    pub(super) fn get(&self, r: &'static Resource, name: &str) -> Option<Value> {
        let stored = self.store.get(&r.storage_key(&key(r, name)))?;
        Some(serde_json::from_slice(&stored.value).unwrap())
    }

    /// The owner of a record.
    pub(super) fn record(&self, key: &str) -> Option<String> {
        self.store.get(key).map(|stored| String::from_utf8(stored.value.to_vec()).unwrap())
    }

    /// The Service that an address is recorded for, as `services/NAMESPACE/NAME`.
    pub(super) fn holder(&self, address: &str) -> Option<String> {
        let parent = self.get(&IP_ADDRESSES, address)?["spec"]["parentRef"].clone();
        let part = |field: &str| parent[field].as_str().unwrap_or_default().to_owned();
        Some(format!("{}/{}/{}", part("resource"), part("namespace"), part("name")))
    }

    /// Creates the object, which must be refused and change nothing; the faults without the preamble.
    pub(super) fn refused(&mut self, object: Value) -> String {
        let before = self.store.entries.clone();
        let status = self.create(object).map(|outcome| outcome.object).unwrap_err();
        assert_eq!(self.store.entries, before, "a refused request changes nothing");
        status.message
    }
}

pub(super) fn key(r: &Resource, name: &str) -> ObjectKey {
    match name.split_once('/') {
        Some((namespace, name)) => ObjectKey::new(namespace, name),
        None if r.namespaced => ObjectKey::new("default", name),
        None => ObjectKey::cluster(name),
    }
}

fn key_of(r: &Resource, object: &Value) -> ObjectKey {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    match text("namespace").as_str() {
        "" => key(r, &text("name")),
        namespace => ObjectKey::new(namespace, text("name")),
    }
}

fn kind_of(object: &Value) -> &'static Resource {
    by_kind(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap_or(&NAMESPACES)
}

/// Asserts that a message says this.
#[track_caller]
pub(super) fn says(message: &str, expected: &str) {
    assert!(message.contains(expected), "expected: {expected}\n     got: {message}");
}
