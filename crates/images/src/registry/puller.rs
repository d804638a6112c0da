//! All pulls of one process: those who want the same image share one, and whoever is left alone with it may end it.
//!
//! Not responsible for the steps of a pull.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;

use super::endpoint::{Mirror, Mirrors};
use super::error::PullError;
use super::keys::{Keys, PullSecret};
use super::proxy::Proxies;
use super::pull::{Progress, Pull};
use super::transport::{Timeouts, Transport};
use super::trust;
use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::ImageStore;

/// Downloads at a time, of all images.
const DOWNLOADS: usize = 6;

/// Where images are pulled from, and with what.
#[derive(Clone, Debug, Default)]
pub struct PullSettings {
    pub mirrors: Vec<Mirror>,
    /// Docker's `config.json`, wherever it may be; read at every pull.
    pub docker_configs: Vec<PathBuf>,
}

/// Clones share everything.
#[derive(Clone)]
pub struct Puller(Arc<Inner>);

/// A pull that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderWay {
    pub reference: String,
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all; 0 until it is known.
    pub total: u64,
}

struct Inner {
    store: ImageStore,
    transport: Transport,
    mirrors: Mirrors,
    docker_configs: Vec<PathBuf>,
    downloads: Semaphore,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    pulls: HashMap<Key, WeakShared<Outcome>>,
    progress: Vec<(String, Weak<Progress>)>,
}

/// Others' secrets are another pull: what one may see the other mustn't get by asking at the same time.
type Key = (Reference, Vec<PullSecret>);
type Outcome = BoxFuture<'static, Result<Digest, Arc<PullError>>>;

impl Puller {
    pub fn new(store: ImageStore, settings: &PullSettings) -> Self {
        let transport = Transport::new(Timeouts::default(), Proxies::of_environment(), trust::DOCKER_CERTS.into());
        Self::with_transport(store, settings, transport)
    }

    pub(crate) fn with_transport(store: ImageStore, settings: &PullSettings, transport: Transport) -> Self {
        Self(Arc::new(Inner {
            store,
            transport,
            mirrors: Mirrors::new(&settings.mirrors),
            docker_configs: settings.docker_configs.clone(),
            downloads: Semaphore::new(DOWNLOADS),
            running: Mutex::default(),
        }))
    }

    /// Brings the image here, or finds that what is here is the registry's, and gives its id. Dropping the future ends the
    /// pull, unless somebody else waits for it too.
    pub async fn pull(&self, name: &str, secrets: &[PullSecret]) -> Result<Digest, Arc<PullError>> {
        let reference: Reference = name.parse().map_err(|error| Arc::new(PullError::Reference(error)))?;
        self.join((reference, secrets.to_vec())).await
    }

    /// What is being pulled, for a person to see.
    pub fn under_way(&self) -> Vec<UnderWay> {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.progress.retain(|(_, progress)| progress.strong_count() > 0);
        let shown = |(reference, progress): &(String, Weak<Progress>)| {
            let progress = progress.upgrade()?;
            let total = progress.total.load(Ordering::Relaxed);
            let done = progress.done.load(Ordering::Relaxed).min(total);
            Some(UnderWay { reference: reference.clone(), done, total })
        };
        running.progress.iter().filter_map(shown).collect()
    }

    fn join(&self, key: Key) -> Shared<Outcome> {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.pulls.retain(|_, pull| pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        if let Some(pull) = running.pulls.get(&key).and_then(WeakShared::upgrade) {
            return pull;
        }
        let progress = Arc::new(Progress::default());
        running.progress.push((key.0.to_string(), Arc::downgrade(&progress)));
        let pull = Arc::clone(&self.0).run(key.clone(), progress).boxed().shared();
        if let Some(weak) = pull.downgrade() {
            running.pulls.insert(key, weak);
        }
        pull
    }
}

impl Inner {
    async fn run(self: Arc<Self>, key: Key, progress: Arc<Progress>) -> Result<Digest, Arc<PullError>> {
        let (reference, secrets) = key;
        let begun = Instant::now();
        tracing::info!(image = %reference, "pulling");
        let pulled = async {
            let keys = Keys::collect(&secrets, &self.docker_configs)?;
            let pull = Pull {
                store: &self.store,
                transport: &self.transport,
                mirrors: &self.mirrors,
                keys: &keys,
                reference: &reference,
                downloads: &self.downloads,
                progress: &progress,
            };
            pull.run().await
        };
        let took = |begun: Instant| format!("{:.2} s", begun.elapsed().as_secs_f64());
        match pulled.await {
            Ok(id) => {
                let bytes = progress.total.load(Ordering::Relaxed);
                tracing::info!(image = %reference, %id, bytes, took = took(begun), "pulled");
                Ok(id)
            }
            Err(error) => {
                tracing::warn!(image = %reference, %error, took = took(begun), "not pulled");
                Err(Arc::new(error))
            }
        }
    }
}
