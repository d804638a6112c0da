//! Takes what the watches bring into the model, and what is configured about the node beside it. Not responsible for
//! watching.

use std::time::{Instant, SystemTime};

use kube::Client;
use kube::runtime::watcher;
use service_model::{EndpointSlice, Event, LocalTraffic, Node, NodeView, Service, ServiceCidr};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::reach::{HostAddresses, primary_addresses};
use crate::config::{Config, FollowedAddresses};
use crate::metrics::{ENDPOINT_CHANGES, ENDPOINT_CHANGES_PENDING, SERVICE_CHANGES, SERVICE_CHANGES_PENDING};
use crate::status::Status;
use crate::syncer::{Shared, State};
use crate::watch::{News, Trigger, What, follow, our_services, our_slices};

/// News on their way to the model; a watch that is ahead of it waits.
pub(crate) const NEWS: usize = 1024;
/// The cluster autoscaler's announcement that it will remove the node (KEP-3836).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// The model's only writer.
pub(crate) struct Intake {
    shared: Shared,
    status: Status,
    config: watch::Receiver<Config>,
    own_node: Option<Node>,
    started: SystemTime,
}

/// What is known of the node before it has been seen.
pub(crate) fn node_view(config: &Config) -> NodeView {
    let mut node = NodeView::named(&config.node_name);
    node.node_ports = config.node_port_addresses.clone();
    node.local_traffic = config.local_traffic.clone();
    if let LocalTraffic::Cidrs(cidrs) = &config.local_traffic {
        node.pod_cidrs = cidrs.clone();
    }
    node.masquerade_all = config.masquerade_all;
    node
}

/// Starts the watches, which end with the token.
pub(crate) fn watch_all(
    tasks: &mut JoinSet<()>,
    client: &Client,
    node_name: &str,
    news: &mpsc::Sender<News>,
    token: &CancellationToken,
) {
    let own_node = watcher::Config::default().fields(&format!("metadata.name={node_name}"));
    tasks.spawn(follow::<Service>(client.clone(), our_services(), news.clone(), token.clone()));
    tasks.spawn(follow::<EndpointSlice>(client.clone(), our_slices(), news.clone(), token.clone()));
    tasks.spawn(follow::<ServiceCidr>(client.clone(), watcher::Config::default(), news.clone(), token.clone()));
    tasks.spawn(follow::<Node>(client.clone(), own_node, news.clone(), token.clone()));
}

impl Intake {
    pub(crate) fn new(shared: Shared, status: Status, config: watch::Receiver<Config>) -> Intake {
        Intake { shared, status, config, own_node: None, started: SystemTime::now() }
    }

    pub(crate) async fn run(mut self, mut news: mpsc::Receiver<News>, token: CancellationToken) {
        let mut addresses = self.config.borrow_and_update().follow.clone();
        loop {
            let news = tokio::select! {
                () = token.cancelled() => return,
                configured = self.config.changed() => {
                    if configured.is_err() {
                        return;
                    }
                    addresses = self.config.borrow_and_update().follow.clone();
                    self.shared.change(Instant::now(), |state| self.take_node(state));
                    continue;
                }
                () = changed(addresses.as_mut()) => {
                    self.shared.change(Instant::now(), |state| self.take_node(state));
                    continue;
                }
                news = news.recv() => news,
            };
            let Some(News { at, what, trigger }) = news else { return };
            match what {
                What::Model(event) => self.take_event(at, event, trigger),
                What::Node(node) => self.take_own_node(at, node),
            }
        }
    }

    fn take_event(&self, at: Instant, event: Event, trigger: Option<Trigger>) {
        self.count(&event);
        // What happened before this proxy ran says nothing about how fast it is.
        let trigger = trigger.filter(|trigger| trigger.at >= self.started);
        let of_cidrs = matches!(event, Event::ServiceCidr(_));
        self.shared.change(at, |state| {
            let news = of_cidrs && !std::mem::replace(&mut state.cidrs_known, true);
            let before = (state.model.revision(), state.model.is_complete());
            state.model.apply(event);
            let changed = before != (state.model.revision(), state.model.is_complete());
            if let Some(trigger) = trigger.filter(|_| changed) {
                state.triggers.entry(trigger.family).or_default().push(trigger.at);
            }
            changed || news
        });
    }

    fn take_own_node(&mut self, at: Instant, node: Option<Node>) {
        let leaving = |node: &Node| node.spec.taints.iter().any(|taint| taint.key == TO_BE_DELETED);
        self.status.set_node_eligible(node.as_ref().is_some_and(|node| !leaving(node)));
        // A Node that has gone leaves its last known state in force.
        self.own_node = node.or(self.own_node.take());
        self.shared.change(at, |state| {
            let changed = self.take_node(state);
            !std::mem::replace(&mut state.node_known, true) || changed
        });
    }

    fn count(&self, event: &Event) {
        let families = match event {
            Event::Service(_) => [&SERVICE_CHANGES, &SERVICE_CHANGES_PENDING],
            Event::EndpointSlice(_) => [&ENDPOINT_CHANGES, &ENDPOINT_CHANGES_PENDING],
            _ => return,
        };
        families.into_iter().for_each(|family| self.status.metrics().increment(family, &[]));
    }

    fn take_node(&self, state: &mut State) -> bool {
        let config = self.config.borrow();
        let mut view = node_view(&config);
        if let Some(node) = &self.own_node {
            view.observe(node);
        }
        if let Some(FollowedAddresses { reach, host, bind_address }) = &config.follow {
            // Without a Node, nothing is known of its primary addresses but what is configured.
            let nobody = Node::default();
            let primary = primary_addresses(self.own_node.as_ref().unwrap_or(&nobody), *bind_address);
            view.node_ports = reach.resolve(&HostAddresses { all: host.borrow().clone(), primary });
        }
        let changed = state.node != view;
        state.node = view;
        changed
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
