//! How pods get outside (`--egress`): what is opened for it, and what of it has to be taken back.

use anyhow::{Context, Result};
use egress::Relay;
use netns::NetNs;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fabric::Fabric;
use super::network::Plan;
use super::progress;
use crate::cli::Egress;
use crate::system::{DataDir, HostTable, Record, forwarding};

const INSTEAD: &str = " (--egress nat and --egress none do without)";

/// The way out of a running system.
pub enum WayOut {
    Relayed(JoinHandle<()>),
    Translated(HostTable),
    Closed,
}

impl WayOut {
    /// Opens it. What is changed on the host stands in the record before. Where nobody chose, and the kernel can't do
    /// what is chosen by default, pods have no way out and the user is told so.
    pub async fn open(
        mode: Option<Egress>,
        plan: &Plan,
        fabric: &Fabric,
        dir: &DataDir,
        record: &mut Record,
        stop: &CancellationToken,
    ) -> Result<Self> {
        match mode {
            Some(Egress::Relay) | None => match Relay::new(fabric.namespace(), &plan.inside()).await {
                Ok(relay) => {
                    more_files();
                    Ok(WayOut::Relayed(tokio::spawn(relay.run(stop.clone()))))
                }
                Err(error) if mode.is_none() => {
                    progress::tell(&format!("pods have no way out: {error}{INSTEAD}"));
                    Self::closed(plan, fabric).await
                }
                Err(error) => Err(error).with_context(|| format!("cannot relay what pods send outside{INSTEAD}")),
            },
            Some(Egress::None) => Self::closed(plan, fabric).await,
            Some(Egress::Nat) => {
                let table = HostTable::new(fabric.host_link().as_str());
                record.host_table = Some(table.clone());
                record.save(dir)?;
                forwarding::take(&NetNs::current()?, dir, plan.families())?;
                table.make(fabric.host_link().as_str(), &plan.sources())?;
                Ok(WayOut::Translated(table))
            }
        }
    }

    async fn closed(plan: &Plan, fabric: &Fabric) -> Result<Self> {
        let refused = egress::refuse(fabric.namespace(), &plan.inside()).await;
        refused.context("cannot refuse what pods send outside")?;
        Ok(WayOut::Closed)
    }

    /// Takes back what was changed on the host. A relay has ended with the token it was given.
    pub async fn close(self, dir: &DataDir) -> Result<()> {
        match self {
            WayOut::Relayed(task) => task.await.context("the relay panicked"),
            WayOut::Translated(table) => {
                table.remove()?;
                forwarding::give_back(&NetNs::current()?, dir)
            }
            WayOut::Closed => Ok(()),
        }
    }
}

/// Every relayed connection takes two descriptors, and the usual soft limit is 1024. What is started from here has the
/// raised limit as well, as containers have it with other runtimes.
fn more_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
