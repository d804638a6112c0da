//! The UDP side: `hostname`, `clientip`, or `echo TEXT` in a datagram gets an answer in one.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use crate::{Error, http_server};

pub async fn serve(port: u16) -> Result<(), Error> {
    let socket = match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(socket) => socket,
        // A kernel without IPv6.
        Err(_) => {
            let bound = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await;
            bound.map_err(|source| Error::Listen { port, transport: "UDP", source })?
        }
    };
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let said = String::from_utf8_lossy(&buffer[..length]);
        let answer = match said.trim_end().split_once(' ').unwrap_or((said.trim_end(), "")) {
            ("hostname" | "hostName", _) => http_server::hostname(),
            ("clientip", _) => SocketAddr::new(client.ip().to_canonical(), client.port()).to_string(),
            ("echo", text) => text.to_owned(),
            _ => "hostname, clientip or echo TEXT".to_owned(),
        };
        let _ = socket.send_to(answer.as_bytes(), client).await;
    }
}
