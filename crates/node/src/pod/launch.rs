//! Starting a container: its image, its configuration, its files, the runtime's calls, its `postStart` hook.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use pod_runtime::{ContainerId, ImageStatus, Mount, SandboxStatus};
use tokio_util::sync::CancellationToken;

use super::actions::Prepared;
use super::image;
use super::memory::FailureKind;
use super::shared::Shared;
use super::spec::{self, PodKey};
use super::{hooks, spec::Member, termination};
use crate::container::{self, Facts, FilesAndMounts, env};
use crate::hosts;
use crate::resolv::{self, ClusterDns, Resolv};
use crate::volumes;

/// Below a pod's own directory: what every container of it has in /etc.
pub const MANAGED_FILES: &str = "etc";

/// A start that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    pub kind: FailureKind,
    pub message: String,
    /// Whether the failure came from a full try, not from a look for the image.
    pub pulled: bool,
}

/// One start.
pub struct Launch {
    pub shared: Arc<Shared>,
    pub pod: Arc<Pod>,
    pub sandbox: SandboxStatus,
    pub prepared: Prepared,
    pub container: Container,
    pub field_path: String,
    pub attempt: u32,
    pub may_pull: bool,
    /// The pod ends: pulling makes no sense any more.
    pub ending: CancellationToken,
}

impl Launch {
    pub fn of(member: Member<'_>) -> (Container, String) {
        (member.container.clone(), member.field_path())
    }

    /// Returns when the container runs and its hook is through.
    pub async fn run(self) -> Result<(), Failed> {
        tokio::select! {
            () = self.ending.cancelled() => return Err(self.failed(FailureKind::Config, "the pod ends")),
            ready = self.shared.services.wait_until_ready() => {
                // Without it the environment would lack Services that exist.
                ready.map_err(|error| self.failed(FailureKind::Config, &error.to_string()))?;
            }
        }
        let image = image::get(&self).await?;
        if self.ending.is_cancelled() {
            return Err(self.failed(FailureKind::Config, "the pod ends"));
        }
        let spec = self.configure(image).await?;
        let runtime = &self.shared.runtime;
        let id = match runtime.create_container(&self.sandbox.spec.id, &spec).await {
            Ok(id) => id,
            Err(error) => return Err(self.failed(FailureKind::Create, &error.to_string())),
        };
        self.event(false, "Created", format!("Created container: {}", self.container.name));
        if let Err(error) = runtime.start_container(&id).await {
            return Err(self.failed(FailureKind::Run, &error.to_string()));
        }
        self.event(false, "Started", format!("Started container {}", self.container.name));
        self.post_start(&id).await
    }

    pub(super) fn failed(&self, kind: FailureKind, message: &str) -> Failed {
        Failed { kind, message: message.to_owned(), pulled: self.may_pull }
    }

    pub(super) fn event(&self, warning: bool, reason: &'static str, message: String) {
        self.shared.events.pod(&PodKey::of(&self.pod), Some(self.field_path.clone()), warning, reason, message);
    }

    pub(super) fn reference(&self) -> &str {
        self.container.image.as_deref().unwrap_or("")
    }

    async fn configure(&self, image: ImageStatus) -> Result<pod_runtime::ContainerSpec, Failed> {
        let config = |error: &dyn std::fmt::Display| self.failed(FailureKind::Config, &error.to_string());
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let sources = self.shared.sources(namespace, env::references(&self.container)).await;
        let sources = sources.map_err(|error| config(&error))?;
        let services = self.shared.services.state();
        let pod_ips = self.shared.pod_ips(&self.pod, Some(&self.sandbox));
        let facts = Facts { pod_ips: &pod_ips, services: &services, ..self.shared.facts() };
        let key = PodKey::of(&self.pod);
        let mut files = self.files(&facts).await.map_err(|error| config(&error))?;
        files.extend(self.last_words(&key).await.map_err(|error| config(&error))?);
        let log = self.shared.config.log_dir(&key).join(&self.container.name);
        tokio::fs::create_dir_all(&log).await.map_err(|error| config(&error))?;
        let ready = FilesAndMounts {
            volumes: self.prepared.volumes.clone(),
            files,
            log_path: log.join(format!("{}.log", self.attempt)),
            image_user: image.user,
            pids_limit: Some(self.shared.config.pids_limit),
        };
        let built = container::build(&self.pod, &self.container, self.attempt, ready, &sources, &facts);
        let (spec, parts) = built.map_err(|error| config(&error))?;
        for (root, inside) in &parts {
            volumes::ensure_part(root, inside).map_err(|error| config(&error))?;
        }
        Ok(spec)
    }

    /// The file for the container's last message.
    async fn last_words(&self, key: &PodKey) -> std::io::Result<Option<Mount>> {
        let Some(inside) = termination::path_inside(&self.container) else { return Ok(None) };
        let source = termination::path_on_node(&self.shared.config, &key.uid, &self.container.name, self.attempt);
        termination::make(&source).await?;
        Ok(Some(Mount { source, target: Path::new("/").join(inside), ..Mount::default() }))
    }

    /// The files that every container of the pod has: hosts, resolv.conf, hostname.
    async fn files(&self, facts: &Facts<'_>) -> std::io::Result<Vec<Mount>> {
        let config = &self.shared.config;
        let dir = config.pod_dir(self.pod.metadata.uid.as_deref().unwrap_or("")).join(MANAGED_FILES);
        tokio::fs::create_dir_all(&dir).await?;
        let node_resolv = tokio::fs::read_to_string(&config.resolv_conf).await.unwrap_or_default();
        let cluster = ClusterDns { servers: &config.cluster_dns, domain: &config.cluster_domain };
        let (resolv, said) = resolv::for_pod(&self.pod, &Resolv::parse(&node_resolv), cluster);
        for message in said {
            let key = PodKey::of(&self.pod);
            self.shared.events.pod(&key, None, true, "DNSConfigForming", message);
        }
        let names = hosts::names(&self.pod, &config.node_name, &config.cluster_domain)
            .map_err(|error| std::io::Error::other(error.to_string()))?;
        let aliases = spec::spec(&self.pod).host_aliases.as_deref().unwrap_or_default();
        let hosts = if spec::host_network(&self.pod) {
            let node = tokio::fs::read_to_string(&config.hosts_file).await.unwrap_or_default();
            hosts::node_hosts_file(&node, aliases)
        } else {
            hosts::hosts_file(&names, facts.pod_ips, aliases)
        };
        let files = [("hosts", hosts), ("resolv.conf", resolv.text()), ("hostname", format!("{}\n", names.hostname))];
        let mut mounts = Vec::new();
        for (name, text) in files {
            let source = dir.join(name);
            write_in_place(&source, &text).await?;
            mounts.push(Mount { source, inside: None, target: Path::new("/etc").join(name), read_only: false });
        }
        Ok(mounts)
    }

    async fn post_start(&self, id: &ContainerId) -> Result<(), Failed> {
        let handler = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(handler) = handler else { return Ok(()) };
        let ip = self.shared.pod_ips(&self.pod, Some(&self.sandbox)).first().copied();
        let runtime = &*self.shared.runtime;
        let hook = hooks::hook(runtime, id, &self.container, handler, ip, Duration::from_secs(3600));
        let result = tokio::select! {
            () = self.ending.cancelled() => return Ok(()),
            result = hook => result,
        };
        let Err(error) = result else { return Ok(()) };
        self.event(true, "FailedPostStartHook", format!("PostStartHook failed: {error}"));
        let signal = hooks::stop_signal(runtime, &self.container, self.reference()).await;
        if let Err(error) = runtime.stop_container(id, signal, spec::grace(&self.pod)).await {
            tracing::warn!(%error, container = self.container.name, "cannot stop a container whose postStart hook failed");
        }
        Err(self.failed(FailureKind::PostStart, &error.to_string()))
    }
}

/// Written in place, never renamed over: running containers have the file itself mounted.
async fn write_in_place(path: &Path, text: &str) -> std::io::Result<()> {
    match tokio::fs::read_to_string(path).await {
        Ok(known) if known == text => Ok(()),
        _ => tokio::fs::write(path, text).await,
    }
}
