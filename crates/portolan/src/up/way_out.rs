//! How pods get outside (`--egress`): what is opened for it. Taking back what of it is on the host is `system`'s work.

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

/// Opens it; a relay runs until the token is cancelled. What is changed on the host stands in the record before. Where
/// nobody chose, and the kernel can't do what is chosen by default, pods have no way out and the user is told so.
pub async fn open(
    mode: Option<Egress>,
    plan: &Plan,
    fabric: &Fabric,
    dir: &DataDir,
    record: &mut Record,
    stop: &CancellationToken,
) -> Result<Option<JoinHandle<()>>> {
    match mode {
        Some(Egress::Relay) | None => match Relay::new(fabric.namespace(), &plan.inside()).await {
            Ok(relay) => {
                more_files();
                return Ok(Some(tokio::spawn(relay.run(stop.clone()))));
            }
            Err(error) if mode.is_none() => {
                progress::tell(&format!("pods have no way out: {error}{INSTEAD}"));
                close(plan, fabric).await?;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot relay what pods send outside{INSTEAD}")),
        },
        Some(Egress::None) => close(plan, fabric).await?,
        Some(Egress::Nat) => {
            let table = HostTable::new(fabric.host_link().as_str());
            record.host_table = Some(table.clone());
            record.save(dir)?;
            forwarding::take(&NetNs::current()?, dir, plan.families())?;
            table.make(fabric.host_link().as_str(), &plan.sources())?;
        }
    }
    Ok(None)
}

async fn close(plan: &Plan, fabric: &Fabric) -> Result<()> {
    egress::refuse(fabric.namespace(), &plan.inside()).await.context("cannot refuse what pods send outside")
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
