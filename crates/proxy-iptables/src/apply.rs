//! Executes plans by the tools, and reads back what is there. One family's tools each; a run of a tool doesn't hold up the
//! event loop.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use iptables::{Error, Flavour, Iptables, Table, Tool};
use proxy::Backend;
use service_model::{ForwardingTable, IpFamily};

use crate::layout::family;
use crate::names::CANARY;
use crate::plan::{Desired, IptablesPlan, removal};
use crate::settings::{Settings, Tuning};
use crate::state::{Observed, Reader};

/// Chains that tell which flavour a node's programs use: kubelet makes them for this.
pub const HINTS: &[(Table, &str)] =
    &[(Table::Mangle, "KUBE-IPTABLES-HINT"), (Table::Mangle, "KUBE-KUBELET-CANARY"), (Table::Nat, "KUBE-SERVICES")];

const TABLES: [Table; 2] = [Table::Nat, Table::Filter];
/// How often the rules may change under our eyes before what was read is taken as uncertain.
const READ_ATTEMPTS: u32 = 5;

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub tuning: Tuning,
    /// Where the kernel can't say that something has changed, everything is read again this often; in between, only
    /// whether our canaries live. kube-proxy's `syncPeriod`.
    pub full_look: FullLook,
}

#[derive(Clone, Copy, Debug)]
pub struct FullLook(pub Duration);

impl Default for FullLook {
    fn default() -> Self {
        FullLook(Duration::from_secs(30))
    }
}

/// The backend for one IP family.
pub struct IptablesBackend<T> {
    family: IpFamily,
    options: Options,
    shared: Arc<Mutex<Shared<T>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("cannot read our chains")]
    Read(#[source] Error),
    #[error("cannot write our chains")]
    Write(#[source] Error),
    #[error("cannot tell whether the rules have changed")]
    Look(#[source] Error),
    #[error("cannot remove our chains")]
    Cleanup(#[source] Error),
    #[error("a run of the tools was broken off")]
    BrokenOff(#[source] tokio::task::JoinError),
}

struct Shared<T> {
    tool: T,
    /// When everything was read last.
    looked: Option<Instant>,
}

impl IptablesBackend<Tool> {
    /// The backends for IPv4 and IPv6 with the tools of a flavour, in the calling thread's network namespace.
    pub fn pair(flavour: Flavour, options: Options) -> Result<[IptablesBackend<Tool>; 2], Error> {
        let open = |of| Ok(IptablesBackend::new(of, Tool::open(family(of), flavour)?, options));
        Ok([open(IpFamily::V4)?, open(IpFamily::V6)?])
    }
}

impl<T: Iptables + Send + 'static> IptablesBackend<T> {
    pub fn new(family: IpFamily, tool: T, options: Options) -> IptablesBackend<T> {
        IptablesBackend { family, options, shared: Arc::new(Mutex::new(Shared { tool, looked: None })) }
    }

    /// Gives access to the tool, for tests and instruments.
    pub fn with_tool<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        look(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner).tool)
    }

    async fn blocking<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Shared<T>) -> Result<R, BackendError> + Send + 'static,
    ) -> Result<R, BackendError> {
        let shared = self.shared.clone();
        let run = move || {
            // A panic elsewhere leaves nothing half-written here: the kernel's own state is what counts.
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            act(&mut shared)
        };
        tokio::task::spawn_blocking(run).await.map_err(BackendError::BrokenOff)?
    }
}

impl<T: Iptables> Shared<T> {
    fn read(&mut self) -> Result<Observed, Error> {
        for attempt in 1.. {
            let before = self.tool.generation()?;
            let mut reader = Reader::default();
            for table in TABLES {
                self.tool.save(table, &mut |line| reader.line(table, line))?;
            }
            let after = self.tool.generation()?;
            if before == after || attempt == READ_ATTEMPTS {
                self.looked = Some(Instant::now());
                return Ok(reader.finish(after.filter(|_| before == after)));
            }
        }
        Ok(Observed::default())
    }

    fn write(&mut self, plan: &[iptables::Transaction], known: Option<u32>) -> Result<Option<u32>, Error> {
        if plan.is_empty() {
            return Ok(known);
        }
        self.tool.restore(plan)?;
        // Each transaction is one generation; one more is somebody else's, who may have written to our chains.
        let expected = known.and_then(|known| known.checked_add(u32::try_from(plan.len()).ok()?));
        let now = self.tool.generation()?;
        Ok(now.filter(|now| Some(*now) == expected))
    }

    /// Whether somebody has flushed the tables.
    fn flushed(&mut self, canaries: &[Table]) -> Result<bool, Error> {
        for table in canaries {
            if !self.tool.has_chain(*table, CANARY)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Everything, if it has not been read for so long.
    fn read_again(&mut self, every: Duration) -> Result<Option<Observed>, Error> {
        let due = self.looked.is_none_or(|looked| looked.elapsed() >= every);
        if due { self.read().map(Some) } else { Ok(None) }
    }
}

impl<T: Iptables + Send + 'static> Backend for IptablesBackend<T> {
    type Desired = Desired;
    type Observed = Observed;
    type Plan = IptablesPlan;
    type Error = BackendError;

    fn name(&self) -> &'static str {
        "iptables"
    }

    fn family(&self) -> IpFamily {
        self.family
    }

    fn desired(&self, table: &ForwardingTable) -> Desired {
        Desired {
            settings: Settings::new(table, self.options.tuning),
            ports: table.ports.clone(),
            revision: table.revision,
            changes: table.changes.clone(),
        }
    }

    fn plan(&self, desired: &Desired, observed: &Observed) -> IptablesPlan {
        desired.plan(observed)
    }

    async fn observe(&self) -> Result<Observed, BackendError> {
        self.blocking(|shared| shared.read().map_err(BackendError::Read)).await
    }

    /// All transactions in one run of the tool.
    async fn apply(&self, plan: &IptablesPlan, mut observed: Observed) -> Result<Observed, BackendError> {
        let (transactions, known) = (plan.transactions.clone(), observed.generation);
        let write = move |shared: &mut Shared<T>| shared.write(&transactions, known).map_err(BackendError::Write);
        observed.generation = self.blocking(write).await?;
        plan.transactions.iter().for_each(|transaction| observed.take(transaction));
        observed.complete(plan);
        Ok(observed)
    }

    async fn is_stale(&self, observed: &Observed) -> Result<bool, BackendError> {
        let known = observed.generation;
        let now = self.blocking(|shared| shared.tool.generation().map_err(BackendError::Look)).await?;
        if now.is_some() {
            return Ok(now != known);
        }
        let canaries: Vec<Table> =
            TABLES.into_iter().filter(|table| observed.chains(*table).contains_key(CANARY)).collect();
        let FullLook(every) = self.options.full_look;
        let look = move |shared: &mut Shared<T>| {
            let flushed = shared.flushed(&canaries)?;
            Ok((flushed, if flushed { None } else { shared.read_again(every)? }))
        };
        let (flushed, found) = self.blocking(move |shared| look(shared).map_err(BackendError::Look)).await?;
        Ok(flushed || found.is_some_and(|found| !found.same_rules(observed)))
    }

    async fn cleanup(&self) -> Result<(), BackendError> {
        self.blocking(|shared| {
            let transactions = removal(&shared.read().map_err(BackendError::Cleanup)?);
            if transactions.is_empty() {
                return Ok(());
            }
            shared.tool.restore(&transactions).map_err(BackendError::Cleanup)
        })
        .await
    }
}
