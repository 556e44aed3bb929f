//! `minisvc logs`.

use super::{
    api::{Call, Failure},
    config::ConnectArgs,
    delete::duration,
    target,
};
use clap::Args;
use futures::StreamExt;
use minisvc_apimachinery::resource::PODS;
use std::{io::Write, path::PathBuf, pin::pin, process::ExitCode, time::Duration};

/// `minisvc logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// POD or pod/POD
    #[arg(value_name = "POD")]
    pod: String,
    /// The container, if there are several
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    container_word: Option<String>,
    /// The container, if there are several
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
    /// Go on printing what comes
    #[arg(short, long)]
    follow: bool,
    /// Lines from the end; -1: all
    #[arg(long, value_name = "LINES", default_value_t = -1, allow_negative_numbers = true)]
    tail: i64,
    /// Of the run before this one
    #[arg(short, long)]
    previous: bool,
    /// Only what is newer than that, such as 5s, 2m or 3h
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "since_time")]
    since: Option<Duration>,
    /// Only what was written since that time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since_time: Option<String>,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
    /// Not more than that many bytes
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    limit_bytes: Option<u64>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// The name in `POD` or `pod/POD`.
///
/// # Errors
/// It is another type's.
pub fn pod_name(word: &str) -> Result<String, Failure> {
    if !word.contains('/') {
        return Ok(word.to_owned());
    }
    let targets = target::parse(&[word.to_owned()])?;
    match targets.as_slice() {
        [one] if one.resource == &PODS && one.names.len() == 1 => Ok(one.names[0].clone()),
        _ => Err(Failure::Usage(format!("{word:?} is no Pod; give POD or pod/POD"))),
    }
}

/// Runs the command.
pub async fn run(args: LogsArgs, fallbacks: &[PathBuf]) -> Result<ExitCode, Failure> {
    let pod = pod_name(&args.pod)?;
    let api = args.connect.connect(fallbacks).await?;
    let path = format!("{}/log", PODS.path(Some(&api.namespace), Some(&pod)));
    let container = args.container.as_deref().or(args.container_word.as_deref());
    let mut call = Call::get(path, "*/*").maybe("container", container);
    for (name, wanted) in
        [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)]
    {
        if wanted {
            call = call.query(name, "true");
        }
    }
    // As with kubectl, 0s is no bound.
    if let Some(since) = args.since.filter(|since| !since.is_zero()) {
        call = call.query("sinceSeconds", since.as_secs().to_string());
    }
    if let Some(time) = &args.since_time {
        call = call.query("sinceTime", time);
    }
    if let Some(bytes) = args.limit_bytes {
        call = call.query("limitBytes", bytes.to_string());
    }
    if args.tail >= 0 {
        call = call.query("tailLines", args.tail.to_string());
    }
    let pieces = api.stream(call).await?;
    let mut pieces = pin!(pieces);
    let mut out = std::io::stdout().lock();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        out.write_all(&piece).and_then(|()| out.flush()).map_err(|source| Failure::Output { source })?;
    }
    Ok(ExitCode::SUCCESS)
}
