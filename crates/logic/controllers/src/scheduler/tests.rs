use super::*;
use crate::world::World;
use minisvc_apimachinery::resource::NODES;
use proptest::prelude::*;

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn nodes(world: &mut World, count: u8) {
    for n in 1..=count {
        world.node(&format!("node{n}"), true);
    }
}

fn node_object(world: &mut World, name: &str, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut object = world.get(&NODES, &ObjectKey::cluster(name)).unwrap();
    edit(&mut object);
    world.add(&NODES, object);
}

fn message(world: &World, pod: &str) -> String {
    let pod = &world.snapshot.pods[&ObjectKey::new("default", pod)];
    pod_condition(pod, "PodScheduled").and_then(|condition| condition.message.clone()).unwrap_or_default()
}

#[test]
fn three_pods_of_one_pass_go_to_three_nodes() {
    let mut world = World::default();
    nodes(&mut world, 3);
    for n in 0..4 {
        world.pod(&format!("filler{n}"), "other", Some("node1"), None);
    }
    world.service("echo", "echo");
    for n in 0..3 {
        world.pod(&format!("echo-{n}"), "echo", None, None);
    }
    let planned = plan(&world.snapshot, now());
    world.apply(&planned);
    let used: BTreeSet<_> = planned
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Bind { node, .. } => Some(node.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(used.len(), 3, "{planned:?}");
    assert!(plan(&world.snapshot, now()).is_settled());
}

#[test]
fn who_fits_nowhere_is_told_why_once() {
    let mut world = World::default();
    world.pod("a", "web", None, None);
    world.apply(&plan(&world.snapshot, now()));
    assert_eq!(message(&world, "a"), "no nodes available to schedule pods");
    nodes(&mut world, 4);
    node_object(&mut world, "node1", |node| node["spec"]["unschedulable"] = json!(true));
    world.node("node2", false);
    node_object(&mut world, "node3", |node| {
        node["spec"]["taints"] = json!([{ "key": "dedicated", "value": "db", "effect": "NoSchedule" }]);
    });
    let mut pod = world.get(&PODS, &ObjectKey::new("default", "a")).unwrap();
    pod["spec"]["nodeSelector"] = json!({ "disk": "ssd" });
    world.add(&PODS, pod.clone());
    world.apply(&plan(&world.snapshot, now()));
    assert_eq!(
        message(&world, "a"),
        "0/4 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, \
         1 node(s) had untolerated taint {dedicated: db}, \
         1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }, 1 node(s) were unschedulable."
    );
    assert_eq!(plan(&world.snapshot, now()), Plan::default());
    pod["spec"]["tolerations"] = json!([{ "key": "dedicated", "operator": "Exists" }]);
    pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": "node3" });
    world.add(&PODS, pod);
    assert!(
        matches!(plan(&world.snapshot, now()).writes.as_slice(), [Write::Bind { node, .. }] if node == "node3")
    );
}

#[test]
fn full_nodes_take_no_more() {
    let mut world = World::default();
    nodes(&mut world, 1);
    node_object(&mut world, "node1", |node| node["status"]["allocatable"] = json!({ "pods": "1" }));
    world.pod("a", "web", None, None);
    world.pod("b", "web", None, None);
    world.apply(&plan(&world.snapshot, now()));
    assert_eq!(message(&world, "b"), "0/1 nodes are available: 1 Too many pods.");
}

proptest! {
    #[test]
    fn pods_of_a_service_never_differ_by_more_than_one_between_nodes(count in 1_u8..6, pods in 1_usize..30) {
        let mut world = World::default();
        nodes(&mut world, count);
        world.service("web", "web");
        let mut placed: BTreeMap<String, usize> = (1..=count).map(|n| (format!("node{n}"), 0)).collect();
        for n in 0..pods {
            world.pod(&format!("p{n}"), "web", None, None);
            if n % 3 == 0 {
                world.apply(&plan(&world.snapshot, now()));
            }
        }
        world.apply(&plan(&world.snapshot, now()));
        for pod in world.snapshot.pods.values() {
            *placed.get_mut(node_of(pod).unwrap()).unwrap() += 1;
        }
        prop_assert!(placed.values().max().unwrap() - placed.values().min().unwrap() <= 1);
    }
}

/// The node that a Pod with this affinity and these tolerations goes to; else why it goes nowhere.
fn chosen(affinity: serde_json::Value, tolerations: serde_json::Value) -> String {
    let mut world = World::default();
    nodes(&mut world, 4);
    for (n, label) in [("node1", "1"), ("node2", "2"), ("node3", "30")] {
        node_object(&mut world, n, |node| node["metadata"]["labels"]["rank"] = json!(label));
    }
    node_object(&mut world, "node1", |node| {
        node["spec"]["taints"] = json!([{ "key": "soft", "effect": "PreferNoSchedule" }]);
    });
    world.pod("a", "web", None, None);
    let mut pod = world.get(&PODS, &ObjectKey::new("default", "a")).unwrap();
    pod["spec"]["affinity"] = json!({ "nodeAffinity": affinity });
    pod["spec"]["tolerations"] = tolerations;
    world.add(&PODS, pod);
    let planned = plan(&world.snapshot, now());
    let bound = planned.writes.iter().find_map(|write| match write {
        Write::Bind { node, .. } => Some(node.clone()),
        _ => None,
    });
    bound.unwrap_or_else(|| {
        world.apply(&planned);
        message(&world, "a")
    })
}

#[test]
fn pods_go_to_nodes_they_have_an_affinity_to() {
    let none = json!([]);
    let required = |terms: serde_json::Value| json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } });
    let rank = |operator: &str, values: serde_json::Value| json!({ "key": "rank", "operator": operator, "values": values });
    let term = |wanted: serde_json::Value| json!({ "matchExpressions": [wanted] });
    for (terms, expected) in [
        (json!([term(rank("In", json!(["2", "3"])))]), "node2"),
        (json!([term(rank("Gt", json!(["2"])))]), "node3"),
        (json!([term(rank("Lt", json!(["2"])))]), "node1"),
        (json!([term(rank("DoesNotExist", json!([])))]), "node4"),
        (json!([term(rank("NotIn", json!(["1", "2", "30"])))]), "node4"),
        // Terms are alternatives; of one, all must hold; an empty one holds nowhere.
        (json!([{}, term(rank("In", json!(["30"])))]), "node3"),
        (
            json!([{ "matchExpressions": [rank("Exists", json!([])), rank("NotIn", json!(["1", "2"]))] }]),
            "node3",
        ),
        (
            json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["node3"] }] }]),
            "node3",
        ),
        (json!([{}]), "0/4 nodes are available: 4 node(s) didn't match Pod's node affinity/selector."),
    ] {
        assert_eq!(chosen(required(terms.clone()), none.clone()), expected, "{terms}");
    }
    let preferred = |weights: [(u8, &str); 2]| {
        let one = |(weight, value): (u8, &str)| json!({ "weight": weight, "preference": term(rank("In", json!([value]))) });
        json!({ "preferredDuringSchedulingIgnoredDuringExecution": weights.map(one) })
    };
    assert_eq!(chosen(preferred([(10, "2"), (20, "30")]), none.clone()), "node3");
    // A taint weighs more than a wish, unless it is tolerated.
    assert_eq!(chosen(preferred([(10, "2"), (20, "1")]), none), "node2");
    let tolerated = json!([{ "key": "soft", "operator": "Exists" }]);
    assert_eq!(chosen(preferred([(10, "2"), (20, "1")]), tolerated), "node1");
}

/// Adds a Pod that waits, with this in its container, and says where it goes, or why nowhere.
fn placed(world: &mut World, name: &str, container: serde_json::Value) -> String {
    world.pod(name, name, None, None);
    let key = ObjectKey::new("default", name);
    let mut pod = world.get(&PODS, &key).unwrap();
    pod["spec"]["containers"][0].as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    world.add(&PODS, pod);
    world.apply(&plan(&world.snapshot, now()));
    let node = node_of(&world.snapshot.pods[&key]).map(str::to_owned);
    node.unwrap_or_else(|| message(world, name))
}

#[test]
fn ports_of_the_host_are_taken_once() {
    let mut world = World::default();
    nodes(&mut world, 2);
    let port = |ip: &str| json!({ "ports": [{ "containerPort": 80, "hostPort": 8080, "protocol": "TCP", "hostIP": ip }] });
    assert_eq!(placed(&mut world, "a", port("")), "node1");
    assert_eq!(placed(&mut world, "b", port("192.168.9.2")), "node2");
    assert_eq!(placed(&mut world, "c", port("192.168.9.3")), "node2");
    let full = "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(placed(&mut world, "d", port("0.0.0.0")), full);
    world.remove(&PODS, &ObjectKey::new("default", "a"));
    assert!(
        matches!(plan(&world.snapshot, now()).writes.as_slice(), [Write::Bind { node, .. }] if node == "node1")
    );
    // Pods of one pass count for each other.
    world.pod("e", "e", None, None);
    let mut twin = world.get(&PODS, &ObjectKey::new("default", "d")).unwrap();
    twin["metadata"]["name"] = json!("e");
    twin["metadata"]["uid"] = json!("e");
    world.add(&PODS, twin);
    assert_eq!(plan(&world.snapshot, now()).writes.len(), 1);
}

#[test]
fn what_is_requested_must_be_there_and_the_emptiest_node_is_taken() {
    let mut world = World::default();
    nodes(&mut world, 2);
    for (name, cpu) in [("node1", "2"), ("node2", "4")] {
        node_object(&mut world, name, |node| {
            node["status"]["allocatable"] = json!({ "cpu": cpu, "memory": "4Gi", "pods": "10" });
        });
    }
    let wants =
        |cpu: &str, memory: &str| json!({ "resources": { "requests": { "cpu": cpu, "memory": memory } } });
    assert_eq!(placed(&mut world, "a", wants("1", "1Gi")), "node1");
    assert_eq!(placed(&mut world, "b", wants("1500m", "1Gi")), "node2");
    assert_eq!(placed(&mut world, "c", wants("2500m", "1Gi")), "node2");
    assert_eq!(
        placed(&mut world, "d", wants("1500m", "3.5Gi")),
        "0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient memory."
    );
    let odd = json!({ "resources": { "limits": { "example.com/gpu": "1" } } });
    assert_eq!(placed(&mut world, "e", odd), "0/2 nodes are available: 2 Insufficient example.com/gpu.");
    // Who asks for nothing still goes where the least is taken.
    assert_eq!(placed(&mut world, "f", json!({})), "node1");
}

#[test]
fn pods_that_are_alike_are_spread_over_zones_first() {
    let mut world = World::default();
    nodes(&mut world, 4);
    for (name, zone) in [("node1", "a"), ("node2", "a"), ("node3", "a"), ("node4", "b")] {
        node_object(&mut world, name, |node| {
            node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(zone);
        });
    }
    world.service("web", "web");
    for n in 0..4 {
        world.pod(&format!("p{n}"), "web", None, None);
    }
    world.apply(&plan(&world.snapshot, now()));
    let mut used: Vec<&str> = world.snapshot.pods.values().filter_map(|pod| node_of(pod)).collect();
    used.sort_unstable();
    assert_eq!(used, ["node1", "node2", "node4", "node4"]);
}
