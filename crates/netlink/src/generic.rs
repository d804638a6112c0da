//! Generic netlink: the header that its families share, and the number of a family by its name.

use crate::attribute::ParseError;
use crate::error::Error;
use crate::message::Builder;
use crate::socket::Socket;

/// The length of `struct genlmsghdr`.
pub const GENERIC_HEADER_LEN: usize = 4;

/// The family that knows the others (`GENL_ID_CTRL`).
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const CONTROLLER_VERSION: u8 = 1;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const ENOENT: i32 = 2;

/// The fixed part behind the netlink header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenericHeader {
    pub command: u8,
    pub version: u8,
}

impl GenericHeader {
    pub fn write(self, builder: &mut Builder) {
        builder.raw(&[self.command, self.version, 0, 0]);
    }

    pub fn read(payload: &[u8]) -> Result<Self, ParseError> {
        match payload {
            [command, version, _, _, ..] => Ok(Self { command: *command, version: *version }),
            _ => Err(ParseError::Truncated),
        }
    }
}

/// The message type of a family; `None` if the kernel has no such family, nor a module it finds for it.
pub fn family(socket: &mut Socket, name: &str) -> Result<Option<u16>, Error> {
    let asked = socket.ask(CONTROLLER, 0, |m| {
        GenericHeader { command: GET_FAMILY, version: CONTROLLER_VERSION }.write(m);
        m.text(FAMILY_NAME, name);
    });
    let answer = match asked {
        Err(error) if error.errno() == Some(ENOENT) => return Ok(None),
        answer => answer?,
    };
    let message = answer.messages().next().ok_or(Error::NoAnswer)?;
    Ok(Some(message.attributes(GENERIC_HEADER_LEN)?.require(FAMILY_ID, "a family")?.ne16()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_knows_itself_and_no_family_that_is_not_there() {
        let mut socket = Socket::generic().unwrap();
        assert_eq!(family(&mut socket, "nlctrl").unwrap(), Some(CONTROLLER));
        assert_eq!(family(&mut socket, "no-such-family").unwrap(), None);
    }
}
