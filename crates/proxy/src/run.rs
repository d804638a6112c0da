//! A whole proxy: watches, model, a syncer per family, health probes, Events. Starts the parts and stops them; decides
//! nothing.

use std::time::Instant;

use conntrack::{Conntrack, ConntrackError};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::watcher;
use runtime::events::{Note, NoteKind, Recorder, recorder};
use service_model::{EndpointSlice, Event, IpFamily, Node, NodeView, Service, ServiceCidr, ServiceModel};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::config::reach::{HostAddresses, primary_addresses};
use crate::config::{Config, FollowedAddresses};
use crate::health::{ListenError, Server};
use crate::metrics::{ENDPOINT_CHANGES, ENDPOINT_CHANGES_PENDING, SERVICE_CHANGES, SERVICE_CHANGES_PENDING};
use crate::status::Status;
use crate::syncer::{Complaint, Shared, State, Syncer};
use crate::watch::{News, What, follow, ours};

/// News on their way to the model; a watch that is ahead of it waits.
const NEWS: usize = 1024;
/// The cluster autoscaler's announcement that it will remove the node (KEP-3836).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Health(#[from] ListenError),
    #[error("cannot read connection tracking")]
    Conntrack(#[from] ConntrackError),
}

/// Runs a proxy in the current network namespace until cancelled. Rules stay in force afterwards: a restarted proxy
/// adopts them.
pub async fn run<B: Backend>(
    client: Client,
    config: Config,
    backends: impl IntoIterator<Item = B>,
    status: Status,
    token: CancellationToken,
) -> Result<(), RunError> {
    let shared = Shared::new(node_view(&config));
    let backends: Vec<B> = backends.into_iter().collect();
    let mut tasks = JoinSet::new();
    let mode = backends.first().map_or("", Backend::name);
    let servers = [
        (config.health_address, Server::Health(status.clone())),
        (config.metrics_address, Server::Metrics(status.clone(), mode)),
    ];
    for (address, server) in servers {
        if let Some(address) = address {
            tasks.spawn(server.start(address, !config.bind_hard_fail, token.clone()).await?);
        }
    }
    let (recorder, publisher) = recorder(client.clone(), "portolan-proxy");
    tasks.spawn(publisher.run(token.clone()));
    for backend in backends {
        enable_forwarding(backend.family());
        let recorder = recorder.clone();
        let complain = move |complaint: &Complaint, model: &ServiceModel| publish(&recorder, complaint, model);
        let conntrack = Some(Conntrack::open()?);
        let syncer = Syncer::new(backend, shared.clone(), status.clone(), conntrack, complain);
        tasks.spawn(syncer.run(token.clone()));
    }
    let news = watch_all(&mut tasks, client, &config.node_name, &token);
    take_in(news, &shared, &status, config.follow, &token).await;
    token.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// What would be done now, as each backend's own tool would be fed; nothing is. Ends early, with nothing, if cancelled.
pub async fn preview<B: Backend>(
    client: Client,
    config: Config,
    backends: impl IntoIterator<Item = B>,
    token: CancellationToken,
) -> Result<Vec<String>, B::Error> {
    let (shared, status) = (Shared::new(node_view(&config)), Status::default());
    let mut tasks = JoinSet::new();
    let watching = token.child_token();
    let news = watch_all(&mut tasks, client, &config.node_name, &watching);
    tokio::select! {
        () = take_in(news, &shared, &status, config.follow, &watching) => return Ok(Vec::new()),
        () = shared.complete() => {}
    }
    watching.cancel();
    while tasks.join_next().await.is_some() {}
    let mut plans = Vec::new();
    for backend in backends {
        let Some(table) = shared.table(backend.family()) else { continue };
        let observed = backend.observe().await?;
        plans.push(backend.plan(&backend.desired(&table), &observed).to_string());
    }
    Ok(plans)
}

fn node_view(config: &Config) -> NodeView {
    let mut node = NodeView::named(&config.node_name);
    node.node_ports = config.node_port_addresses.clone();
    node.local_traffic = config.local_traffic.clone();
    node.masquerade_all = config.masquerade_all;
    node
}

fn watch_all(
    tasks: &mut JoinSet<()>,
    client: Client,
    node_name: &str,
    token: &CancellationToken,
) -> mpsc::Receiver<News> {
    let (sender, news) = mpsc::channel(NEWS);
    let own_node = watcher::Config::default().fields(&format!("metadata.name={node_name}"));
    tasks.spawn(follow::<Service>(client.clone(), ours(), sender.clone(), token.clone()));
    tasks.spawn(follow::<EndpointSlice>(client.clone(), ours(), sender.clone(), token.clone()));
    tasks.spawn(follow::<ServiceCidr>(client.clone(), watcher::Config::default(), sender.clone(), token.clone()));
    tasks.spawn(follow::<Node>(client, own_node, sender, token.clone()));
    news
}

async fn take_in(
    mut news: mpsc::Receiver<News>,
    shared: &Shared,
    status: &Status,
    mut addresses: Option<FollowedAddresses>,
    token: &CancellationToken,
) {
    let mut own_node = None;
    loop {
        let news = tokio::select! {
            () = token.cancelled() => return,
            () = changed(addresses.as_mut()) => {
                shared.change(Instant::now(), |state| take_node(state, own_node.as_ref(), addresses.as_ref()));
                continue;
            }
            news = news.recv() => news,
        };
        let Some(News { at, what }) = news else { return };
        match what {
            What::Model(event) => {
                count(status, &event);
                shared.change(at, |state| {
                    let before = (state.model.revision(), state.model.is_complete());
                    state.model.apply(event);
                    before != (state.model.revision(), state.model.is_complete())
                });
            }
            What::Node(node) => {
                let leaving = |node: &Node| node.spec.taints.iter().any(|taint| taint.key == TO_BE_DELETED);
                status.set_node_eligible(node.as_ref().is_some_and(|node| !leaving(node)));
                shared.change(at, |state| {
                    let changed = take_node(state, node.as_ref(), addresses.as_ref());
                    !std::mem::replace(&mut state.node_known, true) || changed
                });
                own_node = node.or(own_node);
            }
        }
    }
}

/// Waits for the machine's addresses to change; for ever if nobody follows them.
async fn changed(addresses: Option<&mut FollowedAddresses>) {
    let changed = match addresses {
        Some(addresses) => addresses.host.changed().await,
        None => std::future::pending().await,
    };
    if changed.is_err() {
        // Nobody looks any more: what was seen last stays.
        std::future::pending().await
    }
}

fn count(status: &Status, event: &Event) {
    let families = match event {
        Event::Service(_) => [&SERVICE_CHANGES, &SERVICE_CHANGES_PENDING],
        Event::EndpointSlice(_) => [&ENDPOINT_CHANGES, &ENDPOINT_CHANGES_PENDING],
        _ => return,
    };
    families.into_iter().for_each(|family| status.metrics().increment(family, &[]));
}

/// A Node that has gone leaves its last known state in force.
fn take_node(state: &mut State, node: Option<&Node>, addresses: Option<&FollowedAddresses>) -> bool {
    let before = state.node.clone();
    if let Some(node) = node {
        state.node.observe(node);
    }
    if let Some(FollowedAddresses { reach, host, bind_address }) = addresses {
        let primary = node.map(|node| primary_addresses(node, *bind_address)).unwrap_or_default();
        let host = HostAddresses { all: host.borrow().clone(), primary };
        // Without a Node, nothing is known of its primary addresses.
        if node.is_some() || !reach.primary {
            state.node.node_ports = reach.resolve(&host);
        }
    }
    before != state.node
}

/// Services are forwarded to pods on other links, so the namespace has to forward. (Not `route_localnet`: it would open
/// the node's loopback to its neighbours, CVE-2020-8558.)
fn enable_forwarding(family: IpFamily) {
    let path = match family {
        IpFamily::V4 => "/proc/sys/net/ipv4/ip_forward",
        IpFamily::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
    };
    if std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1") {
        return;
    }
    if let Err(error) = std::fs::write(path, "1") {
        tracing::warn!(path, %error, "forwarding is off and cannot be switched on");
    }
}

fn publish(recorder: &Recorder, complaint: &Complaint, model: &ServiceModel) {
    let service = model.view().service(&complaint.service);
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(complaint.service.namespace().to_owned()),
        name: Some(complaint.service.name().to_owned()),
        uid: service.map(|service| service.metadata.uid.clone()),
        ..ObjectReference::default()
    };
    let reason = complaint.reason.to_owned();
    recorder.publish(Note { about, kind: NoteKind::Warning, reason, message: complaint.message.clone() });
}
