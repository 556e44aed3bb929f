//! Pods.

use super::{
    probe,
    text::{Text, items, or_none, str_of, time},
};
use serde_json::Value;

pub fn describe(object: &Value, text: &mut Text) {
    let (spec, status) = (&object["spec"], &object["status"]);
    let node = match (str_of(&spec["nodeName"]), str_of(&status["hostIP"])) {
        (node, address) if !node.is_empty() && !address.is_empty() => format!("{node}/{address}"),
        (node, _) => or_none(node),
    };
    text.line(0, "Node", node);
    if let Some(started) = status["startTime"].as_str() {
        text.line(0, "Start Time", time(started));
    }
    match object["metadata"]["deletionTimestamp"].as_str() {
        Some(since) => text.line(0, "Status", format!("Terminating (since {})", time(since))),
        None => text.line(0, "Status", str_of(&status["phase"])),
    }
    text.maybe(0, "Reason", &status["reason"]);
    text.maybe(0, "Message", &status["message"]);
    text.line(0, "IP", str_of(&status["podIP"]));
    let addresses: Vec<String> = items(&status["podIPs"]).iter().map(|entry| str_of(&entry["ip"])).collect();
    text.line(0, "IPs", or_none(addresses.join(", ")));
    for (key, list, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
    ] {
        let containers = items(&spec[list]);
        if containers.is_empty() {
            continue;
        }
        text.heading(0, key);
        for container in containers {
            let is_this = |status: &&Value| status["name"] == container["name"];
            let state = items(&status[statuses]).iter().find(is_this);
            describe_container(container, state.unwrap_or(&Value::Null), text);
        }
    }
    probe::gates(object, text);
    let conditions = items(&status["conditions"]);
    if !conditions.is_empty() {
        text.heading(0, "Conditions");
        let rows =
            conditions.iter().map(|condition| vec![str_of(&condition["type"]), str_of(&condition["status"])]);
        text.table(1, &["Type", "Status"], rows.collect());
    }
    text.map(0, "Node-Selectors", &spec["nodeSelector"], "=");
    text.maybe(0, "Restart Policy", &spec["restartPolicy"]);
}

fn describe_container(container: &Value, status: &Value, text: &mut Text) {
    text.heading(1, &str_of(&container["name"]));
    text.line(2, "Container ID", str_of(&status["containerID"]));
    text.line(2, "Image", str_of(&container["image"]));
    let ports = |field: &str| {
        let all = items(&container["ports"]).iter().map(|port| {
            let name = str_of(&port["name"]);
            let name = if name.is_empty() { name } else { format!(" ({name})") };
            let number = port[field].as_i64().unwrap_or(0);
            format!("{number}/{}{name}", str_of(&port["protocol"]))
        });
        or_none(all.collect::<Vec<_>>().join(", "))
    };
    text.line(2, "Ports", ports("containerPort"));
    text.line(2, "Host Ports", ports("hostPort"));
    for (key, field) in [("Command", "command"), ("Args", "args")] {
        let words = items(&container[field]);
        if !words.is_empty() {
            text.heading(2, key);
            words.iter().for_each(|word| text.raw(3, str_of(word)));
        }
    }
    describe_state("State", &status["state"], text);
    if status["lastState"].as_object().is_some_and(|state| !state.is_empty()) {
        describe_state("Last State", &status["lastState"], text);
    }
    let ready = if status["ready"].as_bool().unwrap_or(false) { "True" } else { "False" };
    text.line(2, "Ready", ready);
    text.line(2, "Restart Count", status["restartCount"].as_i64().unwrap_or(0).to_string());
    probe::describe(container, text);
    let environment = items(&container["env"]);
    if environment.is_empty() {
        return text.line(2, "Environment", "<none>");
    }
    text.heading(2, "Environment");
    for variable in environment {
        let from = &variable["valueFrom"]["fieldRef"]["fieldPath"];
        let value = if from.is_null() { str_of(&variable["value"]) } else { format!(" ({})", str_of(from)) };
        text.line(3, &str_of(&variable["name"]), value);
    }
}

fn describe_state(key: &str, state: &Value, text: &mut Text) {
    let Some((name, details)) = state.as_object().and_then(|state| state.iter().next()) else {
        return text.line(2, key, "Waiting");
    };
    let mut shown = name.clone();
    if let Some(first) = shown.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text.line(2, key, shown);
    text.maybe(3, "Reason", &details["reason"]);
    text.maybe(3, "Message", &details["message"]);
    text.maybe(3, "Exit Code", &details["exitCode"]);
    for (key, field) in [("Started", "startedAt"), ("Finished", "finishedAt")] {
        if let Some(at) = details[field].as_str() {
            text.line(3, key, time(at));
        }
    }
}
