//! Every rule of a Service, a line a rule, in `services/*.txt`: what is said is that, word for word, and nothing more.
//!
//! `SENT => ANSWER` is a create; `STORED -> CHANGE => ANSWER` an update, its change merged into what was stored, null
//! taking a field away. Sent are specs, and whole objects where the file says so.

use super::{World, services::service};
use json_patch::merge;
use minisvc_apimachinery::resource::SERVICES;
use serde_json::{Value, json};

/// The columns of each line.
fn rows(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().map(|line| line.rsplit_once(" => ").unwrap())
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The faults of a message, without the preamble that names the object.
fn faults(message: &str) -> &str {
    message.split_once(" is invalid: ").map_or(message, |(_, faults)| faults)
}

/// Creates or updates a Service by the first column of a row.
fn sent(world: &mut World, row: &str) -> Result<Value, String> {
    let Some((stored, change)) = row.split_once(" -> ") else {
        return world.create(service(parsed(row))).map(|o| o.object).map_err(|status| status.message);
    };
    world.create(service(parsed(stored))).unwrap_or_else(|status| panic!("{stored}: {status}"));
    let change = parsed(change);
    let before = world.store.entries.clone();
    let answer = world.change(&SERVICES, "web", None, |object| merge(&mut object["spec"], &change));
    if answer.is_err() {
        assert_eq!(world.store.entries, before, "a refused request changes nothing: {row}");
    }
    answer.map(|outcome| outcome.object).map_err(|status| status.message)
}

fn dual_stack() -> World {
    let mut world = World::new();
    world.cluster.service_cidrs.push("fd00:43::/112".parse().unwrap());
    world
}

fn are_refused(text: &str, world: fn() -> World) {
    for (row, expected) in rows(text) {
        let message = sent(&mut world(), row).expect_err(row);
        assert_eq!(faults(&message), expected, "{row}");
    }
}

#[test]
fn refused_by_themselves() {
    are_refused(include_str!("services/create.txt"), World::new);
}

#[test]
fn refused_by_their_metadata() {
    let mut world = World::new();
    for (row, expected) in rows(include_str!("services/metadata.txt")) {
        let mut object = service(json!({"ports": [{"port": 80}]}));
        object.as_object_mut().unwrap().extend(parsed(row).as_object().unwrap().clone());
        assert_eq!(faults(&world.refused(object)), expected, "{row}");
    }
}

#[test]
fn refused_changes() {
    are_refused(include_str!("services/update.txt"), World::new);
}

#[test]
fn refused_changes_of_two_families() {
    are_refused(include_str!("services/update_dual_stack.txt"), dual_stack);
}

#[test]
fn refused_states() {
    for (row, expected) in rows(include_str!("services/status.txt")) {
        let mut world = World::new();
        let (spec, ingress) = row.split_once(" -> ").unwrap();
        world.create(service(parsed(spec))).unwrap();
        let ingress = parsed(ingress);
        let change = |object: &mut Value| object["status"] = json!({"loadBalancer": {"ingress": [ingress]}});
        let status = world.change(&SERVICES, "web", Some("status"), change).expect_err(row);
        assert_eq!(faults(&status.message), expected, "{row}");
    }
}

/// What is filled in, taken over and dropped: the answer is a part of the spec, null meaning absent.
#[test]
fn completed() {
    for (text, world) in [
        (include_str!("services/completed.txt"), World::new as fn() -> World),
        (include_str!("services/completed_dual_stack.txt"), dual_stack),
    ] {
        for (row, expected) in rows(text) {
            let object = sent(&mut world(), row).unwrap_or_else(|message| panic!("{row}: {message}"));
            let mut merged = object["spec"].clone();
            merge(&mut merged, &parsed(expected));
            assert_eq!(object["spec"], merged, "{row}");
        }
    }
}
