//! A whole proxy: watches, model, a syncer per family, health probes, Events. Starts the parts and stops them; decides
//! nothing.

use conntrack::{Conntrack, ConntrackError};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::watcher;
use runtime::events::{Note, NoteKind, Recorder, recorder};
use service_model::{EndpointSlice, IpFamily, Node, NodeView, Service, ServiceCidr, ServiceModel};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::config::Config;
use crate::health::{self, ListenError};
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
    let mut node = NodeView::named(&config.node_name);
    node.node_ports = config.node_port_addresses.clone();
    node.masquerade_all = config.masquerade_all;
    let shared = Shared::new(node);
    let mut tasks = JoinSet::new();
    if let Some(address) = config.health_address {
        let listener = health::listen(address).await?;
        tasks.spawn(health::serve(listener, status.clone(), token.clone()));
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
    let (sender, news) = mpsc::channel(NEWS);
    let own_node = watcher::Config::default().fields(&format!("metadata.name={}", config.node_name));
    tasks.spawn(follow::<Service>(client.clone(), ours(), sender.clone(), token.clone()));
    tasks.spawn(follow::<EndpointSlice>(client.clone(), ours(), sender.clone(), token.clone()));
    tasks.spawn(follow::<ServiceCidr>(client.clone(), watcher::Config::default(), sender.clone(), token.clone()));
    tasks.spawn(follow::<Node>(client, own_node, sender, token.clone()));
    take_in(news, &shared, &status, &token).await;
    token.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn take_in(mut news: mpsc::Receiver<News>, shared: &Shared, status: &Status, token: &CancellationToken) {
    loop {
        let news = tokio::select! {
            () = token.cancelled() => return,
            news = news.recv() => news,
        };
        let Some(News { at, what }) = news else { return };
        match what {
            What::Model(event) => shared.change(at, |state| {
                let before = (state.model.revision(), state.model.is_complete());
                state.model.apply(event);
                before != (state.model.revision(), state.model.is_complete())
            }),
            What::Node(node) => {
                let leaving = |node: &Node| node.spec.taints.iter().any(|taint| taint.key == TO_BE_DELETED);
                status.set_node_eligible(node.as_ref().is_some_and(|node| !leaving(node)));
                shared.change(at, |state| take_node(state, node.as_ref()));
            }
        }
    }
}

/// A Node that has gone leaves its last known state in force.
fn take_node(state: &mut State, node: Option<&Node>) -> bool {
    let before = (state.node.clone(), state.node_known);
    if let Some(node) = node {
        state.node.observe(node);
    }
    state.node_known = true;
    before != (state.node.clone(), state.node_known)
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
