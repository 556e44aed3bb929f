"""The official Python client against a lab: what scripts do with it. Reads $KUBECONFIG; ends with status 0 if all holds."""

import time

from kubernetes import client, config, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

NAMESPACE = "python"


def until(what, ask, seconds=40):
    deadline = time.monotonic() + seconds
    while True:
        found = ask()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


def refused(code, act):
    try:
        act()
    except ApiException as error:
        assert error.status == code, error
        return error
    raise AssertionError(f"{code} was expected")


def objects(core):
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    service = client.V1Service(
        metadata=client.V1ObjectMeta(name="web", labels={"app": "web"}),
        spec=client.V1ServiceSpec(
            type="NodePort",
            selector={"app": "web"},
            ports=[client.V1ServicePort(name="http", port=80, target_port="http")],
        ),
    )
    made = core.create_namespaced_service(NAMESPACE, service)
    assert made.spec.cluster_ip.startswith("10.43."), made.spec
    assert 30000 <= made.spec.ports[0].node_port <= 32767
    refused(409, lambda: core.create_namespaced_service(NAMESPACE, service))
    service.spec.ports[0].port = 70000
    bad = refused(422, lambda: core.replace_namespaced_service("web", NAMESPACE, service))
    assert "spec.ports[0].port" in bad.body, bad.body
    core.patch_namespaced_service("web", NAMESPACE, {"metadata": {"labels": {"tier": "front"}}})
    found = core.list_service_for_all_namespaces(label_selector="tier=front", limit=1)
    assert [item.metadata.name for item in found.items] == ["web"]
    assert core.read_namespaced_service("web", NAMESPACE).spec.cluster_ip == made.spec.cluster_ip


def watches(core):
    listed = core.list_namespaced_config_map(NAMESPACE)
    watcher = watch.Watch()
    name = lambda number: f"settings-{number}"
    for number in range(3):
        core.create_namespaced_config_map(
            NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name(number)), data={"a": "1"})
        )
    seen = []
    for event in watcher.stream(
        core.list_namespaced_config_map,
        NAMESPACE,
        resource_version=listed.metadata.resource_version,
        timeout_seconds=20,
    ):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 3:
            watcher.stop()
    assert seen == [("ADDED", name(number)) for number in range(3)], seen


def pods(core):
    utils.create_from_dict(
        client.ApiClient(),
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "talker", "labels": {"app": "web"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        "name": "talker",
                        "image": "host",
                        "command": ["sh", "-c", "echo said; exec sleep 1000"],
                        "ports": [{"name": "http", "containerPort": 8080}],
                    }
                ],
            },
        },
        namespace=NAMESPACE,
    )
    running = lambda: core.read_namespaced_pod("talker", NAMESPACE).status.phase == "Running"
    until("the Pod runs", running)
    until("its log is there", lambda: core.read_namespaced_pod_log("talker", NAMESPACE) == "said\n")
    said = stream(
        core.connect_get_namespaced_pod_exec,
        "talker",
        NAMESPACE,
        command=["sh", "-c", "echo out; echo err >&2"],
        stdin=False,
        stdout=True,
        stderr=True,
        tty=False,
    )
    assert sorted(said.split()) == ["err", "out"], said
    forwarded = portforward(core.connect_get_namespaced_pod_portforward, "talker", NAMESPACE, ports="9999")
    socket = forwarded.socket(9999)
    socket.setblocking(True)
    assert socket.recv(1) == b"", "nothing listens there"
    assert "127.0.0.1:9999: connect: connection refused" in forwarded.error(9999), forwarded.error(9999)
    slices = client.DiscoveryV1Api()
    endpoints = lambda: [
        address
        for item in slices.list_namespaced_endpoint_slice(
            NAMESPACE, label_selector="kubernetes.io/service-name=web"
        ).items
        for endpoint in item.endpoints or []
        for address in endpoint.addresses
    ]
    address = core.read_namespaced_pod("talker", NAMESPACE).status.pod_ip
    until("the Service has the Pod", lambda: endpoints() == [address])


def workloads(core):
    apps = client.AppsV1Api()
    labels = {"app": "front"}
    deployment = client.V1Deployment(
        metadata=client.V1ObjectMeta(name="front"),
        spec=client.V1DeploymentSpec(
            replicas=1,
            selector=client.V1LabelSelector(match_labels=labels),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels=labels),
                spec=client.V1PodSpec(containers=[client.V1Container(name="front", image="echo")]),
            ),
        ),
    )
    apps.create_namespaced_deployment(NAMESPACE, deployment)
    available = lambda: apps.read_namespaced_deployment_status("front", NAMESPACE).status.available_replicas
    until("one Pod is available", lambda: available() == 1)
    apps.patch_namespaced_deployment_scale("front", NAMESPACE, {"spec": {"replicas": 2}})
    until("two are", lambda: available() == 2)
    scale = apps.read_namespaced_deployment_scale("front", NAMESPACE)
    assert (scale.spec.replicas, scale.status.selector) == (2, "app=front"), scale
    sets = apps.list_namespaced_replica_set(NAMESPACE, label_selector="app=front").items
    assert [item.metadata.owner_references[0].kind for item in sets] == ["Deployment"]
    told = core.list_namespaced_event(NAMESPACE, field_selector="involvedObject.kind=Deployment")
    assert any("Scaled up replica set" in item.message for item in told.items), told
    apps.delete_namespaced_deployment("front", NAMESPACE, propagation_policy="Foreground")
    until("all of it is gone", lambda: not apps.list_namespaced_deployment(NAMESPACE).items)
    assert core.list_namespaced_pod(NAMESPACE, label_selector="app=front").items == []


def accounts(core):
    until("the account of the namespace", lambda: core.list_namespaced_service_account(NAMESPACE).items)
    asked = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600))
    told = core.create_namespaced_service_account_token("default", NAMESPACE, asked)
    review = client.V1TokenReview(spec=client.V1TokenReviewSpec(token=told.status.token))
    user = client.AuthenticationV1Api().create_token_review(review).status.user
    assert user.username == f"system:serviceaccount:{NAMESPACE}:default", user
    classes = client.NetworkingV1Api().list_ingress_class().items
    assert [item.spec.controller for item in classes] == ["minisvc.io/ingress"], classes


def gone(core):
    core.delete_namespace(NAMESPACE)

    def absent():
        try:
            core.read_namespace(NAMESPACE)
        except ApiException as error:
            return error.status == 404
        return False

    until("the namespace and all in it is gone", absent)
    assert core.list_pod_for_all_namespaces(field_selector=f"metadata.namespace={NAMESPACE}").items == []


config.load_kube_config()
api = client.CoreV1Api()
for part in (objects, watches, pods, workloads, accounts, gone):
    part(api)
    print(f"{part.__name__}: as expected")
print("all of it holds")
