//! The one link every network namespace is born with.
//!
//! Not responsible for any other link.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd as _;

/// Raises `lo` of the calling thread's network namespace. netdevice(7): the flags of an interface are read and written with its name.
pub fn raise() -> std::io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: the request outlives the calls, which fill in and read its flags only.
    unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &mut request) != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
