//! A whole proxy: watches, model, a mode, health probes, Events. Starts the parts, exchanges those that a new configuration
//! is about, and stops them. Not responsible for reading configurations.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use conntrack::ConntrackError;
use kube::Client;
use runtime::events::{Recorder, Speaker, recorder_by};
use service_model::{IpFamily, ServiceModel, ServiceName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Retired};
use crate::config::Config;
use crate::counted::counted;
use crate::dump::Dump;
use crate::health::ListenError;
use crate::health_check_ports::{Failure, HealthCheckPorts};
use crate::intake::{Intake, NEWS, node_view, watch_all};
use crate::metrics::{
    BUILD_INFO, CLEANUP_FAILURES, KUBERNETES_BUILD, MODE, NFTABLES_CLEANUP_FAILURES, RELOAD_OK, RELOADS,
};
use crate::mode::{Backends, Difference, Mode, ModeError, Rules};
use crate::notices::{self, Notice, REFUSED};
use crate::servers::Servers;
use crate::status::Status;
use crate::switch::{Bench, Engine, SwitchError, clear};
use crate::syncer::{Complaint, Shared};
use crate::watch::News;

/// The Kubernetes whose proxy this one is like.
pub const EMULATED: &str = "v1.36.3";
const PLATFORM: &str = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
/// How long a look waits for what not every cluster has.
const FOR_CIDRS: Duration = Duration::from_secs(2);
/// How long after a failure, or while connections need it, what a former mode has left is tried to be removed again.
const CLEAR_AGAIN: Duration = Duration::from_secs(10);
/// The same where it's known that it takes some seconds.
const CLEAR_SOON: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Health(#[from] ListenError),
    #[error("cannot read connection tracking")]
    Conntrack(#[from] ConntrackError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
}

/// Everything a proxy is told. Two that share a client or a mode are the same in that respect.
#[derive(Clone)]
pub struct Setup {
    pub client: Arc<Client>,
    pub config: Config,
    pub mode: Arc<dyn Mode>,
    /// Whom the client asks, for those who count.
    pub server: String,
    /// The mode that was asked for, if another had to do.
    pub asked: &'static str,
    /// What is to be told about it.
    pub notices: Vec<Notice>,
    /// Whose rules are to go as soon as ours answer: what other modes or a former proxy have left.
    pub replaces: Vec<Arc<dyn Rules>>,
}

/// What a running proxy is told.
pub enum Order {
    /// To be something else from now on. Answered is whether it is.
    Become(Box<Setup>, oneshot::Sender<bool>),
    /// That there is a configuration nobody can follow.
    Refuse(String),
}

impl Setup {
    pub fn new(client: Client, config: Config, mode: Arc<dyn Mode>) -> Setup {
        let (asked, client) = (mode.name(), Arc::new(client));
        let server = "api".to_owned();
        Setup { client, config, mode, server, asked, notices: Vec::new(), replaces: Vec::new() }
    }
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
    let setup = Setup::new(client, config, Arc::new(Backends::new(backends)));
    // Nobody gives orders.
    let (_, orders) = mpsc::channel(1);
    serve(setup, orders, status, token).await
}

/// The same for a proxy that takes orders.
pub async fn serve(
    setup: Setup,
    mut orders: mpsc::Receiver<Order>,
    status: Status,
    token: CancellationToken,
) -> Result<(), RunError> {
    let mut proxy = Proxy::start(setup, status, &token).await?;
    let mut more = true;
    loop {
        tokio::select! {
            () = token.cancelled() => break,
            order = orders.recv(), if more => match order {
                Some(Order::Become(setup, done)) => {
                    // Whoever has stopped listening doesn't mind.
                    let _ = done.send(proxy.take(*setup).await);
                }
                Some(Order::Refuse(reason)) => proxy.refuse(&reason),
                None => more = false,
            },
            () = proxy.in_force(), if !proxy.leftovers.is_empty() => proxy.clear_leftovers().await,
        }
    }
    proxy.stop().await;
    Ok(())
}

/// What would be done now, as each backend's own tool would be fed; nothing is. Ends early, with nothing, if cancelled.
pub async fn preview(setup: Setup, token: CancellationToken) -> Result<Vec<Difference>, ModeError> {
    match listed(&setup, token).await {
        Some(shared) => setup.mode.look(&|family, loopback| shared.table(family, loopback)).await,
        None => Ok(Vec::new()),
    }
}

/// What should be in force beside what is, of all Services or of one. `None` if cancelled.
pub async fn dump(
    setup: Setup,
    service: Option<&ServiceName>,
    token: CancellationToken,
) -> Result<Option<Dump>, ModeError> {
    let Some(shared) = listed(&setup, token).await else { return Ok(None) };
    let looks = setup.mode.look(&|family, loopback| shared.table(family, loopback)).await?;
    Ok(Some(Dump::new(setup.mode.name(), &looks, service)))
}

/// Everything as it is listed now; `None` if cancelled.
async fn listed(setup: &Setup, token: CancellationToken) -> Option<Shared> {
    let (shared, status) = (Shared::new(node_view(&setup.config)), Status::default());
    let watching = token.child_token();
    let (mut tasks, config) = (JoinSet::new(), watch::Sender::new(setup.config.clone()));
    let (sender, news) = mpsc::channel(NEWS);
    watch_all(&mut tasks, &setup.client, &setup.config.node_name, &sender, &watching);
    tasks.spawn(Intake::new(shared.clone(), status, config.subscribe()).run(news, watching.clone()));
    tokio::select! {
        () = token.cancelled() => return None,
        () = shared.complete() => {
            // Clusters before 1.33 may not have ServiceCIDRs, and nobody would ever tell of them.
            let _ = tokio::time::timeout(FOR_CIDRS, shared.complete_with_cidrs()).await;
        }
    }
    watching.cancel();
    while tasks.join_next().await.is_some() {}
    Some(shared)
}

struct Proxy {
    setup: Setup,
    bench: Bench,
    engine: Engine,
    config: watch::Sender<Config>,
    servers: Servers,
    recorder: Recorder,
    speaker: watch::Sender<Speaker>,
    news: mpsc::Sender<News>,
    watches: (CancellationToken, JoinSet<()>),
    /// Those that live as long as the proxy.
    tasks: JoinSet<()>,
    /// What is to go.
    leftovers: Vec<Arc<dyn Rules>>,
    /// Those of them that only the last connections keep, or answers that are owed.
    draining: BTreeSet<&'static str>,
    /// Nothing is removed before.
    clear_at: tokio::time::Instant,
}

impl Proxy {
    async fn start(setup: Setup, status: Status, token: &CancellationToken) -> Result<Proxy, RunError> {
        let (name, _) = watch::channel("");
        let client = counted(&setup.client, &setup.server, status.metrics());
        let (speaker, speakers) = watch::channel(speaker(&client, &setup.config));
        let (recorder, publisher) = recorder_by(speakers, "portolan-proxy");
        let complain = {
            let recorder = recorder.clone();
            Arc::new(move |complaint: &Complaint, model: &ServiceModel| {
                notices::about_service(&recorder, complaint, model)
            })
        };
        let shared = Shared::new(node_view(&setup.config));
        let bench = Bench { shared, status, complain, token: token.clone(), name: Arc::new(name) };
        let servers = Servers::start(&bench, &setup.config).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(publisher.run(token.clone()));
        let engine = Engine::start(&bench, setup.mode.clone())?;
        let (news, incoming) = mpsc::channel(NEWS);
        let watching = token.child_token();
        let mut watches = (watching, JoinSet::new());
        watch_all(&mut watches.1, &client, &setup.config.node_name, &news, &watches.0);
        let config = watch::Sender::new(setup.config.clone());
        let intake = Intake::new(bench.shared.clone(), bench.status.clone(), config.subscribe());
        tasks.spawn(intake.run(incoming, token.clone()));
        let (leftovers, clear_at) = (setup.replaces.clone(), tokio::time::Instant::now());
        let mut proxy = Proxy {
            setup,
            bench,
            engine,
            config,
            servers,
            recorder,
            speaker,
            news,
            watches,
            tasks,
            leftovers,
            draining: BTreeSet::new(),
            clear_at,
        };
        proxy.watch_health_checks();
        proxy.tell();
        Ok(proxy)
    }

    fn watch_health_checks(&mut self) {
        for family in IpFamily::BOTH {
            let (shared, status) = (self.bench.shared.clone(), self.bench.status.clone());
            let Some(ports) = HealthCheckPorts::new(family, shared.clone(), status) else { continue };
            let (recorder, config) = (self.recorder.clone(), self.config.subscribe());
            let tell = move |failure: Failure| {
                let node = config.borrow().node_name.clone();
                shared.look(|state| notices::about_health_check(&recorder, &node, &failure, &state.model));
            };
            self.tasks.spawn(ports.run(tell, self.bench.token.clone()));
        }
    }

    /// Says what there is to say of the present setup.
    fn tell(&self) {
        let node = &self.setup.config.node_name;
        self.setup.notices.iter().for_each(|notice| notices::about_node(&self.recorder, node, notice));
        let metrics = self.bench.status.metrics();
        metrics.clear(&MODE);
        metrics.set(&MODE, &[self.engine.mode.name(), self.setup.asked], 1.0);
        metrics.set(&RELOAD_OK, &[], 1.0);
        metrics.set(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        metrics.set(&KUBERNETES_BUILD, &[EMULATED, "1", "36", PLATFORM], 1.0);
    }

    /// Becomes something else, or stays what it is and says why.
    async fn take(&mut self, setup: Setup) -> bool {
        let taken = self.become_other(setup).await;
        let done = taken.is_ok();
        match taken {
            Ok(()) => {
                self.bench.status.metrics().increment(&RELOADS, &["applied"]);
                tracing::info!(mode = self.engine.mode.name(), "the new configuration is in force");
                self.tell();
            }
            Err(RunError::Switch(SwitchError::Ended)) => {}
            Err(error) => self.refuse(&runtime::driver::chain(&error).to_string()),
        }
        done
    }

    fn refuse(&self, reason: &str) {
        let message = format!("the new configuration is refused, the one before stays in force: {reason}");
        tracing::error!("{message}");
        notices::about_node(&self.recorder, &self.setup.config.node_name, &Notice { reason: REFUSED, message });
        let metrics = self.bench.status.metrics();
        metrics.increment(&RELOADS, &["refused"]);
        metrics.set(&RELOAD_OK, &[], 0.0);
    }

    /// What can fail comes first; afterwards there is no way back, and none is needed.
    async fn become_other(&mut self, setup: Setup) -> Result<(), RunError> {
        let former = self.servers.move_to(&self.bench, &setup.config).await?;
        let before = self.config.send_replace(setup.config.clone());
        if !Arc::ptr_eq(&self.engine.mode, &setup.mode) {
            match self.engine.switch(&self.bench, setup.mode.clone()).await {
                Ok(old) => self.replace(old),
                Err(error) => {
                    self.config.send_replace(before);
                    self.servers.go_back(&self.bench, former).await;
                    return Err(error.into());
                }
            }
        }
        former.end().await;
        let other_client = !Arc::ptr_eq(&self.setup.client, &setup.client);
        if other_client || before.node_name != setup.config.node_name {
            self.watch_again(&setup).await;
        }
        for mode in &setup.replaces {
            self.replace(mode.clone());
        }
        self.setup = setup;
        Ok(())
    }

    /// A mode of the same name keeps its rules, since they are the new one's too.
    fn replace(&mut self, old: Arc<dyn Rules>) {
        self.leftovers.retain(|leftover| leftover.name() != old.name());
        self.draining.remove(old.name());
        if old.name() != self.engine.mode.name() {
            self.leftovers.push(old);
        }
        let in_force = self.engine.mode.name();
        self.bench.shared.forget_former(in_force);
        self.bench.shared.doubt_flows();
        self.leftovers.retain(|leftover| leftover.name() != in_force);
        self.draining.remove(in_force);
        self.clear_at = tokio::time::Instant::now();
    }

    /// The new list takes the old one's place as one change.
    async fn watch_again(&mut self, setup: &Setup) {
        self.watches.0.cancel();
        while self.watches.1.join_next().await.is_some() {}
        self.watches.0 = self.bench.token.child_token();
        let client = counted(&setup.client, &setup.server, self.bench.status.metrics());
        self.speaker.send_replace(speaker(&client, &setup.config));
        watch_all(&mut self.watches.1, &client, &setup.config.node_name, &self.news, &self.watches.0);
    }

    /// Waits until the mode's rules are seen in the kernel, and until it is time to try.
    async fn in_force(&self) {
        tokio::time::sleep_until(self.clear_at).await;
        // Seen before they were first asked to go.
        if self.leftovers.iter().all(|leftover| self.draining.contains(leftover.name())) {
            return;
        }
        while let Err(error) = self.engine.in_force(&self.bench, &self.bench.status).await {
            tracing::warn!(error = %runtime::driver::chain(&error), "what another mode has left is not removed yet");
            tokio::time::sleep(CLEAR_AGAIN).await;
        }
    }

    async fn clear_leftovers(&mut self) {
        let now = tokio::time::Instant::now();
        self.clear_at = now + CLEAR_AGAIN;
        for old in std::mem::take(&mut self.leftovers) {
            match clear(&self.bench, &*self.engine.mode, &*old).await {
                Ok(Retired::Gone) => {
                    tracing::info!(mode = old.name(), "its rules are removed");
                    self.bench.status.forget_packets(old.name());
                    self.bench.shared.forget_former(old.name());
                    self.draining.remove(old.name());
                    // Until now they could lead datagrams to where nobody is any more.
                    self.bench.shared.doubt_flows();
                }
                Ok(Retired::Draining) => {
                    if self.draining.insert(old.name()) {
                        tracing::info!(mode = old.name(), "what its last connections need stays until they have ended");
                        self.bench.shared.doubt_flows();
                    }
                    self.leftovers.push(old);
                }
                Ok(Retired::Answering) => {
                    if self.draining.insert(old.name()) {
                        tracing::info!(
                            mode = old.name(),
                            "who has been asking it still gets an answer, for some seconds"
                        );
                    }
                    self.leftovers.push(old);
                    self.clear_at = now + CLEAR_SOON;
                }
                Err(error) => {
                    tracing::warn!(error = %runtime::driver::chain(&error), "will try again");
                    let metrics = self.bench.status.metrics();
                    metrics.increment(&CLEANUP_FAILURES, &[old.name()]);
                    if old.name() == "nftables" {
                        metrics.increment(&NFTABLES_CLEANUP_FAILURES, &[error.family.address_type()]);
                    }
                    self.leftovers.push(old);
                }
            }
        }
    }

    async fn stop(mut self) {
        self.bench.token.cancel();
        self.engine.end().await;
        while self.watches.1.join_next().await.is_some() {}
        while self.tasks.join_next().await.is_some() {}
        self.servers.end().await;
    }
}

/// Events are told by this node's proxy to the API server it watches.
fn speaker(client: &Client, config: &Config) -> Speaker {
    Speaker { client: client.clone(), host: Some(config.node_name.clone()) }
}
