use super::*;
use crate::resource::{EVENTS, NODES, PODS, SECRETS, SERVICES};
use serde_json::json;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn holds(selector: &str, pairs: &[(&str, &str)]) -> bool {
    LabelSelector::parse(selector).unwrap().matches(&labels(pairs))
}

#[test]
fn label_selectors_follow_kubernetes_grammar() {
    let web = &[("app", "web"), ("tier", "front"), ("weight", "7")];
    for yes in [
        "",
        " ",
        "app",
        "app=web",
        "app==web",
        "app = web",
        "app!=db",
        "old!=x",
        "!old",
        "app in (web, db)",
        "app notin (db)",
        "old notin (db)",
        "app=web,tier=front,!old",
        "weight>6",
        "weight<8",
        "app in (web)",
    ] {
        assert!(holds(yes, web), "{yes}");
    }
    for no in [
        "app=",
        "app=db",
        "app!=web",
        "!app",
        "old",
        "app in (db,x)",
        "app notin (web)",
        "weight>7",
        "app=web,old",
    ] {
        assert!(!holds(no, web), "{no}");
    }
    assert!(holds("a=", &[("a", "")]) && holds("a in ()", &[("a", "")]));
    for bad in [
        "=x",
        "a=b=c",
        "a in b",
        "a in (b",
        "a b",
        ",",
        "a,,b",
        "a=b,",
        "!",
        "-a=b",
        "a=b!",
        "a/b/c=d",
        "UP/x=y",
        "a>b",
        "a in (b) c",
        &format!("a={}", "x".repeat(64)),
    ] {
        assert!(LabelSelector::parse(bad).is_err(), "{bad}");
    }
    assert!(holds("example.com/app=web", &[("example.com/app", "web")]));
}

#[test]
fn selectors_of_objects_match_too() {
    let selector = meta::LabelSelector {
        match_labels: Some(labels(&[("app", "web")])),
        match_expressions: Some(vec![meta::LabelSelectorRequirement {
            key: "tier".to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(vec!["db".to_owned()]),
        }]),
    };
    let selector = LabelSelector::from_selector(&selector).unwrap();
    assert!(selector.matches_object(&json!({"metadata": {"labels": {"app": "web"}}})));
    assert!(!selector.matches_object(&json!({"metadata": {"labels": {"app": "web", "tier": "db"}}})));
    assert!(!selector.matches_object(&json!({"metadata": {}})));
    assert!(LabelSelector::from_map(&labels(&[])).is_empty());
}

#[test]
fn field_selectors_know_each_kinds_fields() {
    let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "n1"}});
    let holds = |text: &str| FieldSelector::parse(text, &PODS).unwrap().matches(&pod);
    for yes in [
        "",
        "metadata.name=a",
        "metadata.name==a,spec.nodeName!=n2",
        "status.phase=",
        "spec.hostNetwork=false",
    ] {
        assert!(holds(yes), "{yes}");
    }
    assert!(!holds("metadata.name!=a") && !holds("status.podIP=1.2.3.4"));
    let refused = |text: &str, resource| FieldSelector::parse(text, resource).unwrap_err().to_string();
    assert_eq!(refused("spec.foo=x", &PODS), "field label not supported: spec.foo");
    assert_eq!(refused("spec.nodeName=x", &SERVICES), "field label not supported: spec.nodeName");
    assert_eq!(refused("a", &PODS), "invalid selector: \"a\"; can't understand \"a\"");
    assert_eq!(FieldSelector::parse("metadata.name=a", &NODES).unwrap().exact("metadata.name"), Some("a"));
    let secret = FieldSelector::parse("type=a\\,b\\=c", &SECRETS).unwrap();
    assert!(secret.matches(&json!({"type": "a,b=c"})));
    let event = FieldSelector::parse("involvedObject.name=web,source=kubelet", &EVENTS).unwrap();
    assert!(event.matches(&json!({"involvedObject": {"name": "web"}, "reportingComponent": "kubelet"})));
}
