//! Proxies by the environment: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in either case of letters.
//!
//! Not responsible for SOCKS; a proxy of another kind is named in a warning and not used.

use std::io;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::transport::{Peer, Stream, TransportError, is_loopback};

/// The head of a proxy's answer is short.
const LONGEST_HEAD: usize = 8 << 10;

#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    except: Vec<Exception>,
}

#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) uri: Uri,
    pub(crate) authorization: Option<HeaderValue>,
}

#[derive(Clone, Debug, PartialEq)]
enum Exception {
    Everything,
    Network(IpNet),
    /// A name and all names below it; with a port only there.
    Domain {
        name: String,
        port: Option<u16>,
    },
}

impl Proxies {
    pub(crate) fn of_environment() -> Self {
        Self::from_variables(|name| std::env::var(name).or_else(|_| std::env::var(name.to_lowercase())).ok())
    }

    pub(crate) fn from_variables(value: impl Fn(&str) -> Option<String>) -> Self {
        let proxy = |name| value(name).filter(|text| !text.is_empty()).and_then(|text| parse(name, &text));
        let except = value("NO_PROXY").unwrap_or_default();
        Self {
            https: proxy("HTTPS_PROXY"),
            http: proxy("HTTP_PROXY"),
            except: except.split(',').filter_map(|text| exception(text.trim())).collect(),
        }
    }

    pub(crate) fn of(&self, peer: &Peer<'_>) -> Option<&Proxy> {
        let excepted = is_loopback(peer.host) || self.except.iter().any(|exception| exception.covers(peer));
        let proxy = if peer.tls { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !excepted)
    }
}

impl Proxy {
    /// Asks for a way to the peer (RFC 9110, 9.3.6).
    pub(crate) async fn tunnel(&self, stream: &mut dyn Stream, peer: &Peer<'_>) -> Result<(), TransportError> {
        let to = peer.authority();
        let failed = |said: String| TransportError::Proxy { proxy: self.uri.to_string(), to: to.clone(), said };
        let broken = |error: io::Error| failed(error.to_string());
        let mut ask = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
        if let Some(authorization) = &self.authorization {
            ask.extend_from_slice(b"Proxy-Authorization: ");
            ask.extend_from_slice(authorization.as_bytes());
            ask.extend_from_slice(b"\r\n");
        }
        ask.extend_from_slice(b"\r\n");
        stream.write_all(&ask).await.map_err(broken)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= LONGEST_HEAD {
                return Err(failed("its answer has no end".to_owned()));
            }
            // Byte by byte: what follows the head is the peer's.
            head.push(stream.read_u8().await.map_err(broken)?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let line = head.lines().next().unwrap_or_default();
        match line.split(' ').nth(1) {
            Some(status) if status.starts_with('2') => Ok(()),
            _ => Err(failed(line.to_owned())),
        }
    }
}

impl Exception {
    fn covers(&self, peer: &Peer<'_>) -> bool {
        match self {
            Exception::Everything => true,
            Exception::Network(network) => peer.host.parse::<IpAddr>().is_ok_and(|address| network.contains(&address)),
            Exception::Domain { name, port } => {
                let below =
                    peer.host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                below && port.is_none_or(|port| port == peer.port)
            }
        }
    }
}

fn parse(variable: &str, text: &str) -> Option<Proxy> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let (scheme, rest) = whole.split_once("://")?;
    let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
    let uri = format!("{scheme}://{place}").parse::<Uri>().ok().filter(|uri| Peer::of(uri).is_ok());
    let Some(uri) = uri else {
        tracing::warn!(variable, "a proxy that is no http:// or https:// address is not used");
        return None;
    };
    let authorization = user.map(|user| format!("Basic {}", STANDARD.encode(user)));
    Some(Proxy { uri, authorization: authorization.and_then(|text| HeaderValue::from_str(&text).ok()) })
}

fn exception(text: &str) -> Option<Exception> {
    if text.is_empty() {
        return None;
    }
    if text == "*" {
        return Some(Exception::Everything);
    }
    if let Ok(network) = text.parse::<IpNet>() {
        return Some(Exception::Network(network));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Exception::Network(address.into()));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (text, None),
    };
    let name = name.trim_start_matches("*.").trim_start_matches('.').to_owned();
    Some(Exception::Domain { name, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy_of(variables: &[(&str, &str)], uri: &str) -> Option<String> {
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        let uri: Uri = uri.parse().unwrap();
        Proxies::from_variables(value).of(&Peer::of(&uri).unwrap()).map(|proxy| proxy.uri.to_string())
    }

    #[test]
    fn the_environment_says_which_proxy_and_for_whom_none() {
        let both = [
            ("HTTPS_PROXY", "http://me:secret@proxy:3128"),
            ("HTTP_PROXY", "plain:8080"),
            ("NO_PROXY", "corp.example, .inner.example,10.0.0.0/8,other.example:5000"),
        ];
        let table = [
            ("https://registry.example/v2/", Some("http://proxy:3128/")),
            ("http://registry.example/v2/", Some("http://plain:8080/")),
            ("https://corp.example/", None),
            ("https://a.inner.example/", None),
            ("https://notcorp.example/", Some("http://proxy:3128/")),
            ("https://10.1.2.3:5000/", None),
            ("https://other.example:5000/", None),
            ("https://other.example/", Some("http://proxy:3128/")),
            ("http://127.0.0.1:5000/", None),
        ];
        for (uri, expected) in table {
            assert_eq!(proxy_of(&both, uri).as_deref(), expected, "{uri}");
        }
        assert_eq!(proxy_of(&[("HTTPS_PROXY", "socks5://p:1")], "https://a.example/"), None);
        assert_eq!(proxy_of(&[("HTTPS_PROXY", "p:1"), ("NO_PROXY", "*")], "https://a.example/"), None);
    }
}
