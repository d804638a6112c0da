//! Executes plans, and reads back what is there. Both families share the handles, so that each knows the other's commits from
//! those of strangers.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conntrack::{Conntrack, ConntrackError, Filter, Flow};
use ipvs::{Ipvs, IpvsError, Kernel, Op, Reason};
use netns::NetNs;
use nft::{Nft, NftError, Transaction, Watched};
use proxy::{Backend, Retired, backend::Size};
use service_model::{ForwardingTable, IpFamily, Protocol};

use crate::compile::family;
use crate::layout::{Settings, table};
use crate::object::{Content, Object};
use crate::plan::{Desired, IpvsPlan, Unusable};
use crate::prepare::{Options, PrepareError, WhyNot, prepare, supported};
use crate::retire::{self, Going};
use crate::state::{Observed, Place};
use crate::steps::{EDITS, Step, closing, servers_of, transaction};

/// While connections to removed endpoints are waited for, they are counted this often.
const DRAIN_LOOK: Duration = Duration::from_secs(5);
/// More refused endpoints than this are not remembered; nobody has as many.
const MOST_UNUSABLE: usize = 1_000;

/// The backend for one IP family.
pub struct IpvsBackend<N, I> {
    family: IpFamily,
    options: Arc<Options>,
    shared: Arc<Mutex<Shared<N, I>>>,
    /// When everything was read last.
    looked: Mutex<Option<Instant>>,
    /// Since when another mode has been in force.
    retired: Mutex<Option<Instant>>,
}

#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("cannot prepare the kernel")]
    Prepare(#[source] PrepareError),
    #[error("cannot read table {TABLE}", TABLE = crate::TABLE_NAME)]
    ReadTable(#[source] NftError),
    #[error("cannot read the virtual servers")]
    ReadServers(#[source] IpvsError),
    #[error("cannot ask whether nf_tables has changed")]
    Generation(#[source] NftError),
    #[error("cannot execute step {step} of the plan, a transaction")]
    Table {
        step: usize,
        #[source]
        source: NftError,
    },
    #[error("cannot execute step {step} of the plan, changes to virtual servers")]
    Servers {
        step: usize,
        #[source]
        source: IpvsError,
    },
    #[error("the plan was made for a table that somebody else has changed since")]
    Stale,
    #[error("cannot remove table {TABLE}", TABLE = crate::TABLE_NAME)]
    CleanupTable(#[source] NftError),
    #[error("cannot remove the virtual servers")]
    CleanupServers(#[source] IpvsError),
    #[error("cannot look for the flows of the virtual servers that go")]
    Flows(#[source] ConntrackError),
}

struct Shared<N, I> {
    nft: Watched<N>,
    ipvs: I,
    /// Without it nobody's flows are looked at.
    conntrack: Option<Conntrack>,
    /// Since when destinations have been waiting for the end of their connections. A new life begins anew.
    draining: HashMap<Place, Instant>,
    unusable: Unusable,
    /// Done before the first step: whoever only looks or cleans up changes no kernel parameter.
    prepare: Option<Prepare<I>>,
}

type Prepare<I> = Box<dyn FnMut(&mut I) -> Result<(), PrepareError> + Send>;

impl IpvsBackend<nft::Kernel, Kernel> {
    /// The backends of the calling thread's network namespace, if its kernel can do it.
    pub fn open_pair(options: Options) -> Result<[Self; 2], WhyNot> {
        supported(&options.scheduler)?;
        let namespace = NetNs::current().map_err(WhyNot::Namespace)?;
        let kernel = Kernel::open().map_err(WhyNot::Kernel)?;
        let nft = nft::Kernel::open().map_err(WhyNot::Nftables)?;
        let backends = Self::pair(nft, kernel, options.clone());
        let prepare = move |kernel: &mut Kernel| prepare(&namespace, kernel, &options);
        let conntrack = Conntrack::open().map_err(WhyNot::Conntrack)?;
        {
            // Both share it.
            let mut shared = lock(&backends[0].shared);
            shared.prepare = Some(Box::new(prepare));
            shared.conntrack = Some(conntrack);
        }
        Ok(backends)
    }
}

impl<N: Nft + Send + 'static, I: Ipvs + Send + 'static> IpvsBackend<N, I> {
    /// The backends for IPv4 and IPv6.
    pub fn pair(nft: N, ipvs: I, options: Options) -> [IpvsBackend<N, I>; 2] {
        let (draining, unusable) = (HashMap::new(), Unusable::default());
        let shared = Shared { nft: Watched::new(nft), ipvs, conntrack: None, draining, unusable, prepare: None };
        let (shared, options) = (Arc::new(Mutex::new(shared)), Arc::new(options));
        IpFamily::BOTH.map(|family| IpvsBackend {
            family,
            options: options.clone(),
            shared: shared.clone(),
            looked: Mutex::new(None),
            retired: Mutex::new(None),
        })
    }

    /// Gives access to the handles, for tests and instruments.
    pub fn with_handles<T>(&self, look: impl FnOnce(&mut N, &mut I) -> T) -> T {
        let mut shared = lock(&self.shared);
        let Shared { nft, ipvs, .. } = &mut *shared;
        look(nft.handle(), ipvs)
    }

    fn read(&self) -> Result<Observed, BackendError> {
        let mut shared = lock(&self.shared);
        shared.nft.notice_strangers().map_err(BackendError::Generation)?;
        let ruleset = shared.nft.dump(&table(self.family)).map_err(BackendError::ReadTable)?;
        let mut observed = Observed { epoch: shared.nft.epoch(), ..Observed::default() };
        observed.read_table(ruleset.as_ref(), self.family);
        shared.read_servers(&mut observed, family(self.family), &self.options).map_err(BackendError::ReadServers)?;
        drop(shared);
        *lock(&self.looked) = Some(Instant::now());
        Ok(observed)
    }

    fn look_is_due(&self, observed: &Observed) -> bool {
        let every = self.options.full_look;
        let every = if observed.busy.is_empty() { every } else { every.min(DRAIN_LOOK) };
        lock(&self.looked).is_none_or(|looked| looked.elapsed() >= every)
    }
}

/// A panic elsewhere leaves nothing half-written: the kernel's own state is what counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<N: Nft, I: Ipvs> Shared<N, I> {
    fn prepared(&mut self) -> Result<(), PrepareError> {
        if let Some(prepare) = &mut self.prepare {
            prepare(&mut self.ipvs)?;
            self.prepare = None;
        }
        Ok(())
    }

    fn read_servers(
        &mut self,
        observed: &mut Observed,
        family: ipvs::Family,
        options: &Options,
    ) -> Result<(), IpvsError> {
        let addresses = self.ipvs.addresses(family)?;
        observed.node_addresses = addresses.others;
        let excluded = |address: IpAddr| options.exclude_cidrs.iter().any(|cidr| cidr.contains(&address));
        let bound = addresses.bound.into_iter().filter(|address| !excluded(*address));
        observed.objects.extend(bound.map(|address| (Object::Address(address), Content::Address)));
        let mut waiting: HashMap<Place, Instant> = HashMap::new();
        for (key, server) in self.ipvs.servers(family)? {
            if matches!(key, ipvs::ServerKey::Address { at, .. } if excluded(at.ip())) {
                continue;
            }
            if !observed.owns(&key) {
                observed.foreign.insert(key);
            }
            observed.objects.insert(Object::Server(key), Content::Server(server));
            for (at, state) in self.ipvs.destinations(&key)? {
                observed.objects.insert(Object::Destination(key, at), Content::Destination(state.destination));
                if state.destination.weight == 0 && state.connections() > 0 {
                    let place = (key, at);
                    let since = self.draining.get(&place).copied().unwrap_or_else(Instant::now);
                    waiting.insert(place, since);
                    if since.elapsed() < options.drain {
                        observed.busy.insert(place);
                    }
                }
            }
        }
        // The other family's are read by its own backend.
        self.draining.retain(|(server, _), _| server.family() != family);
        self.draining.extend(waiting);
        Ok(())
    }

    /// Changes virtual servers; remembers what the kernel will never take.
    fn change(&mut self, ops: &[Op]) -> Result<(), IpvsError> {
        let changed = self.ipvs.change(ops);
        if let Err(IpvsError::Refused { index, reason, .. }) = &changed {
            match (ops.get(*index), reason) {
                (Some(Op::AddDestination(_, at, _)), Reason::Invalid)
                    if self.unusable.endpoints.len() < MOST_UNUSABLE =>
                {
                    self.unusable.endpoints.insert(at.ip());
                }
                (Some(Op::AddServer(ipvs::ServerKey::Address { protocol, .. }, _)), Reason::Unsupported)
                    if *protocol != Protocol::Tcp.number() =>
                {
                    self.unusable.protocols.insert(*protocol);
                }
                _ => {}
            }
        }
        changed
    }

    /// Leads nobody to a destination any more, neither by the table nor by the servers.
    fn silence(&mut self, family: IpFamily, observed: &Observed) -> Result<(), BackendError> {
        if observed.sound {
            retire::silence(family, observed).map_or(Ok(()), |quiet| self.write(&quiet))?;
        } else {
            let settings = Settings::plain(family);
            for edits in retire::anew(observed).chunks(EDITS) {
                self.write(&transaction(&settings, edits))?;
            }
            self.write(&retire::rules(family))?;
        }
        self.ipvs.change(&closing(&retire::open_places(observed))).map_err(BackendError::CleanupServers)
    }

    fn flows(&mut self, family: IpFamily) -> Result<Vec<Flow>, BackendError> {
        let family = Some(match family {
            IpFamily::V4 => conntrack::Family::Ipv4,
            IpFamily::V6 => conntrack::Family::Ipv6,
        });
        let list = |conntrack: &mut Conntrack| conntrack.list(&Filter { family, ..Filter::default() });
        self.conntrack.as_mut().map_or(Ok(Vec::new()), list).map_err(BackendError::Flows)
    }

    /// Takes away what goes, and what the kernel remembers of it; the table last, which says whose all this is.
    fn remove(
        &mut self,
        family: IpFamily,
        observed: &Observed,
        going: &Going,
        flows: &[Flow],
    ) -> Result<(), BackendError> {
        let failed = BackendError::CleanupServers;
        // Before their servers, who alone say whose they are: the next run would not find them. And once more, since until
        // then a packet may have made one anew.
        self.forget(going, flows)?;
        self.ipvs.change(&going.ops()).map_err(failed)?;
        self.forget(going, flows)?;
        self.ipvs.unbind(&going.addresses).map_err(failed)?;
        if !going.all {
            let settings = Settings::plain(family);
            let edits = going.edits(observed);
            return edits.chunks(EDITS).try_for_each(|edits| self.write(&transaction(&settings, edits)));
        }
        // Somebody else's addresses may be on it, or those of the other family's Services.
        let mut free = true;
        for family in [ipvs::Family::V4, ipvs::Family::V6] {
            free &= self.ipvs.addresses(family).map_err(failed)?.bound.is_empty();
        }
        if free {
            self.ipvs.remove_device().map_err(failed)?;
        }
        self.nft.destroy(table(family)).map_err(BackendError::CleanupTable)
    }

    /// One that can't be deleted keeps no other.
    fn forget(&mut self, going: &Going, flows: &[Flow]) -> Result<(), BackendError> {
        let Some(conntrack) = &mut self.conntrack else { return Ok(()) };
        let mut failed = None;
        for flow in flows.iter().filter(|flow| going.had(flow)) {
            failed = conntrack.delete(flow).err().or(failed);
        }
        failed.map_or(Ok(()), |error| Err(BackendError::Flows(error)))
    }

    /// Whatever else has changed.
    fn write(&mut self, transaction: &Transaction) -> Result<(), BackendError> {
        self.nft.handle().apply(transaction).map(drop).map_err(BackendError::CleanupTable)
    }

    /// No more connections for them; those that have none left, or have waited for long enough, go.
    fn retire(&mut self, places: &[Place], drain: Duration, observed: &mut Observed) -> Result<(), IpvsError> {
        self.change(&closing(places))?;
        let mut gone = Vec::new();
        for server in servers_of(places) {
            let found = self.ipvs.destinations(&server)?;
            for place in places.iter().filter(|(of, _)| *of == server) {
                let connections = found.get(&place.1).map_or(0, ipvs::DestinationState::connections);
                let waited = self.draining.get(place).map(Instant::elapsed);
                if connections == 0 || waited.is_some_and(|waited| waited >= drain) {
                    gone.push(*place);
                } else {
                    self.draining.entry(*place).or_insert_with(Instant::now);
                    observed.drained(place);
                }
            }
        }
        let ops: Vec<Op> = gone.iter().map(|(server, at)| Op::DeleteDestination(*server, *at)).collect();
        self.change(&ops)?;
        for place in gone {
            self.draining.remove(&place);
            observed.gone(&place);
        }
        Ok(())
    }
}

impl<N: Nft + Send + 'static, I: Ipvs + Send + 'static> Backend for IpvsBackend<N, I> {
    type Desired = Desired;
    type Observed = Observed;
    type Plan = IpvsPlan;
    type Error = BackendError;

    fn name(&self) -> &'static str {
        "ipvs"
    }

    fn family(&self) -> IpFamily {
        self.family
    }

    fn desired(&self, table: &ForwardingTable) -> Desired {
        Desired {
            settings: Settings::new(table, self.options.masquerade_bit),
            node_ports: table.node_ports.clone(),
            options: self.options.clone(),
            ports: table.ports.clone(),
            revision: table.revision,
            changes: table.changes.clone(),
            unusable: lock(&self.shared).unusable.clone(),
        }
    }

    fn plan(&self, desired: &Desired, observed: &Observed) -> IpvsPlan {
        desired.plan(observed)
    }

    async fn observe(&self) -> Result<Observed, BackendError> {
        self.read()
    }

    async fn apply(&self, plan: &IpvsPlan, mut observed: Observed) -> Result<Observed, BackendError> {
        lock(&self.shared).prepared().map_err(BackendError::Prepare)?;
        for (number, step) in plan.steps.iter().enumerate() {
            {
                let mut shared = lock(&self.shared);
                let servers = |source| BackendError::Servers { step: number, source };
                match step {
                    Step::Table(edits) => {
                        if shared.nft.epoch() != observed.epoch {
                            return Err(BackendError::Stale);
                        }
                        let committed = shared.nft.commit(transaction(&plan.settings, edits));
                        committed.map_err(|source| BackendError::Table { step: number, source })?;
                    }
                    Step::Servers(ops) => shared.change(ops).map_err(servers)?,
                    Step::Bind(addresses) => shared.ipvs.bind(addresses).map_err(servers)?,
                    Step::Unbind(addresses) => shared.ipvs.unbind(addresses).map_err(servers)?,
                    Step::Retire(places) => {
                        shared.retire(places, self.options.drain, &mut observed).map_err(servers)?;
                    }
                }
            }
            observed.take(step);
            tokio::task::yield_now().await;
        }
        observed.complete(plan);
        Ok(observed)
    }

    fn sizes(&self, observed: &Observed) -> Vec<Size> {
        let count = |of: fn(&Object) -> bool| observed.objects.keys().filter(|object| of(object)).count();
        let size = |table, kind, number| Size { table, kind, number };
        vec![
            size(crate::TABLE_NAME, "elements", count(|object| matches!(object, Object::Element(..)))),
            size("ipvs", "virtual servers", count(|object| matches!(object, Object::Server(_)))),
            size("ipvs", "destinations", count(|object| matches!(object, Object::Destination(..)))),
            size(ipvs::DEVICE, "addresses", count(|object| matches!(object, Object::Address(_)))),
        ]
    }

    async fn is_stale(&self, observed: &Observed) -> Result<bool, BackendError> {
        {
            let mut shared = lock(&self.shared);
            shared.nft.notice_strangers().map_err(BackendError::Generation)?;
            if shared.nft.epoch() != observed.epoch {
                return Ok(true);
            }
        }
        Ok(self.look_is_due(observed) && !self.read()?.same_state(observed))
    }

    async fn cleanup(&self) -> Result<(), BackendError> {
        let observed = Observed { busy: BTreeSet::new(), ..self.read()? };
        let mut shared = lock(&self.shared);
        let flows = shared.flows(self.family)?;
        shared.remove(self.family, &observed, &Going::of(&observed, &BTreeSet::new()), &flows)
    }

    async fn retire(&self) -> Result<Retired, BackendError> {
        let since = *lock(&self.retired).get_or_insert_with(Instant::now);
        let observed = self.read()?;
        lock(&self.shared).silence(self.family, &observed)?;
        // Only now it is known who still has connections.
        let observed = self.read()?;
        let mut shared = lock(&self.shared);
        let flows = shared.flows(self.family)?;
        let patient = since.elapsed() < self.options.drain;
        let sources = if patient { retire::sources(&observed, &flows) } else { BTreeSet::new() };
        let going = Going::of(&observed, &sources);
        shared.remove(self.family, &observed, &going, &flows)?;
        Ok(if going.all { Retired::Gone } else { Retired::Draining })
    }
}
