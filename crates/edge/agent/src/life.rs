//! A container's probes, hooks and last words, as the runtime takes them: a pure function.
//!
//! Source: kubelet `pkg/probe`, `pkg/kubelet/lifecycle/handlers.go`. What the registry has filled in may be missing in
//! objects of before it did; then Kubernetes' defaults count here.

use k8s_openapi::{
    api::core::v1::{
        Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe as ApiProbe,
        TCPSocketAction,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use minisvc_apimachinery::containers;
use minisvc_runtime::life::{Action, LastWords, Life, Probe};

const PERIOD_S: u32 = 10;
const FAILURES: u32 = 3;

/// What the container is asked and told. `is_init`: it is one of the init containers.
pub(crate) fn life(container: &Container, is_init: bool) -> Life {
    let of = |probe: &Option<ApiProbe>| probe.as_ref().map(|given| probe_of(given, container));
    let hooks = container.lifecycle.as_ref();
    let hook = |given: Option<&LifecycleHandler>| given.map(|given| hook_of(given, container));
    Life {
        sidecar: is_init && containers::is_sidecar(container),
        startup: of(&container.startup_probe),
        readiness: of(&container.readiness_probe),
        liveness: of(&container.liveness_probe),
        post_start: hook(hooks.and_then(|hooks| hooks.post_start.as_ref())),
        pre_stop: hook(hooks.and_then(|hooks| hooks.pre_stop.as_ref())),
        last_words: LastWords {
            path: container.termination_message_path.clone().unwrap_or_default(),
            or_log: container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"),
        },
    }
}

fn probe_of(given: &ApiProbe, container: &Container) -> Probe {
    let or = |value: Option<i32>, otherwise: u32| match value.map(u32::try_from) {
        Some(Ok(value)) if value > 0 => value,
        _ => otherwise,
    };
    let action = exec(given.exec.as_ref())
        .or_else(|| http(given.http_get.as_ref(), container))
        .or_else(|| tcp(given.tcp_socket.as_ref(), container))
        .or_else(|| given.grpc.as_ref().map(grpc));
    Probe {
        action: action.unwrap_or_else(|| missing(&container.name)),
        initial_delay_s: or(given.initial_delay_seconds, 0),
        timeout_s: or(given.timeout_seconds, 1),
        period_s: or(given.period_seconds, PERIOD_S),
        success_threshold: or(given.success_threshold, 1),
        failure_threshold: or(given.failure_threshold, FAILURES),
        grace_s: given.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok()),
    }
}

fn hook_of(given: &LifecycleHandler, container: &Container) -> Action {
    let sleep = given.sleep.as_ref();
    let sleep = sleep.map(|sleep| Action::Sleep { seconds: u64::try_from(sleep.seconds).unwrap_or(0) });
    let action = exec(given.exec.as_ref()).or_else(|| http(given.http_get.as_ref(), container)).or(sleep);
    // As in Kubernetes, which takes a `tcpSocket` here and cannot carry it out.
    action.unwrap_or_else(|| Action::Impossible { why: "invalid handler".to_owned() })
}

fn missing(name: &str) -> Action {
    Action::Impossible { why: format!("missing probe handler for container {name}") }
}

fn exec(given: Option<&ExecAction>) -> Option<Action> {
    given.map(|exec| Action::Exec { command: exec.command.clone().unwrap_or_default() })
}

fn http(given: Option<&HTTPGetAction>, container: &Container) -> Option<Action> {
    let given = given?;
    let port = match port(&given.port, container) {
        Ok(port) => port,
        Err(why) => return Some(Action::Impossible { why }),
    };
    let path = given.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    Some(Action::HttpGet {
        host: given.host.clone().filter(|host| !host.is_empty()),
        port,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        tls: given.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("HTTPS")),
        headers: given
            .http_headers
            .iter()
            .flatten()
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect(),
    })
}

fn tcp(given: Option<&TCPSocketAction>, container: &Container) -> Option<Action> {
    given.map(|given| match port(&given.port, container) {
        Ok(port) => Action::TcpSocket { host: given.host.clone().filter(|host| !host.is_empty()), port },
        Err(why) => Action::Impossible { why },
    })
}

fn grpc(given: &GRPCAction) -> Action {
    match number(given.port) {
        Ok(port) => Action::Grpc { port, service: given.service.clone().unwrap_or_default() },
        Err(why) => Action::Impossible { why },
    }
}

/// The number of a port that is given by its number, or by its name among those of the container.
fn port(given: &IntOrString, container: &Container) -> Result<u16, String> {
    match given {
        IntOrString::Int(port) => number(*port),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            match (named, name.parse::<i32>()) {
                (Some(port), _) => number(port.container_port),
                (None, Ok(port)) => number(port),
                (None, Err(_)) => Err(format!("couldn't find port: {name} in container {}", container.name)),
            }
        }
    }
}

fn number(port: i32) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life_of(json: &str) -> Life {
        life(&serde_json::from_str(json).unwrap(), true)
    }

    #[test]
    fn probes_have_kubernetes_defaults_and_ports_of_their_names() {
        let life = life_of(
            r#"{"name":"c","ports":[{"name":"web","containerPort":8080}],
            "readinessProbe":{"httpGet":{"port":"web","path":"healthz","httpHeaders":[{"name":"A","value":"b"}]}},
            "livenessProbe":{"tcpSocket":{"port":"nobody"},"periodSeconds":3,"terminationGracePeriodSeconds":4},
            "startupProbe":{"grpc":{"port":9000},"failureThreshold":30}}"#,
        );
        let readiness = life.readiness.unwrap();
        assert_eq!((readiness.timeout_s, readiness.period_s), (1, 10));
        assert_eq!((readiness.success_threshold, readiness.failure_threshold), (1, 3));
        let Action::HttpGet { host, port, path, tls, headers } = readiness.action else { panic!() };
        assert_eq!((host, port, path.as_str(), tls), (None, 8080, "/healthz", false));
        assert_eq!(headers, [("A".to_owned(), "b".to_owned())]);
        let liveness = life.liveness.unwrap();
        assert_eq!((liveness.period_s, liveness.grace_s), (3, Some(4)));
        assert!(
            matches!(liveness.action, Action::Impossible { why } if why.contains("couldn't find port: nobody"))
        );
        let startup = life.startup.unwrap();
        assert_eq!(
            (startup.action, startup.failure_threshold),
            (Action::Grpc { port: 9000, service: String::new() }, 30)
        );
    }

    #[test]
    fn sidecars_hooks_and_last_words() {
        let life = life_of(
            r#"{"name":"c","restartPolicy":"Always","terminationMessagePath":"/dev/x",
            "terminationMessagePolicy":"FallbackToLogsOnError",
            "lifecycle":{"postStart":{"tcpSocket":{"port":1}},"preStop":{"sleep":{"seconds":5}}}}"#,
        );
        assert!(life.sidecar);
        assert_eq!(life.pre_stop, Some(Action::Sleep { seconds: 5 }));
        assert_eq!(life.post_start, Some(Action::Impossible { why: "invalid handler".to_owned() }));
        assert_eq!(life.last_words, LastWords { path: "/dev/x".to_owned(), or_log: true });
        assert!(
            !super::life(
                &Container { restart_policy: Some("Always".to_owned()), ..Container::default() },
                false
            )
            .sidecar
        );
    }
}
