use super::*;
use serde_json::json;

fn render(template: &str) -> String {
    let list = json!({"kind": "List", "items": [
        {"metadata": {"name": "a", "labels": {"app.io/x": "1", "k": "v"}}, "ports": [80, 443], "ready": true,
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
        {"metadata": {"name": "b"}, "ports": [53], "ready": false}]});
    Template::parse(template).unwrap().render(&list).unwrap()
}

#[test]
fn paths_yield_what_kubectl_prints() {
    for (template, expected) in [
        ("{.kind}", "List"),
        (".kind", "List"),
        ("kind", "List"),
        ("{$.kind}", "List"),
        ("{.items[*].metadata.name}", "a b"),
        ("{.items[0].ports}", "[80,443]"),
        ("{.items[0].ports[-1]}", "443"),
        ("{.items[0].ports[-3]}", ""),
        ("{.items[0].ports[0:1]}{.items[0].ports[1:]}", "80443"),
        ("{.items[0].metadata.labels.app\\.io/x}", "1"),
        ("{.items[0].metadata.labels['app.io/x']}", "1"),
        ("{.items[0].metadata.labels.*}", "1 v"),
        ("{..name}", "a b"),
        ("{.items[?(@.metadata.name==\"b\")].ports[0]}", "53"),
        ("{.items[*].conditions[?(@.type=='Ready')].status}", "True"),
        ("{.items[?(@.ports[0]>60)].metadata.name}", "a"),
        ("{.items[?(@.ready==false)].metadata.name}", "b"),
        ("{.items[?(@.conditions)].metadata.name}", "a"),
        ("{.items[9].x.y}{.nothing}", ""),
        ("{range .items[*]}{.metadata.name}{\"\\t\"}{.ports[0]}{\"\\n\"}{end}", "a\t80\nb\t53\n"),
        ("{range .items[*]}{range .ports[*]}{@},{end};{end}", "80,443,;53,;"),
        ("names: {.items[*].metadata.name}!", "names: a b!"),
        ("{.kind \"-\" .kind}", "List-List"),
    ] {
        assert_eq!(render(template), expected, "{template}");
    }
}

#[test]
fn malformed_templates_are_told() {
    for bad in [
        "{.a",
        "{.a[}",
        "{.a['x}",
        "{end}",
        "{range .a}",
        "{a}",
        "{.a[x]}",
        "{.a[?(@.x==y)]}",
        "{\"a}",
        "{.a..}",
    ] {
        assert!(Template::parse(bad).is_err(), "{bad}");
    }
    let deep = "{range .a}".repeat(1000);
    assert_eq!(Template::parse(&deep), Err(JsonPathError::Ranges));
}
