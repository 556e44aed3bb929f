use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Outer {
    #[command(flatten)]
    args: ServerArgs,
}

fn parse(words: &[&str]) -> anyhow::Result<ServerArgs> {
    let words = ["minisvc", "server"].iter().chain(words).map(OsString::from).collect();
    let words = with_config_file(words)?;
    Ok(Outer::try_parse_from(words.into_iter().skip(1))?.args)
}

#[test]
fn the_config_file_gives_what_flags_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, "node-name: from-file\noverlay: host-gw\ntls-san: [a.example, b.example]\n")
        .unwrap();
    let file = file.to_str().unwrap();
    let args = parse(&["--config", file, "--overlay", "tun"]).unwrap();
    assert_eq!(args.node_name.as_deref(), Some("from-file"));
    assert_eq!(args.overlay, Some(OverlayName::Tun));
    assert_eq!(args.tls_san, ["a.example", "b.example"]);
}

#[test]
fn lists_in_the_config_file_are_lists_of_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let text = "cluster-cidr: [10.42.0.0/16, 'fd42::/56']\nservice-cidr: 10.43.0.0/16,fd43::/112\n\
                node-ip:\n- 192.0.2.1\n- 2001:db8::1\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let args = parse(&["--config", file]).unwrap();
    let cluster = args.cluster().unwrap();
    assert_eq!(cluster.families().len(), 2);
    assert_eq!(cluster.service_cidrs.len(), 2);
    assert_eq!(args.node_ips().len(), 2);
    let args = parse(&["--config", file, "--node-ip", "192.0.2.7"]).unwrap();
    assert_eq!(args.node_ips(), [IpAddr::from([192, 0, 2, 7])]);
    assert!(parse(&["--node-ip", "192.0.2.7,192.0.2.8"]).unwrap_err().to_string().contains("--node-ip"));
}

#[test]
fn an_unknown_key_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, "nodename: x\n").unwrap();
    let error = parse(&["--config", file.to_str().unwrap()]).unwrap_err();
    assert!(error.to_string().contains("unknown key \"nodename\""), "{error}");
}

#[test]
fn bad_values_name_their_flag() {
    for (flag, value) in [
        ("--cluster-cidr", "10.42.0.0/33"),
        ("--service-cidr", "x"),
        ("--service-node-port-range", "5-3"),
        ("--cluster-domain", "Not.Lower"),
        ("--load-balancer-pool", "10.0.0.9-10.0.0.1"),
    ] {
        let error = parse(&[flag, value]).unwrap().cluster().unwrap_err();
        assert!(format!("{error:#}").contains(flag), "{error:#}");
    }
    assert!(parse(&["--node-name", "UPPER"]).unwrap().name().is_err());
    assert!(parse(&["--datastore", "etcd=http://x"]).unwrap().check().is_err());
    assert!(parse(&["--join", "https://a:6443"]).unwrap().check().is_err());
    assert!(parse(&["--token", "M1.x"]).unwrap().check().is_err());
}

#[test]
fn a_bind_address_may_leave_out_the_host() {
    assert_eq!(parse(&["--bind", ":7443"]).unwrap().bind.to_string(), "[::]:7443");
    assert_eq!(parse(&["--bind", "127.0.0.1:1"]).unwrap().bind.to_string(), "127.0.0.1:1");
    assert!(parse(&["--bind", "x"]).is_err());
}
