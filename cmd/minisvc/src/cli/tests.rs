use super::*;
use clap::{CommandFactory, Parser};

#[derive(Debug, Parser)]
#[command(name = "minisvc")]
struct Args {
    #[command(subcommand)]
    command: ApiCommand,
}

fn read(line: &str) -> Result<ApiCommand, clap::Error> {
    Args::try_parse_from(line.split_whitespace()).map(|args| args.command)
}

#[test]
fn the_command_line_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn kubectls_flags_are_understood() {
    for line in [
        "minisvc get nodes,pods,services,endpointslices,ingresses -A",
        "minisvc get svc web -n prod -o yaml",
        "minisvc get -f a.yaml -f dir -R -o jsonpath={.items[*].metadata.name}",
        "minisvc get pods -l app=web --field-selector=spec.nodeName=n1 -w --no-headers -owide --show-labels",
        "minisvc apply -f examples/ --dry-run=server",
        "minisvc apply -f - --dry-run",
        "minisvc create -f a.yaml -o name",
        "minisvc describe svc/web -n x",
        "minisvc describe pods -l app=web",
        "minisvc delete -f a.yaml --ignore-not-found --wait=false",
        "minisvc delete pod a b --grace-period=0 --force --timeout 30s",
        "minisvc delete svc --all --wait",
        "minisvc logs -f web --tail 10 -c main",
        "minisvc logs pod/web main --tail=-1",
        "minisvc exec -it web -c main -- sh -c ls",
        "minisvc exec prod/web --kubeconfig /k -- cat /etc/hosts",
    ] {
        assert!(read(line).is_ok(), "{line}: {}", read(line).unwrap_err());
    }
    for line in [
        "minisvc get pods -o xml",
        "minisvc exec web",
        "minisvc apply -f a --dry-run=perhaps",
        "minisvc delete pod a --timeout soon",
    ] {
        assert!(read(line).is_err(), "{line}");
    }
}
