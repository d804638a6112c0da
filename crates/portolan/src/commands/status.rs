//! `portolan status`: what runs.

use std::process::ExitCode;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;

use crate::cli::System;
use crate::system::{DataDir, Record, SocketPath};
use crate::up::{View, export, table};

/// Prints nodes, Services and how to use kubectl. Exit code 1 when nothing runs.
#[allow(clippy::print_stdout, reason = "the command's output")]
pub async fn status(system: &System) -> Result<ExitCode> {
    let dir = DataDir::open(&system.data_dir)?;
    let record = if dir.locked()? { Record::load(&dir)? } else { None };
    let Some(record) = record else {
        println!("nothing runs on {}", dir.path().display());
        return Ok(ExitCode::FAILURE);
    };
    let socket = SocketPath::new(&dir.api_socket()).context("the API's socket")?;
    let client = runtime::transport::unix(socket.as_path());
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("cannot list nodes")?;
    for node in &nodes {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let name = node.metadata.name.as_deref().unwrap_or_default();
        println!("node {name}: {}", if ready { "ready" } else { "not ready" });
    }
    let view = View::read(&client).await?;
    print!("{}", table::text(&view.rows()));
    println!("{}", export(&dir));
    println!("supervisor: process {}", record.supervisor);
    Ok(ExitCode::SUCCESS)
}
