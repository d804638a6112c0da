//! HTTP requests to registries: a connection each, TLS by the machine's own trusted roots, through a proxy where the
//! environment names one, and a limit to every wait.
//!
//! Not responsible for what is asked, nor for credentials and redirects.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::proxy::{self, Proxies};
use super::trust;

const AGENT: &str = concat!("portolan/", env!("CARGO_PKG_VERSION"));

/// How long each step may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// To one address, TLS included.
    pub(crate) connect: Duration,
    /// From the request to the answer's head.
    pub(crate) head: Duration,
    /// Between two pieces of a body.
    pub(crate) idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), head: Duration::from_secs(30), idle: Duration::from_secs(60) }
    }
}

/// The step that failed.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("{0:?} is no http or https address")]
    Address(String),
    #[error("cannot look up {host}: {source}")]
    LookUp { host: String, source: io::Error },
    #[error("cannot connect to {to}: {source}")]
    Connect { to: String, source: io::Error },
    #[error("the proxy {proxy} gives no way to {to}: {said}")]
    Proxy { proxy: String, to: String, said: String },
    #[error("no TLS with {host}: {source}")]
    Tls { host: String, source: io::Error },
    #[error(
        "{host} has a certificate that this machine doesn't trust ({source}): put its authority's into {place}/ca.crt"
    )]
    Untrusted { host: String, place: String, source: io::Error },
    #[error("the exchange with {host} broke off: {source}")]
    Http { host: String, source: hyper::Error },
    #[error("{host} did not {step} within {limit:?}")]
    TimedOut { host: String, step: &'static str, limit: Duration },
    #[error("{host} sends more than {limit} bytes where less is expected")]
    TooLarge { host: String, limit: usize },
}

pub(crate) struct Transport {
    timeouts: Timeouts,
    proxies: Proxies,
    /// Of single registries: `HOST[:PORT]/*.crt`.
    certificates: PathBuf,
    /// Read when first needed: many systems pull nothing.
    roots: OnceLock<Arc<rustls::ClientConfig>>,
}

/// An answer whose body is still to be read.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    host: String,
    body: Incoming,
    idle: Duration,
    _sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Who is spoken to.
pub(crate) struct Peer<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl<'a> Peer<'a> {
    pub(crate) fn of(uri: &'a Uri) -> Result<Self, TransportError> {
        let unusable = || TransportError::Address(uri.to_string());
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(unusable()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(unusable)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(Self { host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }), tls })
    }

    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl Transport {
    pub(crate) fn new(timeouts: Timeouts, proxies: Proxies, certificates: PathBuf) -> Self {
        Self { timeouts, proxies, certificates, roots: OnceLock::new() }
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        uri: &Uri,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, TransportError> {
        let peer = Peer::of(uri)?;
        let host = peer.authority();
        let proxy = self.proxies.of(&peer);
        let limit = self.timeouts.connect;
        let stream = match proxy {
            None => self.connect(&peer).await?,
            Some(proxy) => self.through(proxy, &peer).await?,
        };
        let absolute = proxy.is_some() && !peer.tls;
        if let (true, Some(authorization)) = (absolute, proxy.and_then(|proxy| proxy.authorization.clone())) {
            headers.insert(http::header::PROXY_AUTHORIZATION, authorization);
        }
        let named = uri.authority().map_or(host.as_str(), |authority| authority.as_str());
        headers.insert(HOST, HeaderValue::from_str(named).map_err(|_| TransportError::Address(uri.to_string()))?);
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = match absolute {
            true => uri.clone(),
            false => target.parse().map_err(|_| TransportError::Address(uri.to_string()))?,
        };
        *request.headers_mut() = headers;

        let broken = |source| TransportError::Http { host: host.clone(), source };
        let late = |step, limit| TransportError::TimedOut { host: host.clone(), step, limit };
        let greeting = timeout(limit, http1::handshake(TokioIo::new(stream))).await;
        let (mut sender, connection) = greeting.map_err(|_| late("take a connection", limit))?.map_err(broken)?;
        // Lives as long as the answer: dropping that aborts it. An error reaches whoever reads the body.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let answered = timeout(self.timeouts.head, sender.send_request(request)).await;
        let answered = match answered {
            Ok(answered) => answered.map_err(broken),
            Err(_) => Err(late("answer", self.timeouts.head)),
        };
        let (head, body) = match answered {
            Ok(answer) => answer.into_parts(),
            Err(error) => {
                connection.abort();
                return Err(error);
            }
        };
        let idle = self.timeouts.idle;
        Ok(Answer { status: head.status, headers: head.headers, host, body, idle, _sender: sender, connection })
    }

    async fn connect(&self, peer: &Peer<'_>) -> Result<Box<dyn Stream>, TransportError> {
        let stream = dial(peer, self.timeouts.connect).await?;
        if peer.tls { self.encrypt(peer, stream).await } else { Ok(Box::new(stream)) }
    }

    async fn through(&self, proxy: &proxy::Proxy, peer: &Peer<'_>) -> Result<Box<dyn Stream>, TransportError> {
        let mut stream = self.connect(&Peer::of(&proxy.uri)?).await?;
        if !peer.tls {
            return Ok(stream);
        }
        let limit = self.timeouts.connect;
        let late = |_| TransportError::TimedOut { host: proxy.uri.to_string(), step: "open a way", limit };
        timeout(limit, proxy.tunnel(&mut stream, peer)).await.map_err(late)??;
        self.encrypt(peer, stream).await
    }

    async fn encrypt(&self, peer: &Peer<'_>, stream: impl Stream + 'static) -> Result<Box<dyn Stream>, TransportError> {
        let failed = |source| TransportError::Tls { host: peer.authority(), source };
        let config = match trust::of_host(&self.certificates, peer) {
            Some(own) => trust::config(own).map_err(failed)?,
            None => match self.roots.get() {
                Some(config) => config.clone(),
                None => {
                    self.roots.get_or_init(|| trust::config(Vec::new()).unwrap_or_else(|_| trust::nobody())).clone()
                }
            },
        };
        let name = ServerName::try_from(peer.host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        let limit = self.timeouts.connect;
        match timeout(limit, TlsConnector::from(config).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(source)) if trust::is_unknown(&source) => {
                let place = self.certificates.join(peer.authority()).display().to_string();
                Err(TransportError::Untrusted { host: peer.authority(), place, source })
            }
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(TransportError::TimedOut { host: peer.authority(), step: "finish its TLS handshake", limit }),
        }
    }
}

impl Answer {
    /// The next piece of the body; none at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            let late =
                |_| TransportError::TimedOut { host: self.host.clone(), step: "send the rest", limit: self.idle };
            let frame = timeout(self.idle, self.body.frame()).await.map_err(late)?;
            match frame {
                None => return Ok(None),
                Some(Err(source)) => return Err(TransportError::Http { host: self.host.clone(), source }),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, if it isn't longer than it should be.
    pub(crate) async fn whole(mut self, limit: usize) -> Result<Vec<u8>, TransportError> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > limit {
                return Err(TransportError::TooLarge { host: self.host.clone(), limit });
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }

    pub(crate) fn header(&self, name: http::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Whether a host is this machine, by what it is called.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn dial(peer: &Peer<'_>, limit: Duration) -> Result<TcpStream, TransportError> {
    let looked_up = timeout(limit, tokio::net::lookup_host((peer.host, peer.port))).await;
    let looked_up = looked_up.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let addresses = looked_up.map_err(|source| TransportError::LookUp { host: peer.host.to_owned(), source })?;
    let mut last = TransportError::LookUp { host: peer.host.to_owned(), source: io::ErrorKind::NotFound.into() };
    for address in addresses {
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Requests are one segment: nothing is gained by waiting for more.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(source)) => last = TransportError::Connect { to: address.to_string(), source },
            Err(_) => last = TransportError::TimedOut { host: address.to_string(), step: "take a connection", limit },
        }
    }
    Err(last)
}
