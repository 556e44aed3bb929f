//! `minisvc delete`: by manifest, name or label; returns when the objects are gone.

use super::{
    api::{ACCEPT_JSON, Api, Call, Failure},
    config::ConnectArgs,
    manifest::{self, FileArgs},
    output::{self, Format, print},
    target,
};
use clap::{Args, ValueEnum};
use http::Method;
use minisvc_apimachinery::Resource;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

/// Longest pause between two looks at an object that is going.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// First pause.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// How long is waited if nothing is said.
const WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What happens to objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cascade {
    Background,
    Foreground,
    Orphan,
}

/// `minisvc delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// TYPE NAME…, TYPE/NAME…, or TYPE with -l or --all
    #[arg(value_name = "TYPE")]
    words: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Objects with these fields
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// All objects of the type in the namespace
    #[arg(long)]
    all: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Return only when the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true)]
    wait: bool,
    /// How long to wait: seconds, or 10s, 5m, 1h; 0 for as long as it takes
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration)]
    timeout: Duration,
    /// An object that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    /// Seconds the objects get to end; negative: what they say themselves
    #[arg(long, value_name = "SECONDS", default_value_t = -1, allow_negative_numbers = true)]
    grace_period: i64,
    /// End at once (the same as --grace-period=1)
    #[arg(long, conflicts_with = "grace_period")]
    now: bool,
    /// Do not give the objects any time, with --grace-period=0
    #[arg(long)]
    force: bool,
    /// What happens to objects that the deleted ones own
    #[arg(long, value_enum, default_value = "background")]
    cascade: Cascade,
    /// name
    #[arg(short, long, value_name = "FORMAT", value_parser = output::parse)]
    output: Option<Format>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Reads `90`, `90s`, `5m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("{text:?} is no duration such as 10s, 5m or 1h")),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    seconds.map(Duration::from_secs).ok_or_else(|| format!("{text:?} is no duration such as 10s, 5m or 1h"))
}

/// One object to delete.
#[derive(Debug, Clone)]
struct Victim {
    resource: &'static Resource,
    namespace: Option<String>,
    name: String,
}

impl Victim {
    fn path(&self) -> String {
        self.resource.path(self.namespace.as_deref(), Some(&self.name))
    }
}

/// Runs the command.
pub async fn run(args: DeleteArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    let by_file = if args.files.filename.is_empty() { None } else { Some(manifest::load(&args.files)?) };
    let api = args.connect.connect(fallbacks).await?;
    let victims = match by_file {
        Some(_) if !args.words.is_empty() => {
            return Err(Failure::Usage(
                "when objects are provided by -f, no type or name may be given".to_owned(),
            ));
        }
        Some(items) => items
            .iter()
            .map(|item| Victim {
                resource: item.resource,
                namespace: Some(
                    item.object["metadata"]["namespace"].as_str().unwrap_or(&api.namespace).to_owned(),
                ),
                name: item.name().to_owned(),
            })
            .collect(),
        None => chosen(&args, &api).await?,
    };
    let mut failed = false;
    let mut going = Vec::new();
    for victim in victims {
        match delete(&args, &api, &victim).await {
            Ok(uid) => {
                print(&said(&args, &victim))?;
                going.push((victim, uid));
            }
            Err(failure) if failure.is_not_found() && (args.ignore_not_found || args.all) => {}
            Err(failure @ Failure::Server(_)) => {
                eprintln!("{failure}");
                failed = true;
            }
            Err(failure) => return Err(failure),
        }
    }
    if going.is_empty() && !failed && args.words.len() == 1 && !args.words[0].contains('/') {
        print("No resources found\n")?;
    }
    if args.wait {
        gone(&args, &api, going).await?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn said(args: &DeleteArgs, victim: &Victim) -> String {
    let kind = victim.resource.qualified_singular();
    if args.output == Some(Format::Name) {
        return format!("{kind}/{}\n", victim.name);
    }
    let how = if args.force && args.grace_period <= 0 { "force deleted" } else { "deleted" };
    format!("{kind} {:?} {how}\n", victim.name)
}

/// The objects that the words and selectors mean.
async fn chosen(args: &DeleteArgs, api: &Api) -> Result<Vec<Victim>, Failure> {
    let select = args.selector.is_some() || args.field_selector.is_some();
    let mut victims = Vec::new();
    for target in target::parse(&args.words)? {
        let resource = target.resource;
        if !target.names.is_empty() {
            if select || args.all || args.all_namespaces {
                return Err(Failure::Usage(
                    "name cannot be provided when a selector is specified".to_owned(),
                ));
            }
            let namespace = Some(api.namespace.clone());
            let victim = |name| Victim { resource, namespace: namespace.clone(), name };
            victims.extend(target.names.into_iter().map(victim));
            continue;
        }
        if !select && !args.all {
            let words = "resource(s) were provided, but no name was specified";
            return Err(Failure::Usage(words.to_owned()));
        }
        let namespace = (!args.all_namespaces).then_some(api.namespace.as_str());
        let call = Call::get(resource.path(namespace, None), ACCEPT_JSON)
            .maybe("labelSelector", args.selector.as_deref())
            .maybe("fieldSelector", args.field_selector.as_deref());
        let list = api.json(call).await?;
        for item in list["items"].as_array().into_iter().flatten() {
            let text = |name: &str| item["metadata"][name].as_str().map(str::to_owned);
            let name = text("name").unwrap_or_default();
            victims.push(Victim { resource, namespace: text("namespace"), name });
        }
    }
    Ok(victims)
}

/// Deletes an object; out: its UID, if the server told.
async fn delete(args: &DeleteArgs, api: &Api, victim: &Victim) -> Result<Option<String>, Failure> {
    let policy = match args.cascade {
        Cascade::Background => "Background",
        Cascade::Foreground => "Foreground",
        Cascade::Orphan => "Orphan",
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    let grace = match args.grace_period {
        _ if args.now => Some(1),
        seconds if seconds < 0 => args.force.then_some(0),
        seconds => Some(seconds),
    };
    if let Some(grace) = grace {
        options["gracePeriodSeconds"] = grace.into();
    }
    let answer = api.json(Call::with_body(Method::DELETE, victim.path(), ACCEPT_JSON, options)).await?;
    let uid = if answer["kind"] == "Status" { &answer["details"]["uid"] } else { &answer["metadata"]["uid"] };
    Ok(uid.as_str().filter(|uid| !uid.is_empty()).map(str::to_owned))
}

/// Waits until each object is gone, or another one has its name.
async fn gone(args: &DeleteArgs, api: &Api, going: Vec<(Victim, Option<String>)>) -> Result<(), Failure> {
    let limit = if args.timeout.is_zero() { WAIT_MAX } else { args.timeout };
    let deadline = Instant::now() + limit;
    for (victim, uid) in going {
        let mut pause = PAUSE_MIN;
        loop {
            let call = Call::get(victim.path(), ACCEPT_JSON);
            match api.json(call).await {
                Err(failure) if failure.is_not_found() => break,
                Err(failure) => return Err(failure),
                Ok(Value::Object(object)) if uid.is_some() => {
                    let now = object.get("metadata").and_then(|metadata| metadata["uid"].as_str());
                    if now != uid.as_deref() {
                        break;
                    }
                }
                Ok(_) => {}
            }
            if Instant::now() >= deadline {
                let what = format!("{}/{}", victim.resource.plural, victim.name);
                return Err(Failure::TimedOut { what });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "s", "5x", "-1s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
