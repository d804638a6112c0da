//! Notices that somebody committed a change to nf_tables, without polling.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink::nfnetlink::{Group, MessageType, NF_HEADER_LEN, Subsystem};
use netlink::{Messages, Received, Socket};

use crate::error::NftError;
use crate::transaction::Generation;
use crate::wire::msg;

/// News of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A commit, and who made it.
    Commit { generation: Generation, pid: Option<u32>, process: Option<String> },
    /// More happened than the socket could hold: look at everything.
    Lost,
}

/// A subscription to the commits of one network namespace. Its descriptor is readable when there is news.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    pub fn open() -> Result<Self, NftError> {
        let open = |step| move |source| NftError::Netlink { step, source };
        let socket = Socket::netfilter().map_err(open("open the socket"))?;
        socket.join(Group::Nftables).map_err(open("subscribe to changes"))?;
        Ok(Self { socket })
    }

    /// Waits until there may be news. False when the time was up first.
    pub fn wait(&self, timeout: Duration) -> Result<bool, NftError> {
        self.socket.wait(timeout).map_err(|source| NftError::Netlink { step: "wait for changes", source })
    }

    /// All news so far, oldest first, without waiting.
    pub fn news(&mut self) -> Result<Vec<News>, NftError> {
        let mut news = Vec::new();
        loop {
            let received = self.socket.try_receive();
            match received.map_err(|source| NftError::Netlink { step: "receive changes", source })? {
                Received::Nothing => return Ok(news),
                Received::Overrun => news.push(News::Lost),
                Received::Messages(bytes) => news.extend(read_news(&bytes)?),
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The news in a datagram of the kernel.
pub fn read_news(bytes: &[u8]) -> Result<Vec<News>, NftError> {
    let mut news = Vec::new();
    for message in Messages::new(bytes) {
        let message = message?;
        // The changes themselves come first; what closes a commit is the message of its generation.
        if MessageType::number_of(Subsystem::Nftables, message.kind) != Some(msg::NEWGEN) {
            continue;
        }
        let a = message.attributes(NF_HEADER_LEN)?;
        news.push(News::Commit {
            generation: Generation(a.require(1, "generation")?.be32()?),
            pid: a.find(2)?.map(|pid| pid.be32()).transpose()?,
            process: a.find(3)?.map(|name| name.text()).transpose()?.map(str::to_owned),
        });
    }
    Ok(news)
}
