//! Brings one family's table into force whenever it changes: resolve, plan, apply. Waits for nothing but the first full
//! list and, after a failure, for its back-off; what happens during an apply is taken up together by the next one. Not
//! responsible for watching, nor for what a plan says.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use conntrack::Conntrack;
use runtime::backoff::Backoff;
use service_model::{
    ForwardingTable, FrontendKey, IpFamily, NodePortAddresses, NodeView, Problem, Protocol, ServiceModel, ServiceName,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Plan, RULES, Size};
use crate::flows;
use crate::loopback;
use crate::metrics::{self, Family, Metrics};
use crate::mode::Rules;
use crate::status::{Applied, Reporter, Status};
use crate::tally::Tally;

/// How often to ask whether somebody else has interfered. Cheap: one number from the kernel.
const LOOK_AROUND: Duration = Duration::from_secs(5);

/// How long to wait before stale flows are looked for once more, where it failed.
const FLOWS_AGAIN: Duration = Duration::from_secs(1);
/// Packets are counted with every third of those looks: it may take running a tool.
const COUNT_EVERY: u32 = 3;
const IPTABLES: &str = "iptables";

/// What the watches have gathered, shared by the families' syncers.
#[derive(Clone)]
pub struct Shared {
    state: Arc<Mutex<State>>,
    /// Goes up with every change, also of the node.
    changed: Arc<watch::Sender<u64>>,
    /// Modes in whose place another is, or is about to be, and for which this process may still owe an answer.
    formers: Arc<Mutex<Vec<Arc<dyn Rules>>>>,
}

pub struct State {
    pub model: ServiceModel,
    pub node: NodeView,
    /// The Node has been looked for, so that its absence is a fact.
    pub node_known: bool,
    /// The Services' networks have been looked for; a cluster may not tell of them.
    pub cidrs_known: bool,
    /// When the news of the latest change came.
    pub latest: Instant,
    /// When what each family has not brought into force yet happened to the pods, as far as it is said.
    pub triggers: BTreeMap<IpFamily, Vec<SystemTime>>,
    /// Goes up when flows may have begun by rules of somebody else: all have to be looked at once more.
    pub flows_doubted: u64,
}

/// Something about a Service that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    pub service: ServiceName,
    pub reason: &'static str,
    pub message: String,
}

type Complain = Box<dyn Fn(&Complaint, &ServiceModel) + Send + Sync>;

pub struct Syncer<B: Backend> {
    backend: Arc<B>,
    shared: Shared,
    reporter: Reporter,
    conntrack: Option<Conntrack>,
    complain: Complain,
    complaints: BTreeSet<Complaint>,
    /// UDP frontends in force.
    udp: BTreeSet<FrontendKey>,
    /// All flows have to be looked at, whatever changed: at first, and after a pass that failed.
    flows_unknown: bool,
    flows_doubted: u64,
    /// The news that the last pass that succeeded took up, and when this syncer was made.
    taken_up: Option<Instant>,
    made: Instant,
    /// It has been said that forwarding is off.
    said_off: bool,
    tally: Tally,
}

/// One pass's view of the world.
struct Pass {
    table: ForwardingTable,
    since: Instant,
    /// There is something new: it isn't only looked after.
    news: bool,
    triggers: Vec<SystemTime>,
}

impl Shared {
    pub fn new(node: NodeView) -> Shared {
        let (model, triggers) = (ServiceModel::new(), BTreeMap::new());
        let (latest, flows_doubted) = (Instant::now(), 0);
        let state = State { model, node, node_known: false, cidrs_known: false, latest, triggers, flows_doubted };
        Shared { state: Arc::new(Mutex::new(state)), changed: Arc::new(watch::Sender::new(0)), formers: Arc::default() }
    }

    /// Another mode is about to take this one's place.
    pub(crate) fn add_former(&self, mode: Arc<dyn Rules>) {
        self.formers().push(mode);
    }

    /// Nobody is owed an answer by the mode of this name any more, or it is in force again.
    pub(crate) fn forget_former(&self, name: &str) {
        self.formers().retain(|former| former.name() != name);
    }

    fn formers(&self) -> MutexGuard<'_, Vec<Arc<dyn Rules>>> {
        // A panic elsewhere leaves nothing half-written here.
        self.formers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the syncers if `change` says that anything is different now.
    pub fn change(&self, at: Instant, change: impl FnOnce(&mut State) -> bool) {
        let mut state = self.lock();
        if change(&mut state) {
            state.latest = at;
            drop(state);
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Has all flows looked at once more. That is no news of a Service.
    pub(crate) fn doubt_flows(&self) {
        self.lock().flows_doubted += 1;
        self.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn node_ports(&self) -> NodePortAddresses {
        self.lock().node.node_ports.clone()
    }

    /// Looks at the state.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Follows the number of changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until everything has been listed once.
    pub(crate) async fn complete(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            let complete = self.lock().is_complete();
            // The sender is ours: it doesn't go.
            if complete || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// The same, with what a cluster may lack.
    pub(crate) async fn complete_with_cidrs(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            let complete = self.look(|state| state.is_complete() && state.cidrs_known);
            // The sender is ours: it doesn't go.
            if complete || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// A family's table as it should be now, with or without loopback addresses; `None` before everything has been listed
    /// once.
    pub(crate) fn table(&self, family: IpFamily, serves_loopback: bool) -> Option<ForwardingTable> {
        let state = self.lock();
        state.is_complete().then(|| state.model.resolve(&state.node_for(serves_loopback), family))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn node_for(&self, serves_loopback: bool) -> NodeView {
        NodeView { serves_loopback, ..self.node.clone() }
    }

    fn is_complete(&self) -> bool {
        self.model.is_complete() && self.node_known
    }
}

impl<B: Backend> Syncer<B> {
    pub fn new(
        backend: B,
        shared: Shared,
        status: Status,
        conntrack: Option<Conntrack>,
        complain: impl Fn(&Complaint, &ServiceModel) + Send + Sync + 'static,
    ) -> Syncer<B> {
        Syncer::reporting(Arc::new(backend), shared, Reporter::to(status), conntrack, complain)
    }

    pub(crate) fn reporting(
        backend: Arc<B>,
        shared: Shared,
        reporter: Reporter,
        conntrack: Option<Conntrack>,
        complain: impl Fn(&Complaint, &ServiceModel) + Send + Sync + 'static,
    ) -> Syncer<B> {
        let complain = Box::new(complain);
        let (complaints, udp) = (BTreeSet::new(), BTreeSet::new());
        Syncer {
            backend,
            shared,
            reporter,
            conntrack,
            complain,
            complaints,
            udp,
            flows_unknown: true,
            flows_doubted: 0,
            taken_up: None,
            made: Instant::now(),
            said_off: false,
            tally: Tally::default(),
        }
    }

    /// Runs until cancelled. What is in force stays in force then.
    pub async fn run(mut self, token: CancellationToken) {
        let backoff = Backoff { first: Duration::from_millis(10), last: Duration::from_secs(30) };
        let mut changed = self.shared.changed.subscribe();
        // What came before this task was first run counts too.
        changed.mark_changed();
        let mut look_around = tokio::time::interval(LOOK_AROUND);
        look_around.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut node = None;
        let mut table: Option<ForwardingTable> = None;
        let mut observed: Option<B::Observed> = None;
        let (mut looks, mut count_at) = (0_u32, 0);
        let mut failures = 0_u32;
        loop {
            // Under changes that never pause there is nothing below that would wait for it.
            if token.is_cancelled() {
                return;
            }
            let work = failures > 0 || changed.has_changed().unwrap_or(false);
            if !work {
                tokio::select! {
                    () = token.cancelled() => return,
                    Ok(()) = changed.changed() => {}
                    () = tokio::time::sleep(FLOWS_AGAIN), if self.flows_unknown && table.is_some() => {
                        table.iter().for_each(|table| self.drop_stale_flows(table));
                        continue;
                    }
                    _ = look_around.tick() => {
                        if looks >= count_at && observed.is_some() {
                            self.count_packets(observed.as_ref()).await;
                            count_at = looks.wrapping_add(COUNT_EVERY);
                        }
                        looks = looks.wrapping_add(1);
                        // By the second look whoever attaches pods has begun, too.
                        if looks >= 2 {
                            self.look_at_forwarding(table.as_ref());
                        }
                        if !self.interfered(observed.as_ref()).await {
                            continue;
                        }
                        observed = None;
                    }
                }
            }
            changed.mark_unchanged();
            let Some(pass) = self.next_table(table.take(), &mut node) else { continue };
            self.reporter.report(|status| status.pending(self.backend.family(), pass.since));
            self.tally.take(&pass.table);
            let partial = observed.is_some();
            match self.sync(&pass, observed.take()).await {
                Ok(now) => {
                    observed = Some(now);
                    failures = 0;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    // The next pass doesn't know what this one would have changed.
                    self.flows_unknown = true;
                    self.taken_up = None;
                    self.count_failure(partial);
                    let error = runtime::driver::chain(&error);
                    self.reporter.report(|status| status.failed(self.backend.family(), error.to_string()));
                    tracing::warn!(family = %self.backend.family(), %error, failures, "the rules could not be synced");
                    tokio::select! {
                        () = token.cancelled() => return,
                        () = tokio::time::sleep(backoff.delay(failures)) => {}
                    }
                }
            }
            table = Some(pass.table);
        }
    }

    async fn count_packets(&self, observed: Option<&B::Observed>) {
        let Some(observed) = observed else { return };
        // What can't be counted now is counted the next time.
        let Ok(now) = self.backend.packets(observed).await else { return };
        let family = self.backend.family();
        self.reporter.report(|status| {
            let more = status.packets_since(self.backend.name(), family, now);
            let add = |counter, labels: &[&str], more| {
                status.metrics().add(counter, labels, u32::try_from(more).map_or(f64::from(u32::MAX), f64::from));
            };
            add(&metrics::INVALID_DROPPED, &[], more.invalid_dropped);
            add(&metrics::LOCALHOST_ACCEPTED, &[], more.to_localhost);
            add(&metrics::TURNED_AWAY, &[family.address_type()], more.connections_turned_away);
        });
    }

    /// Says it once each time it is switched off.
    fn look_at_forwarding(&mut self, table: Option<&ForwardingTable>) {
        let needed = self.backend.programs_the_kernel() && table.is_some_and(|table| !table.ports.is_empty());
        let off = crate::forwarding::switched_off(self.backend.family()).filter(|_| needed);
        let said = std::mem::replace(&mut self.said_off, off.is_some());
        let Some(name) = off.filter(|_| !said) else { return };
        tracing::warn!(
            family = %self.backend.family(),
            "{name} is 0: Services answer this node alone, no pod and nobody outside; what attaches pods should set it, or \
             `sysctl -w {name}=1`",
        );
    }

    async fn interfered(&self, observed: Option<&B::Observed>) -> bool {
        let Some(observed) = observed else { return false };
        match self.backend.is_stale(observed).await {
            Ok(stale) => stale,
            Err(error) => {
                tracing::warn!(error = &error as &dyn Error, "cannot tell whether the rules are still ours");
                true
            }
        }
    }

    /// The table as it should be now; `None` before everything has been listed once.
    fn next_table(&mut self, last: Option<ForwardingTable>, node: &mut Option<NodeView>) -> Option<Pass> {
        let mut state = self.shared.lock();
        if !state.is_complete() {
            return None;
        }
        let triggers = state.triggers.remove(&self.backend.family()).unwrap_or_default();
        let now = state.node_for(self.backend.serves_loopback());
        let table = match last {
            Some(mut table) if node.as_ref() == Some(&now) => {
                state.model.update(&mut table, &now);
                table
            }
            _ => state.model.resolve(&now, self.backend.family()),
        };
        *node = Some(now);
        self.flows_unknown |= std::mem::replace(&mut self.flows_doubted, state.flows_doubted) != state.flows_doubted;
        let news = self.taken_up.replace(state.latest) != Some(state.latest);
        // What was in force by another mode, or before somebody interfered, isn't late.
        let since = if news { state.latest.max(self.made) } else { Instant::now() };
        Some(Pass { table, since, news, triggers })
    }

    async fn sync(&mut self, pass: &Pass, observed: Option<B::Observed>) -> Result<B::Observed, B::Error> {
        let started = Instant::now();
        let full = observed.is_none();
        let observed = match observed {
            Some(observed) => observed,
            None => self.backend.observe().await?,
        };
        let plan = self.backend.plan(&self.backend.desired(&pass.table), &observed);
        let answers = loopback::answers(&pass.table);
        if !answers && self.backend.guards_loopback(&observed) {
            self.loopback(loopback::close());
        }
        let now = self.backend.apply(&plan, observed).await?;
        // Who listens there itself needs no way in from other links.
        if answers && !self.backend.serves_loopback() && self.backend.guards_loopback(&now) {
            self.loopback(loopback::open());
        }
        let latency = pass.since.elapsed();
        // A pass that has looked says so even if all was there.
        if full || !plan.is_empty() {
            let took_us = latency.as_micros();
            tracing::debug!(family = %self.backend.family(), steps = plan.steps(), took_us, "rules are in force");
        }
        self.reporter.count(|metrics| {
            self.count_sync(metrics, pass, &plan, started, full);
            self.count_sizes(metrics, &plan, &now);
        });
        self.drop_stale_flows(&pass.table);
        self.report(&pass.table, &plan);
        let applied = Applied { revision: pass.table.revision, latency };
        self.reporter.report(|status| status.done(self.backend.family(), applied, self.tally.health_checks()));
        Ok(now)
    }

    fn count_sync<P: Plan>(&self, metrics: &Metrics, pass: &Pass, plan: &P, started: Instant, full: bool) {
        let family = [self.backend.family().address_type()];
        let extent = if full { &metrics::FULL_SYNC_DURATION } else { &metrics::PARTIAL_SYNC_DURATION };
        for duration in [&metrics::SYNC_DURATION, extent] {
            metrics.observe(duration, &family, started.elapsed());
        }
        if pass.news {
            metrics.observe(&metrics::EVENT_TO_KERNEL, &family, pass.since.elapsed());
        }
        metrics.set(&metrics::SERVICE_PORTS, &family, count(pass.table.ports.len()));
        metrics.set(&metrics::REFUSED_PORTS, &family, count(plan.refused().len()));
        let now = SystemTime::now();
        for trigger in &pass.triggers {
            metrics.observe(&metrics::NETWORK_PROGRAMMING, &family, now.duration_since(*trigger).unwrap_or_default());
        }
        for (policy, number) in self.tally.without_local_endpoints() {
            metrics.set(&metrics::NO_LOCAL_ENDPOINTS, &[family[0], policy], count(number));
        }
        for changes in [&metrics::SERVICE_CHANGES_PENDING, &metrics::ENDPOINT_CHANGES_PENDING] {
            metrics.set(changes, &[], 0.0);
        }
    }

    fn count_sizes(&self, metrics: &Metrics, plan: &B::Plan, observed: &B::Observed) {
        let (mode, family) = (self.backend.name(), self.backend.family().address_type());
        let sizes = self.backend.sizes(observed);
        let objects = sizes.iter().map(|size| (vec![size.table, size.kind], count(size.number)));
        metrics.replace(&metrics::OBJECTS, &[mode, family], objects);
        if mode == IPTABLES {
            let of_rules = |sizes: Vec<Size>| {
                let rules = sizes.into_iter().filter(|size| size.kind == RULES);
                rules.map(|size| (vec![size.table], count(size.number))).collect::<Vec<_>>()
            };
            metrics.replace(&metrics::IPTABLES_RULES, &[family], of_rules(sizes));
            metrics.replace(&metrics::IPTABLES_RULES_LAST, &[family], of_rules(plan.written()));
        }
    }

    fn count_failure(&self, partial: bool) {
        let failures: &[&Family] = match (self.backend.name(), partial) {
            (IPTABLES, true) => &[&metrics::IPTABLES_FAILURES, &metrics::IPTABLES_PARTIAL_FAILURES],
            (IPTABLES, false) => &[&metrics::IPTABLES_FAILURES],
            ("nftables", _) => &[&metrics::NFTABLES_FAILURES],
            _ => &[],
        };
        let family = self.backend.family().address_type();
        self.reporter.count(|metrics| {
            failures.iter().for_each(|failures| metrics.increment(failures, &[family]));
            metrics.increment(&metrics::SYNC_FAILURES, &[self.backend.name(), family]);
        });
    }

    fn loopback(&self, done: Result<(), std::io::Error>) {
        if let Err(error) = done {
            tracing::warn!(%error, "net.ipv4.conf.all.route_localnet cannot be set: NodePorts on 127.0.0.1 fail or stay");
        }
    }

    /// After the rules: a new packet of a deleted flow must meet the new ones.
    fn drop_stale_flows(&mut self, table: &ForwardingTable) {
        let Some(conntrack) = &mut self.conntrack else { return };
        let touched = table.changes.ports.iter().any(|name| name.protocol == Protocol::Udp);
        if !self.flows_unknown && table.changes.since.is_some() && !touched {
            return;
        }
        let family = [table.family.address_type()];
        let started = Instant::now();
        let formers = self.shared.formers().clone();
        let owed = |address| formers.iter().any(|former| former.answers_at(address));
        let answers_here = |address| self.backend.answers_at(address) || owed(address);
        match flows::reconcile(conntrack, table, &self.udp, answers_here) {
            Ok(deleted) => {
                self.reporter.count(|metrics| {
                    metrics.observe(&metrics::CONNTRACK_DURATION, &family, started.elapsed());
                    metrics.add(&metrics::CONNTRACK_DELETED, &family, count(deleted));
                });
                if deleted > 0 {
                    tracing::debug!(deleted, "stale UDP flows deleted");
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn Error, "stale UDP flows could not be deleted");
                self.flows_unknown = true;
                return;
            }
        }
        self.udp = flows::frontends(table);
        self.flows_unknown = false;
    }

    fn report<P: Plan>(&mut self, table: &ForwardingTable, plan: &P) {
        let problems = table.problems().into_iter().map(complaint);
        let refused = plan.refused().iter().map(|refusal| Complaint {
            service: refusal.port.service.clone(),
            reason: "ServiceNotProgrammed",
            message: format!("{}: {}", refusal.port, refusal.reason),
        });
        let now: BTreeSet<Complaint> = problems.chain(refused).collect();
        if now != self.complaints {
            let state = self.shared.lock();
            now.difference(&self.complaints).for_each(|complaint| (self.complain)(complaint, &state.model));
            drop(state);
            self.complaints = now;
        }
    }
}

/// No count here comes near what a double can't hold.
fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}

fn complaint(problem: Problem) -> Complaint {
    Complaint { service: problem.service, reason: problem.reason.code(), message: problem.reason.to_string() }
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.service, self.message)
    }
}
