use super::*;
use crate::resource::{EVENTS, NODES, PODS, SECRETS, SERVICES};
use serde_json::{Value, json};

fn words(resource: &Resource, object: Value) -> Vec<String> {
    validate(resource, &object).iter().map(ToString::to_string).collect()
}

#[test]
fn every_served_kind_has_a_schema_and_a_document() {
    for resource in crate::resource::served() {
        assert!(schemas().of(resource).is_some(), "{}", resource.kind);
        let path = resource.path(None, None);
        assert!(documents().iter().any(|document| path.starts_with(&format!("/{}/", document.path))));
    }
    assert!(documents().iter().all(|document| document.hash.len() == 16 && !document.bytes.is_empty()));
}

#[test]
fn unknown_fields_are_named_by_path() {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"any": "x"}},
        "spec": {"foo": 1, "ports": [{"port": 80}, {"port": 81, "bar": {"deep": 1}}]}});
    assert_eq!(
        words(&SERVICES, service.clone()),
        ["unknown field \"spec.foo\"", "unknown field \"spec.ports[1].bar\""]
    );
    let status = refusal(&SERVICES, &validate(&SERVICES, &service));
    assert_eq!(
        status.message,
        "Service in version \"v1\" cannot be handled as a Service: strict decoding error: \
         unknown field \"spec.foo\", unknown field \"spec.ports[1].bar\""
    );
    assert_eq!(status.code, 400);
}

#[test]
fn wrong_types_are_told_in_gos_words() {
    let service =
        json!({"metadata": {"labels": {"a": 1}}, "spec": {"ports": [{"port": "80"}], "selector": []}});
    assert_eq!(
        words(&SERVICES, service),
        [
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            "json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32",
            "json: cannot unmarshal array into Go struct field ServiceSpec.spec.selector of type map[string]string",
        ]
    );
    assert_eq!(
        words(&SERVICES, json!({"spec": {"ports": [{"port": 80.5, "nodePort": 4_294_967_296_u64}]}})),
        [
            "json: cannot unmarshal number 4294967296 into Go struct field ServicePort.spec.ports.nodePort of type int32",
            "json: cannot unmarshal number 80.5 into Go struct field ServicePort.spec.ports.port of type int32",
        ]
    );
    assert_eq!(
        words(&SERVICES, json!([])),
        ["json: cannot unmarshal array into Go value of type v1.Service"]
    );
}

#[test]
fn what_kubernetes_takes_is_taken() {
    let service = json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8080}],
        "selector": null}, "status": null});
    assert_eq!(words(&SERVICES, service), Vec::<String>::new());
    let pod = json!({"spec": {"containers": [{"name": "a", "resources": {"limits":
        {"cpu": 1.5, "memory": "64Mi", "x": "1e3", "y": "100m"}}}]},
        "metadata": {"creationTimestamp": "2026-01-02T03:04:05Z"}});
    assert_eq!(words(&PODS, pod), Vec::<String>::new());
    let event = json!({"eventTime": "2026-01-02T03:04:05.123456Z", "involvedObject": {"name": "x"}});
    assert_eq!(words(&EVENTS, event), Vec::<String>::new());
    assert_eq!(words(&SECRETS, json!({"data": {"a": "aGk=", "b": ""}})), Vec::<String>::new());
}

#[test]
fn malformed_texts_are_told() {
    assert_eq!(words(&SECRETS, json!({"data": {"a": "a?k="}})), ["illegal base64 data at input byte 1"]);
    assert_eq!(words(&SECRETS, json!({"data": {"a": "aGk"}})), ["illegal base64 data at input byte 3"]);
    for time in ["yesterday", "2026-01-02", "2026-01-02 03:04:05Z", "2026-13-02T03:04:05Z"] {
        let problems = validate(&NODES, &json!({"metadata": {"creationTimestamp": time}}));
        assert_eq!(problems.len(), 1, "{time}");
        assert_eq!(problems[0].field, "metadata.creationTimestamp");
    }
    for quantity in ["", "1.2.3", "10Q", "Mi", "1e"] {
        let pod = json!({"spec": {"overhead": {"cpu": quantity}}});
        assert_eq!(validate(&PODS, &pod).len(), 1, "{quantity}");
    }
}

#[test]
fn reports_are_bounded() {
    let ports: Vec<Value> = (0..1000).map(|_| json!({"port": "x"})).collect();
    assert_eq!(validate(&SERVICES, &json!({"spec": {"ports": ports}})).len(), PROBLEMS_MAX);
    let mut deep = json!(1);
    for _ in 0..120 {
        deep = json!([deep]);
    }
    assert_eq!(validate(&SERVICES, &json!({"spec": {"ports": deep}})).len(), 1);
}

#[test]
fn lists_know_how_they_merge() {
    let schemas = schemas();
    let child = |shape: &Shape, name: &str| schemas.child(shape, name).unwrap();
    let pod = Shape::Struct(schemas.of(&PODS).unwrap());
    let containers = child(&child(&pod, "spec").shape, "containers");
    assert_eq!(containers.merging.keys, ["name"]);
    let Shape::List(container) = containers.shape else { panic!("no list") };
    let ports = child(&container, "ports").merging;
    assert_eq!(ports.keys, ["containerPort", "protocol"]);
    assert_eq!(ports.defaults.get("protocol"), Some(&json!("TCP")));
    assert!(ports.merge);
    let finalizers = child(&child(&pod, "metadata").shape, "finalizers").merging;
    assert!(finalizers.merge && finalizers.keys.is_empty());
    assert!(!child(&child(&pod, "spec").shape, "tolerations").merging.merge);
}
