//! One connection, and in one word why it failed.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket, lookup_host};

use crate::Error;
use crate::cli::{Connect, Protocol};

pub async fn run(options: &Connect) -> Result<(), Error> {
    let Some(timeout) = duration(&options.timeout) else { return Err(Error::Connect { code: "OTHER" }) };
    let addresses = lookup_host(&options.target).await.map_err(|_| Error::Connect { code: "DNS" })?;
    let mut last = "DNS";
    for address in addresses {
        let attempt = async {
            match options.protocol {
                Protocol::Tcp => TcpStream::connect(address).await.map(drop),
                Protocol::Udp => {
                    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).await?;
                    socket.connect(address).await?;
                    socket.send(b"hostname").await?;
                    socket.recv(&mut [0; 512]).await.map(drop)
                }
            }
        };
        last = match tokio::time::timeout(timeout, attempt).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => "REFUSED",
            Ok(Err(error)) if error.kind() == ErrorKind::TimedOut => "TIMEOUT",
            Ok(Err(_)) => "OTHER",
            Err(_) => "TIMEOUT",
        };
    }
    Err(Error::Connect { code: last })
}

fn duration(text: &str) -> Option<Duration> {
    if let Some(number) = text.strip_suffix("ms") {
        return number.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s').unwrap_or(text).parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_units_agnhost_takes() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("3s"), Some(Duration::from_secs(3)));
        assert_eq!(duration("4"), Some(Duration::from_secs(4)));
        assert_eq!(duration("soon"), None);
    }
}
