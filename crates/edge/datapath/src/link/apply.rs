//! Carrying out steps.

use super::error::errno;
use super::message::{link_name, route_deletion, route_destination, route_is_ours, route_message};
use super::{LinkError, LinkTarget, connect, connect_in, ethtool, observe};
use crate::netns::{NetnsDir, NetnsError};
use futures::TryStreamExt;
use ipnet::IpNet;
use minisvc_netstate::link::{
    AddressScope, LOOPBACK_LINK, LinkKind, LinkSpec, Mac, NetKey, NetSpec, POD_LINK, RouteSpec, Scope, Sysctl,
};
use minisvc_reconcile::Op;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address as wire;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{AddressMessageBuilder, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

/// What one call has open.
struct Session<'a> {
    target: &'a LinkTarget,
    /// Connections by scope, opened when first needed.
    handles: BTreeMap<Scope, Handle>,
    /// Indexes of links seen; emptied when a link goes.
    indexes: BTreeMap<(Scope, String), u32>,
}

type Step = Result<(), rtnetlink::Error>;

pub(super) async fn apply(target: &LinkTarget, ops: &[Op<NetKey, NetSpec>]) -> Result<(), LinkError> {
    let mut session = Session { target, handles: BTreeMap::new(), indexes: BTreeMap::new() };
    // What lies in a namespace goes with it.
    let going: BTreeSet<&str> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Delete(NetKey::Namespace(name)) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let mut first = None;
    let mut failed = 0;
    for op in ops {
        let done = match op {
            Op::Delete(key) if key.pod_namespace().is_some_and(|name| going.contains(name)) => Ok(()),
            Op::Delete(key) => session.delete(key).await,
            Op::Put(key, spec) | Op::Replace(key, spec) => session.put(key, spec).await,
        };
        if let Err(error) = done {
            let key = op.key();
            tracing::debug!(%key, %error, "step failed");
            failed += 1;
            first.get_or_insert(error);
        }
    }
    match first {
        None => Ok(()),
        Some(only) if failed == 1 => Err(only),
        Some(first) => Err(LinkError::Steps { failed, first: Box::new(first) }),
    }
}

impl Session<'_> {
    fn handle(&mut self, scope: &Scope) -> Result<Handle, LinkError> {
        if let Some(handle) = self.handles.get(scope) {
            return Ok(handle.clone());
        }
        let handle = match scope {
            Scope::Host => connect()?,
            Scope::Pod(name) => connect_in(&self.target.netns, name)?,
        };
        self.handles.insert(scope.clone(), handle.clone());
        Ok(handle)
    }

    /// Making and removing a namespace waits for the kernel's other processors: not on a thread that others need.
    async fn namespace(
        &self,
        name: &str,
        change: fn(&NetnsDir, &str) -> Result<(), NetnsError>,
    ) -> Result<(), LinkError> {
        let (netns, owned) = (self.target.netns.clone(), name.to_owned());
        let done = tokio::task::spawn_blocking(move || change(&netns, &owned)).await;
        let ended =
            |error| NetnsError::Thread { name: name.to_owned(), source: std::io::Error::other(error) };
        done.map_err(ended).flatten().map_err(|source| LinkError::Namespace { source })
    }

    async fn find(&mut self, scope: &Scope, name: &str) -> Result<Option<LinkMessage>, LinkError> {
        let mut found = self.handle(scope)?.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(link) => Ok(link.filter(|link| link_name(link) == Some(name))),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(LinkError::Read { what: "a link", source }),
        }
    }

    async fn index(&mut self, scope: &Scope, name: &str) -> Result<u32, LinkError> {
        let key = (scope.clone(), name.to_owned());
        if let Some(index) = self.indexes.get(&key) {
            return Ok(*index);
        }
        let link = self.find(scope, name).await?;
        let index = link.ok_or_else(|| LinkError::LinkMissing { link: name.to_owned() })?.header.index;
        self.indexes.insert(key, index);
        Ok(index)
    }

    async fn put(&mut self, key: &NetKey, spec: &NetSpec) -> Result<(), LinkError> {
        match (key, spec) {
            (NetKey::Namespace(name), NetSpec::Namespace) => self.namespace(name, NetnsDir::create).await,
            (NetKey::Sysctl(scope, sysctl), NetSpec::Sysctl(value)) => {
                self.put_sysctl(key, scope, sysctl, *value)
            }
            (NetKey::Link(scope, name), NetSpec::Link(spec)) => self.put_link(key, scope, name, spec).await,
            (NetKey::Address(scope, link, address), NetSpec::Address(reach)) => {
                self.put_address(key, scope, link, address, *reach).await
            }
            (NetKey::Neighbour(scope, link, address), NetSpec::Neighbour(mac)) => {
                let index = self.index(scope, link).await?;
                let request =
                    self.handle(scope)?.neighbours().add(index, *address).link_layer_address(&mac.0);
                step("put", key, request.state(NeighbourState::Permanent).replace().execute().await)
            }
            (NetKey::Fdb(link, mac), NetSpec::Fdb(destination)) => {
                let index = self.index(&Scope::Host, link).await?;
                let handle = self.handle(&Scope::Host)?;
                let request = handle.neighbours().add_bridge(index, &mac.0).destination(*destination);
                let request = request.state(NeighbourState::Permanent).flags(NeighbourFlags::Own);
                step("put", key, request.replace().execute().await)
            }
            (NetKey::Route(scope, net), NetSpec::Route(spec)) => self.put_route(key, scope, net, spec).await,
            _ => Err(LinkError::Mismatch { key: key.to_string() }),
        }
    }

    fn put_sysctl(&self, key: &NetKey, scope: &Scope, sysctl: &Sysctl, value: i64) -> Result<(), LinkError> {
        let path = Path::new("/proc/sys").join(sysctl.path());
        let write = || std::fs::write(&path, value.to_string());
        let written = match scope {
            Scope::Host => write(),
            Scope::Pod(name) => {
                self.target.netns.run(name, write).map_err(|source| LinkError::Namespace { source })?
            }
        };
        written.map_err(|source| LinkError::StepIo { operation: "put", key: key.to_string(), source })
    }

    async fn put_address(
        &mut self,
        key: &NetKey,
        scope: &Scope,
        link: &str,
        address: &IpNet,
        reach: AddressScope,
    ) -> Result<(), LinkError> {
        let index = self.index(scope, link).await?;
        let handle = self.handle(scope)?;
        let add = || {
            let mut request = handle.address().add(index, address.addr(), address.prefix_len());
            set_reach(request.message_mut(), address.addr(), reach);
            request.execute()
        };
        match add().await {
            // The kernel does not change the scope of an address that is there.
            Err(error) if errno(&error) == Some(libc::EEXIST) => self.delete(key).await?,
            other => return step("put", key, other),
        }
        step("put", key, add().await)
    }

    async fn put_route(
        &mut self,
        key: &NetKey,
        scope: &Scope,
        destination: &IpNet,
        spec: &RouteSpec,
    ) -> Result<(), LinkError> {
        let index = match spec {
            RouteSpec::Via { link, .. } => self.index(scope, link).await?,
            RouteSpec::Unreachable => 0,
        };
        let message = || {
            route_message(destination, spec, index)
                .ok_or_else(|| LinkError::Mismatch { key: key.to_string() })
        };
        let handle = self.handle(scope)?;
        match handle.route().add(message()?).execute().await {
            Err(error) if errno(&error) == Some(libc::EEXIST) => {}
            other => return step("put", key, other),
        }
        // Replacing takes whatever route has the destination: only ours may be taken.
        let existing = observe::routes(&handle).await?;
        let mut same = existing.iter().filter(|route| route_destination(route).as_ref() == Some(destination));
        if !same.any(route_is_ours) {
            return Err(LinkError::Foreign { key: key.to_string() });
        }
        step("put", key, handle.route().add(message()?).replace().execute().await)
    }

    async fn put_link(
        &mut self,
        key: &NetKey,
        scope: &Scope,
        name: &str,
        spec: &LinkSpec,
    ) -> Result<(), LinkError> {
        let existing = self.find(scope, name).await?;
        let index = match (&spec.kind, existing) {
            (LinkKind::Loopback | LinkKind::VethPeer { .. }, Some(link)) => link.header.index,
            (LinkKind::Loopback | LinkKind::VethPeer { .. }, None) => {
                return Err(LinkError::LinkMissing { link: name.to_owned() });
            }
            (_, Some(link)) if self.can_stay(&link, name, spec).await? => link.header.index,
            (_, existing) => {
                if existing.is_some() {
                    self.delete_link(key, scope, name).await?;
                }
                self.create_link(key, name, spec).await?;
                self.index(scope, name).await?
            }
        };
        let mut message = LinkUnspec::new_with_index(index).mtu(spec.mtu_bytes);
        if let LinkKind::Veth { mac, .. } | LinkKind::VethPeer { mac } | LinkKind::Vxlan { mac, .. } =
            &spec.kind
        {
            message = message.address(mac.0.to_vec());
        }
        message = if spec.up { message.up() } else { message.down() };
        step("put", key, self.handle(scope)?.link().change(message.build()).execute().await)?;
        if let LinkKind::Vxlan { checksum_offload, .. } = &spec.kind {
            let done = ethtool::set_checksum_offload(name, *checksum_offload);
            done.map_err(|source| LinkError::StepIo { operation: "put", key: key.to_string(), source })?;
        }
        Ok(())
    }

    /// Whether the link differs from the wanted one only in what can be changed in place.
    async fn can_stay(
        &mut self,
        link: &LinkMessage,
        name: &str,
        wanted: &LinkSpec,
    ) -> Result<bool, LinkError> {
        let links = observe::links(&self.handle(&Scope::Host)?).await?;
        let mut ends = BTreeMap::new();
        if let LinkKind::Veth { peer_namespace: Some(namespace), .. } = &wanted.kind {
            let pod = Scope::Pod(namespace.clone());
            let end = self.find(&pod, POD_LINK).await?;
            ends.extend(
                end.and_then(|end| super::message::link_peer(&end)).map(|index| (index, namespace.clone())),
            );
        }
        let mut spec = observe::link_spec(link, name, true, &observe::names(&links), &ends)?;
        match (&mut spec.kind, &wanted.kind) {
            (LinkKind::Veth { mac, .. }, LinkKind::Veth { mac: wanted, .. }) => *mac = *wanted,
            (
                LinkKind::Vxlan { mac, checksum_offload, .. },
                LinkKind::Vxlan { mac: wanted, checksum_offload: offload, .. },
            ) => {
                *mac = *wanted;
                *checksum_offload = *offload;
            }
            _ => {}
        }
        Ok(spec.kind == wanted.kind)
    }

    async fn create_link(&mut self, key: &NetKey, name: &str, spec: &LinkSpec) -> Result<(), LinkError> {
        match &spec.kind {
            LinkKind::Veth { mac, peer_namespace: Some(namespace) } => {
                self.create_veth(key, name, *mac, namespace, spec.mtu_bytes).await
            }
            LinkKind::Vxlan { mac, vni, port, local, underlay, .. } => {
                let below = self.index(&Scope::Host, underlay).await?;
                let builder = LinkVxlan::new(name, *vni).port(*port).dev(below).learning(false);
                let builder = match local {
                    IpAddr::V4(local) => builder.local(*local),
                    IpAddr::V6(local) => builder.local6(*local),
                };
                let message = builder.address(mac.0.to_vec()).mtu(spec.mtu_bytes).build();
                step("put", key, self.handle(&Scope::Host)?.link().add(message).execute().await)
            }
            LinkKind::Tun => crate::tun::create(name).map_err(|source| LinkError::TunUnavailable { source }),
            _ => Err(LinkError::Mismatch { key: key.to_string() }),
        }
    }

    async fn create_veth(
        &mut self,
        key: &NetKey,
        name: &str,
        mac: Mac,
        namespace: &str,
        mtu_bytes: u32,
    ) -> Result<(), LinkError> {
        let pod = Scope::Pod(namespace.to_owned());
        // Half of another pair in the Pod's namespace would be in the way.
        if self.find(&pod, POD_LINK).await?.is_some() {
            self.delete_link(key, &pod, POD_LINK).await?;
        }
        let failed = |source| LinkError::StepIo { operation: "put", key: key.to_string(), source };
        let file = File::open(self.target.netns.path(namespace)).map_err(failed)?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(POD_LINK).mtu(mtu_bytes);
        let peer = peer.setns_by_fd(file.as_raw_fd()).build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .mtu(mtu_bytes)
            .address(mac.0.to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        step("put", key, self.handle(&Scope::Host)?.link().add(message).execute().await)
    }

    async fn delete_link(&mut self, key: &NetKey, scope: &Scope, name: &str) -> Result<(), LinkError> {
        self.indexes.clear();
        match self.find(scope, name).await? {
            Some(link) => gone(key, self.handle(scope)?.link().del(link.header.index).execute().await),
            None => Ok(()),
        }
    }

    async fn delete(&mut self, key: &NetKey) -> Result<(), LinkError> {
        match key {
            NetKey::Namespace(name) => {
                // An open socket would keep it.
                self.handles.remove(&Scope::Pod(name.clone()));
                self.namespace(name, NetnsDir::remove).await
            }
            // Never put back, see `Sysctl`; loopback belongs to the namespace.
            NetKey::Sysctl(..) => Ok(()),
            NetKey::Link(_, name) if name == LOOPBACK_LINK => Ok(()),
            NetKey::Link(scope, name) => self.delete_link(key, scope, name).await,
            NetKey::Address(scope, link, address) => {
                let Some(index) = self.existing(scope, link).await? else { return Ok(()) };
                let length = address.prefix_len();
                let message = match address.addr() {
                    IpAddr::V4(ip) => {
                        AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, length).build()
                    }
                    IpAddr::V6(ip) => {
                        AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, length).build()
                    }
                };
                gone(key, self.handle(scope)?.address().del(message).execute().await)
            }
            NetKey::Neighbour(scope, link, address) => {
                let Some(index) = self.existing(scope, link).await? else { return Ok(()) };
                let (family, ip) = match address {
                    IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(*ip)),
                    IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(*ip)),
                };
                let mut message = NeighbourMessage::default();
                message.header.family = family;
                message.header.ifindex = index;
                message.attributes.push(NeighbourAttribute::Destination(ip));
                gone(key, self.handle(scope)?.neighbours().del(message).execute().await)
            }
            NetKey::Fdb(link, mac) => {
                let Some(index) = self.existing(&Scope::Host, link).await? else { return Ok(()) };
                let mut message = NeighbourMessage::default();
                message.header.family = AddressFamily::Bridge;
                message.header.ifindex = index;
                message.header.flags = NeighbourFlags::Own;
                message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
                gone(key, self.handle(&Scope::Host)?.neighbours().del(message).execute().await)
            }
            NetKey::Route(scope, destination) => {
                let Some(message) = route_deletion(destination) else { return Ok(()) };
                gone(key, self.handle(scope)?.route().del(message).execute().await)
            }
        }
    }

    async fn existing(&mut self, scope: &Scope, link: &str) -> Result<Option<u32>, LinkError> {
        match self.index(scope, link).await {
            Ok(index) => Ok(Some(index)),
            Err(LinkError::LinkMissing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How far an address is valid. An IPv6 one is usable at once: it is ours alone, and nobody else's to be looked for.
fn set_reach(message: &mut wire::AddressMessage, address: IpAddr, reach: AddressScope) {
    if address.is_ipv4() {
        message.header.scope = match reach {
            AddressScope::Global => wire::AddressScope::Universe,
            AddressScope::Host => wire::AddressScope::Host,
            AddressScope::Other(number) => wire::AddressScope::from(number),
        };
        return;
    }
    message.attributes.push(wire::AddressAttribute::Flags(wire::AddressFlags::Nodad));
    if reach != AddressScope::Global {
        let mut never_preferred = wire::CacheInfo::default();
        never_preferred.ifa_valid = u32::MAX;
        message.attributes.push(wire::AddressAttribute::CacheInfo(never_preferred));
    }
}

fn step(operation: &'static str, key: &NetKey, result: Step) -> Result<(), LinkError> {
    result.map_err(|source| LinkError::Step { operation, key: key.to_string(), source })
}

/// Removing what is absent is no error.
fn gone(key: &NetKey, result: Step) -> Result<(), LinkError> {
    let absent = [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL];
    match result {
        Err(error) if errno(&error).is_some_and(|code| absent.contains(&code)) => Ok(()),
        other => step("delete", key, other),
    }
}
