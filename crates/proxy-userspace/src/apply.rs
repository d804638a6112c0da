//! Executes plans: on whatever takes nf_tables transactions, and on this process's own listeners. Both families share one
//! handle, so that each knows the other's commits from those of strangers.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conntrack::{ConntrackError, Flow, FlowId};
use nft::{Epoch, Kernel, Nft, NftError, Watched};
use proxy::{Backend, Packets, Retired, Size};
use service_model::{ForwardingTable, IpFamily, NodePortAddresses};

use crate::doors::Doors;
use crate::layout::{GUARD, SetName, Settings, table};
use crate::plan::{Desired, Edit, Step, UserspacePlan, transaction};
use crate::state::{Observed, Rules};

/// The backend for one IP family.
pub struct Userspace<N> {
    family: IpFamily,
    /// None without the privilege to write rules.
    rules: Option<Arc<Mutex<Watched<N>>>>,
    doors: Mutex<Doors>,
    leaving: Mutex<Option<Leaving>>,
}

/// Another mode has taken over, and nothing leads to the doors any more.
struct Leaving {
    since: Instant,
    /// The UDP flows to doors, if they could be looked at.
    flows: Option<BTreeMap<FlowId, Silence>>,
}

/// Since when a flow has been silent, as far as is known, and when the kernel would have forgotten it then.
#[derive(Clone, Copy)]
struct Silence {
    since: Instant,
    ends: Instant,
}

/// So long the doors stay open at most: a flow that is never silent moves on then.
const PATIENCE: Duration = Duration::from_secs(8);
/// A flow that was silent for so long isn't waiting for an answer.
const SILENT: Duration = Duration::from_secs(3);
/// How exactly the kernel says when it forgets a flow.
const EXACTLY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("cannot read table {TABLE}", TABLE = crate::TABLE_NAME)]
    Read(#[source] NftError),
    #[error("cannot ask whether nf_tables has changed")]
    Generation(#[source] NftError),
    #[error("cannot execute step {step} of the plan")]
    Step {
        step: usize,
        #[source]
        source: NftError,
    },
    #[error("the plan was made for a table that somebody else has changed since")]
    Stale,
    #[error("cannot listen at {failed} of {all} places; others will be looked for")]
    Listen { failed: usize, all: usize },
    #[error("cannot tell which addresses the node has")]
    Addresses(#[source] io::Error),
    #[error("cannot remove table {TABLE}", TABLE = crate::TABLE_NAME)]
    Cleanup(#[source] NftError),
    #[error("cannot delete the UDP flows that are led to this process")]
    Flows(#[source] ConntrackError),
}

impl Userspace<Kernel> {
    /// The backends for IPv4 and IPv6 in the current network namespace: with rules if the privilege is there, or else for
    /// loopback addresses alone.
    pub fn open_pair() -> Result<[Userspace<Kernel>; 2], NftError> {
        match Kernel::open().and_then(|mut kernel| kernel.tables().map(|_| kernel)) {
            Ok(kernel) => Ok(Userspace::pair(kernel)),
            Err(error) if lacks_privilege(&error) => {
                tracing::warn!("CAP_NET_ADMIN is missing: Services at loopback addresses are served, and no others");
                Ok(Userspace::unprivileged_pair())
            }
            Err(error) => Err(error),
        }
    }
}

impl<N: Nft + Send + 'static> Userspace<N> {
    /// The backends for IPv4 and IPv6.
    pub fn pair(nft: N) -> [Userspace<N>; 2] {
        let shared = Arc::new(Mutex::new(Watched::new(nft)));
        IpFamily::BOTH.map(|family| Userspace::new(family, Some(shared.clone())))
    }

    /// The same without rules.
    pub fn unprivileged_pair() -> [Userspace<N>; 2] {
        IpFamily::BOTH.map(|family| Userspace::new(family, None))
    }

    fn new(family: IpFamily, rules: Option<Arc<Mutex<Watched<N>>>>) -> Userspace<N> {
        Userspace { family, rules, doors: Mutex::new(Doors::new(family)), leaving: Mutex::new(None) }
    }

    /// Gives access to the handle, for tests and instruments.
    pub fn with_nft<T>(&self, look: impl FnOnce(&mut N) -> T) -> Option<T> {
        self.shared().map(|mut shared| look(shared.handle()))
    }

    fn shared(&self) -> Option<MutexGuard<'_, Watched<N>>> {
        // A panic elsewhere leaves nothing half-written here: the kernel's own state is what counts.
        self.rules.as_ref().map(|shared| shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nobody is led to the doors any more; those who have been are looked at. Gone is when nobody needs the doors.
    fn silence(&self) -> Result<Retired, BackendError> {
        let (now, mut leaving) = (Instant::now(), self.leaving());
        let since = leaving.as_ref().map_or(now, |leaving| leaving.since);
        let none_left = |leaving: &Leaving| leaving.flows.as_ref().is_some_and(BTreeMap::is_empty);
        let over = leaving.as_ref().is_some_and(none_left) || now - since >= PATIENCE;
        let Some(mut shared) = self.shared().filter(|_| !over && self.doors().is_any_open()) else {
            return Ok(Retired::Gone);
        };
        let known = match &mut *leaving {
            Some(leaving) => leaving.flows.take().unwrap_or_default(),
            None => {
                if let Err(error) = shared.handle().apply(&Settings::quiet(self.family)) {
                    tracing::warn!(%error, "a table that can't be emptied goes at once");
                    shared.destroy(table(self.family)).map_err(BackendError::Cleanup)?;
                }
                BTreeMap::new()
            }
        };
        // Also if the flows can't be looked at, the doors are closed in the end.
        let leaving = leaving.insert(Leaving { since, flows: None });
        let mut flows = BTreeMap::new();
        let silent = |flow: &Flow| {
            let silence = Silence::of(flow, known.get(&flow.id), now);
            flows.insert(flow.id, silence);
            now - silence.since >= SILENT
        };
        let forgotten = self.doors().forget_flows(silent).map_err(BackendError::Flows)?;
        flows.retain(|id, _| !forgotten.contains(id));
        leaving.flows = Some(flows);
        Ok(Retired::Answering)
    }

    fn leaving(&self) -> MutexGuard<'_, Option<Leaving>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(
        &self,
        step: usize,
        plan: &UserspacePlan,
        edits: &[Edit],
        observed: &Observed,
    ) -> Result<(), BackendError> {
        let Some(mut shared) = self.shared() else { return Ok(()) };
        if shared.epoch() != observed.epoch {
            return Err(BackendError::Stale);
        }
        shared.commit(transaction(&plan.settings, edits)).map_err(|source| BackendError::Step { step, source })
    }

    /// Makes room for a step's listeners.
    async fn vacate(&self, step: &Step) {
        let Step::Listen(places) = step else { return };
        let leaving = self.doors().vacate(places);
        for door in leaving {
            door.close().await;
        }
    }

    /// Executes a step of the process's own.
    fn change(&self, step: &Step) -> Result<(), BackendError> {
        let mut doors = self.doors();
        match step {
            Step::Rules(_) => {}
            Step::Lead(lists) => lists.iter().for_each(|(id, list)| doors.lead(id, list)),
            Step::Listen(places) => {
                let failed = places.iter().filter(|(place, id)| !doors.listen(*place, id)).count();
                if failed > 0 {
                    return Err(BackendError::Listen { failed, all: places.len() });
                }
            }
            Step::Close { places, lists } => doors.close(places, lists),
        }
        Ok(())
    }
}

impl<N: Nft + Send + 'static> Backend for Userspace<N> {
    type Desired = Desired;
    type Observed = Observed;
    type Plan = UserspacePlan;
    type Error = BackendError;

    fn name(&self) -> &'static str {
        "userspace"
    }

    fn family(&self) -> IpFamily {
        self.family
    }

    fn desired(&self, table: &ForwardingTable) -> Desired {
        Desired {
            settings: Settings {
                family: self.family,
                local_pods: table.local_pods.clone(),
                service_cidrs: table.service_cidrs.clone(),
                listed_node_ports: matches!(table.node_ports, NodePortAddresses::Only(_)),
                guards_loopback: self.family == IpFamily::V4 && on_loopback(&table.node_ports),
            },
            ports: table.ports.clone(),
            node_ports: table.node_ports.clone(),
            node_addresses: table.node_addresses.clone(),
            by_rules: self.rules.is_some(),
        }
    }

    fn plan(&self, desired: &Desired, observed: &Observed) -> UserspacePlan {
        desired.plan(observed)
    }

    async fn observe(&self) -> Result<Observed, BackendError> {
        let (rules, epoch) = match self.shared() {
            Some(mut shared) => (read(&mut shared, self.family)?, shared.epoch()),
            None => (Rules::default(), Epoch::default()),
        };
        let mut doors = self.doors();
        let ground = doors.ground(Instant::now()).map_err(BackendError::Addresses)?;
        Ok(Observed { rules, process: doors.process(), ground, epoch })
    }

    async fn apply(&self, plan: &UserspacePlan, mut observed: Observed) -> Result<Observed, BackendError> {
        *self.leaving() = None;
        for (number, step) in plan.steps.iter().enumerate() {
            match step {
                Step::Rules(edits) => self.commit(number, plan, edits, &observed)?,
                own => {
                    self.vacate(own).await;
                    self.change(own)?;
                }
            }
            observed.take(step, &plan.settings);
            tokio::task::yield_now().await;
        }
        observed.ground.next_port = plan.next_port;
        self.doors().next_port = plan.next_port;
        Ok(observed)
    }

    async fn is_stale(&self, observed: &Observed) -> Result<bool, BackendError> {
        if let Some(mut shared) = self.shared() {
            shared.notice_strangers().map_err(BackendError::Generation)?;
            if shared.epoch() != observed.epoch {
                return Ok(true);
            }
        }
        self.doors().is_stale(&observed.ground, Instant::now()).map_err(BackendError::Addresses)
    }

    async fn cleanup(&self) -> Result<(), BackendError> {
        if let Some(mut shared) = self.shared() {
            shared.destroy(table(self.family)).map_err(BackendError::Cleanup)?;
            self.doors().forget_flows(|_| true).map_err(BackendError::Flows)?;
        }
        self.doors().close_all();
        Ok(())
    }

    /// Who was asking when the rules went still comes in, and still gets an answer: a flow is forgotten when it has been
    /// silent for a while, and the doors are closed at the end.
    async fn retire(&self) -> Result<Retired, BackendError> {
        match self.silence()? {
            Retired::Gone => {
                // Before the table, which keeps strangers from them.
                if self.rules.is_some() {
                    self.doors().forget_flows(|_| true).map_err(BackendError::Flows)?;
                }
                self.doors().close_all();
                self.cleanup().await.map(|()| Retired::Gone)
            }
            more => Ok(more),
        }
    }

    fn answers_at(&self, address: SocketAddr) -> bool {
        self.doors().answers_at(address)
    }

    fn sizes(&self, observed: &Observed) -> Vec<Size> {
        let leading = SetName::LEADING.iter().map(|set| observed.rules.elements(*set).count()).sum();
        let numbers = [
            ("frontends", leading),
            ("endpoint-lists", observed.process.lists.len()),
            ("listeners", observed.process.doors.len()),
        ];
        numbers.into_iter().map(|(kind, number)| Size { table: crate::TABLE_NAME, kind, number }).collect()
    }

    async fn packets(&self, _observed: &Observed) -> Result<Packets, BackendError> {
        Ok(Packets { connections_turned_away: self.doors().turned_away(), ..Packets::default() })
    }

    fn serves_loopback(&self) -> bool {
        true
    }

    fn can_guard_loopback(&self) -> bool {
        self.rules.is_some()
    }

    fn guards_loopback(&self, observed: &Observed) -> bool {
        let guard = observed.rules.chains.get(GUARD);
        observed.rules.sound && guard.is_some_and(|rules| !rules.is_empty())
    }

    fn programs_the_kernel(&self) -> bool {
        self.rules.is_some()
    }
}

fn read<N: Nft>(nft: &mut Watched<N>, family: IpFamily) -> Result<Rules, BackendError> {
    nft.notice_strangers().map_err(BackendError::Generation)?;
    let ruleset = nft.dump(&table(family)).map_err(BackendError::Read)?;
    Ok(ruleset.map_or(Rules::default(), |ruleset| Rules::read(&ruleset, family)))
}

impl Silence {
    /// A packet has the kernel forget its flow later.
    fn of(flow: &Flow, known: Option<&Silence>, now: Instant) -> Silence {
        let ends = now + Duration::from_secs(flow.timeout.unwrap_or(0).into());
        match known {
            Some(known) if ends.saturating_duration_since(known.ends) < EXACTLY => *known,
            _ => Silence { since: now, ends },
        }
    }
}

impl Observed {
    /// Takes in an executed step.
    fn take(&mut self, step: &Step, settings: &Settings) {
        match step {
            Step::Rules(edits) => edits.iter().for_each(|edit| self.rules.take(edit, settings)),
            Step::Lead(lists) => self.process.lists.extend(lists.iter().cloned()),
            Step::Listen(doors) => self.process.doors.extend(doors.iter().cloned()),
            Step::Close { places, lists } => {
                places.iter().for_each(|place| drop(self.process.doors.remove(place)));
                lists.iter().for_each(|list| drop(self.process.lists.remove(list)));
            }
        }
    }
}

impl Rules {
    fn take(&mut self, edit: &Edit, settings: &Settings) {
        match edit {
            Edit::Rebuild => *self = Rules::rebuilt(settings),
            Edit::ReplaceRules { chain, rules } => drop(self.chains.insert(chain.clone(), rules.clone())),
            Edit::Put { set, key, content, .. } => self.put(*set, key.clone(), content.clone()),
            Edit::Drop { set, key } => self.remove(*set, key),
        }
    }
}

fn on_loopback(node_ports: &NodePortAddresses) -> bool {
    let NodePortAddresses::Only(addresses) = node_ports else { return false };
    addresses.iter().any(|address| address.is_loopback())
}

fn lacks_privilege(error: &NftError) -> bool {
    match error {
        NftError::Privilege => true,
        NftError::Netlink { source, .. } => matches!(source.errno(), Some(EPERM)),
        _ => false,
    }
}

/// asm-generic/errno-base.h
const EPERM: i32 = 1;
