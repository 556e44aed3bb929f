use super::*;
use crate::{resource, schema};
use proptest::prelude::*;
use serde_json::json;
use std::sync::LazyLock;

/// A field of a message, as a writer of protocol buffers would put it.
fn bytes(number: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [varint(number << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value.cast_unsigned())].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, api_version), bytes(2, kind)].concat();
    [MAGIC.to_vec(), bytes(1, meta), bytes(2, raw), bytes(3, ""), bytes(4, "")].concat()
}

fn read(api_version: &str, kind: &str, raw: &[u8]) -> Result<Value, ProtobufError> {
    decode(&body(api_version, kind, raw), 1 << 20)
}

/// What kubectl 1.32 sends for `create namespace foo`, `create service nodeport web --tcp=80:web --node-port=30080`
/// and `create deployment d --image=echo --replicas=0 --port=80`.
const KUBECTL: [&str; 3] = [
    "6b3873000a0f0a02763112094e616d657370616365121b0a130a03666f6f12001a0022002a0032003800420012001a020a001a002200",
    "6b3873000a0d0a02763112075365727669636512720a260a0377656212001a0764656661756c7422002a003200380042005a0a0a03617070\
     120377656212440a1e0a0638302d776562120354435018502209080110001a037765622880eb01120a0a0361707012037765621a0022084e\
     6f6465506f72743a00420052005a00600068001a020a001a002200",
    "6b3873000a150a07617070732f7631120a4465706c6f796d656e7412b5010a220a016412001a0764656661756c7422002a00320038004200\
     5a080a036170701201641280010800120a0a080a036170701201641a680a1a0a0012001a0022002a003200380042005a080a036170701201\
     64124a122c0a046563686f12046563686f2a00320a0a001000185022002a0042006a007200800100880100900100a201001a003200420\
     04a0052005800600068008201008a01009a0100c2010022020a00280038001a0c0800100018002000280038001a002200",
];

#[test]
fn what_kubectl_sends_is_the_json_it_would_send() {
    let [namespace, service, deployment] = KUBECTL.map(|hex| {
        let pairs = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        decode(&pairs.collect::<Vec<u8>>(), 1 << 20).unwrap()
    });
    assert_eq!(
        namespace,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "foo"}, "spec": {}, "status": {}})
    );
    assert_eq!(
        service,
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
            "spec": {"type": "NodePort", "selector": {"app": "web"},
                "ports": [{"name": "80-web", "protocol": "TCP", "port": 80, "targetPort": "web", "nodePort": 30080}]},
            "status": {"loadBalancer": {}}})
    );
    let container =
        json!({"name": "echo", "image": "echo", "ports": [{"containerPort": 80}], "resources": {}});
    assert_eq!(
        deployment,
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "default", "labels": {"app": "d"}},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "d"}}, "strategy": {},
                "template": {"metadata": {"labels": {"app": "d"}},
                    "spec": {"containers": [container]}}},
            "status": {}})
    );
}

#[test]
fn every_type_of_value_is_read() {
    let port = [
        bytes(1, "http"),
        bytes(2, "TCP"),
        number(3, 80),
        bytes(4, [number(1, 1), number(2, 0), bytes(3, "web")].concat()),
        number(5, 0),
    ]
    .concat();
    let spec = [bytes(1, port), bytes(2, [bytes(1, "app"), bytes(2, "x")].concat()), number(12, -3)].concat();
    let service = read("v1", "Service", &bytes(2, spec)).unwrap();
    assert_eq!(
        service["spec"],
        json!({"ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web"}],
            "selector": {"app": "x"}, "healthCheckNodePort": -3})
    );
    let secret = [bytes(2, [bytes(1, "k"), bytes(2, [0xff, 0])].concat()), bytes(3, "Opaque")].concat();
    assert_eq!(read("v1", "Secret", &secret).unwrap()["data"], json!({"k": "/wA="}));
    // A pointer to zero says zero; ConfigMap.immutable is one, and so is Deployment.spec.replicas.
    assert_eq!(read("v1", "ConfigMap", &number(4, 0)).unwrap()["immutable"], false);
    let deployment = bytes(2, number(1, 0));
    assert_eq!(read("apps/v1", "Deployment", &deployment).unwrap()["spec"], json!({"replicas": 0}));
    let time = [number(1, 1_700_000_000), number(2, 120_000)].concat();
    let lease = |spec| read("coordination.k8s.io/v1", "Lease", &bytes(2, spec));
    assert_eq!(lease(bytes(4, &time)).unwrap()["spec"], json!({"renewTime": "2023-11-14T22:13:20.000120Z"}));
    assert!(lease(bytes(2, "60")).is_err(), "a number as text");
    let deleted = bytes(1, bytes(9, number(1, 1_700_000_000)));
    let pod = read("v1", "Pod", &deleted).unwrap();
    assert_eq!(pod["metadata"]["deletionTimestamp"], "2023-11-14T22:13:20Z");
}

#[test]
fn pods_nest_inline_messages_quantities_and_numbers() {
    let volume = [bytes(1, "v"), bytes(2, bytes(2, bytes(1, "Memory")))].concat();
    let limits = [bytes(1, "cpu"), bytes(2, bytes(1, "500m"))].concat();
    let probe =
        [bytes(1, bytes(3, bytes(1, [number(1, 0), number(2, 8080)].concat()))), number(2, 5)].concat();
    let container = [bytes(1, "c"), bytes(2, "echo"), bytes(8, bytes(1, limits)), bytes(10, probe)].concat();
    let packed = [varint(5), varint(7)].concat();
    let security = [bytes(4, packed), number(4, 9)].concat();
    let spec = [bytes(1, volume), bytes(2, container), bytes(14, security), number(11, 0)].concat();
    let pod = read("v1", "Pod", &bytes(2, spec)).unwrap();
    assert_eq!(
        pod["spec"],
        json!({
            "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
            "containers": [{"name": "c", "image": "echo", "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"tcpSocket": {"port": 8080}, "initialDelaySeconds": 5}}],
            "securityContext": {"supplementalGroups": [5, 7, 9]},
        })
    );
}

#[test]
fn reviews_and_options_are_read() {
    let extra = [bytes(1, "scopes"), bytes(2, [bytes(1, "a"), bytes(1, "b")].concat())].concat();
    let review = bytes(2, [bytes(3, "jane"), bytes(5, extra)].concat());
    let review = read("authorization.k8s.io/v1", "SubjectAccessReview", &review).unwrap();
    assert_eq!(review["spec"], json!({"user": "jane", "extra": {"scopes": ["a", "b"]}}));
    let options = [number(1, 0), bytes(4, "Background")].concat();
    for version in ["v1", "meta.k8s.io/v1", "apps/v1"] {
        let options = read(version, "DeleteOptions", &options).unwrap();
        assert_eq!(options["gracePeriodSeconds"], 0);
        assert_eq!(options["propagationPolicy"], "Background");
    }
}

#[test]
fn what_is_not_in_the_table_is_refused_by_name() {
    let refused =
        |api_version: &str, kind: &str, raw: &[u8]| read(api_version, kind, raw).unwrap_err().to_string();
    assert!(
        refused("batch/v1", "Job", b"").contains("no kind \"Job\" is registered for version \"batch/v1\"")
    );
    assert!(refused("v1", "Container", b"").contains("no kind \"Container\""));
    assert!(
        refused("v1", "Pod", &bytes(2, bytes(999, ""))).starts_with("unknown field number 999 of PodSpec")
    );
    let twice = [bytes(1, ""), bytes(1, "")].concat();
    assert_eq!(refused("v1", "Pod", &twice), "field \"metadata\" of Pod appears twice");
    assert!(refused("v1", "Pod", &[0x0a, 9]).contains("unexpected EOF"));
    assert!(refused("v1", "Pod", &bytes(1, bytes(1, [0xff]))).contains("not UTF-8"));
    assert_eq!(decode(b"{}", 100), Err(ProtobufError::NoMagic));
    assert!(matches!(decode(&[0; 101], 100), Err(ProtobufError::TooLong { .. })));
    let gzip = [MAGIC.to_vec(), bytes(3, "gzip")].concat();
    assert!(matches!(decode(&gzip, 100), Err(ProtobufError::Encoded { .. })));
    let many = bytes(2, bytes(1, "").repeat(VALUES_MAX + 1));
    assert!(decode(&body("v1", "Pod", &many), 3 << 20).is_err());
}

/// Sends every field of a type, one level of each, and holds the names against the schema.
#[test]
fn the_table_and_the_schemas_say_the_same() {
    let table = table::table();
    for resource in resource::served() {
        let api_version = resource.api_version();
        assert!(table.kind(&api_version, resource.kind).is_some(), "{api_version} {}", resource.kind);
        let raw = full(table, table.kind(&api_version, resource.kind).unwrap(), 0);
        let object = read(&api_version, resource.kind, &raw).unwrap();
        let row = resource::by_kind(&api_version, resource.kind).unwrap();
        let problems: Vec<String> = schema::validate(row, &object).iter().map(ToString::to_string).collect();
        // Fields younger than the schemas are the only ones they do not know; no type differs.
        let wrong: Vec<_> = problems.iter().filter(|p| !p.starts_with("unknown field")).collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}", resource.kind);
        assert!(problems.len() < schema::PROBLEMS_MAX, "{}: {problems:?}", resource.kind);
    }
}

/// A message with every field that the table has.
fn full(table: &Table, of: &Type, depth: usize) -> Vec<u8> {
    (1..600).filter_map(|number| of.field(number)).flat_map(|field| one(table, field, depth)).collect()
}

fn one(table: &Table, field: &Field, depth: usize) -> Vec<u8> {
    let of = u64::from(field.number);
    let value = |number_of: u64| match field.kind {
        Kind::Int | Kind::Bool => number(number_of, 1),
        Kind::Text => bytes(number_of, "x"),
        Kind::Bytes => bytes(number_of, [1]),
        Kind::Time | Kind::MicroTime => bytes(number_of, number(1, 5)),
        Kind::Quantity => bytes(number_of, bytes(1, "1")),
        Kind::IntOrString => bytes(number_of, number(2, 5)),
        Kind::Json => bytes(number_of, bytes(1, "{}")),
        Kind::Items => bytes(number_of, bytes(1, "x")),
        Kind::Message(_) if depth > 8 => Vec::new(),
        Kind::Message(index) => bytes(number_of, full(table, table.at(index), depth + 1)),
    };
    match field.shape {
        Shape::Map => bytes(of, [bytes(1, "k"), value(2)].concat()),
        _ => value(of),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..200), which in 0_usize..6) {
        let kinds = [("v1", "Pod"), ("v1", "Service"), ("apps/v1", "Deployment"), ("v1", "Event"),
            ("v1", "DeleteOptions"), ("discovery.k8s.io/v1", "EndpointSlice")];
        let (api_version, kind) = kinds[which];
        let _read = read(api_version, kind, &raw);
        let _read = decode(&raw, 100);
        let _read = decode(&[MAGIC.to_vec(), raw].concat(), 1000);
    }

    #[test]
    fn no_damage_of_a_whole_pod_makes_it_panic(at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>()) {
        static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let table = table::table();
            body("v1", "Pod", &full(table, table.kind("v1", "Pod").unwrap(), 3))
        });
        let mut whole = WHOLE.clone();
        let at = at.index(whole.len());
        whole[at] = with;
        let _read = decode(&whole, 3 << 20);
        whole.truncate(cut.index(whole.len()));
        let _read = decode(&whole, 3 << 20);
    }
}
