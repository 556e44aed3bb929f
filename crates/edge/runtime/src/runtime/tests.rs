use super::*;
use crate::record::ContainerState;
use crate::spec::{ContainerSpec, RestartPolicy};

fn bundle(uid: &str, containers: &[(&str, &str)]) -> PodBundle {
    PodBundle {
        uid: uid.into(),
        namespace: "default".into(),
        name: "web".into(),
        hostname: "web".into(),
        netns: Some("/nowhere".into()),
        restart_policy: RestartPolicy::Never,
        containers: containers
            .iter()
            .map(|(name, image)| ContainerSpec {
                name: (*name).into(),
                image: (*image).into(),
                ..Default::default()
            })
            .collect(),
        ..PodBundle::default()
    }
}

fn runtime(dir: &Path) -> Runtime {
    let mut config = RuntimeConfig::new("node1", Executable::open(Path::new("/bin/true")).unwrap());
    config.state_dir = dir.join("pods");
    config.log_dir = dir.join("logs");
    Runtime::new(config).unwrap()
}

#[tokio::test]
async fn bad_bundles_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    for (bundle, part) in [
        (bundle("../x", &[("a", "echo")]), "metadata.uid"),
        (bundle("u", &[("../a", "echo")]), "spec.containers.name"),
        (bundle("u", &[]), "must be 1 to 64"),
        (bundle("u", &[("a", "echo"), ("a", "echo")]), "taken"),
        (bundle("u", &[("etc", "echo")]), "taken"),
    ] {
        let error = runtime.start_pod(bundle).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(runtime.pods().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("pods")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_unknown_image_waits_as_in_kubernetes_and_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let pod = runtime.start_pod(bundle("u", &[("a", "nginx")])).await.unwrap();
    let ContainerState::Waiting { reason, .. } = &pod.containers[0].state else { panic!("{pod:?}") };
    assert_eq!(reason, "ErrImageNeverPull");
    assert!(matches!(runtime.start_pod(bundle("u", &[("a", "nginx")])).await, Err(Error::PodExists { .. })));
    assert!(matches!(runtime.remove("u").await, Err(Error::PodRunning { .. })));

    // A server that comes after finds it, and finds it waiting.
    let next = self::runtime(dir.path());
    assert_eq!(next.adopt().await.unwrap(), [pod]);
    next.stop("u", Duration::ZERO).await.unwrap();
    next.remove("u").await.unwrap();
    assert!(matches!(next.remove("u").await, Err(Error::PodNotFound { .. })));
    assert_eq!(fs::read_dir(dir.path().join("pods")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_unreadable_record_does_not_hide_the_others() {
    let dir = tempfile::tempdir().unwrap();
    runtime(dir.path()).start_pod(bundle("good", &[("a", "nginx")])).await.unwrap();
    fs::create_dir(dir.path().join("pods/bad")).unwrap();
    fs::write(dir.path().join("pods/bad/pod.json"), "{").unwrap();
    let adopted = runtime(dir.path()).adopt().await.unwrap();
    assert_eq!(adopted.iter().map(|pod| pod.bundle.uid.as_str()).collect::<Vec<_>>(), ["good"]);
}

#[tokio::test]
async fn a_shim_that_says_nothing_is_a_start_error() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let pod = runtime.start_pod(bundle("u", &[("a", "echo")])).await.unwrap();
    let ContainerState::Terminated(ended) = &pod.containers[0].state else { panic!("{pod:?}") };
    assert_eq!((ended.exit_code, ended.reason.as_str()), (128, "StartError"), "{ended:?}");
}
