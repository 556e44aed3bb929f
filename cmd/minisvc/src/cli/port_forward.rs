//! `minisvc port-forward`: local ports that lead to a Pod's, with kubectl's words.
//!
//! Each local connection is one of its own to the API (`v4.channel.k8s.io`); the number of them is limited.

use super::{
    api::{ACCEPT_JSON, Api, Call, Failure},
    config::ConnectArgs,
    target,
};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use minisvc_apimachinery::resource::{PODS, SERVICES};
use serde_json::Value;
use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// Local connections at a time; more wait.
const CONNECTIONS_MAX: usize = 256;
/// How long the Pod may still answer after the local side has ended, which the protocol cannot tell it.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const BUFFER_BYTES: usize = 32 << 10;

/// `minisvc port-forward`.
#[derive(Debug, Args)]
pub struct PortForwardArgs {
    /// POD, pod/POD, or svc/SERVICE
    #[arg(value_name = "TYPE/NAME")]
    place: String,
    /// [LOCAL_PORT:]REMOTE_PORT; with nothing before the colon, any local port
    #[arg(required = true, value_name = "PORT")]
    ports: Vec<String>,
    /// Addresses to listen on, comma separated
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// The two sides of `[LOCAL:]REMOTE`; the remote one may be a name.
fn pair(word: &str) -> Result<(Option<u16>, &str), Failure> {
    let (local, remote) = match word.split_once(':') {
        Some(("", remote)) => (Some(0), remote),
        Some((local, remote)) => match local.parse() {
            Ok(local) => (Some(local), remote),
            Err(_) => {
                return Err(Failure::Usage(format!("error parsing local port {local:?}: invalid syntax")));
            }
        },
        None => (None, word),
    };
    if remote.is_empty() || remote == "0" {
        return Err(Failure::Usage("remote port must be > 0".to_owned()));
    }
    Ok((local, remote))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn port(value: &Value, field: &str) -> Option<u16> {
    value.get(field)?.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

/// A port of a Pod, by its number or the name that a container gives it.
fn pod_port(pod: &Value, word: &str) -> Result<u16, Failure> {
    if let Ok(port) = word.parse() {
        return Ok(port);
    }
    let mut ports = items(pod, "/spec/containers").flat_map(|container| items(container, "/ports"));
    let named = ports.find(|port| text(port, "/name") == word).and_then(|found| port(found, "containerPort"));
    named.ok_or_else(|| {
        Failure::Usage(format!("Pod {:?} does not have a named port {word:?}", text(pod, "/metadata/name")))
    })
}

/// The Pod's port behind a port of a Service, and the Service's own number, which is the local one if none is given.
fn service_port(service: &Value, pod: &Value, word: &str) -> Result<(u16, u16), Failure> {
    let name = text(service, "/metadata/name");
    let found = items(service, "/spec/ports").find(|candidate| match word.parse() {
        Ok(number) => port(candidate, "port") == Some(number),
        Err(_) => text(candidate, "/name") == word,
    });
    let found = found.ok_or_else(|| match word.parse::<u16>() {
        Ok(number) => Failure::Usage(format!("Service {name} does not have a service port {number}")),
        Err(_) => Failure::Usage(format!("Service {name:?} does not have a named port {word:?}")),
    })?;
    let own = port(found, "port").unwrap_or_default();
    let target = match found.get("targetPort") {
        Some(Value::String(name)) => pod_port(pod, name)?,
        Some(_) => port(found, "targetPort").unwrap_or(own),
        None => own,
    };
    // A headless Service has no port of its own: its Pods are asked as they are.
    Ok((if text(service, "/spec/clusterIP") == "None" { own } else { target }, own))
}

/// The Pod that is meant, and its local and remote ports.
async fn resolve(api: &Api, args: &PortForwardArgs) -> Result<(String, Vec<(u16, u16)>), Failure> {
    let namespace = Some(api.namespace.as_str());
    let words = if args.place.contains('/') {
        vec![args.place.clone()]
    } else {
        vec!["pods".into(), args.place.clone()]
    };
    let targets = target::parse(&words)?;
    let usage = || {
        Failure::Usage(format!("{:?} is no Pod and no Service; give POD, pod/POD or svc/SERVICE", args.place))
    };
    let [one] = targets.as_slice() else { return Err(usage()) };
    let [name] = one.names.as_slice() else { return Err(usage()) };
    let get = |path: String| api.json(Call::get(path, ACCEPT_JSON));
    let object = get(one.resource.path(namespace, Some(name))).await?;
    let (service, pod) = if one.resource == &PODS {
        (None, object)
    } else if one.resource == &SERVICES {
        let selector: Vec<String> = object
            .pointer("/spec/selector")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        if selector.is_empty() {
            return Err(Failure::Usage(format!(
                "invalid service '{name}': Service is defined without a selector"
            )));
        }
        let call =
            Call::get(PODS.path(namespace, None), ACCEPT_JSON).query("labelSelector", selector.join(","));
        let pods = api.json(call).await?;
        let running = items(&pods, "/items").find(|pod| text(pod, "/status/phase") == "Running").cloned();
        let pod = running.ok_or_else(|| Failure::Usage(format!("no running pod of service {name:?}")))?;
        (Some(object), pod)
    } else {
        return Err(usage());
    };
    let phase = text(&pod, "/status/phase");
    if phase != "Running" {
        let words = format!("unable to forward port because pod is not running. Current status={phase}");
        return Err(Failure::Usage(words));
    }
    let ports = args.ports.iter().map(|word| {
        let (local, remote) = pair(word)?;
        let (remote, default) = match &service {
            Some(service) => service_port(service, &pod, remote)?,
            None => pod_port(&pod, remote).map(|port| (port, port))?,
        };
        Ok((local.unwrap_or(default), remote))
    });
    Ok((text(&pod, "/metadata/name").to_owned(), ports.collect::<Result<_, Failure>>()?))
}

/// Listens on all addresses; of `localhost` one family is enough, as a machine may have no IPv6.
async fn listen(addresses: &[String], local: u16) -> Result<Vec<TcpListener>, Failure> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for address in addresses {
        let ips: Vec<IpAddr> = match address.as_str() {
            "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            other => vec![other.parse().map_err(|_| Failure::Usage(format!("{other} is not a valid IP")))?],
        };
        let mut made = false;
        let mut why = String::new();
        for ip in ips {
            // A port that was chosen for the first is the others' too.
            let chosen = listeners
                .first()
                .and_then(|first| first.local_addr().ok())
                .map_or(local, |first| first.port());
            match TcpListener::bind((ip, chosen)).await {
                Ok(listener) => {
                    listeners.push(listener);
                    made = true;
                }
                Err(error) => why = format!("unable to create listener: Error listen {ip}:{chosen}: {error}"),
            }
        }
        if !made {
            return Err(Failure::Usage(format!("unable to listen on port {local}: {why}")));
        }
    }
    Ok(listeners)
}

/// A line for people; that nobody reads it any more ends no connection.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Listens until it is interrupted.
pub async fn run(args: PortForwardArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    let api = args.connect.connect(fallbacks).await?;
    let (pod, ports) = resolve(&api, &args).await?;
    let pods: kube::Api<Pod> = kube::Api::namespaced(api.client.clone(), &api.namespace);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut accepting = tokio::task::JoinSet::new();
    for (local, remote) in ports {
        for listener in listen(&args.address, local).await? {
            let address = listener.local_addr().map_err(|source| Failure::Output { source })?;
            say(&format!("Forwarding from {address} -> {remote}"));
            let (pods, pod, permits) = (pods.clone(), pod.clone(), permits.clone());
            accepting.spawn(accept(listener, pods, pod, remote, permits));
        }
    }
    while accepting.join_next().await.is_some() {}
    Ok(ExitCode::SUCCESS)
}

async fn accept(
    listener: TcpListener,
    pods: kube::Api<Pod>,
    pod: String,
    remote: u16,
    permits: Arc<Semaphore>,
) {
    let local = listener.local_addr().map(|address| address.port()).unwrap_or_default();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("error: accept a connection on port {local}: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        say(&format!("Handling connection for {local}"));
        let (pods, pod) = (pods.clone(), pod.clone());
        tokio::spawn(async move {
            if let Err(why) = forward(stream, &pods, &pod, remote).await {
                eprintln!("an error occurred forwarding {local} -> {remote}: {why}");
            }
            drop(permit);
        });
    }
}

/// Carries one connection.
async fn forward(stream: TcpStream, pods: &kube::Api<Pod>, pod: &str, remote: u16) -> Result<(), String> {
    let mut forwarder = pods.portforward(pod, &[remote]).await.map_err(|error| error.to_string())?;
    let failed = forwarder.take_error(remote);
    let far = forwarder.take_stream(remote).ok_or("the server gives no stream")?;
    let (mut far_reader, mut far_writer) = tokio::io::split(far);
    let (mut reader, mut writer) = stream.into_split();
    let up = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            if far_writer.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        // Its end would be the end of the answer too: the protocol has none for one side.
    };
    let down = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(length @ 1..) = far_reader.read(&mut buffer).await {
            if writer.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
    };
    let mut down = std::pin::pin!(down);
    tokio::select! {
        () = down.as_mut() => {}
        () = up => {
            let _ = tokio::time::timeout(ANSWER_WITHIN, down).await;
        }
    }
    forwarder.abort();
    match failed {
        Some(failed) => failed.await.map_or(Ok(()), Err),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_kubectls() {
        assert_eq!(pair("80").unwrap(), (None, "80"));
        assert_eq!(pair("8080:80").unwrap(), (Some(8080), "80"));
        assert_eq!(pair(":http").unwrap(), (Some(0), "http"));
        for bad in ["", "80:", "x:80", "70000:80", "0"] {
            assert!(pair(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_services_port_is_its_pods() {
        let pod = json!({"metadata": {"name": "web-0"},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]}});
        let service = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.43.0.9", "ports": [
            {"name": "http", "port": 80, "targetPort": "http"}, {"name": "other", "port": 81, "targetPort": 9000}]}});
        assert_eq!(service_port(&service, &pod, "80").unwrap(), (8080, 80));
        assert_eq!(service_port(&service, &pod, "other").unwrap(), (9000, 81));
        let refused = service_port(&service, &pod, "82").unwrap_err().to_string();
        assert_eq!(refused, "error: Service web does not have a service port 82");
        assert_eq!(pod_port(&pod, "http").unwrap(), 8080);
        assert!(
            pod_port(&pod, "https").unwrap_err().to_string().contains("does not have a named port \"https\"")
        );
    }
}
