use super::*;

fn link(name: &str, addresses: &[&str]) -> Interface {
    Interface {
        name: name.to_owned(),
        up: true,
        loopback: name == "lo",
        hardware: true,
        mtu_bytes: 1500,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

fn route(destination: &str, ifname: &str, gateway: Option<&str>) -> InterfaceRoute {
    InterfaceRoute {
        destination: destination.parse().unwrap(),
        ifname: ifname.to_owned(),
        source: None,
        gateway: gateway.map(|g| g.parse().unwrap()),
        metric: 0,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Asks as an IPv4 cluster does.
fn choose(
    links: &[Interface],
    routes: &[InterfaceRoute],
    node_ip: Option<IpAddr>,
    join: Option<IpAddr>,
) -> Result<Underlay, UnderlayError> {
    let asked = Asked { node_ips: node_ip.as_slice(), join, primary: Family::Ipv4 };
    choose_underlay(links, routes, asked)
}

fn vagrant() -> (Vec<Interface>, Vec<InterfaceRoute>) {
    let links = vec![
        link("lo", &["127.0.0.1/8", "10.43.0.10/32"]),
        link("eth0", &["10.0.2.15/24"]),
        link("eth1", &["192.168.56.11/24", "fe80::1/64"]),
        link("msvvx", &["10.42.0.0/32"]),
    ];
    let routes = vec![
        route("0.0.0.0/0", "eth0", Some("10.0.2.2")),
        route("10.0.2.0/24", "eth0", None),
        route("192.168.56.0/24", "eth1", None),
    ];
    (links, routes)
}

#[test]
fn vagrants_nat_is_never_picked_silently() {
    let (links, routes) = vagrant();
    let pick = |node_ip, join| choose(&links, &routes, node_ip, join);
    assert_eq!(pick(None, None).unwrap().address, ip("192.168.56.11"));
    assert_eq!(pick(None, Some(ip("192.168.56.10"))).unwrap().ifname, "eth1");
    let refused = pick(None, Some(ip("203.0.113.9"))).unwrap_err();
    assert_eq!(refused, UnderlayError::VagrantNat { candidates: vec![ip("192.168.56.11")] });
    assert!(refused.to_string().contains("--node-ip: 192.168.56.11"), "{refused}");
    assert_eq!(pick(Some(ip("10.0.2.15")), None).unwrap().ifname, "eth0");
    let only = [link("eth0", &["10.0.2.15/24"])];
    let refused = choose(&only, &routes, None, None).unwrap_err();
    assert_eq!(refused, UnderlayError::VagrantNat { candidates: vec![] });
    let mut two = links.clone();
    two.push(link("eth2", &["192.168.57.11/24"]));
    assert!(matches!(choose(&two, &routes, None, None), Err(UnderlayError::Ambiguous { .. })));
}

#[test]
fn the_route_to_the_server_decides() {
    let links = [link("eth0", &["198.51.100.7/24"]), link("eth1", &["10.1.0.7/16", "10.9.0.7/16"])];
    let mut routes = vec![
        route("0.0.0.0/0", "eth0", Some("198.51.100.1")),
        route("10.9.0.0/16", "eth1", None),
        route("10.20.0.0/16", "eth1", Some("10.9.0.1")),
    ];
    let pick = |routes: &[InterfaceRoute], join: &str| choose(&links, routes, None, Some(ip(join)));
    assert_eq!(pick(&routes, "10.9.3.3").unwrap().address, ip("10.9.0.7"));
    assert_eq!(pick(&routes, "10.20.3.3").unwrap().address, ip("10.9.0.7"), "the next hop's network");
    assert_eq!(pick(&routes, "8.8.8.8").unwrap().address, ip("198.51.100.7"));
    routes.remove(0);
    assert!(matches!(pick(&routes, "8.8.8.8"), Err(UnderlayError::NoRoute { .. })));
    assert!(matches!(choose(&links, &routes, None, None), Err(UnderlayError::Ambiguous { .. })));
}

#[test]
fn what_cannot_work_is_refused() {
    let mut down = link("eth0", &["192.0.2.7/24"]);
    down.up = false;
    let links = [link("lo", &["127.0.0.1/8"]), down];
    assert_eq!(choose(&links, &[], None, None), Err(UnderlayError::NoAddress(Family::Ipv4)));
    let asked = choose(&links, &[], Some(ip("192.0.2.7")), None);
    assert_eq!(asked, Err(UnderlayError::NotOurs { address: ip("192.0.2.7"), candidates: vec![] }));
    let one = choose(&[link("eth0", &["192.0.2.7/24"])], &[], None, None).unwrap();
    assert!(one.on_link(ip("192.0.2.99")) && !one.on_link(ip("192.0.3.99")));
}

#[test]
fn a_second_address_is_of_the_other_family_on_the_same_link() {
    let links = [
        link(
            "eth0",
            &["192.0.2.7/24", "fe80::7/64", "2001:db8::200/128", "2001:db8::7/64", "2001:db8::8/64"],
        ),
        link("eth1", &["2001:db8:1::7/64"]),
    ];
    let pick =
        |node_ips: &[IpAddr], primary| choose_underlay(&links, &[], Asked { node_ips, join: None, primary });
    let texts = |chosen: Underlay| chosen.nets().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(pick(&[], Family::Ipv4).unwrap()), ["192.0.2.7/24", "2001:db8::7/64"]);
    let named = [ip("2001:db8::8"), ip("192.0.2.7")];
    assert_eq!(texts(pick(&named, Family::Ipv4).unwrap()), ["2001:db8::8/64", "192.0.2.7/24"]);
    let apart = pick(&[ip("192.0.2.7"), ip("2001:db8:1::7")], Family::Ipv4).unwrap_err();
    assert!(apart.to_string().contains("not on link \"eth0\", which has 192.0.2.7"), "{apart}");
    let several = pick(&[], Family::Ipv6).unwrap_err();
    assert!(matches!(several, UnderlayError::Ambiguous { .. }), "{several}");
}

#[test]
fn an_address_by_dhcpv6_has_the_prefix_that_a_route_says() {
    let links = [link("eth0", &["2001:db8::7/128"])];
    let routes = [route("2001:db8::/64", "eth0", None), route("::/0", "eth0", Some("fe80::1"))];
    let asked = Asked { node_ips: &[], join: None, primary: Family::Ipv6 };
    let chosen = choose_underlay(&links, &routes, asked).unwrap();
    assert!(chosen.on_link(ip("2001:db8::99")) && !chosen.on_link(ip("2001:db9::1")));
    assert_eq!(chosen.second, None);
}
