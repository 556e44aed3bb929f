//! A walk for people, and as JSON.

use super::{
    question::Start,
    walk::{End, Hop, Next, Owner, Walk},
};
use minisvc_netstate::family::{Address, Endpoint};
use minisvc_podnet::Way;
use minisvc_proxy::explain::{Entry, Matched, Outcome, Reason};
use serde_json::{Value, json};
use std::fmt::Write;

/// The walk for people; `rules` adds every rule that matched, as nft writes it.
pub fn text<A: Address>(walk: &Walk<A>, rules: bool) -> String {
    let question = &walk.question;
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{text}");
    };
    line(format!("from     {}", sender(walk)));
    let to = Endpoint { address: question.destination, port: question.port };
    line(format!("to       {to}/{}", question.protocol));
    for hop in &walk.hops {
        line(format!("{:<8} {}", hop.node, headline(hop)));
        if let Some(matched) = &hop.explanation.matched {
            policies(matched).into_iter().for_each(|policy| line(format!("         {policy}")));
        }
        destinations(hop).into_iter().for_each(|text| line(format!("         {text}")));
        if rules {
            for step in &hop.explanation.steps {
                line(format!("         rule {}: {}", step.chain, step.rule));
            }
        }
    }
    line(format!("verdict  {}", verdict(walk)));
    out
}

fn sender<A: Address>(walk: &Walk<A>) -> String {
    match &walk.question.start {
        Start::Pod { key, address, node } => format!("Pod {key} ({address}) on {node}"),
        Start::Node(node) => match walk.hops.first() {
            Some(hop) => format!("Node {node} ({})", hop.packet.source),
            None => format!("Node {node}"),
        },
        Start::Outside { address, .. } => format!("{address}, outside the cluster"),
    }
}

fn headline<A: Address>(hop: &Hop<A>) -> String {
    let Some(matched) = &hop.explanation.matched else {
        return match hop.explanation.outcome {
            Outcome::Pass { .. } => "for no Service".to_owned(),
            _ => "an address of Services, but no Service has this port of it".to_owned(),
        };
    };
    let entry = match matched.entry {
        Entry::ClusterIp => "cluster IP".to_owned(),
        Entry::NodePort => format!("node port {}", hop.packet.port),
        Entry::LoadBalancer => "load balancer's address".to_owned(),
        Entry::ExternalIp => "external IP".to_owned(),
        Entry::HostPort => format!("host port {}", hop.packet.port),
    };
    let name = if matched.port_name.is_empty() { String::new() } else { format!(" ({})", matched.port_name) };
    format!("{entry} of {}, port {}{name}", matched.owner, matched.port)
}

fn policy<A: Address>(matched: &Matched<A>) -> (&'static str, &'static str) {
    let field = match matched.entry {
        Entry::ClusterIp => "internalTrafficPolicy",
        _ => "externalTrafficPolicy",
    };
    (field, if matched.local { "Local" } else { "Cluster" })
}

fn policies<A: Address>(matched: &Matched<A>) -> Vec<String> {
    let mut all = Vec::new();
    let (field, value) = policy(matched);
    all.push(match (matched.entry, matched.local) {
        (Entry::HostPort, _) => "hostPort: this Pod, the client's address is kept".to_owned(),
        (Entry::ClusterIp, false) => format!("{field} {value}: endpoints of all nodes"),
        (Entry::ClusterIp, true) => format!("{field} {value}: endpoints of this node"),
        (_, true) => format!("{field} {value}: endpoints of this node, the client's address is kept"),
        (_, false) if matched.inside => "client inside the cluster: endpoints of all nodes".to_owned(),
        (_, false) => format!("{field} {value}: endpoints of all nodes, the node's address as source"),
    });
    if let Some(how) = &matched.distribution {
        all.push(format!("trafficDistribution {how}: those kept for this node or zone, where there are"));
    }
    if let Some(ranges) = &matched.source_ranges {
        all.push(format!("loadBalancerSourceRanges {}", texts(ranges).join(", ")));
    }
    if let Some(seconds) = matched.affinity_s {
        all.push(format!("sessionAffinity ClientIP: this client keeps its endpoint for {seconds} s"));
    }
    all
}

fn texts(all: &[impl ToString]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

fn share(picks: u32, of: u32) -> f64 {
    (f64::from(picks) * 1000.0 / f64::from(of.max(1))).round() / 10.0
}

fn destinations<A: Address>(hop: &Hop<A>) -> Vec<String> {
    match &hop.explanation.outcome {
        Outcome::Refused(_) | Outcome::Dropped(_) => Vec::new(),
        Outcome::Pass { masquerade } => {
            let translated =
                if *masquerade { format!(", source becomes {}'s address", hop.node) } else { String::new() };
            hop.next.iter().map(|next| format!("goes on {}{translated}", onward(hop, next))).collect()
        }
        Outcome::Endpoints { choices, picks } => choices
            .iter()
            .zip(&hop.next)
            .map(|(choice, next)| {
                let source = if choice.masquerade {
                    format!("source becomes {}'s address", hop.node)
                } else {
                    "source is kept".to_owned()
                };
                let endpoint = choice.endpoint.to_string();
                let percent = share(choice.picks, *picks);
                format!("{percent:>5} %  DNAT to {endpoint:<21} {}; {source}", onward(hop, next))
            })
            .collect(),
    }
}

fn onward<A: Address>(hop: &Hop<A>, next: &Next) -> String {
    let (whom, node) = match &next.owner {
        Owner::Pod { key, node } => (format!("to Pod {key}"), Some(node)),
        Owner::Node(node) => (format!("to Node {node}"), None),
        Owner::NodesPart(node) => ("to an address that no Pod has".to_owned(), Some(node)),
        Owner::Nobody => ("to an address outside the cluster".to_owned(), None),
    };
    let place = node.map(|node| if *node == hop.node { " here".to_owned() } else { format!(" on {node}") });
    let way = match &next.way {
        Way::Here => match &next.owner {
            Owner::Pod { .. } => "in the node's own network".to_owned(),
            _ => return format!("to a process of {} itself", hop.node),
        },
        Way::Link { link, gateway: Some(gateway), .. } => format!("by {link} via {gateway}"),
        Way::Link { link, gateway: None, .. } => format!("by {link}"),
        Way::Unreachable => "by no route: unreachable".to_owned(),
        Way::Outside => "by the node's own routes".to_owned(),
    };
    format!("{whom}{}, {way}", place.unwrap_or_default())
}

fn reason<A: Address>(hop: &Hop<A>) -> Option<&'static str> {
    let (Outcome::Refused(reason) | Outcome::Dropped(reason)) = hop.explanation.outcome else { return None };
    Some(match reason {
        Reason::NoEndpoint => "the Service has no ready endpoint",
        Reason::NoLocalEndpoint => {
            "the Service has endpoints, but none on this node, and the policy is Local"
        }
        Reason::SourceNotAllowed => "the client is in none of loadBalancerSourceRanges",
        Reason::NoSuchPort => "no Service has this address and port",
    })
}

fn why<A: Address>(walk: &Walk<A>) -> Option<String> {
    let Some(last) = walk.hops.last() else {
        return Some("no Ready node may hold this load balancer's address".to_owned());
    };
    let why = reason(last).or((walk.end() == End::Refused).then_some("there is no route to that address"))?;
    Some(why.to_owned())
}

fn verdict<A: Address>(walk: &Walk<A>) -> String {
    let refused = match walk.question.protocol.number() {
        6 => "refused (TCP reset)",
        _ => "refused (ICMP port unreachable)",
    };
    let why = why(walk).map(|why| format!(": {why}")).unwrap_or_default();
    match walk.end() {
        End::Endpoint => match walk.hops.last().map_or(0, |hop| hop.next.len()) {
            1 => "reaches the endpoint".to_owned(),
            many => format!("reaches one of {many} endpoints"),
        },
        End::Pass => "passes, as it was sent".to_owned(),
        End::Refused => format!("{refused}{why}"),
        End::Dropped => format!("dropped{why}"),
    }
}

/// The walk as JSON.
pub fn json<A: Address>(walk: &Walk<A>) -> Value {
    let question = &walk.question;
    let from = match &question.start {
        Start::Pod { key, address, node } => {
            json!({"kind": "Pod", "namespace": key.namespace, "name": key.name, "address": address.to_string(), "node": node})
        }
        Start::Node(node) => json!({"kind": "Node", "name": node}),
        Start::Outside { address, .. } => json!({"kind": "Outside", "address": address.to_string()}),
    };
    let verdict = match walk.end() {
        End::Endpoint => "Endpoint",
        End::Pass => "Pass",
        End::Refused => "Refused",
        End::Dropped => "Dropped",
    };
    json!({
        "from": from,
        "to": {"address": question.destination.to_string(), "port": question.port, "protocol": question.protocol.to_string()},
        "hops": walk.hops.iter().map(hop_json).collect::<Vec<_>>(),
        "verdict": verdict,
        "reason": why(walk),
    })
}

fn hop_json<A: Address>(hop: &Hop<A>) -> Value {
    let of = |kind| hop.explanation.matched.as_ref().filter(move |matched| matched.owner.kind() == kind);
    let pod = of("Pod").map(|matched| {
        let key = matched.owner.key();
        json!({"namespace": key.namespace, "name": key.name, "port": matched.port, "portName": matched.port_name,
            "by": "HostPort", "clientInside": matched.inside})
    });
    let service = of("Service").map(|matched| {
        let (key, (field, value)) = (matched.owner.key(), policy(matched));
        let entry = match matched.entry {
            Entry::ClusterIp => "ClusterIP",
            Entry::NodePort => "NodePort",
            Entry::LoadBalancer => "LoadBalancer",
            Entry::ExternalIp => "ExternalIP",
            Entry::HostPort => "HostPort",
        };
        json!({
            "namespace": key.namespace, "name": key.name,
            "port": matched.port, "portName": matched.port_name, "by": entry, field: value,
            "clientInside": matched.inside,
            "trafficDistribution": matched.distribution,
            "loadBalancerSourceRanges": matched.source_ranges.as_ref().map(|ranges| texts(ranges)),
            "affinitySeconds": matched.affinity_s,
        })
    });
    let mut next: Vec<Value> = hop.next.iter().map(next_json).collect();
    match &hop.explanation.outcome {
        Outcome::Endpoints { choices, picks } => {
            for (next, choice) in next.iter_mut().zip(choices) {
                next["address"] = json!(choice.endpoint.address.to_string());
                next["port"] = json!(choice.endpoint.port);
                next["probability"] = json!(f64::from(choice.picks) / f64::from((*picks).max(1)));
                next["masquerade"] = json!(choice.masquerade);
            }
        }
        Outcome::Pass { masquerade } => {
            for next in &mut next {
                next["masquerade"] = json!(masquerade);
            }
        }
        Outcome::Refused(_) | Outcome::Dropped(_) => {}
    }
    let endpoints = matches!(hop.explanation.outcome, Outcome::Endpoints { .. });
    let steps = hop.explanation.steps.iter();
    json!({
        "node": hop.node,
        "source": hop.packet.source.to_string(),
        "service": service,
        "pod": pod,
        if endpoints { "endpoints" } else { "next" }: next,
        "rules": steps.map(|step| json!({"chain": step.chain, "rule": step.rule})).collect::<Vec<_>>(),
    })
}

fn next_json(next: &Next) -> Value {
    let mut out = match &next.owner {
        Owner::Pod { key, node } => json!({"pod": key.to_string(), "node": node}),
        Owner::Node(node) | Owner::NodesPart(node) => json!({"node": node}),
        Owner::Nobody => json!({}),
    };
    match &next.way {
        Way::Here => out["way"] = "here".into(),
        Way::Link { link, gateway, .. } => {
            out["link"] = link.as_str().into();
            out["gateway"] = json!(gateway);
        }
        Way::Unreachable => out["way"] = "unreachable".into(),
        Way::Outside => out["way"] = "outside".into(),
    }
    out
}
