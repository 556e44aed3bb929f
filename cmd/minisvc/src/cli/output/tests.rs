use super::*;
use minisvc_apimachinery::decode::{Limits, manifest};

#[test]
fn formats_are_read() {
    assert_eq!(parse("wide"), Ok(Format::Wide));
    assert!(matches!(parse("jsonpath={.a}"), Ok(Format::JsonPath(_))));
    assert!(parse("jsonpath={.a").is_err());
    assert!(parse("xml").unwrap_err().contains("allowed formats are"));
}

#[test]
fn objects_are_written_as_kubectl_writes_them() {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "managedFields": [{}]},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}});
    assert_eq!(
        text(&Format::Yaml, &service).unwrap(),
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  ports:\n  - port: 80\n  selector:\n    app: web\n"
    );
    assert_eq!(text(&Format::Name, &service).unwrap(), "service/web\n");
    assert_eq!(text(&Format::Name, &list(vec![service.clone()])).unwrap(), "service/web\n");
    let small = json!({"a": [1], "b": {}});
    assert_eq!(
        text(&Format::Json, &small).unwrap(),
        "{\n    \"a\": [\n        1\n    ],\n    \"b\": {}\n}\n"
    );
    let slice =
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "x"}});
    assert_eq!(name_of(&slice), "endpointslice.discovery.k8s.io/x");
}

#[test]
fn yaml_reads_back_as_it_was() {
    let object = json!({"a": "012", "b": "yes", "c": "1e3", "d": "null", "e": "", "f": "two\nlines\n", "g": "- x",
        "h": "a: b", "i": "#c", "j": 7, "k": 0.5, "l": null, "m": [], "n": {}, "o": "0x10", "p": " lead", "q": "~",
        "r": "2026-01-02T03:04:05Z", "s": "1_000", "t": "tab\there", "u": "no newline\nat end", "v": "\n\nx\n\n",
        "80": "x", "true": "z", "w": [[1, [2]], {"a": {"b": []}}], "x": "y", "y": "  two\n lead\n", "z": "on"});
    let yaml = text(&Format::Yaml, &object).unwrap();
    assert_eq!(manifest(yaml.as_bytes(), Limits::MANIFEST).unwrap(), [object], "{yaml}");
}

proptest::proptest! {
    #[test]
    fn any_text_reads_back_as_it_was(
        texts in proptest::collection::vec("(?s)[-+0-9a-fxoeEynYN~.:#,_ \\[\\]{}&*!|>'\"%@`\\\\?=<\n\t\u{85}é]{0,8}", 1..4),
        any in ".{0,6}",
    ) {
        let mut map = serde_json::Map::new();
        for text in &texts {
            map.insert(text.clone(), json!(text));
        }
        let object = json!({"k": map, "l": texts, "m": [[any.clone()], {"n": any}]});
        let yaml = text(&Format::Yaml, &object).unwrap();
        proptest::prop_assert_eq!(manifest(yaml.as_bytes(), Limits::MANIFEST).unwrap(), [object], "{}", yaml);
    }
}
