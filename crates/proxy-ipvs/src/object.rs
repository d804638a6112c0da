//! What the kernel holds of ours, piece by piece: elements, virtual servers, destinations, addresses. Each has one value.

use std::net::{IpAddr, SocketAddr};

use ipvs::{Server, ServerKey};
use nft::{Data, Key, Value, Verdict};
use service_model::{FrontendKey, Masquerade, Protocol};

use crate::layout::{Action, SetName};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    Element(SetName, Key),
    Server(ServerKey),
    Destination(ServerKey, SocketAddr),
    /// On our device.
    Address(IpAddr),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An element's data, if its set is a map.
    Element(Option<Data>),
    Server(Server),
    Destination(ipvs::Destination),
    Address,
}

/// The mark of packets that are given another list of endpoints than their destination's server has, by the server of that
/// mark. Layout: 12 bits ours, 2 bits whether to masquerade, a bit for datagrams, and the list's number, which leaves out the
/// usual masquerade bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListMark(u32);

impl ListMark {
    const OURS_MASK: u32 = 0xfff0_0000;
    const OURS: u32 = 0x5f70_0000;
    /// Ours, and which kind of ours.
    pub const KIND_MASK: u32 = 0xfffc_0000;
    pub const NEVER: u32 = Self::OURS;
    pub const ALWAYS: u32 = Self::OURS | 0x0004_0000;
    pub const UNLESS_LOCAL_POD: u32 = Self::OURS | 0x0008_0000;
    /// UDP: its connections are none that would be waited for.
    const DATAGRAMS: u32 = 0x0001_0000;
    /// The last number; 0x4000, kube-proxy's mark, stays free.
    pub const LAST: u32 = 0x3fff;

    pub fn new(rule: Masquerade, protocol: Protocol, number: u32) -> ListMark {
        let kind = match (rule.local_pods, rule.node) {
            (false, false) => Self::NEVER,
            (false, true) => Self::UNLESS_LOCAL_POD,
            (true, _) => Self::ALWAYS,
        };
        let datagrams = if protocol == Protocol::Udp { Self::DATAGRAMS } else { 0 };
        ListMark(kind | datagrams | (number & Self::LAST))
    }

    pub fn from_number(mark: u32) -> Option<ListMark> {
        (mark & Self::OURS_MASK == Self::OURS).then_some(ListMark(mark))
    }

    pub fn mark(self) -> u32 {
        self.0
    }

    /// The list's number.
    pub fn list(self) -> u32 {
        self.0 & Self::LAST
    }
}

impl Object {
    /// The server that it is or belongs to.
    pub fn server(&self) -> Option<&ServerKey> {
        match self {
            Object::Server(server) | Object::Destination(server, _) => Some(server),
            Object::Element(..) | Object::Address(_) => None,
        }
    }

    /// Whether a server is for UDP alone.
    pub fn takes_datagrams(server: &ServerKey) -> bool {
        match server {
            ServerKey::Address { protocol, .. } => *protocol == Protocol::Udp.number(),
            ServerKey::Mark { mark, .. } => mark & ListMark::DATAGRAMS != 0,
        }
    }

    /// The mark of ownership of a server with an address.
    pub fn ledger(server: &ServerKey) -> Option<Object> {
        match server {
            ServerKey::Address { protocol, at } => {
                let key = Value::concat().addr(at.ip()).proto(*protocol).port(at.port()).value();
                Some(Object::Element(SetName::Servers, key.into()))
            }
            ServerKey::Mark { .. } => None,
        }
    }

    pub fn single(set: SetName, address: IpAddr) -> Object {
        Object::Element(set, Value::addr(address).into())
    }
}

impl Content {
    pub const NOTHING: Content = Content::Element(None);

    pub fn action(action: Action) -> Content {
        Content::Element(Some(Data::Verdict(Verdict::Goto(action.chain().to_owned()))))
    }

    pub fn mark(mark: ListMark) -> Content {
        Content::Element(Some(Data::Value(Value::mark(mark.0))))
    }
}

/// A frontend as the key of an element.
pub fn frontend_key(key: FrontendKey) -> Key {
    match key {
        FrontendKey::Address(address, protocol, port) => {
            Value::concat().addr(address).proto(protocol.number()).port(port.number()).value().into()
        }
        FrontendKey::NodePort(protocol, port) => {
            Value::concat().proto(protocol.number()).port(port.number()).value().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_keeps_its_parts_apart() {
        let some = Masquerade { local_pods: false, node: true, others: false };
        let mark = ListMark::new(some, Protocol::Udp, ListMark::LAST);
        assert_eq!(mark.mark() & ListMark::KIND_MASK, ListMark::UNLESS_LOCAL_POD);
        assert_eq!((mark.list(), mark.mark() & 0x4000), (ListMark::LAST, 0));
        assert_eq!(ListMark::from_number(mark.mark()), Some(mark));
        assert!(Object::takes_datagrams(&ServerKey::Mark { family: ipvs::Family::V4, mark: mark.mark() }));
        assert_eq!(ListMark::from_number(0x4000), None);
        assert_eq!(ListMark::new(Masquerade::ALWAYS, Protocol::Tcp, 7).mark() & ListMark::KIND_MASK, ListMark::ALWAYS);
        assert_eq!(ListMark::new(Masquerade::NEVER, Protocol::Tcp, 7).mark() & ListMark::KIND_MASK, ListMark::NEVER);
    }
}
