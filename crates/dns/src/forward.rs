//! Asking other servers: UDP from a fresh port with a random identifier, TCP when a reply is cut off, the next server
//! when one doesn't answer, and one question at a time for each name.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dns_zone::relay::answers;
use dns_zone::{Query, Rcode};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::cache::{Cache, Key};
use crate::metrics::Metrics;

/// How long one server may take before the next is asked.
const TRY: Duration = Duration::from_secs(2);
/// How long a client is kept waiting in all; resolvers ask again after five seconds.
const WHOLE: Duration = Duration::from_millis(4500);
/// Questions that may wait at a time: each holds a socket.
const IN_FLIGHT: usize = 1000;
const CACHE_ENTRIES: usize = 10_000;

type Pending = Shared<BoxFuture<'static, Option<Bytes>>>;

/// The servers for names that aren't ours.
pub struct Forwarder {
    upstreams: Arc<[SocketAddr]>,
    cache: Arc<Cache>,
    pending: Arc<Mutex<HashMap<Key, Pending>>>,
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Forwarder {
    pub fn new(upstreams: &[SocketAddr], metrics: Arc<Metrics>) -> Self {
        Forwarder {
            upstreams: upstreams.into(),
            cache: Arc::new(Cache::new(CACHE_ENTRIES)),
            pending: Arc::default(),
            permits: Arc::new(Semaphore::new(IN_FLIGHT)),
            metrics,
        }
    }

    /// A reply from the cache, its identifier not set.
    pub fn cached(&self, query: &Query) -> Option<Vec<u8>> {
        let found = self.cache.get(&Key::of(query), Instant::now());
        self.metrics.cache(found.is_some());
        found
    }

    /// A reply of another server, its identifier not set; `None` when none answers in time.
    pub async fn ask(&self, query: &Query) -> Option<Bytes> {
        let key = Key::of(query);
        let pending = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            match pending.get(&key) {
                Some(shared) => shared.clone(),
                None => {
                    let shared = self.begin(query.clone(), key.clone())?;
                    pending.insert(key, shared.clone());
                    shared
                }
            }
        };
        pending.await
    }

    fn begin(&self, query: Query, key: Key) -> Option<Pending> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            self.metrics.shed();
            return None;
        };
        let (upstreams, cache, pending) = (self.upstreams.clone(), self.cache.clone(), self.pending.clone());
        let metrics = self.metrics.clone();
        // A task, so that the question is carried to its end even when the client that put it goes away.
        let task = tokio::spawn(async move {
            let reply = tokio::time::timeout(WHOLE, any_of(&upstreams, &query)).await.ok().flatten();
            metrics.forwarded(reply.is_some());
            if let Some(reply) = &reply {
                cache.put(key.clone(), reply, Instant::now());
            }
            pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            drop(permit);
            reply
        });
        Some(task.map(|joined| joined.ok().flatten()).boxed().shared())
    }
}

/// The first reply that settles the question. One that says the server failed or refused is kept for want of a better.
async fn any_of(upstreams: &[SocketAddr], query: &Query) -> Option<Bytes> {
    let mut fallback = None;
    for upstream in upstreams.iter().chain(upstreams) {
        match tokio::time::timeout(TRY, exchange(*upstream, query)).await {
            Ok(Ok(reply)) => {
                let code = reply[3] & 0xf;
                if code != Rcode::ServFail as u8 && code != Rcode::Refused as u8 {
                    return Some(reply);
                }
                fallback = Some(reply);
            }
            Ok(Err(error)) => tracing::debug!(%upstream, %error, "a server can't be asked"),
            Err(_) => tracing::debug!(%upstream, "a server didn't answer in time"),
        }
    }
    fallback
}

async fn exchange(upstream: SocketAddr, query: &Query) -> io::Result<Bytes> {
    let id: u16 = rand::random();
    let message = query.write(id);
    let any: IpAddr = if upstream.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(&message).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let reply = &buffer[..length];
        if answers(reply, id, query) {
            let truncated = reply[2] & 0x02 != 0;
            return if truncated {
                over_tcp(upstream, id, query, &message).await
            } else {
                Ok(Bytes::copy_from_slice(reply))
            };
        }
    }
}

async fn over_tcp(upstream: SocketAddr, id: u16, query: &Query, message: &[u8]) -> io::Result<Bytes> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    if answers(&reply, id, query) { Ok(reply.into()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
