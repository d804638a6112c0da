//! TCP connections: the first packet waits until the real connection is there, so that a client learns of a refusal
//! as it would without a relay; then the fabric accepts it, and bytes are copied.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::packet::{No, Syn};
use crate::pump::pump;
use crate::relay::{Door, reason};
use crate::seldom::Seldom;
use crate::target::{Reach, reach};

/// How many connections are relayed or being opened at a time.
const MAX: usize = 4096;
/// Longer than clients wait (`tcp_syn_retries` gives up after 127 s), so that it's they who give up.
const OPENING: Duration = Duration::from_secs(130);
/// From the packet given back to the accepted connection: a client that is still there answers at once.
const ACCEPTING: Duration = Duration::from_secs(10);

/// A connection by its client and its server.
type Ends = (SocketAddr, SocketAddr);

/// What is known of connections that aren't accepted yet.
enum Asked {
    Opening,
    /// The real one is there; the accepted one goes to whoever holds the other end.
    Opened(oneshot::Sender<TcpStream>),
}

/// All connections.
pub(crate) struct Connections {
    door: Arc<Door>,
    asked: Arc<Mutex<HashMap<Ends, Asked>>>,
    room: Arc<Semaphore>,
    refusals: Seldom,
}

/// One connection until it's accepted: forgotten when dropped.
struct Asking {
    ends: Ends,
    asked: Arc<Mutex<HashMap<Ends, Asked>>>,
    door: Arc<Door>,
    syn: Syn,
    _room: OwnedSemaphorePermit,
}

impl Connections {
    pub(crate) fn new(door: Arc<Door>) -> Self {
        Connections { door, asked: Arc::default(), room: Arc::new(Semaphore::new(MAX)), refusals: Seldom::new() }
    }

    /// A client asks for a connection: what there is to do, unless that is done already.
    pub(crate) fn asked(&self, syn: Syn) -> Option<impl Future<Output = ()> + Send + use<>> {
        match reach(syn.to.ip()) {
            Reach::Outside => {}
            Reach::Loopback | Reach::Link => {
                self.door.send(&syn.answer(No::Forbidden));
                return None;
            }
        }
        let ends = (syn.from, syn.to);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match asked.entry(ends) {
            Entry::Occupied(known) => {
                // Asked again. If the first packet was given back, it got lost.
                if matches!(known.get(), Asked::Opened(_)) {
                    self.door.send(syn.packet());
                }
                return None;
            }
            Entry::Vacant(new) => drop(new.insert(Asked::Opening)),
        }
        drop(asked);
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            if let Some(more) = self.refusals.told() {
                tracing::warn!(to = %syn.to, more, "refused: {MAX} connections are relayed already");
            }
            self.forget(&ends);
            self.door.send(&syn.answer(No::Refused));
            return None;
        };
        let asking = Asking { ends, asked: self.asked.clone(), door: self.door.clone(), syn, _room: room };
        Some(asking.serve())
    }

    /// The fabric accepted a connection. One that nobody opened a real one for is reset.
    pub(crate) fn accepted(&self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let Ok((stream, client)) = accepted else { return };
        let Ok(server) = stream.local_addr() else { return };
        let known = self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&(client, server));
        match known {
            Some(Asked::Opened(waiting)) => drop(waiting.send(stream)),
            Some(Asked::Opening) | None => {
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
        }
    }

    fn forget(&self, ends: &Ends) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(ends);
    }
}

impl Asking {
    async fn serve(self) {
        let outside = match tokio::time::timeout(OPENING, TcpStream::connect(self.ends.1)).await {
            Ok(Ok(outside)) => outside,
            Ok(Err(error)) => {
                if let Some(no) = reason(&error) {
                    self.door.send(&self.syn.answer(no));
                }
                return;
            }
            Err(_) => return,
        };
        let (sender, accepted) = oneshot::channel();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(self.ends, Asked::Opened(sender));
        self.door.send(self.syn.packet());
        let Ok(Ok(inside)) = tokio::time::timeout(ACCEPTING, accepted).await else { return };
        if let Err(error) = pump(inside, outside).await {
            tracing::debug!(%error, from = %self.ends.0, to = %self.ends.1, "a relayed connection was reset");
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.remove(&self.ends);
    }
}
