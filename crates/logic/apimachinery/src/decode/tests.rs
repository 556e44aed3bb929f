use super::*;
use crate::resource::SERVICES;
use serde_json::json;

fn read(text: &str) -> Vec<Value> {
    manifest(text.as_bytes(), Limits::MANIFEST).unwrap()
}

fn refused(text: &str) -> String {
    manifest(text.as_bytes(), Limits::MANIFEST).unwrap_err().to_string()
}

#[test]
fn yaml_is_read_as_kubectl_reads_it() {
    let text = "a: 012\nb: yes\nc: \"012\"\n80: x\ntrue: z\nd: 80.0\ne: 0.5\nf: null\ng: 2026-01-02\nh: 0x10\ni: |\n  two\n  lines\n";
    assert_eq!(
        read(text),
        [json!({"a": 10, "b": true, "c": "012", "80": "x", "true": "z", "d": 80, "e": 0.5, "f": null,
            "g": "2026-01-02", "h": 16, "i": "two\nlines\n"})]
    );
    assert_eq!(
        read("a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n"),
        [json!({"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1}})]
    );
}

#[test]
fn documents_are_told_apart_and_lists_taken_apart() {
    assert_eq!(read("---\n# nothing\n---\na: 1\n---\n---\nb: 2\n"), [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(read("{\"a\": 1}\n{\"b\": 2}\n"), [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(read("{a: 1}\n"), [json!({"a": 1})]);
    assert_eq!(read(""), Vec::<Value>::new());
    let list = "kind: List\napiVersion: v1\nitems:\n- {kind: Service}\n- {kind: Pod}\n";
    assert_eq!(read(list), [json!({"kind": "Service"}), json!({"kind": "Pod"})]);
}

#[test]
fn faults_name_the_line() {
    assert!(refused("a: 1\nb: [1\n").starts_with("line "), "{}", refused("a: 1\nb: [1\n"));
    let twice = refused("a: 1\nb: 2\na: 3\n");
    assert!(twice.starts_with("line 3, column 1: ") && twice.contains("uplicate"), "{twice}");
    assert_eq!(
        refused("{\"a\": {\"b\": [{\"c\": 1, \"c\": 2}]}}"),
        "document 1: duplicate field \"a.b[0].c\""
    );
    assert_eq!(refused("{\"a\": \n 1,,}"), "line 2, column 4: key must be a string");
    assert_eq!(refused("a: 1\n---\n- b\n"), "document 2 is no object");
    assert_eq!(manifest(b"a: \xff", Limits::MANIFEST), Err(DecodeError::NotUtf8 { valid: 3 }));
}

#[test]
fn texts_are_bounded() {
    let small = Limits { bytes_max: 100, depth_max: 5, yaml_depth_max: 5, documents_max: 2, aliases_max: 1 };
    assert_eq!(manifest(&[b' '; 101], small), Err(DecodeError::TooLong { length: 101, max: 100 }));
    assert_eq!(manifest(b"{}{}{}", small), Err(DecodeError::TooManyDocuments { max: 2 }));
    assert!(manifest(b"a: 1\n---\na: 2\n---\na: 3\n", small).is_err());
    for text in ["[[[[[[1]]]]]]", "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}", "a: [[[[[[1]]]]]]"] {
        assert!(manifest(text.as_bytes(), small).is_err(), "{text}");
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(json(deep.as_bytes(), Limits::REQUEST).is_err());
    assert!(manifest(deep.as_bytes(), Limits::MANIFEST).is_err());
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..10 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(",")));
    }
    assert!(manifest(bomb.as_bytes(), Limits::MANIFEST).is_err());
    // On a stack that is smaller than that of any thread that reads requests.
    let nested = |depth: usize| format!("a: {}1{}", "{b: ".repeat(depth - 1), "}".repeat(depth - 1));
    let small_stack = std::thread::Builder::new().stack_size(1 << 20);
    let read =
        move || [30, 31, 1000].map(|depth| manifest(nested(depth).as_bytes(), Limits::REQUEST).is_ok());
    assert_eq!(small_stack.spawn(read).unwrap().join().unwrap(), [true, false, false]);
    let one = "a: &x [1]\nb: *x\n";
    assert_eq!(manifest(one.as_bytes(), small), Ok(vec![json!({"a": [1], "b": [1]})]));
    for (text, column) in [(one, 4), ("a: &x {b: 1}\nc: {<<: *x}\n", 9)] {
        let what = "more than 0 aliases (*name) are not allowed".to_owned();
        let refused = Err(DecodeError::Syntax { line: 2, column, what });
        assert_eq!(manifest(text.as_bytes(), Limits::REQUEST), refused);
    }
    assert_eq!(manifest(b"a: &x [1]\n", Limits::REQUEST), Ok(vec![json!({"a": [1]})]));
}

#[test]
fn json_keeps_the_last_of_what_is_there_twice_and_says_so() {
    let decoded = json(br#"{"a": 1, "b": [{"c": 1, "c": 2}], "a": 3}"#, Limits::REQUEST).unwrap();
    assert_eq!(decoded.value, json!({"a": 3, "b": [{"c": 2}]}));
    assert_eq!(decoded.duplicates, ["b[0].c", "a"]);
    assert!(json(b"{} {}", Limits::REQUEST).is_err());
    assert!(json(b"", Limits::REQUEST).is_err());
}

#[test]
fn objects_are_identified() {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}});
    assert_eq!(identify(&service), Ok(&SERVICES));
    let words = |object: Value| -> Vec<String> {
        identify(&object).unwrap_err().iter().map(ToString::to_string).collect()
    };
    assert_eq!(words(json!({})).len(), 3);
    assert_eq!(
        words(json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "x"}})),
        ["kind: Invalid value: \"DaemonSet\": no matches for kind \"DaemonSet\" in version \"apps/v1\""]
    );
}
