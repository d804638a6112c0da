//! Images in the supervisor, which has the host's network: pulls for all nodes, and the import folder.
//!
//! Not responsible for either (`images`).

use std::collections::BTreeSet;
use std::path::PathBuf;

use ::images::registry::{PullSettings, Puller, serve};
use ::images::{ImageStore, ImportFolder, Imported};
use anyhow::{Context, Result, anyhow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::progress;
use crate::cli::Registries;
use crate::failure::told;
use crate::system::{DataDir, SocketPath};

/// What serves images until the system ends.
pub struct Images {
    puller: Puller,
    tasks: JoinSet<()>,
}

impl Images {
    /// Listens for nodes' requests and looks into the import folder.
    pub fn start(dir: &DataDir, registries: &Registries, stop: &CancellationToken) -> Result<Self> {
        let store = ImageStore::open(dir.path(), None).context("cannot open the images")?;
        let puller = Puller::new(store.clone(), &settings(registries));
        let socket = SocketPath::new(&dir.pull_socket()).context("the socket for pulls")?;
        let listener = socket.listen().context("cannot take nodes' requests to pull images")?;
        let folder = ImportFolder::open(store).context("cannot use the import folder")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, puller.clone(), stop.clone()));
        tasks.spawn(folder.run(report, stop.clone()));
        Ok(Self { puller, tasks })
    }

    pub fn puller(&self) -> &Puller {
        &self.puller
    }

    /// Waits until a part of it ends, which none should.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Err(error)) => anyhow::Error::new(error).context("what serves images panicked"),
            _ => anyhow!("what serves images ended"),
        }
    }

    /// Waits for every part's end, after `stop` is cancelled.
    pub async fn end(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// How pulls are done by this process.
pub fn settings(registries: &Registries) -> PullSettings {
    PullSettings { mirrors: registries.mirrors.clone(), docker_configs: docker_configs() }
}

/// What is being pulled, for the line that says what is waited for. In tenths: a line for every change is too much.
pub fn under_way(puller: &Puller) -> Vec<String> {
    let words = |pull: ::images::registry::UnderWay| match (pull.done * 10).checked_div(pull.total) {
        None => format!("image {}", pull.reference),
        Some(tenths) => format!("image {} ({}0% of {})", pull.reference, tenths, size(pull.total)),
    };
    puller.under_way().into_iter().map(words).collect()
}

/// Bytes for a person.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

fn report(imported: Imported) {
    match imported.result {
        Ok(images) => {
            let names: Vec<String> = images.into_iter().flat_map(|image| image.names).collect();
            progress::tell(&format!("imported {} from {}", names.join(", "), imported.file.display()));
        }
        Err(error) => {
            let error = anyhow::Error::new(error);
            let why = told(&error);
            progress::tell(&format!("cannot import {}: {why}; it is left there", imported.file.display()));
        }
    }
}

/// Docker's configuration files: the one that $DOCKER_CONFIG names, or else those of the user and of whoever called sudo.
fn docker_configs() -> Vec<PathBuf> {
    if let Some(directory) = std::env::var_os("DOCKER_CONFIG") {
        return vec![PathBuf::from(directory).join("config.json")];
    }
    let caller = std::env::var("SUDO_UID").ok().and_then(|uid| home_of(&uid));
    let own = std::env::var_os("HOME").map(PathBuf::from);
    let homes: BTreeSet<PathBuf> = caller.into_iter().chain(own).collect();
    homes.into_iter().map(|home| home.join(".docker/config.json")).collect()
}

/// The home directory of a user id (passwd(5)).
fn home_of(uid: &str) -> Option<PathBuf> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut users = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|user| user.get(2) == Some(&uid))?;
    user.get(5).filter(|home| !home.is_empty()).map(PathBuf::from)
}
