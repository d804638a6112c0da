//! Links, addresses and routes of one namespace, by route netlink.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::RuleAction;
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::JoinHandle;

use crate::{Error, NetNs, Route};

/// A name that the kernel accepts for a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkName(String);

impl LinkName {
    /// At most 15 bytes (IFNAMSIZ - 1), no '/', no white space, not `.` or `..`.
    pub fn new(name: &str) -> Result<Self, Error> {
        let bad = name.is_empty()
            || name.len() > 15
            || name == "."
            || name == ".."
            || name.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b == 0);
        if bad { Err(Error::LinkName(name.to_owned())) } else { Ok(LinkName(name.to_owned())) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The links of one namespace. Needs a tokio runtime; ends its connection when dropped.
pub struct Links {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Links {
    /// Opens a route netlink socket inside the namespace.
    pub fn of(namespace: &NetNs) -> Result<Self, Error> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _) = namespace
            .run(move || {
                let _guard = runtime.enter();
                rtnetlink::new_connection()
            })?
            .map_err(Error::Socket)?;
        Ok(Links { handle, connection: tokio::spawn(connection) })
    }

    /// The links there are, by name.
    pub async fn names(&self) -> Result<Vec<String>, Error> {
        let links = self.handle.link().get().execute().try_collect::<Vec<_>>().await;
        let links = links.map_err(|source| failed("list", "links", source))?;
        Ok(links.iter().filter_map(name_of).collect())
    }

    pub async fn exists(&self, name: &LinkName) -> Result<bool, Error> {
        match self.index(name.as_str()).await {
            Ok(_) => Ok(true),
            Err(e) if e.missing() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// A veth pair: `name` here, `peer` in another namespace.
    pub async fn add_veth(&self, name: &LinkName, peer: &LinkName, peer_in: &NetNs) -> Result<(), Error> {
        let mut other = LinkMessageBuilder::<LinkUnspec>::new().name(peer.0.clone()).build();
        other.attributes.push(LinkAttribute::NetNsFd(peer_in.as_fd().as_raw_fd()));
        let message = LinkMessageBuilder::<LinkVeth>::new(&name.0, &peer.0)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other)))
            .build();
        self.add(message, name).await
    }

    pub async fn add_bridge(&self, name: &LinkName) -> Result<(), Error> {
        self.add(LinkBridge::new(&name.0).build(), name).await
    }

    async fn add(&self, message: LinkMessage, name: &LinkName) -> Result<(), Error> {
        self.handle.link().add(message).execute().await.map_err(|source| failed("add link", &name.0, source))
    }

    /// Makes `name` a port of `bridge`.
    pub async fn enslave(&self, name: &LinkName, bridge: &LinkName) -> Result<(), Error> {
        let bridge = self.index(&bridge.0).await?;
        self.set(name, |link| link.controller(bridge), "attach to a bridge").await
    }

    pub async fn up(&self, name: &LinkName) -> Result<(), Error> {
        self.set(name, LinkMessageBuilder::up, "bring up").await
    }

    /// Gives a link a hardware address of our choice: neighbours keep the one they know for a while.
    pub async fn set_hardware_address(&self, name: &LinkName, address: [u8; 6]) -> Result<(), Error> {
        self.set(name, |link| link.address(address.to_vec()), "set the hardware address of").await
    }

    /// Brings `lo` up.
    pub async fn loopback_up(&self) -> Result<(), Error> {
        self.up(&LinkName("lo".to_owned())).await
    }

    async fn set(
        &self,
        name: &LinkName,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
        step: &'static str,
    ) -> Result<(), Error> {
        let index = self.index(&name.0).await?;
        let message = change(LinkUnspec::new_with_index(index)).build();
        self.handle.link().set(message).execute().await.map_err(|source| failed(step, &name.0, source))
    }

    /// Deletes a link (and the other end of a veth pair); succeeds when there is none.
    pub async fn delete(&self, name: &LinkName) -> Result<(), Error> {
        let index = match self.index(&name.0).await {
            Err(e) if e.missing() => return Ok(()),
            other => other?,
        };
        match self.handle.link().del(index).execute().await.map_err(|e| failed("delete link", &name.0, e)) {
            Err(e) if e.missing() => Ok(()),
            other => other,
        }
    }

    /// Adds an address, or leaves it as it is. An IPv6 address can be bound at once: whoever gives out addresses here
    /// sees to it that they are unique, so the kernel need not look for duplicates.
    pub async fn add_address(&self, name: &LinkName, address: IpNet) -> Result<(), Error> {
        let index = self.index(&name.0).await?;
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.replace().execute().await.map_err(|source| failed("add address", &address.to_string(), source))
    }

    /// Adds a route or replaces the one to the same destination.
    pub async fn add_route(&self, route: &Route) -> Result<(), Error> {
        let message = self.route_message(route).await?;
        let request = self.handle.route().add(message).replace();
        request.execute().await.map_err(|source| failed("add the route to", &route.to.to_string(), source))
    }

    /// Deletes a route; succeeds when there is none.
    pub async fn delete_route(&self, route: &Route) -> Result<(), Error> {
        let message = self.route_message(route).await?;
        match self.handle.route().del(message).execute().await {
            Ok(()) => Ok(()),
            Err(source) => match failed("delete the route to", &route.to.to_string(), source) {
                e if e.missing() => Ok(()),
                e => Err(e),
            },
        }
    }

    /// Sends packets with a mark by way of a table of their own, in one family, or goes on doing so.
    pub async fn add_mark_rule(&self, v6: bool, mark: u32, table: u8) -> Result<(), Error> {
        let request = self.handle.rule().add().fw_mark(mark).table_id(table.into()).action(RuleAction::ToTable);
        let added = if v6 { request.v6().execute().await } else { request.v4().execute().await };
        match added.map_err(|source| failed("add the rule for mark", &mark.to_string(), source)) {
            Err(error) if error.exists() => Ok(()),
            other => other,
        }
    }

    async fn route_message(&self, route: &Route) -> Result<RouteMessage, Error> {
        let device = match &route.device {
            Some(name) => Some(self.index(name).await?),
            None => None,
        };
        route.message(device)
    }

    /// Destinations of the main table's routes in both families, with the device's name where there is one. Without
    /// the default routes.
    pub async fn routes(&self) -> Result<Vec<(IpNet, Option<String>)>, Error> {
        let names = self.names_by_index().await?;
        let mut found = Vec::new();
        let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        for filter in [v4, v6] {
            let routes = self.handle.route().get(filter).execute().try_collect::<Vec<_>>().await;
            for route in routes.map_err(|source| failed("list", "routes", source))? {
                let Some(to) = destination(&route) else { continue };
                let device = route.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Oif(index) => names.get(index).cloned(),
                    _ => None,
                });
                found.push((to, device));
            }
        }
        Ok(found)
    }

    /// The addresses of all links in both families, with the link's name.
    pub async fn addresses(&self) -> Result<Vec<(IpNet, Option<String>)>, Error> {
        let names = self.names_by_index().await?;
        let addresses = self.handle.address().get().execute().try_collect::<Vec<_>>().await;
        let mut found = Vec::new();
        for message in addresses.map_err(|source| failed("list", "addresses", source))? {
            let address = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            let net = address.and_then(|address| IpNet::new(address, message.header.prefix_len).ok());
            found.extend(net.map(|net| (net, names.get(&message.header.index).cloned())));
        }
        Ok(found)
    }

    async fn names_by_index(&self) -> Result<HashMap<u32, String>, Error> {
        let links = self.handle.link().get().execute().try_collect::<Vec<_>>().await;
        let links = links.map_err(|source| failed("list", "links", source))?;
        Ok(links.iter().filter_map(|link| Some((link.header.index, name_of(link)?))).collect())
    }

    async fn index(&self, name: &str) -> Result<u32, Error> {
        let found = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        match found {
            Ok(Some(link)) => Ok(link.header.index),
            Ok(None) => Err(Error::NoLink(name.to_owned())),
            Err(source) => match failed("find link", name, source) {
                e if e.missing() => Err(Error::NoLink(name.to_owned())),
                e => Err(e),
            },
        }
    }
}

fn failed(step: &'static str, subject: &str, source: rtnetlink::Error) -> Error {
    Error::Netlink { step, subject: subject.to_owned(), source }
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

/// RT_TABLE_MAIN, and not the default route.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    const MAIN: u8 = 254;
    if route.header.table != MAIN || route.header.destination_prefix_length == 0 {
        return None;
    }
    let address = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LinkName {
        LinkName::new(text).unwrap()
    }

    #[test]
    fn names_the_kernel_refuses_are_refused_first() {
        for bad in ["", "sixteen-bytes-00", "a/b", "a b", "..", "a:b"] {
            assert!(LinkName::new(bad).is_err(), "{bad:?}");
        }
        assert!(LinkName::new("fifteen-bytes-0").is_ok());
    }

    #[tokio::test]
    async fn two_namespaces_joined_by_a_veth_pair_talk() {
        let (left, right) = (NetNs::new().unwrap(), NetNs::new().unwrap());
        let (a, b) = (Links::of(&left).unwrap(), Links::of(&right).unwrap());
        a.add_veth(&name("to-right"), &name("eth0"), &right).await.unwrap();
        for (links, link, address) in [(&a, "to-right", "172.30.9.1/24"), (&b, "eth0", "172.30.9.2/24")] {
            links.add_address(&name(link), address.parse().unwrap()).await.unwrap();
            links.add_address(&name(link), address.parse().unwrap()).await.unwrap();
            links.up(&name(link)).await.unwrap();
            links.loopback_up().await.unwrap();
        }
        let route = Route::via("10.96.0.0/16".parse().unwrap(), "172.30.9.1".parse().unwrap());
        b.add_route(&route).await.unwrap();
        b.add_route(&route).await.unwrap();
        assert!(b.routes().await.unwrap().contains(&("10.96.0.0/16".parse().unwrap(), Some("eth0".to_owned()))));
        b.delete_route(&route).await.unwrap();
        b.delete_route(&route).await.unwrap();
        assert!(!b.routes().await.unwrap().iter().any(|(to, _)| to.to_string() == "10.96.0.0/16"));

        let listener = left.run(|| std::net::TcpListener::bind("172.30.9.1:0").unwrap()).unwrap();
        let target = listener.local_addr().unwrap();
        right.run(move || std::net::TcpStream::connect(target).unwrap()).unwrap();

        b.delete(&name("eth0")).await.unwrap();
        b.delete(&name("eth0")).await.unwrap();
        assert!(!a.exists(&name("to-right")).await.unwrap());
    }

    #[tokio::test]
    async fn an_ipv6_address_is_bound_right_after_it_was_added() {
        let (left, right) = (NetNs::new().unwrap(), NetNs::new().unwrap());
        let links = Links::of(&left).unwrap();
        links.add_veth(&name("v6"), &name("eth0"), &right).await.unwrap();
        links.up(&name("v6")).await.unwrap();
        Links::of(&right).unwrap().up(&name("eth0")).await.unwrap();
        for last in 1..50 {
            let address: std::net::Ipv6Addr = format!("fd00::{last:x}").parse().unwrap();
            links.add_address(&name("v6"), IpNet::new(address.into(), 128).unwrap()).await.unwrap();
            left.run(|| std::net::TcpListener::bind((address, 0)).unwrap()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_bridge_takes_ports_and_an_unreachable_route_refuses() {
        let (switch, host) = (NetNs::new().unwrap(), NetNs::new().unwrap());
        let (links, other) = (Links::of(&switch).unwrap(), Links::of(&host).unwrap());
        links.add_bridge(&name("br0")).await.unwrap();
        links.add_veth(&name("port0"), &name("eth0"), &host).await.unwrap();
        links.enslave(&name("port0"), &name("br0")).await.unwrap();
        for link in ["br0", "port0"] {
            links.up(&name(link)).await.unwrap();
        }
        assert!(links.names().await.unwrap().contains(&"br0".to_owned()));
        other.loopback_up().await.unwrap();
        other.add_route(&Route::unreachable("10.0.0.0/8".parse().unwrap())).await.unwrap();
        let error = host.run(|| std::net::TcpStream::connect("10.1.2.3:80").unwrap_err()).unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
    }
}
