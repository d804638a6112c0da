//! The embedded runtime: pods as namespaces, containers as overlays with a shim each. All truth is on disk, so an agent
//! that starts again finds every pod as it is.
//!
//! Not responsible for links and addresses (`PodNetwork`), for cloning into containers (`shim`) or for images.

mod capability;
mod container;
mod exec;
mod failure;
mod farewell;
mod keyed_lock;
mod layout;
mod namespaces;
mod pins;
mod protected;
mod record;
mod sandbox;
mod spec;
mod supervise;
mod sweep;
mod user;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use images::registry::{self, RemotePuller};
use images::{Image, ImageStore, Reference};
use pod_runtime::{
    Changed, ContainerId, ContainerSpec, ContainerStatus, ExecOutput, ImageStatus, PodNetwork, PodRuntime, PullSecret,
    RuntimeError, SandboxId, SandboxSpec, SandboxStatus,
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::capability::CapabilitySet;
use crate::failure::{blocking, other_at};
use crate::keyed_lock::KeyedLocks;
use crate::layout::Layout;
use crate::supervise::Watchers;

pub use crate::pins::{ImageUser, image_users, network_pin};

/// Wake-ups that nobody has taken yet; who misses some looks again anyway.
const CHANGES: usize = 1024;

/// Where a runtime keeps its state and what it works with.
#[derive(Clone)]
pub struct Config {
    /// Its own directory, of this node alone.
    pub state_dir: PathBuf,
    pub images: ImageStore,
    /// Who pulls into that store; without one there are only the images that are there.
    pub puller: Option<RemotePuller>,
    /// Of this node alone: `/portolan/<cluster>/<node>`. Groups below it that belong to no pod are removed.
    pub cgroup_parent: PathBuf,
    pub network: Arc<dyn PodNetwork>,
    /// Mounts of the node that containers' mount namespaces must not keep alive; not all of them need to be there.
    pub private_mounts: Vec<PathBuf>,
    /// A program whose `main` calls `shim::dispatch` first: this one, usually.
    pub executable: PathBuf,
}

/// A node's runtime. Dropping it ends no container; another one opened on the same directory takes over.
pub struct Runtime {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    config: Config,
    layout: Layout,
    capabilities: CapabilitySet,
    changes: broadcast::Sender<Changed>,
    watchers: Watchers,
    locks: KeyedLocks,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Runtime {
    /// Takes over what is on disk and sweeps what nobody needs any more. Wants to be in the node's namespaces, with
    /// CAP_SYS_ADMIN.
    pub async fn open(config: Config) -> Result<Self, RuntimeError> {
        let layout = Layout::new(&config.state_dir);
        let capabilities = CapabilitySet::bounding()?;
        let (changes, _) = broadcast::channel(CHANGES);
        let shared = Arc::new(Shared {
            config,
            layout,
            capabilities,
            changes,
            watchers: Watchers::default(),
            locks: KeyedLocks::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let preparing = Arc::clone(&shared);
        blocking("prepare the runtime's directories", move || preparing.layout.prepare()).await?;
        sweep::sweep(&shared).await?;
        Ok(Self { shared })
    }

    fn image_status(image: &Image) -> ImageStatus {
        ImageStatus {
            id: image.id.to_string(),
            tags: image.names.iter().chain(&image.digests).cloned().collect(),
            size_bytes: image.size,
            stop_signal: image.config.stop_signal_number(),
            user: image.config.user.clone(),
        }
    }

    async fn find_image(&self, reference: &str) -> Result<Option<Image>, RuntimeError> {
        if let (Err(_), Err(error)) = (reference.parse::<images::Digest>(), reference.parse::<Reference>()) {
            let (reference, message) = (reference.to_owned(), error.to_string());
            return Err(RuntimeError::InvalidImageName { reference, message });
        }
        let (images, reference) = (self.shared.config.images.clone(), reference.to_owned());
        blocking("look up an image", move || images.get(&reference).map_err(other_at("look up an image"))).await
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

#[async_trait]
impl PodRuntime for Runtime {
    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        self.shared.run_sandbox(spec).await
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.shared.stop_sandbox(id).await
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.shared.remove_sandbox(id).await
    }

    async fn sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        self.shared.sandboxes().await
    }

    async fn create_container(&self, sandbox: &SandboxId, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        self.shared.create_container(sandbox, spec).await
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.shared.start_container(id).await
    }

    async fn stop_container(&self, id: &ContainerId, signal: i32, grace: Duration) -> Result<(), RuntimeError> {
        self.shared.stop_container(id, signal, grace).await
    }

    async fn end_with_node(&self, id: &ContainerId, signal: i32) -> Result<(), RuntimeError> {
        self.shared.end_with_node(id, signal).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.shared.remove_container(id).await
    }

    async fn containers(&self, sandbox: Option<&SandboxId>) -> Result<Vec<ContainerStatus>, RuntimeError> {
        self.shared.containers(sandbox).await
    }

    async fn exec(&self, id: &ContainerId, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        self.shared.exec(id, command, timeout).await
    }

    async fn written_bytes(&self, id: &ContainerId) -> Result<u64, RuntimeError> {
        self.shared.written_bytes(id).await
    }

    async fn refused_forks(&self, id: &ContainerId) -> Result<u64, RuntimeError> {
        self.shared.refused_forks(id)
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageStatus>, RuntimeError> {
        Ok(self.find_image(reference).await?.as_ref().map(Self::image_status))
    }

    async fn pull(&self, reference: &str, secrets: &[PullSecret]) -> Result<ImageStatus, RuntimeError> {
        let found = self.find_image(reference).await?;
        if let Some(image) = found.as_ref().filter(|image| image.built_in) {
            return Ok(Self::image_status(image));
        }
        let failed = |message: String| RuntimeError::Pull { reference: reference.to_owned(), message };
        let local = reference.parse::<Reference>().is_ok_and(|reference| reference.is_local());
        if let (false, Some(puller)) = (local, &self.shared.config.puller) {
            let id = puller.pull(reference, secrets.iter().map(for_puller).collect()).await;
            let id = id.map_err(|error| failed(error.to_string()))?.to_string();
            let image = self.find_image(&id).await?;
            return image.as_ref().map(Self::image_status).ok_or_else(|| failed("it was removed at once".to_owned()));
        }
        let message = if local {
            "images of portolan.local are never pulled: load it with `portolan image load FILE` and set imagePullPolicy to \
             IfNotPresent or Never, or use the built-in image portolan.local/testserver:latest"
        } else if found.is_some() {
            "this node has the image but pulls from no registry: set imagePullPolicy to IfNotPresent or Never to use it"
        } else {
            "this node pulls from no registry: load the image with `portolan image load FILE` and set imagePullPolicy to \
             IfNotPresent or Never, or use the built-in image portolan.local/testserver"
        };
        Err(failed(message.to_owned()))
    }

    async fn images(&self) -> Result<Vec<ImageStatus>, RuntimeError> {
        let images = self.shared.config.images.clone();
        let list = blocking("list images", move || images.list().map_err(other_at("list images"))).await?;
        Ok(list.iter().map(Self::image_status).collect())
    }

    fn changes(&self) -> broadcast::Receiver<Changed> {
        self.shared.changes.subscribe()
    }
}

fn for_puller(secret: &PullSecret) -> registry::PullSecret {
    let PullSecret { name, legacy, document } = secret.clone();
    registry::PullSecret { name, legacy, document }
}
