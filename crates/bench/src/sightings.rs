//! When a value was first seen in what the kernel tells of its nf_tables commits in a network namespace. The news come
//! after the commit, so what was seen is in force.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netlink::nfnetlink::Group;
use netlink::{Received, Socket};
use netns::NetNs;

const TURN: Duration = Duration::from_millis(100);

/// Watches one namespace.
pub struct Sightings {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// What is looked for, and when it was seen.
    wanted: Mutex<HashMap<Vec<u8>, Option<Instant>>>,
    seen: Condvar,
    ending: AtomicBool,
}

impl Sightings {
    pub fn begin(namespace: &NetNs) -> Result<Sightings> {
        let socket = namespace.run(Socket::netfilter)?.context("cannot listen to nf_tables")?;
        socket.join(Group::Nftables).context("cannot listen to nf_tables")?;
        let shared = Arc::new(Shared::default());
        let looking = shared.clone();
        let thread = std::thread::spawn(move || looking.look(socket));
        Ok(Sightings { shared, thread: Some(thread) })
    }

    /// Looks for these bytes from now on.
    pub fn expect(&self, bytes: &[u8]) {
        self.shared.lock().insert(bytes.to_vec(), None);
    }

    /// When they were seen, if they are within the limit.
    pub fn seen(&self, bytes: &[u8], limit: Duration) -> Option<Instant> {
        let missing = |wanted: &mut HashMap<Vec<u8>, Option<Instant>>| matches!(wanted.get(bytes), Some(None));
        let waited = self.shared.seen.wait_timeout_while(self.shared.lock(), limit, missing);
        let (mut wanted, _) = waited.unwrap_or_else(PoisonError::into_inner);
        wanted.remove(bytes).flatten()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Option<Instant>>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, mut socket: Socket) {
        while !self.ending.load(Ordering::Relaxed) {
            let _ = socket.wait(TURN);
            while let Ok(Received::Messages(bytes)) = socket.try_receive() {
                let at = Instant::now();
                let mut wanted = self.lock();
                let missing = wanted.iter_mut().filter(|(_, seen)| seen.is_none());
                let mut news = false;
                for (_, seen) in missing.filter(|(value, _)| contains(&bytes, value)) {
                    *seen = Some(at);
                    news = true;
                }
                if news {
                    self.seen.notify_all();
                }
            }
        }
    }
}

impl Drop for Sightings {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn contains(bytes: &[u8], value: &[u8]) -> bool {
    bytes.windows(value.len()).any(|window| window == value)
}
