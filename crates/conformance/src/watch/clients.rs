//! Clients as people have them: kube-rs with both ways to begin, and kubectl.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use conformance::program;
use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::oneshot;

use super::history::{CONFIG_MAPS, KINDS, Kind, PODS, Stage};
use super::probes::Probes;
use super::stream::{End, Lines};

/// Starts them all.
pub fn start(stage: &Stage, probes: &mut Probes) -> Result<()> {
    let kubectl = program("kubectl")?;
    for kind in KINDS {
        for (name, config, end) in [
            ("kube-rs, list and watch", watcher::Config::default(), "zz-none"),
            ("kube-rs, list and watch, pages of two", watcher::Config::default().page_size(2), "zz-none"),
            ("kube-rs, any state first", watcher::Config::default().any_semantic(), "zz-none"),
            ("kube-rs, streaming list", watcher::Config::default().streaming_lists(), "zz-none"),
            (
                "kube-rs, streaming list, label",
                watcher::Config::default().streaming_lists().labels("tier=front"),
                "zz-front",
            ),
        ] {
            let api = api(stage, kind);
            let end = stage.end(0, end);
            probes.start(format!("{}: {name}", kind.plural), kind.plural, |lines, opened| {
                kube_rs(api, config, end, lines, opened)
            });
        }
    }
    for kind in [CONFIG_MAPS, PODS] {
        for (name, flags, end) in [
            ("kubectl get --watch", vec!["-n", &stage.namespaces[0]], stage.end(0, "zz-none")),
            ("kubectl get --watch -l", vec!["-n", &stage.namespaces[0], "-l", "tier=front"], stage.end(0, "zz-front")),
            ("kubectl get --watch -A", vec!["-A", "-l", "app"], stage.end(1, "zz-none")),
        ] {
            let arguments = ["get", kind.plural, "--watch", "--output-watch-events", "-o", "json"];
            let command = command(stage, &kubectl, arguments.into_iter().chain(flags));
            probes.start(format!("{}: {name}", kind.plural), kind.plural, |lines, opened| {
                kubectl_watch(command, Some(end), lines, opened)
            });
        }
    }
    for line in [
        "wait --for=create configmap/zz-none",
        "wait --for=delete pod/gone service/gone",
        "wait --for=condition=Ready pod/base-ready pod/zz-none",
        "wait --for=jsonpath={.status.phase}=Running pod/zz-front",
        "wait --for=jsonpath={.metadata.annotations.end}=yes configmap/base deployment/base",
        "wait --for=condition=Available deployment/base --timeout=1s",
        "wait --for=create pod/never --timeout=1s",
        "wait --for=delete pod/never",
        "wait --for=delete pod -l tier=none",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let patience = if line.contains("--timeout") { "--output=name" } else { "--timeout=9s" };
        let flags = ["-n", &stage.namespaces[0], patience];
        let command = command(stage, &kubectl, words.into_iter().chain(flags));
        probes.start(format!("kubectl {line}"), "pods", |lines, opened| kubectl_once(command, lines, opened));
    }
    Ok(())
}

fn api(stage: &Stage, kind: &Kind) -> Api<DynamicObject> {
    let (group, version) = kind.api_version.split_once('/').unwrap_or(("", kind.api_version));
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.kind), kind.plural);
    Api::namespaced_with(stage.server.watcher(), &stage.namespaces[0], &resource)
}

async fn kube_rs(
    api: Api<DynamicObject>,
    config: watcher::Config,
    end: End,
    lines: Lines,
    opened: oneshot::Sender<()>,
) -> Result<()> {
    let mut events = std::pin::pin!(watcher(api, config));
    let mut opened = Some(opened);
    while let Some(event) = events.next().await {
        let (kind, object) = match event? {
            Event::Init => ("Init", None),
            Event::InitApply(object) => ("InitApply", Some(object)),
            Event::InitDone => ("InitDone", None),
            Event::Apply(object) => ("Apply", Some(object)),
            Event::Delete(object) => ("Delete", Some(object)),
        };
        let object = serde_json::to_value(object)?;
        let last = end.is(&object);
        lines.push(json!({"type": kind, "object": object}));
        if kind == "InitDone"
            && let Some(opened) = opened.take()
        {
            // Nobody waits any more for one that opens too late.
            let _ = opened.send(());
        }
        if last {
            break;
        }
    }
    Ok(())
}

fn command<'a>(stage: &Stage, kubectl: &PathBuf, arguments: impl Iterator<Item = &'a str>) -> Command {
    let mut command = Command::new(kubectl);
    let home = stage.server.kubeconfig.with_file_name(format!("home-{}", stage.namespaces[0]));
    command.args(arguments).env("KUBECONFIG", &stage.server.kubeconfig).env("HOME", home);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The documents that kubectl prints, until the end's.
async fn kubectl_watch(
    mut command: Command,
    end: Option<End>,
    lines: Lines,
    opened: oneshot::Sender<()>,
) -> Result<()> {
    let mut child = command.spawn().context("starting kubectl")?;
    let mut output = child.stdout.take().context("its output")?;
    let (mut opened, mut pending) = (Some(opened), Vec::new());
    loop {
        let mut piece = [0; 16 * 1024];
        let length = output.read(&mut piece).await?;
        if length == 0 {
            lines.push(json!(format!("kubectl ended with {}", child.wait().await?)));
            return Ok(());
        }
        pending.extend_from_slice(&piece[..length]);
        let mut documents = serde_json::Deserializer::from_slice(&pending).into_iter::<Value>();
        let (mut done, mut last) = (0, false);
        while let Some(Ok(document)) = documents.next() {
            done = documents.byte_offset();
            last |= end.as_ref().is_some_and(|end| end.is(&document["object"]));
            lines.push(document);
            if last {
                break;
            }
        }
        pending.drain(..done);
        if let Some(opened) = opened.take().filter(|_| done > 0) {
            // Nobody waits any more for one that opens too late.
            let _ = opened.send(());
        }
        if last {
            child.kill().await?;
            return Ok(());
        }
    }
}

/// What a kubectl says that ends by itself.
async fn kubectl_once(mut command: Command, lines: Lines, opened: oneshot::Sender<()>) -> Result<()> {
    let child = command.spawn().context("starting kubectl")?;
    // It doesn't say when it has begun to wait; what it answers is the same before and after.
    let _ = opened.send(());
    let output = child.wait_with_output().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    lines.push(json!([output.status.code(), text(&output.stdout), text(&output.stderr)]));
    Ok(())
}
