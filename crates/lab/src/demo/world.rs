//! What the claims are proved on: the API, the Pods, and places to probe from.

use super::{
    cluster::{ready_endpoints, wait_for},
    place::{Place, everywhere, summary},
};
use crate::{
    layout::{CLIENT, Lab},
    probe::{Attempt, Spec},
};
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, api::ListParams};
use minisvc_apimachinery::Family;
use std::{collections::BTreeSet, time::Duration};

/// Longest wait for anything the cluster has to do.
pub const LIMIT: Duration = Duration::from_secs(15);

/// The only Pod behind the Service `blog`.
pub const BLOG_POD: &str = "echo-3";

/// A running Pod.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Where it runs.
    pub node: String,
    /// Its address.
    pub address: String,
}

/// What the claims are proved on.
pub struct World {
    /// The lab.
    pub lab: Lab,
    /// Its API.
    pub client: Client,
    /// Names of its nodes.
    pub node_names: Vec<String>,
    /// A place on each node.
    pub nodes: Vec<Place>,
    /// The place outside.
    pub outside: Place,
    /// The Pods of the examples.
    pub pods: Vec<PodFacts>,
    /// A place in each of them.
    pub inside: Vec<Place>,
    /// Virtual address of the Service `echo`.
    pub echo_ip: String,
    /// Virtual address of the Service `echo-given`.
    pub given_ip: String,
    /// The family of the addresses, if the cluster has both: the primary one.
    pub family: Family,
    /// Address of the load balancer.
    pub balancer_ip: String,
}

/// Waits until all Pods of the examples run and are ready.
///
/// # Errors
/// If that takes too long.
pub async fn pods_ready(client: &Client, count: usize) -> Result<Vec<PodFacts>, String> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    wait_for("all Pods run", LIMIT, || async {
        let list =
            api.list(&ListParams::default().labels("app=echo")).await.map_err(|error| error.to_string())?;
        let ready: Vec<PodFacts> = list.items.iter().filter_map(facts_if_ready).collect();
        if ready.len() == count { Ok(ready) } else { Err(format!("{} of {count} are ready", ready.len())) }
    })
    .await
}

fn facts_if_ready(pod: &Pod) -> Option<PodFacts> {
    let status = pod.status.as_ref()?;
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let gone = pod.metadata.deletion_timestamp.is_some();
    (ready && !gone).then_some(())?;
    Some(PodFacts {
        name: pod.metadata.name.clone()?,
        node: pod.spec.as_ref()?.node_name.clone()?,
        address: status.pod_ip.clone()?,
    })
}

impl World {
    /// Waits for the Pods and addresses, and opens a place in each machine and Pod.
    ///
    /// # Errors
    /// If one does not come.
    pub async fn open(lab: &Lab, client: &Client, nodes: Vec<Place>, given_ip: &str) -> Result<Self, String> {
        let outside = Place::machine(lab, CLIENT).map_err(|error| format!("enter {CLIENT}: {error}"))?;
        let pods = pods_ready(client, 3).await?;
        let api: Api<Pod> = Api::default_namespaced(client.clone());
        let inside = try_join_all(pods.iter().map(|pod| Place::pod(&api, &pod.name))).await?;
        let echo = service(client, "echo").await?;
        let echo_ip = echo.spec.and_then(|spec| spec.cluster_ip).ok_or("Service echo has no clusterIP")?;
        let balancer_ip = wait_for("Service echo-public has an address", LIMIT, || async {
            balancer_address(&service(client, "echo-public").await?).ok_or_else(|| "none yet".to_owned())
        })
        .await?;
        let node_names = nodes.iter().map(|place| place.name.clone()).collect();
        let family = lab.options().map_err(|error| error.to_string())?.cluster().primary_family();
        let (lab, client, given_ip) = (lab.clone(), client.clone(), given_ip.to_owned());
        Ok(Self {
            lab,
            client,
            node_names,
            nodes,
            outside,
            pods,
            inside,
            echo_ip,
            given_ip,
            family,
            balancer_ip,
        })
    }

    /// Waits until every node and the outside have the Services, all their endpoints included.
    ///
    /// # Errors
    /// With what is missing.
    pub async fn settled(&self) -> Result<(), String> {
        for service in ["echo", "echo-given", "echo-public", "echo-pods"] {
            wait_for("endpoints", LIMIT, || async {
                let ready = ready_endpoints(&self.client, service).await?;
                if ready.len() == 3 { Ok(()) } else { Err(format!("{service} has {} of 3", ready.len())) }
            })
            .await?;
        }
        let all = self.all_pods();
        let url = format!("http://{}/", host(&self.echo_ip));
        let on_nodes = self.nodes.iter().map(|place| see_all(place, Spec::new(&url, 30), &all));
        let balanced =
            see_all(&self.outside, Spec::new(format!("http://{}/", host(&self.balancer_ip)), 30), &all);
        let ingress = format!("http://{}/", self.machine("node1"));
        let ingress = Spec { host: Some("shop.example".to_owned()), ..Spec::new(ingress, 1) };
        let routed =
            self.outside.until(&ingress, LIMIT, |attempts| attempts.iter().all(|attempt| attempt.ok));
        let (on_nodes, balanced, routed) = tokio::join!(join_all(on_nodes), balanced, routed);
        on_nodes.into_iter().collect::<Result<Vec<_>, _>>()?;
        balanced?;
        routed.map(drop)
    }

    /// Waits until every node knows the endpoints of every Service.
    ///
    /// # Errors
    /// With what is missing.
    pub async fn programmed(&self) -> Result<(), String> {
        let all = self.all_pods();
        let blog = BTreeSet::from([BLOG_POD.to_owned()]);
        let mut urls = vec![(format!("http://{}:8000/", host(&self.given_ip)), &all)];
        for (name, pods) in [("echo", &all), ("echo-public", &all), ("blog", &blog)] {
            let spec = service(&self.client, name).await?.spec;
            let address =
                spec.and_then(|spec| spec.cluster_ip).ok_or_else(|| format!("{name} has no clusterIP"))?;
            urls.push((format!("http://{}/", host(&address)), pods));
        }
        let waits = self.nodes.iter().flat_map(|place| {
            urls.iter().map(move |(url, pods)| {
                let attempts = if pods.len() == 1 { 1 } else { 30 };
                see_all(place, Spec::new(url, attempts), pods)
            })
        });
        try_join_all(waits).await.map(drop)
    }

    /// Address of a machine on the underlay, as URLs have it.
    pub fn machine(&self, name: &str) -> String {
        let members = crate::layout::members(self.node_names.len());
        members
            .into_iter()
            .find(|member| member.name == name)
            .map(|m| host(&m.address_of(self.family).to_string()))
            .unwrap_or_default()
    }

    /// Names of the Pods.
    pub fn all_pods(&self) -> BTreeSet<String> {
        self.pods.iter().map(|pod| pod.name.clone()).collect()
    }

    /// The Pod of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn pod(&self, name: &str) -> Result<&PodFacts, String> {
        self.pods.iter().find(|pod| pod.name == name).ok_or_else(|| format!("no Pod {name}"))
    }

    /// The place on that node.
    ///
    /// # Errors
    /// If there is none.
    pub fn on(&self, node: &str) -> Result<&Place, String> {
        self.nodes.iter().find(|place| place.name == node).ok_or_else(|| format!("no node {node}"))
    }

    /// All Pods and all nodes.
    pub fn pods_and_nodes(&self) -> Vec<&Place> {
        self.inside.iter().chain(&self.nodes).collect()
    }
}

/// An address as URLs have it: that of IPv6 in brackets.
pub fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

async fn see_all(place: &Place, spec: Spec, pods: &BTreeSet<String>) -> Result<Vec<Attempt>, String> {
    place.until(&spec, LIMIT, |attempts| attempts.iter().all(|a| a.ok) && answered(attempts) == *pods).await
}

/// A Service of the examples.
///
/// # Errors
/// If it cannot be read.
pub async fn service(client: &Client, name: &str) -> Result<Service, String> {
    let api: Api<Service> = Api::default_namespaced(client.clone());
    api.get(name).await.map_err(|error| format!("get service {name}: {error}"))
}

fn balancer_address(service: &Service) -> Option<String> {
    let status = service.status.as_ref()?.load_balancer.as_ref()?;
    status.ingress.as_ref()?.first()?.ip.clone()
}

/// The type of the records that have addresses of this family.
pub fn record_type(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "A",
        Family::Ipv6 => "AAAA",
    }
}

/// The Pods that answered.
pub fn answered(attempts: &[Attempt]) -> BTreeSet<String> {
    attempts.iter().filter_map(|attempt| attempt.pod.clone()).collect()
}

/// Runs a probe in each place; holds if every attempt was answered, and all these Pods, and no others, answered.
///
/// # Errors
/// With what failed.
pub async fn answered_by(
    places: &[&Place],
    spec: impl Fn(&Place) -> Spec,
    pods: &BTreeSet<String>,
) -> Result<String, String> {
    let results = everywhere(places, spec).await?;
    let failed = results.iter().find(|(_, attempts)| attempts.iter().any(|attempt| !attempt.ok));
    if let Some((place, attempts)) = failed {
        return Err(format!("{place}: {}", summary(attempts)));
    }
    let all: Vec<Attempt> = results.into_iter().flat_map(|(_, attempts)| attempts).collect();
    if answered(&all) == *pods {
        Ok(summary(&all))
    } else {
        Err(format!("not by {pods:?}: {}", summary(&all)))
    }
}
