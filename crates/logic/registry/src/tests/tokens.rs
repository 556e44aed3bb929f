//! Tokens of ServiceAccounts: what is asked for, what they say, and when they end.

use super::{Memory, World, key, says};
use crate::{AccountRole, Bound, Claims, Issue, Reference, account_role, check_token, token_request};
use minisvc_apimachinery::{
    ObjectKey,
    resource::{NODES, PODS, SECRETS, SERVICE_ACCOUNTS},
    storage::{Change, Read},
};
use serde_json::{Value, json};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn world() -> World {
    let mut world = World::new();
    let sample = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let pod = |account: &str| json!({"serviceAccountName": account, "nodeName": "n", "containers": [{"name": "c", "image": "echo"}]});
    for object in [
        sample("ServiceAccount", "robot", Value::Null),
        sample("Secret", "s", Value::Null),
        sample("Node", "n", json!({})),
        sample("Pod", "p", pod("robot")),
        sample("Pod", "q", pod("default")),
    ] {
        world.create(object).unwrap();
    }
    world
}

fn ask(world: &World, spec: Value) -> Result<(Claims, Value, Option<String>), String> {
    let mut request = json!({"spec": spec});
    let issue = Issue { issuer: ISSUER, now: world.now, id: "id" };
    let made = token_request(&world.store, &key(&SERVICE_ACCOUNTS, "robot"), &mut request, issue);
    made.map(|(claims, warning)| (claims, request, warning))
        .map_err(|status| format!("{} {status}", status.code))
}

fn uid(world: &World, r: &'static minisvc_apimachinery::Resource, name: &str) -> String {
    world.get(r, name).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[test]
fn a_token_says_who_for_whom_and_until_when() {
    let world = world();
    let (claims, request, warning) = ask(&world, json!({})).unwrap();
    let now = world.now.as_second();
    assert_eq!(
        serde_json::to_value(&claims).unwrap(),
        json!({
            "iss": ISSUER, "sub": "system:serviceaccount:default:robot", "aud": [ISSUER], "jti": "id",
            "iat": now, "nbf": now, "exp": now + 3600,
            "kubernetes.io": {"namespace": "default",
                "serviceaccount": {"name": "robot", "uid": uid(&world, &SERVICE_ACCOUNTS, "robot")}},
        })
    );
    assert_eq!(request["spec"], json!({"audiences": [ISSUER], "expirationSeconds": 3600}));
    assert_eq!(request["metadata"]["name"], "robot");
    assert_eq!(warning, None);
    let year = 365 * 24 * 3600;
    let (claims, request, warning) =
        ask(&world, json!({"audiences": ["vault"], "expirationSeconds": year + 1})).unwrap();
    assert_eq!((claims.aud, claims.exp), (vec!["vault".to_owned()], now + year));
    assert_eq!(request["spec"]["expirationSeconds"], year);
    assert_eq!(warning.unwrap(), "requested expiration of 31536001 seconds shortened to 31536000 seconds");
}

#[test]
fn faulty_requests_are_refused() {
    let world = world();
    let bound = |to: Value| json!({"boundObjectRef": to});
    for (spec, expected) in [
        (
            json!({"expirationSeconds": 599}),
            "422 TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
        ),
        (
            json!({"expirationSeconds": 4_294_967_297_i64}),
            "422 TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
        ),
        (json!({"audiences": vec!["a"; 65]}), "spec.audiences: Too many: 65"),
        (json!({"audiences": ["a".repeat(5000)]}), "spec.audiences: Too long"),
        (bound(json!({"kind": "Pod", "apiVersion": "v1", "name": "none"})), "404 pods \"none\" not found"),
        (
            bound(json!({"kind": "Secret", "apiVersion": "v1", "name": "none"})),
            "404 secrets \"none\" not found",
        ),
        (bound(json!({"kind": "Node", "apiVersion": "v1", "name": "none"})), "404 nodes \"none\" not found"),
        (
            bound(json!({"kind": "Pod", "apiVersion": "v1", "name": "q"})),
            "400 cannot bind token for serviceaccount \"robot\" to pod running with different serviceaccount name.",
        ),
        (
            bound(json!({"kind": "Deployment", "apiVersion": "apps/v1", "name": "q"})),
            "400 cannot bind token to object of type apps/v1, Kind=Deployment",
        ),
        (
            bound(json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "other"})),
            "409 Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference (other) does not match the UID in record.",
        ),
    ] {
        says(&ask(&world, spec).unwrap_err(), expected);
    }
    let issue = Issue { issuer: ISSUER, now: world.now, id: "id" };
    let mut named = json!({"metadata": {"namespace": "other"}});
    let robot = key(&SERVICE_ACCOUNTS, "robot");
    let refused = token_request(&world.store, &robot, &mut named, issue).unwrap_err();
    says(
        &refused.message,
        "metadata.namespace: Invalid value: \"other\": must match the service account namespace",
    );
    let nobody = ObjectKey::new("default", "nobody");
    let refused = token_request(&world.store, &nobody, &mut json!({}), issue).unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (404, "serviceaccounts \"nobody\" not found"));
}

#[test]
fn a_bound_token_names_what_it_is_bound_to() {
    let world = world();
    let bound = |kind: &str, name: &str| {
        let to = json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}});
        ask(&world, to).unwrap().0.kubernetes
    };
    let named = |r, name: &str| Some(Reference { name: name.to_owned(), uid: uid(&world, r, name) });
    let Bound { pod, secret, node, .. } = bound("Pod", "p");
    assert_eq!((pod, secret, node), (named(&PODS, "p"), None, named(&NODES, "n")));
    let Bound { pod, secret, node, .. } = bound("Secret", "s");
    assert_eq!((pod, secret, node), (None, named(&SECRETS, "s"), None));
    let Bound { pod, secret, node, .. } = bound("Node", "n");
    assert_eq!((pod, secret, node), (None, None, named(&NODES, "n")));
}

#[test]
fn a_token_ends_by_time_and_with_what_it_is_bound_to() {
    let world = world();
    let later = |seconds: i64| world.now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
    let (plain, ..) = ask(&world, json!({})).unwrap();
    assert_eq!(check_token(&world.store, &plain, world.now), Ok(()));
    assert_eq!(check_token(&world.store, &plain, later(3600)), Ok(()));
    assert_eq!(
        check_token(&world.store, &plain, later(3661)).unwrap_err(),
        "service account token has expired"
    );
    assert_eq!(
        check_token(&world.store, &plain, later(-61)).unwrap_err(),
        "service account token is not valid yet"
    );
    let mut two = plain.clone();
    two.sub = "system:serviceaccount:default:other".to_owned();
    assert!(check_token(&world.store, &two, world.now).is_err());

    let without = |storage_key: &str| {
        let mut store = Memory { entries: world.store.entries.clone(), ..Memory::default() };
        store.commit(&[Change::Delete { key: storage_key.to_owned() }]);
        store
    };
    let with = |storage_key: &str, change: &dyn Fn(&mut Value)| {
        let mut store = Memory { entries: world.store.entries.clone(), ..Memory::default() };
        let mut value = serde_json::from_slice(&store.get(storage_key).unwrap().value).unwrap();
        change(&mut value);
        store.commit(&[Change::PutObject { key: storage_key.to_owned(), value }]);
        store
    };
    let account = SERVICE_ACCOUNTS.storage_key(&key(&SERVICE_ACCOUNTS, "robot"));
    says(
        &check_token(&without(&account), &plain, world.now).unwrap_err(),
        "serviceaccounts \"robot\" not found",
    );
    for (kind, r, name) in [("Pod", &PODS, "p"), ("Secret", &SECRETS, "s"), ("Node", &NODES, "n")] {
        let to = json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}});
        let (claims, ..) = ask(&world, to).unwrap();
        let storage_key = r.storage_key(&key(r, name));
        let check = |store: &Memory| check_token(store, &claims, world.now);
        assert_eq!(check(&world.store), Ok(()), "{kind}");
        assert_eq!(check(&without(&storage_key)).unwrap_err(), "service account token has been invalidated");
        let anew = with(&storage_key, &|object| object["metadata"]["uid"] = "anew".into());
        says(&check(&anew).unwrap_err(), "UID (anew) does not match claim (uid-");
        let going = |at: i64| {
            with(&storage_key, &|object| {
                object["metadata"]["deletionTimestamp"] = json!(later(at).to_string())
            })
        };
        assert_eq!(check(&going(30)), Ok(()), "it may end in peace");
        assert!(check(&going(-61)).is_err(), "it should be gone");
        let anew = with(&account, &|object| object["metadata"]["uid"] = "anew".into());
        says(&check(&anew).unwrap_err(), "serviceaccount UID (anew) does not match");
    }
}

#[test]
fn an_account_has_the_role_that_its_annotation_names() {
    let mut world = world();
    let robot = key(&SERVICE_ACCOUNTS, "robot");
    assert_eq!(account_role(&world.store, &robot), None);
    let give = |role: &'static str| {
        move |account: &mut Value| account["metadata"]["annotations"] = json!({"minisvc.io/role": role})
    };
    for (name, role) in [("view", AccountRole::View), ("admin", AccountRole::Admin)] {
        world.change(&SERVICE_ACCOUNTS, "robot", None, give(name)).unwrap();
        assert_eq!(account_role(&world.store, &robot), Some(role));
    }
    let refused = world.change(&SERVICE_ACCOUNTS, "robot", None, give("root")).unwrap_err();
    assert_eq!(refused.code, 422);
    says(
        &refused.message,
        r#"metadata.annotations[minisvc.io/role]: Unsupported value: "root": supported values: "admin", "view""#,
    );
    let mut new = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}});
    give("")(&mut new);
    says(&world.refused(new), "metadata.annotations[minisvc.io/role]");
    assert_eq!(account_role(&world.store, &robot), Some(AccountRole::Admin));
}

/// Names of the volumes of a new Pod, and of the mounts of its containers.
fn volumes_of(world: &mut World, spec: Value) -> (Vec<String>, Vec<String>) {
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "g-"}, "spec": spec});
    pod["spec"]["containers"] = json!([
        {"name": "a", "image": "echo"},
        {"name": "b", "image": "echo", "volumeMounts": [{"name": "own", "mountPath": TOKEN_PLACE}]}]);
    pod["spec"]["initContainers"] = json!([{"name": "i", "image": "echo"}]);
    pod["spec"]["volumes"] = json!([{"name": "own", "emptyDir": {}}]);
    let made = world.create(pod).unwrap().object;
    let list = |list: &Value, field: &str| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|item| item[field].as_str().unwrap().to_owned()).collect()
    };
    let spec = &made["spec"];
    let containers = [&spec["initContainers"][0], &spec["containers"][0], &spec["containers"][1]];
    (
        list(&spec["volumes"], "name"),
        containers.iter().flat_map(|c| list(&c["volumeMounts"], "name")).collect(),
    )
}

const TOKEN_PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[test]
fn a_pod_has_a_token_if_it_or_its_account_asks_or_the_account_has_a_role() {
    let mut world = world();
    let robots =
        |automount: Value| json!({"serviceAccountName": "robot", "automountServiceAccountToken": automount});
    let no_token = (vec!["own".to_owned()], vec!["own".to_owned()]);
    assert_eq!(volumes_of(&mut world, json!({})), no_token);
    assert_eq!(volumes_of(&mut world, robots(Value::Null)), no_token);
    let (volumes, mounts) = volumes_of(&mut world, robots(json!(true)));
    assert!(volumes.len() == 2 && volumes[1].starts_with("kube-api-access-"), "{volumes:?}");
    assert_eq!(mounts, [&*volumes[1], &*volumes[1], "own"]);
    world
        .change(&SERVICE_ACCOUNTS, "robot", None, |account| {
            account["metadata"]["annotations"] = json!({"minisvc.io/role": "view"});
        })
        .unwrap();
    assert_eq!(volumes_of(&mut world, robots(Value::Null)).0.len(), 2);
    assert_eq!(volumes_of(&mut world, robots(json!(false))), no_token);
    world
        .change(&SERVICE_ACCOUNTS, "robot", None, |account| {
            account["automountServiceAccountToken"] = json!(false);
        })
        .unwrap();
    assert_eq!(volumes_of(&mut world, robots(Value::Null)), no_token);
    assert_eq!(volumes_of(&mut world, robots(json!(true))).0.len(), 2);
}
