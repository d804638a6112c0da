//! What clients are told about revisions that are no longer kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use conformance::{Ours, program};
use serde_json::{Value, json};

use super::history::{CONFIG_MAPS, Stage};
use super::record::{Record, Told};
use super::stream::get;
use super::{BOUND, Server};

/// The seed of the stage; no history has it.
const STAGE: u64 = 0;
const JSON: &str = "application/json";

/// The original's store.
pub struct Etcd {
    etcdctl: PathBuf,
}

impl Etcd {
    pub fn new() -> Result<Self> {
        Ok(Etcd { etcdctl: program("etcdctl")? })
    }
}

/// Forgets everything before now.
pub async fn compact_etcd(etcd: Arc<Etcd>) -> Result<()> {
    let run = async |arguments: &[&str]| -> Result<String> {
        let mut command = tokio::process::Command::new(&etcd.etcdctl);
        let output = command.arg("--endpoints=http://127.0.0.1:2379").args(arguments).output().await?;
        ensure!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let status: Value = serde_json::from_str(&run(&["endpoint", "status", "-w", "json"]).await?)?;
    let revision = status[0]["Status"]["header"]["revision"].as_i64().context("etcd's revision")?;
    run(&["compact", &revision.to_string()]).await?;
    Ok(())
}

pub async fn compact_ours(ours: &Ours) -> Result<()> {
    ours.compact().await
}

/// A page, then a compaction, then the next page and other reads of the past.
pub async fn play<F>(server: &Server, compact: impl FnOnce() -> F) -> Result<Record>
where
    F: Future<Output = Result<()>>,
{
    let mut record = Record::default();
    let mut stage = Stage::set(server, STAGE).await?;
    let path = CONFIG_MAPS.within(&stage.namespaces[0]);
    for name in ["a", "b", "c"] {
        stage.send("POST", &path, &CONFIG_MAPS.object(name, "front", 1)).await?;
    }
    stage.mark().await?;
    let (_, first) = get(&server.client, &format!("{path}?limit=1"), JSON).await?;
    let token = first["metadata"]["continue"].as_str().context("a token")?.to_owned();
    stage.send("POST", &path, &CONFIG_MAPS.object("d", "front", 1)).await?;
    stage.send("DELETE", &format!("{path}/b"), &json!({})).await?;
    compact().await?;
    let past = stage.revision(&CONFIG_MAPS, 1).to_owned();
    let next = format!("{path}?limit=1&continue={token}");
    // The original's caches keep snapshots until they hear of it.
    let begun = Instant::now();
    while get(&server.client, &next, JSON).await?.0 == 200 && begun.elapsed() < BOUND {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let mut lines = Vec::new();
    let mut ask = async |what: &str, url: &str| -> Result<Value> {
        let (code, body) = get(&server.client, url, JSON).await?;
        lines.push(json!({"what": what, "code": code, "object": body}));
        Ok(body)
    };
    let refused = ask("the next page", &next).await?;
    ask("exactly the past", &format!("{path}?resourceVersion={past}&resourceVersionMatch=Exact")).await?;
    ask("the past by a limit", &format!("{path}?resourceVersion={past}&limit=1")).await?;
    ask("not older than the past", &format!("{path}?resourceVersion={past}&resourceVersionMatch=NotOlderThan")).await?;
    ask("an object not older than the past", &format!("{path}/a?resourceVersion={past}")).await?;
    let mut token = refused["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    while !token.is_empty() && begun.elapsed() < 2 * BOUND {
        let body = ask("going on all the same", &format!("{path}?limit=2&continue={token}")).await?;
        token = body["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    }
    record.take(vec![(Told { name: "after compaction".to_owned(), plural: CONFIG_MAPS.plural, lines }, false)]);
    Ok(record)
}
