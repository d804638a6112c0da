//! Routes as values, and their netlink form.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope, RouteType};

use crate::Error;

/// What the kernel does with packets of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends them on.
    Unicast,
    /// Answers with ICMP unreachable.
    Unreachable,
    /// Takes them in, as if the destination were an address of this namespace.
    Local,
}

/// The main table.
const MAIN: u8 = 254;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub to: IpNet,
    pub via: Option<IpAddr>,
    pub device: Option<String>,
    /// The source address the kernel prefers for packets of its own.
    pub source: Option<IpAddr>,
    /// The gateway is on the link although no address of ours covers it.
    pub onlink: bool,
    pub kind: RouteKind,
    /// The kernel's number of the routing table.
    pub table: u8,
}

impl Route {
    /// Straight onto a link.
    pub fn direct(to: IpNet, device: &str) -> Self {
        let kind = RouteKind::Unicast;
        Route { to, via: None, device: Some(device.to_owned()), source: None, onlink: false, kind, table: MAIN }
    }

    /// Through a gateway.
    pub fn via(to: IpNet, gateway: IpAddr) -> Self {
        Route {
            to,
            via: Some(gateway),
            device: None,
            source: None,
            onlink: false,
            kind: RouteKind::Unicast,
            table: MAIN,
        }
    }

    /// Nowhere, and senders are told so.
    pub fn unreachable(to: IpNet) -> Self {
        Route { to, via: None, device: None, source: None, onlink: false, kind: RouteKind::Unreachable, table: MAIN }
    }

    /// Here, whatever the address.
    pub fn local(to: IpNet) -> Self {
        Route { kind: RouteKind::Local, ..Route::direct(to, "lo") }
    }

    /// The same route in another table than the main one.
    pub fn in_table(mut self, table: u8) -> Self {
        self.table = table;
        self
    }

    /// The same route bound to a device.
    pub fn on(mut self, device: &str) -> Self {
        self.device = Some(device.to_owned());
        self
    }

    /// The same route with a preferred source.
    pub fn from(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// The same route with a gateway that no address of ours covers.
    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }

    pub(crate) fn message(&self, device: Option<u32>) -> Result<RouteMessage, Error> {
        let bad = |_| Error::Route(self.to);
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(self.to.addr(), self.to.prefix_len())
            .map_err(bad)?;
        if let Some(gateway) = self.via {
            builder = builder.gateway(gateway).map_err(bad)?;
        } else if self.kind == RouteKind::Unicast {
            builder = builder.scope(RouteScope::Link);
        }
        if let Some(source) = self.source {
            builder = builder.pref_source(source).map_err(bad)?;
        }
        if let Some(index) = device {
            builder = builder.output_interface(index);
        }
        if self.onlink {
            builder = builder.onlink();
        }
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Unreachable => builder = builder.kind(RouteType::Unreachable),
            RouteKind::Local => builder = builder.kind(RouteType::Local).scope(RouteScope::Host),
        }
        builder = builder.table_id(self.table.into());
        Ok(builder.build())
    }
}
