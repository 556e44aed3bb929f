//! Announcements on the real kernel: a neighbour that knows the address elsewhere knows it here afterwards.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod world;

use futures::TryStreamExt;
use minisvc_apimachinery::Overlay;
use minisvc_datapath::announce::announce;
use minisvc_lab::testing::in_namespaces;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;
use world::{PATIENCE, World, block_on, handle, index, raw_capture};

const ELSEWHERE: [u8; 6] = [2, 0, 0, 0, 0, 9];

async fn set_neighbour(address: IpAddr) {
    let handle = handle().await;
    let eth0 = index(&handle, "eth0").await;
    let request = handle.neighbours().add(eth0, address).link_layer_address(&ELSEWHERE);
    request.state(NeighbourState::Stale).execute().await.unwrap();
}

async fn neighbour(address: IpAddr) -> Option<Vec<u8>> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let handle = handle().await;
    let mut entries = handle.neighbours().get().set_address_family(family).execute();
    while let Some(entry) = entries.try_next().await.unwrap() {
        let wanted = match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        };
        if !entry.attributes.contains(&NeighbourAttribute::Destination(wanted)) {
            continue;
        }
        return entry.attributes.into_iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(address) => Some(address),
            _ => None,
        });
    }
    None
}

/// The next frame that is from this Ethernet address and begins so after it.
fn captured(tap: &OwnedFd, from: &[u8], start: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 2048];
    let begun = Instant::now();
    loop {
        if let Ok(length) = nix::unistd::read(tap, &mut frame)
            && frame[..length].get(6..).is_some_and(|rest| rest.starts_with(&[from, start].concat()))
        {
            return frame[..length].to_vec();
        }
        assert!(begun.elapsed() < PATIENCE, "no such frame");
        std::thread::yield_now();
    }
}

#[test]
fn neighbours_learn_where_an_address_is_now() {
    in_namespaces("neighbours_learn_where_an_address_is_now", || {
        let world = World::new(Overlay::HostGw, 1);
        let ours = world.on_node(0, || block_on(own_mac()));
        // ARP request; IPv6, next header ICMPv6, hop limit 255.
        let starts: [&[u8]; 2] =
            [&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]];
        for (address, start) in ["192.0.2.200", "2001:db8::c8"].into_iter().zip(starts) {
            let address: IpAddr = address.parse().unwrap();
            let inside = || (block_on(set_neighbour(address)), raw_capture("eth0")).1;
            let tap = world.nodes_dir.run("client", inside).unwrap();
            let before = world.nodes_dir.run("client", || block_on(neighbour(address))).unwrap();
            assert_eq!(before.as_deref(), Some(&ELSEWHERE[..]), "{address}");
            world.on_node(0, || announce("eth0", address)).unwrap();
            let frame = captured(&tap, &ours, start);
            let begun = Instant::now();
            while world.nodes_dir.run("client", || block_on(neighbour(address))).unwrap().as_ref()
                != Some(&ours)
            {
                assert!(begun.elapsed() < PATIENCE, "{address} is still elsewhere: {frame:x?}");
            }
        }
        let missing = world.on_node(0, || announce("eth9", "2001:db8::c8".parse().unwrap())).unwrap_err();
        assert_eq!(missing.to_string(), "announce 2001:db8::c8 on eth9: find the link");
    });
}

async fn own_mac() -> Vec<u8> {
    use netlink_packet_route::link::LinkAttribute;
    let handle = handle().await;
    let mut found = handle.link().get().match_name("eth0".to_owned()).execute();
    let link = found.try_next().await.unwrap().unwrap();
    let address = link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => Some(address),
        _ => None,
    });
    address.unwrap()
}
