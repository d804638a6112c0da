//! The IPVS of the network namespace in which it was opened.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use netlink::generic::{self, GENERIC_HEADER_LEN};
use netlink::{Error, Requests, Socket};

use crate::device::Device;
use crate::error::{IpvsError, Reason};
use crate::server::{DestinationState, Family, Op, Options, Scheduler, Server, ServerKey};
use crate::wire::{self, command};
use crate::{Addresses, Ipvs};

/// Changes that are sent at once: their acknowledgements have to fit the receive buffer.
const TOGETHER: usize = 200;
/// How often servers are listed until two lists agree.
const LIST_ATTEMPTS: u32 = 4;
/// Up to so many servers come in one part of a list, which is consistent.
const ONE_PART: usize = 32;
/// What nobody's packets bear; to see whether a scheduler can be had.
const PROBE: ServerKey = ServerKey::Mark { family: Family::V4, mark: 0x5f7f_ffff };

#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    family: u16,
    device: Device,
}

/// How long IPVS remembers a connection after its last packet, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    pub tcp: u32,
    pub tcp_fin: u32,
    pub udp: u32,
}

impl Kernel {
    /// Opens sockets in the calling thread's network namespace. Asking for the family makes the kernel load the module,
    /// where it can.
    pub fn open() -> Result<Self, IpvsError> {
        let mut socket = Socket::generic().map_err(step("open the socket"))?;
        let family = generic::family(&mut socket, wire::FAMILY_NAME).map_err(step("look for IPVS"))?;
        Ok(Self { family: family.ok_or(IpvsError::NoIpvs)?, socket, device: Device::open()? })
    }

    /// Holds that a scheduler and the device can be had, and leaves nothing of the attempt.
    pub fn probe(&mut self, scheduler: &Scheduler) -> Result<(), IpvsError> {
        let server = Server { scheduler: scheduler.clone(), options: Options::default(), persistence: None };
        self.change(&[Op::AddServer(PROBE, server)])?;
        self.change(&[Op::DeleteServer(PROBE)])?;
        self.device.probe()
    }

    pub fn timeouts(&mut self) -> Result<Timeouts, IpvsError> {
        let failed = step("read the timeouts");
        let answer = self.socket.ask(self.family, 0, |m| wire::header(m, command::GET_CONFIG)).map_err(failed)?;
        let message = answer.messages().next().ok_or(Error::NoAnswer).map_err(failed)?;
        let read = |kind| {
            let attributes = message.attributes(GENERIC_HEADER_LEN)?;
            attributes.require(kind, "the timeouts")?.ne32()
        };
        let read = |kind| read(kind).map_err(Error::from).map_err(failed);
        Ok(Timeouts {
            tcp: read(wire::TIMEOUT_TCP)?,
            tcp_fin: read(wire::TIMEOUT_TCP_FIN)?,
            udp: read(wire::TIMEOUT_UDP)?,
        })
    }

    /// Sets those that are not 0.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), IpvsError> {
        let Timeouts { tcp, tcp_fin, udp } = timeouts;
        let set = self.socket.ask(self.family, 0, |m| {
            wire::header(m, command::SET_CONFIG);
            for (kind, seconds) in
                [(wire::TIMEOUT_TCP, tcp), (wire::TIMEOUT_TCP_FIN, tcp_fin), (wire::TIMEOUT_UDP, udp)]
            {
                if seconds != 0 {
                    m.ne32(kind, seconds);
                }
            }
        });
        set.map(drop).map_err(step("set the timeouts"))
    }

    fn list(&mut self, family: Family) -> Result<BTreeMap<ServerKey, Server>, IpvsError> {
        let failed = step("list virtual servers");
        let dump = self.socket.list(self.family, |m| wire::header(m, command::GET_SERVICE)).map_err(failed)?;
        let mut servers = BTreeMap::new();
        for message in dump.messages() {
            let (key, server) = wire::read_server(&message).map_err(Error::from).map_err(failed)?;
            if key.family() == family {
                servers.insert(key, server);
            }
        }
        Ok(servers)
    }
}

impl Ipvs for Kernel {
    /// The kernel finds its place in a list by counting, over all network namespaces: whoever deletes a server meanwhile
    /// makes it leave one out.
    fn servers(&mut self, family: Family) -> Result<BTreeMap<ServerKey, Server>, IpvsError> {
        let mut servers = self.list(family)?;
        for _ in 1..LIST_ATTEMPTS {
            if servers.len() <= ONE_PART {
                break;
            }
            let again = self.list(family)?;
            if again == servers {
                break;
            }
            servers = again;
        }
        Ok(servers)
    }

    fn destinations(&mut self, server: &ServerKey) -> Result<BTreeMap<SocketAddr, DestinationState>, IpvsError> {
        let failed = step("list a server's destinations");
        let dump = self.socket.list(self.family, |m| {
            wire::header(m, command::GET_DEST);
            wire::write_server(m, server, None);
        });
        let dump = dump.map_err(failed)?;
        let read = |message| wire::read_destination(&message, server.family()).map_err(Error::from).map_err(failed);
        dump.messages().map(read).collect()
    }

    fn change(&mut self, ops: &[Op]) -> Result<(), IpvsError> {
        for (number, chunk) in ops.chunks(TOGETHER).enumerate() {
            let mut requests = Requests::default();
            for op in chunk {
                let sequence = self.socket.sequence.take();
                requests.push(self.family, 0, sequence, |m| wire::write_op(m, op));
            }
            let sequences = requests.sequences().to_vec();
            let refusals = self.socket.execute(requests).map_err(step("change virtual servers"))?;
            if let Some(refusal) = refusals.first() {
                let at = sequences.iter().position(|sequence| *sequence == refusal.sequence).unwrap_or(0);
                return Err(IpvsError::Refused {
                    index: number * TOGETHER + at,
                    reason: Reason::from_errno(refusal.errno),
                    shown: chunk.get(at).map(Op::to_string).unwrap_or_default(),
                });
            }
        }
        Ok(())
    }

    fn addresses(&mut self, family: Family) -> Result<Addresses, IpvsError> {
        self.device.addresses(family)
    }

    fn bind(&mut self, addresses: &[IpAddr]) -> Result<(), IpvsError> {
        self.device.bind(addresses)
    }

    fn unbind(&mut self, addresses: &[IpAddr]) -> Result<(), IpvsError> {
        self.device.unbind(addresses)
    }

    fn remove_device(&mut self) -> Result<(), IpvsError> {
        self.device.remove()
    }
}

pub(crate) fn step(step: &'static str) -> impl Fn(Error) -> IpvsError + Copy {
    move |source| IpvsError::Netlink { step, source }
}
