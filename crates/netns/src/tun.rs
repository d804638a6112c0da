//! TUN devices: links whose packets a process reads and writes. Not responsible for what is in them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{Error, LinkName, NetNs};

/// A TUN device, which ends when this is dropped. Needs a tokio runtime.
pub struct Tun(AsyncFd<File>);

const DEVICE: &str = "/dev/net/tun";

impl Tun {
    /// Makes a device in a namespace. Packets come and go whole, without a header before them.
    pub fn new(namespace: &NetNs, name: &LinkName) -> Result<Self, Error> {
        let failed = |source| Error::Io { step: "make the link", subject: name.to_string(), source };
        let file = namespace.run(|| open(name))?.map_err(failed)?;
        // SAFETY: a `File` keeps one and the same descriptor open until it's dropped, which `AsyncFd` owns.
        let registered = unsafe { AsyncFd::register(file) };
        Ok(Tun(registered.map_err(|error| failed(error.into()))?))
    }

    /// The next packet.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |mut file| file.read(buffer)).await
    }

    /// A packet as if it had arrived from the link. Doesn't wait: a device takes what it's given or refuses it.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.0.get_ref().write(packet).map(drop)
    }
}

fn open(name: &LinkName) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{DEVICE}: {error}"));
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE).map_err(named)?;
    // SAFETY: all-zero bytes are a valid `ifreq`: it is made of integers, arrays and a union of such.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // `LinkName` holds 15 bytes at most, so the last byte stays zero.
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads an `ifreq` and writes the name it chose into it; ours lives until the call returns.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Links, Route};

    #[tokio::test]
    async fn what_is_routed_to_it_can_be_read() {
        let namespace = NetNs::new().unwrap();
        let (name, links) = (LinkName::new("way").unwrap(), Links::of(&namespace).unwrap());
        let tun = Tun::new(&namespace, &name).unwrap();
        links.up(&name).await.unwrap();
        links.add_address(&name, "10.9.9.1/32".parse().unwrap()).await.unwrap();
        links.add_mark_rule(false, 7, 100).await.unwrap();
        let all = Route::direct("0.0.0.0/0".parse().unwrap(), "way");
        links.add_route(&all.in_table(100)).await.unwrap();
        let socket = namespace.run(|| std::net::UdpSocket::bind("10.9.9.1:0").unwrap()).unwrap();
        assert!(socket.send_to(b"no", "192.0.2.7:9").is_err(), "only marked packets have a route");
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Mark, &7).unwrap();
        socket.send_to(b"hello", "192.0.2.7:9").unwrap();
        let mut packet = [0; 1500];
        loop {
            let length = tun.receive(&mut packet).await.unwrap();
            // An IPv6 link says hello by itself.
            if packet[0] >> 4 == 4 {
                assert!(packet[..length].ends_with(b"hello"));
                break;
            }
        }
        drop(tun);
        assert!(!links.exists(&name).await.unwrap());
    }
}
