//! What outlives its owner: the fabric and the nodes of a supervisor that was killed, taken over by the next one; and a
//! node that ended by itself, started again.
//!
//! Only nodes that run exactly what would be started now are taken over, by the very same executable; otherwise what is
//! left is cleared away. Not responsible for how a node is started or ended (`nodes`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::Client;

use super::fabric::Fabric;
use super::network::Plan;
use super::nodes::{Node, Start};
use super::{base, progress};
use crate::cli::Up;
use crate::failure::told;
use crate::system::{DataDir, HostTable, Record, clear};

/// A node that ended sooner than this after its start failed to start.
const GOOD_RUN: Duration = Duration::from_secs(5);
/// In a row, later each time.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(100);

/// What still runs and can be used.
#[derive(Default)]
pub struct Left {
    pub fabric: Option<Fabric>,
    /// By number; those that aren't here have ended.
    pub nodes: BTreeMap<u32, Node>,
    /// What was made on the host to let pods out.
    pub host_table: Option<HostTable>,
}

/// What of the command line isn't in the nodes' configurations, and has to be the same: the links' and the host's part.
pub fn asked(plan: &Plan, options: &Up) -> Vec<String> {
    let networks = plan.inside().into_iter().map(|net| net.to_string());
    let ways = plan.way_out().into_iter().chain(plan.resolver()).map(|address| format!("out by {address}"));
    networks.chain(ways).chain(options.host_dns.then(|| "--host-dns".to_owned())).collect()
}

/// What an earlier supervisor left and this one can use; anything else of it is gone afterwards.
pub async fn find(dir: &DataDir, plan: &Plan, options: &Up, starts: &[Start]) -> Result<Left> {
    let Some(record) = Record::load(dir)? else { return Ok(Left::default()) };
    if record.asked == asked(plan, options)
        && let Some(left) = usable(&record, plan, starts).await?
    {
        progress::tell(&format!("taking over what process {} left running", record.supervisor));
        return Ok(left);
    }
    progress::tell(&format!("clearing away what process {} left", record.supervisor));
    clear(dir, &record).await?;
    for made in [dir.run(), dir.sockets()] {
        dir.make(&made)?;
    }
    Ok(Left::default())
}

async fn usable(record: &Record, plan: &Plan, starts: &[Start]) -> Result<Option<Left>> {
    let (mut nodes, mut gone) = (BTreeMap::new(), Vec::new());
    for found in &record.nodes {
        let Some(start) = starts.iter().find(|start| start.name == found.name) else { return Ok(None) };
        match Node::take_over(start, found)? {
            Some(node) => drop(nodes.insert(start.index, node)),
            None => gone.push((start, found)),
        }
    }
    let Some(holder) = nodes.values().next().map(|node| node.record.starter) else { return Ok(None) };
    let Some(fabric) = Fabric::take_over(plan, holder, &record.host_link).await? else { return Ok(None) };
    for (start, found) in gone {
        Node::clear(start, found).await?;
    }
    Ok(Some(Left { fabric: Some(fabric), nodes, host_table: record.host_table.clone() }))
}

/// Starts a node. Its processes start when it stands in the record.
pub async fn start(start: &Start, fabric: &Fabric, nodes: &mut BTreeMap<u32, Node>, record: &mut Record) -> Result<()> {
    let mut node = Node::start(start, fabric).await?;
    record.nodes.retain(|known| known.name != start.name);
    record.nodes.push(node.record.clone());
    // Before it has been told to go, it ends when it's dropped.
    record.save(&start.dir)?;
    node.go();
    nodes.insert(start.index, node);
    Ok(())
}

/// Starts a node again whenever one ends by itself. Returns only with an error.
pub async fn keep(
    nodes: &mut BTreeMap<u32, Node>,
    starts: &[Start],
    fabric: &Fabric,
    client: &Client,
    record: &mut Record,
) -> Result<()> {
    let mut tries = 0;
    loop {
        let since = Instant::now();
        let index = first_to_end(nodes).await?;
        if since.elapsed() > GOOD_RUN {
            tries = 0;
        }
        let (Some(start), Some(ended)) = (starts.iter().find(|start| start.index == index), nodes.remove(&index))
        else {
            continue;
        };
        progress::tell(&format!("node {} ended by itself: starting it again", start.name));
        loop {
            tries += 1;
            ensure!(tries <= TRIES, "node {} keeps ending; see {}", start.name, start.dir.logs().display());
            tokio::time::sleep(PAUSE * (tries - 1)).await;
            match again(start, &ended, fabric, client, nodes, record).await {
                Ok(()) => break,
                Err(error) => progress::tell(&format!("cannot start node {} again: {}", start.name, told(&error))),
            }
        }
    }
}

async fn again(
    start: &Start,
    ended: &Node,
    fabric: &Fabric,
    client: &Client,
    nodes: &mut BTreeMap<u32, Node>,
    record: &mut Record,
) -> Result<()> {
    Node::clear(start, &ended.record).await?;
    base::forget_readiness(client, std::slice::from_ref(&start.name)).await?;
    self::start(start, fabric, nodes, record).await
}

async fn first_to_end(nodes: &BTreeMap<u32, Node>) -> Result<u32> {
    let ends = nodes.iter().map(|(index, node)| Box::pin(async move { node.ended().await.map(|()| *index) }));
    futures::future::select_all(ends).await.0
}
