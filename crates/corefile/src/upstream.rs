//! Where `forward` sends queries: addresses, files of them, names. Not responsible for looking names up.

use std::fmt::{Display, Formatter};
use std::net::IpAddr;

use serde::Serialize;

use crate::problem::Fault;
use crate::reader::Reader;
use crate::resolv::ResolvConf;
use crate::token::Token;
use crate::zone::{self, Transport};

/// A port, or what was written for one; names of services are looked up by whoever connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Port(pub String);

/// One upstream, or a file of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum To {
    /// With the server's name for TLS (`tls://9.9.9.9%dns.quad9.net`), or the zone of a link-local address.
    Address { transport: Transport, address: IpAddr, suffix: Option<String>, port: Port },
    /// A resolv.conf with the servers that it had.
    File { path: String, servers: Vec<IpAddr> },
    /// A host whose addresses are looked up.
    Name { transport: Transport, name: String, suffix: Option<String>, port: Port },
}

impl To {
    /// Reads one as CoreDNS does: an address, else a file if there is one, else a name.
    pub(crate) fn read(reader: &mut Reader<'_>, token: &Token) -> Option<To> {
        const EXPECTED: &str =
            "an address, a file of name servers or a host name, with a scheme of dns, tls, https or quic";
        let (transport, rest) = Transport::split(&token.text);
        if rest.is_empty() {
            return reader.bad(token, EXPECTED);
        }
        if transport == Transport::Https && rest.contains('/') {
            return reader.bad(token, "an upstream without a path, which is always /dns-query");
        }
        let allowed = matches!(transport, Transport::Dns | Transport::Tls | Transport::Https | Transport::Quic);
        let (host, port) = match zone::split_address(rest) {
            Some((host, port)) => (host, port.to_owned()),
            None => (rest.trim_matches(['[', ']']), transport.port().to_string()),
        };
        let (plain, suffix) = match host.rsplit_once('%') {
            Some((host, suffix)) => (host, Some(suffix.to_owned())),
            None => (host, None),
        };
        let odd = |text: &str| text.contains(['[', ']', ':', '{', '}', '%']);
        if suffix.as_deref().is_some_and(odd) {
            return reader.bad(token, EXPECTED);
        }
        if let Ok(address) = plain.parse() {
            return if allowed {
                Some(To::Address { transport, address, suffix, port: Port(port) })
            } else {
                reader.bad(token, EXPECTED)
            };
        }
        let path = if zone::split_address(rest).is_some() { rest } else { host };
        match reader.around.sources.read(path) {
            Ok(bytes) => return Some(To::file(reader, token, path, &String::from_utf8_lossy(&bytes))),
            Err(source) if path.contains('/') => {
                let of = reader.of();
                reader.fault(token, Fault::Read { of, path: path.to_owned(), source: source.into() });
                return None;
            }
            Err(_) => {}
        }
        let name = plain.trim_matches(['[', ']']);
        if !allowed || !zone::is_domain_name(name) || odd(name) {
            return reader.bad(token, EXPECTED);
        }
        Some(To::Name { transport, name: name.to_owned(), suffix, port: Port(port) })
    }

    fn file(reader: &mut Reader<'_>, token: &Token, path: &str, text: &str) -> To {
        let mut servers = Vec::new();
        for server in ResolvConf::parse(text).servers {
            let plain = server.rsplit_once('%').map_or(server.as_str(), |(address, _)| address);
            match plain.parse() {
                Ok(address) if !servers.contains(&address) => servers.push(address),
                Ok(_) => {}
                Err(_) => {
                    let what = format!("the name server {server:?} of {path}, which is no address,");
                    reader.warn(token, Fault::LeftOut { what });
                }
            }
        }
        To::File { path: path.to_owned(), servers }
    }

    /// How many servers it is, as far as that is known.
    pub fn count(&self) -> usize {
        match self {
            To::File { servers, .. } => servers.len(),
            To::Address { .. } | To::Name { .. } => 1,
        }
    }
}

impl Display for To {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (transport, host, suffix, port) = match self {
            To::File { path, .. } => return f.write_str(path),
            To::Address { transport, address, suffix, port } => (transport, address.to_string(), suffix, port),
            To::Name { transport, name, suffix, port } => (transport, name.clone(), suffix, port),
        };
        let host = suffix.as_ref().map_or(host.clone(), |suffix| format!("{host}%{suffix}"));
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        match transport {
            Transport::Dns => write!(f, "{host}:{}", port.0),
            transport => write!(f, "{transport}://{host}:{}", port.0),
        }
    }
}
