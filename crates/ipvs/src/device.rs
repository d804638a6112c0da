//! The dummy device that makes virtual addresses local, so that packets to them come to IPVS: kube-proxy's `kube-ipvs0`.
//! It stays down, like kube-proxy's: the kernel delivers to its addresses all the same, and nothing is ever sent by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink::message::{FLAG_CREATE, FLAG_EXCL, FLAG_REPLACE};
use netlink::{Builder, Error, Message, ParseError, Requests, Socket};

use crate::Addresses;
use crate::error::IpvsError;
use crate::kernel::step;
use crate::server::Family;

pub const DEVICE: &str = "kube-ipvs0";
/// A name for a moment, to see whether the kernel makes such devices.
const PROBE: &str = "kube-ipvs-probe";

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;

/// Lengths of `struct ifinfomsg` and `struct ifaddrmsg`.
const LINK_HEADER_LEN: usize = 16;
const ADDRESS_HEADER_LEN: usize = 8;

const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const CACHE_INFO: u16 = 6;
const FLAGS: u16 = 8;
/// Used at once, without asking the neighbours first: the device has none.
const NO_DUPLICATE_DETECTION: u32 = 0x02;
const FOREVER: u32 = u32::MAX;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Changes that are sent at once.
const TOGETHER: usize = 200;

#[derive(Debug)]
pub struct Device {
    socket: Socket,
}

/// One address as the kernel lists it.
struct Listed {
    link: u32,
    address: IpAddr,
}

impl Device {
    pub fn open() -> Result<Self, IpvsError> {
        Ok(Self { socket: Socket::route().map_err(step("open the socket for addresses"))? })
    }

    /// Holds that the kernel has such devices.
    pub fn probe(&mut self) -> Result<(), IpvsError> {
        if self.index(DEVICE)?.is_none() {
            self.make(PROBE)?;
            self.delete(PROBE)?;
        }
        Ok(())
    }

    pub fn addresses(&mut self, family: Family) -> Result<Addresses, IpvsError> {
        let ours = self.index(DEVICE)?;
        let failed = step("list addresses");
        let number = number(family);
        let header = [number, 0, 0, 0, 0, 0, 0, 0];
        let dump = self.socket.list(GET_ADDRESS, |m| m.raw(&header)).map_err(failed)?;
        let mut found = Addresses { device_exists: ours.is_some(), ..Addresses::default() };
        for message in dump.messages() {
            let Some(Listed { link, address }) = read(&message).map_err(Error::from).map_err(failed)? else { continue };
            if Family::of(address) != family {
            } else if Some(link) == ours {
                found.bound.insert(address);
            } else if is_reachable(address) {
                found.others.insert(address);
            }
        }
        Ok(found)
    }

    pub fn bind(&mut self, addresses: &[IpAddr]) -> Result<(), IpvsError> {
        let link = match self.index(DEVICE)? {
            Some(link) => link,
            None => {
                self.make(DEVICE)?;
                let gone = IpvsError::Netlink { step: "find the device just made", source: Error::NoAnswer };
                self.index(DEVICE)?.ok_or(gone)?
            }
        };
        self.each(NEW_ADDRESS, FLAG_CREATE | FLAG_REPLACE, link, addresses, "bind an address", &[])
    }

    pub fn unbind(&mut self, addresses: &[IpAddr]) -> Result<(), IpvsError> {
        let Some(link) = self.index(DEVICE)? else { return Ok(()) };
        self.each(DELETE_ADDRESS, 0, link, addresses, "unbind an address", &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }

    pub fn remove(&mut self) -> Result<(), IpvsError> {
        self.delete(DEVICE)
    }

    fn each(
        &mut self,
        code: u16,
        flags: u16,
        link: u32,
        addresses: &[IpAddr],
        what: &'static str,
        forgiven: &[i32],
    ) -> Result<(), IpvsError> {
        for chunk in addresses.chunks(TOGETHER) {
            let mut requests = Requests::default();
            for address in chunk {
                let sequence = self.socket.sequence.take();
                requests.push(code, flags, sequence, |m| write(m, link, *address));
            }
            let mut refusals = self.socket.execute(requests).map_err(step(what))?;
            refusals.retain(|refusal| !forgiven.contains(&refusal.errno));
            if !refusals.is_empty() {
                return Err(IpvsError::Netlink { step: what, source: Error::Refused(refusals) });
            }
        }
        Ok(())
    }

    fn index(&mut self, name: &str) -> Result<Option<u32>, IpvsError> {
        let failed = step("look for the device");
        let asked = self.socket.ask(GET_LINK, 0, |m| {
            m.raw(&[0; LINK_HEADER_LEN]);
            m.text(LINK_NAME, name);
        });
        let answer = match asked {
            Err(error) if error.errno() == Some(libc::ENODEV) => return Ok(None),
            answer => answer.map_err(failed)?,
        };
        let message = answer.messages().next().ok_or(Error::NoAnswer).map_err(failed)?;
        let index = message.payload.get(4..8).and_then(|bytes| bytes.first_chunk::<4>());
        let index = index.ok_or(ParseError::Truncated).map_err(Error::from).map_err(failed)?;
        Ok(Some(u32::from_ne_bytes(*index)))
    }

    fn make(&mut self, name: &str) -> Result<(), IpvsError> {
        let made = self.socket.ask(NEW_LINK, FLAG_CREATE | FLAG_EXCL, |m| {
            m.raw(&[0; LINK_HEADER_LEN]);
            m.text(LINK_NAME, name);
            m.nested(LINK_INFO, |m| m.text(INFO_KIND, "dummy"));
        });
        match made {
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Err(IpvsError::NoDummy),
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
            made => made.map(drop).map_err(step("make the device")),
        }
    }

    fn delete(&mut self, name: &str) -> Result<(), IpvsError> {
        let gone = self.socket.ask(DELETE_LINK, 0, |m| {
            m.raw(&[0; LINK_HEADER_LEN]);
            m.text(LINK_NAME, name);
        });
        match gone {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
            gone => gone.map(drop).map_err(step("remove the device")),
        }
    }
}

/// One address on a link, as wide as itself.
fn write(m: &mut Builder, link: u32, address: IpAddr) {
    let (octets, length): (Vec<u8>, u8) = match address {
        IpAddr::V4(v4) => (v4.octets().to_vec(), 32),
        IpAddr::V6(v6) => (v6.octets().to_vec(), 128),
    };
    m.raw(&[number(Family::of(address)), length, 0, 0]);
    m.raw(&link.to_ne_bytes());
    m.bytes(LOCAL, &octets);
    m.bytes(ADDRESS, &octets);
    if address.is_ipv6() {
        m.ne32(FLAGS, NO_DUPLICATE_DETECTION);
        // Preferred for 0 seconds, valid for ever: RFC 6724's rules never choose it as a source for anything else.
        let lives: Vec<u8> = [0, FOREVER, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        m.bytes(CACHE_INFO, &lives);
    }
}

fn read(message: &Message<'_>) -> Result<Option<Listed>, ParseError> {
    let header = message.payload.first_chunk::<ADDRESS_HEADER_LEN>().ok_or(ParseError::Truncated)?;
    let link = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let attributes = message.attributes(ADDRESS_HEADER_LEN)?;
    // On a point-to-point link only the first of these is this side's.
    let Some(found) = attributes.find(LOCAL)?.or(attributes.find(ADDRESS)?) else { return Ok(None) };
    let address: IpAddr = match header[0] {
        AF_INET => Ipv4Addr::from(found.array::<4>()?).into(),
        AF_INET6 => Ipv6Addr::from(found.array::<16>()?).into(),
        _ => return Ok(None),
    };
    Ok(Some(Listed { link, address }))
}

fn number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

/// Whether others can reach a host by it.
fn is_reachable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !address.is_loopback() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink::Messages;
    use netns::NetNs;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        for address in ["10.96.0.1", "fd00:96::1"].map(|text| text.parse::<IpAddr>().unwrap()) {
            let mut builder = Builder::default();
            builder.message(NEW_ADDRESS, 0, 1, |m| write(m, 7, address));
            let bytes = builder.finish().unwrap();
            let message = Messages::new(&bytes).next().unwrap().unwrap();
            let listed = read(&message).unwrap().unwrap();
            assert_eq!((listed.link, listed.address), (7, address));
        }
    }

    #[test]
    fn a_namespace_without_the_device_has_its_own_addresses_only() {
        let mut device = NetNs::new().unwrap().run(Device::open).unwrap().unwrap();
        let found = device.addresses(Family::V4).unwrap();
        assert_eq!(found, Addresses::default());
        device.unbind(&["10.96.0.1".parse().unwrap()]).unwrap();
        device.remove().unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&Message { kind: NEW_ADDRESS, flags: 0, sequence: 1, payload: &bytes });
        }
    }
}
