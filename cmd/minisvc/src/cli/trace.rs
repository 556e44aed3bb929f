//! `minisvc trace`: what becomes of the first packet of a connection, asked of the API alone.
//!
//! In: who sends, and where to. Out: for each node on the way what its service table does with the packet, computed by
//! the function that the property test holds against the specification. Nothing is sent to anybody.

mod question;
mod text;
mod walk;

use super::{
    api::{ACCEPT_JSON, Api, Call, Failure},
    config::ConnectArgs,
    output::{self, Format, print},
};
use clap::Args;
use minisvc_apimachinery::{
    ObjectKey, Snapshot,
    resource::{ENDPOINT_SLICES, NODES, PODS, Resource, SERVICE_CIDRS, SERVICES},
};
use minisvc_netstate::family::{Address, Family};
use question::Asked;
use serde_json::Value;
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::ExitCode,
};

/// `minisvc trace`.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Where the packet is sent to: an address, or a Service by name; TCP unless said
    #[arg(value_name = "ADDRESS:PORT[/PROTO] | [NAMESPACE/]SERVICE:PORT[/PROTO]")]
    to: String,
    /// Who sends it: a Pod, a Node, or an address; the first Ready node unless said
    #[arg(long, value_name = "[NAMESPACE/]POD | NODE | ADDRESS")]
    from: Option<String>,
    /// The node that an address outside the cluster sends it to, if the destination is nobody's
    #[arg(long, value_name = "NODE", requires = "from")]
    via: Option<String>,
    /// Output format: wide (with every rule that matched), json, yaml, jsonpath=…
    #[arg(short, long, value_name = "FORMAT", value_parser = output::parse)]
    output: Option<Format>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs the command. A packet that is refused is an answer, no failure.
pub async fn run(args: TraceArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    let format = args.output.unwrap_or_default();
    if format == Format::Name {
        return Err(Failure::Usage(
            "trace prints no objects: -o is wide, json, yaml or jsonpath=".to_owned(),
        ));
    }
    let to = question::Target::parse(&args.to).map_err(Failure::Usage)?;
    let api = args.connect.connect(fallbacks).await?;
    let snapshot = read(&api).await?;
    let asked = Asked { to, from: args.from.as_deref(), via: args.via.as_deref(), namespace: &api.namespace };
    match asked.family(&snapshot) {
        Family::Ipv4 => answer::<Ipv4Addr>(&snapshot, &asked, &format)?,
        Family::Ipv6 => answer::<Ipv6Addr>(&snapshot, &asked, &format)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Follows the packet, which is of this family, and prints its walk.
fn answer<A: Address>(snapshot: &Snapshot, asked: &Asked<'_>, format: &Format) -> Result<(), Failure> {
    let question = asked.resolve::<A>(snapshot).map_err(Failure::Usage)?;
    let walk = walk::walk(snapshot, question).map_err(Failure::Usage)?;
    match format {
        Format::Table => print(&text::text(&walk, false)),
        Format::Wide => print(&text::text(&walk, true)),
        other => print(&output::text(other, &text::json(&walk))?),
    }
}

/// What the tables of the nodes follow from.
async fn read(api: &Api) -> Result<Snapshot, Failure> {
    let mut snapshot = Snapshot::default();
    for resource in [&NODES, &PODS, &SERVICES, &SERVICE_CIDRS, &ENDPOINT_SLICES] {
        let path = resource.path(None, None);
        let mut list = api.json(Call::get(path.clone(), ACCEPT_JSON)).await?;
        let Value::Array(items) = list["items"].take() else {
            return Err(Failure::Answer { path, what: "a list without items".to_owned() });
        };
        for item in items {
            let key = key_of(resource, &item);
            snapshot
                .set(resource, key, Some(item))
                .map_err(|error| Failure::Answer { path: path.clone(), what: error.to_string() })?;
        }
    }
    Ok(snapshot)
}

fn key_of(resource: &Resource, object: &Value) -> ObjectKey {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    ObjectKey::new(if resource.namespaced { text("namespace") } else { String::new() }, text("name"))
}

#[cfg(test)]
mod tests;
