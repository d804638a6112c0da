//! Sets of addresses and ports that rules can match by (`ipset`), as far as removing them goes. Not responsible for whose
//! they are.

use std::time::{Duration, Instant};

use netlink::nfnetlink::NF_HEADER_LEN;
use netlink::{Error, Message, MessageType, ParseError, Socket, Subsystem};

/// What Linux 2.6.39 and all since take.
const PROTOCOL: u8 = 6;

const DESTROY: MessageType = MessageType { subsystem: Subsystem::Ipset, number: 3 };
const LIST: MessageType = MessageType { subsystem: Subsystem::Ipset, number: 7 };

const VERSION: u16 = 1;
const NAME: u16 = 2;
const FLAGS: u16 = 6;
/// Names alone.
const NAMES: u32 = 1 << 1;
/// `IPSET_ERR_BUSY`: a rule, or another set, has it.
const IN_USE: i32 = 4100;
/// The kernel lets go of a set a while after the rule that has it is gone.
const LET_GO: Duration = Duration::from_secs(2);
const ASK: Duration = Duration::from_millis(20);
/// asm-generic/errno-base.h
const GONE: i32 = 2;
const NO_SUBSYSTEM: i32 = 22;
const UNSPECIFIED: u8 = 0;

#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error("cannot open the socket for sets of addresses")]
    Open(#[source] Error),
    #[error("cannot list sets of addresses")]
    List(#[source] Error),
    #[error("cannot remove set {name}")]
    Remove {
        name: String,
        #[source]
        source: Error,
    },
}

/// Removes the sets of the current network namespace whose names are among these. Returns those that stay because a rule
/// has them. Blocks for a moment then, since the rule may just have been removed.
pub fn remove(is_one: impl Fn(&str) -> bool) -> Result<Vec<String>, SetError> {
    let mut socket = Socket::netfilter().map_err(SetError::Open)?;
    let mut left: Vec<String> = names(&mut socket)?.into_iter().filter(|name| is_one(name)).collect();
    let until = Instant::now() + LET_GO;
    loop {
        let mut in_use = Vec::new();
        for name in left {
            match destroy(&mut socket, &name).map_err(|error| (error.errno(), error)) {
                Ok(()) | Err((Some(GONE), _)) => {}
                Err((Some(IN_USE), _)) => in_use.push(name),
                Err((_, source)) => return Err(SetError::Remove { name, source }),
            }
        }
        left = in_use;
        if left.is_empty() || Instant::now() >= until {
            return Ok(left);
        }
        std::thread::sleep(ASK);
    }
}

/// The names of all sets; none where the kernel has no such thing.
fn names(socket: &mut Socket) -> Result<Vec<String>, SetError> {
    let listed = socket.dump(LIST, UNSPECIFIED, |m| {
        m.u8(VERSION, PROTOCOL);
        m.be32(FLAGS, NAMES);
    });
    let dump = match listed {
        Err(error) if error.errno() == Some(NO_SUBSYSTEM) => return Ok(Vec::new()),
        listed => listed.map_err(SetError::List)?,
    };
    dump.messages().map(|message| name(&message).map_err(|error| SetError::List(error.into()))).collect()
}

fn name(message: &Message<'_>) -> Result<String, ParseError> {
    Ok(message.attributes(NF_HEADER_LEN)?.require(NAME, "a set")?.text()?.to_owned())
}

fn destroy(socket: &mut Socket, name: &str) -> Result<(), Error> {
    let asked = socket.request(DESTROY, 0, UNSPECIFIED, |m| {
        m.u8(VERSION, PROTOCOL);
        m.text(NAME, name);
    });
    asked.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netns::NetNs;

    const CREATE: MessageType = MessageType { subsystem: Subsystem::Ipset, number: 2 };
    const TYPE: u16 = 3;
    const REVISION: u16 = 4;
    const FAMILY: u16 = 5;
    const DATA: u16 = 7;

    fn make() {
        let mut socket = Socket::netfilter().unwrap();
        for (name, kind) in [("KUBE-ONE", "hash:ip"), ("KUBE-TWO", "hash:ip"), ("somebody-elses", "hash:ip")] {
            let made = socket.request(CREATE, netlink::message::FLAG_CREATE, UNSPECIFIED, |m| {
                m.u8(VERSION, PROTOCOL);
                m.text(NAME, name);
                m.text(TYPE, kind);
                m.u8(REVISION, 0);
                m.u8(FAMILY, 2);
                m.nested(DATA, |_| {});
            });
            made.unwrap();
        }
    }

    fn listed() -> Vec<String> {
        let mut names = names(&mut Socket::netfilter().unwrap()).unwrap();
        names.sort();
        names
    }

    #[test]
    fn sets_go_by_their_names_and_those_in_use_stay() {
        let namespace = NetNs::new().expect("network namespaces need CAP_SYS_ADMIN: run the tests as root");
        let act = || {
            assert_eq!(remove(|_| true).unwrap(), [""; 0], "there are none");
            make();
            let rule = "-A INPUT -m set --match-set KUBE-TWO src -j ACCEPT";
            let tool = |arguments: &str| {
                let run = std::process::Command::new("iptables-nft").args(arguments.split(' ')).status();
                assert!(run.unwrap().success(), "{arguments}");
            };
            tool(rule);
            assert_eq!(listed(), ["KUBE-ONE", "KUBE-TWO", "somebody-elses"]);
            assert_eq!(remove(|name| name.starts_with("KUBE-")).unwrap(), ["KUBE-TWO"]);
            assert_eq!(listed(), ["KUBE-TWO", "somebody-elses"]);
            tool(&rule.replace("-A", "-D"));
            assert_eq!(remove(|name| name.starts_with("KUBE-")).unwrap(), [""; 0], "it is let go of soon");
            assert_eq!(listed(), ["somebody-elses"]);
        };
        namespace.run(act).unwrap();
    }

    #[test]
    fn a_message_that_is_cut_off_is_an_error() {
        for length in 0..NF_HEADER_LEN {
            let message = Message { kind: LIST.code(), flags: 0, sequence: 1, payload: &[0; NF_HEADER_LEN][..length] };
            assert!(name(&message).is_err());
        }
    }
}
