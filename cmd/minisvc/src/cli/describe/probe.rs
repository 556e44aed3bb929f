//! Probes of containers, and gates of Pods, on one line each. Source: kubectl `DescribeProbe`.

use super::text::{Text, items, str_of};
use serde_json::Value;

/// What a container is asked.
pub fn describe(container: &Value, text: &mut Text) {
    for (key, field) in
        [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        let probe = &container[field];
        if probe.is_object() {
            text.line(2, key, line(probe));
        }
    }
}

fn line(probe: &Value) -> String {
    let number = |field: &str| probe[field].as_i64().unwrap_or(0);
    let attributes = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds"),
        number("timeoutSeconds"),
        number("periodSeconds"),
        number("successThreshold"),
        number("failureThreshold")
    );
    let (http, tcp, grpc) = (&probe["httpGet"], &probe["tcpSocket"], &probe["grpc"]);
    let what = if probe["exec"].is_object() {
        let command: Vec<String> = items(&probe["exec"]["command"]).iter().map(str_of).collect();
        format!("exec [{}]", command.join(" "))
    } else if http.is_object() {
        let scheme = str_of(&http["scheme"]).to_lowercase();
        format!(
            "http-get {scheme}://{}:{}{}",
            str_of(&http["host"]),
            str_of(&http["port"]),
            str_of(&http["path"])
        )
    } else if tcp.is_object() {
        format!("tcp-socket {}:{}", str_of(&tcp["host"]), str_of(&tcp["port"]))
    } else if grpc.is_object() {
        format!("grpc <pod>:{} {}", str_of(&grpc["port"]), str_of(&grpc["service"]))
    } else {
        "unknown".to_owned()
    };
    format!("{what} {attributes}")
}

/// What others must say of a Pod before it is ready, and what they say.
pub fn gates(pod: &Value, text: &mut Text) {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return;
    }
    text.heading(0, "Readiness Gates");
    let rows = gates.iter().map(|gate| {
        let kind = &gate["conditionType"];
        let said = items(&pod["status"]["conditions"]).iter().find(|condition| condition["type"] == *kind);
        vec![str_of(kind), said.map_or_else(|| "<none>".to_owned(), |said| str_of(&said["status"]))]
    });
    text.table(1, &["Type", "Status"], rows.collect());
}
