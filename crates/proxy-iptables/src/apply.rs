//! Executes plans by the tools, and reads back what is there. One family's tools each; a run of a tool doesn't hold up the
//! event loop.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iptables::{ChainName, Error, Flavour, Iptables, Rule, Table, Target, Tool, Transaction};
use proxy::{Backend, Packets, RULES, Size};
use service_model::{ForwardingTable, IpFamily};

use crate::layout::family;
use crate::names::{CANARY, FORWARD, MARTIANS, PROBE, SERVICES};
use crate::plan::{Desired, IptablesPlan, removal};
use crate::quarantine::{Need, Quarantine};
use crate::settings::{Settings, Tuning};
use crate::state::{Observed, Reader};

/// Chains that tell which flavour a node's programs use: kubelet makes the first two for this, and KUBE-SERVICES is ours
/// or a kube-proxy's from before.
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
    hands: Arc<Mutex<Hands<T>>>,
    quarantine: Arc<Mutex<Quarantine>>,
}

#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("cannot read our chains")]
    Read(#[source] Error),
    #[error("cannot write our chains")]
    Write(#[source] Error),
    #[error("cannot let localhost's NodePorts answer")]
    Localhost(#[source] Error),
    #[error("cannot tell whether the rules have changed")]
    Look(#[source] Error),
    #[error("cannot remove our chains")]
    Cleanup(#[source] Error),
    #[error("a run of the tools was broken off")]
    BrokenOff(#[source] tokio::task::JoinError),
}

struct Hands<T> {
    tool: T,
    ledger: Arc<Mutex<Ledger>>,
    /// When everything was read last.
    looked: Option<Instant>,
}

/// Tells our writes from those of strangers. Both families have one together, since the kernel counts both in one number.
#[derive(Default)]
struct Ledger {
    /// The kernel's, after the last write or look of ours.
    generation: Option<u32>,
    /// Counts the times somebody else was seen to have written.
    epoch: u64,
}

impl IptablesBackend<Tool> {
    /// The backends for IPv4 and IPv6 with the tools of a flavour, in the calling thread's network namespace.
    pub fn open_pair(flavour: Flavour, options: Options) -> Result<[IptablesBackend<Tool>; 2], Error> {
        let open = |of| Tool::open(family(of), flavour);
        Ok(IptablesBackend::pair([open(IpFamily::V4)?, open(IpFamily::V6)?], options))
    }
}

impl<T: Iptables + Send + 'static> IptablesBackend<T> {
    /// The backends for IPv4 and IPv6.
    pub fn pair(tools: [T; 2], options: Options) -> [IptablesBackend<T>; 2] {
        let ledger = Arc::<Mutex<Ledger>>::default();
        let [v4, v6] = tools;
        [(IpFamily::V4, v4), (IpFamily::V6, v6)].map(|(family, tool)| {
            let hands = Hands { tool, ledger: ledger.clone(), looked: None };
            IptablesBackend { family, options, hands: Arc::new(Mutex::new(hands)), quarantine: Arc::default() }
        })
    }

    /// One family's alone.
    pub fn new(family: IpFamily, tool: T, options: Options) -> IptablesBackend<T> {
        let hands = Hands { tool, ledger: Arc::default(), looked: None };
        IptablesBackend { family, options, hands: Arc::new(Mutex::new(hands)), quarantine: Arc::default() }
    }

    /// Gives access to the tool, for tests and instruments.
    pub fn with_tool<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        look(&mut lock(&self.hands).tool)
    }

    async fn blocking<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Hands<T>) -> Result<R, BackendError> + Send + 'static,
    ) -> Result<R, BackendError> {
        let hands = self.hands.clone();
        tokio::task::spawn_blocking(move || act(&mut lock(&hands))).await.map_err(BackendError::BrokenOff)?
    }
}

/// A panic elsewhere leaves nothing half-written: the kernel's own state is what counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// Takes in the kernel's number. If it is not the one our last write left, somebody else has written.
    fn notice(&mut self, now: Option<u32>) -> u64 {
        if self.generation != now {
            self.epoch += 1;
            self.generation = now;
        }
        self.epoch
    }
}

impl<T: Iptables> Hands<T> {
    /// Counts strangers' writes. Waits for a write of ours that is under way.
    fn epoch(&mut self) -> Result<u64, Error> {
        let mut ledger = lock(&self.ledger);
        Ok(ledger.notice(self.tool.generation()?))
    }

    fn read(&mut self) -> Result<Observed, Error> {
        let mut before = self.epoch()?;
        let mut attempt = 1;
        loop {
            let mut reader = Reader::default();
            for table in TABLES {
                self.tool.save(table, &mut |line| reader.line(table, line))?;
            }
            let after = self.epoch()?;
            if before == after || attempt == READ_ATTEMPTS {
                self.looked = Some(Instant::now());
                // If it never held still, it counts as read before the last write, and will be read again.
                return Ok(reader.finish(before));
            }
            before = after;
            attempt += 1;
        }
    }

    /// Other programs write often where they share iptables, and hardly ever to our chains. So a foreign write since the
    /// plan was made doesn't stop it; what it did is seen at the next look.
    fn write(&mut self, transactions: &[Transaction]) -> Result<(), Error> {
        if transactions.is_empty() {
            return Ok(());
        }
        let mut ledger = lock(&self.ledger);
        ledger.notice(self.tool.generation()?);
        let written = self.tool.restore(transactions);
        let count = u32::try_from(transactions.len()).unwrap_or(u32::MAX);
        if written.is_ok() {
            // Each transaction raises the number by one; 0 is left out.
            ledger.generation = ledger.generation.map(|generation| match generation.overflowing_add(count) {
                (sum, true) => sum.wrapping_add(1),
                (sum, false) => sum,
            });
        }
        ledger.notice(self.tool.generation()?);
        written
    }

    /// Whether somebody has flushed the tables. Not while the other family writes, which keeps the tools' lock all the
    /// time; if others keep it, that is seen the next time.
    fn flushed(&mut self, canaries: &[Table]) -> Result<bool, Error> {
        let ledger = self.ledger.clone();
        let _no_writes = lock(&ledger);
        for table in canaries {
            match self.tool.has_chain(*table, CANARY) {
                Ok(true) => {}
                Ok(false) => return Ok(true),
                Err(Error::Locked { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Which of these the kernel lacks. Nothing is known where it takes no rule at all.
    fn missing(&mut self, needs: BTreeSet<Need>) -> Result<BTreeSet<Need>, Error> {
        let mut missing = BTreeSet::new();
        if !needs.is_empty() && self.takes(Rule::new().then(Target::Return))? {
            for need in needs {
                if !self.takes(need.rule())? {
                    missing.insert(need);
                }
            }
        }
        Ok(missing)
    }

    /// Writes a chain with such a rule for a moment.
    fn takes(&mut self, rule: Rule) -> Result<bool, Error> {
        let chain = ChainName::from(PROBE);
        let (mut probe, mut gone) = (Transaction::new(Table::Nat), Transaction::new(Table::Nat));
        probe.replace.push((chain.clone(), vec![rule]));
        gone.delete.push(chain);
        match self.write(&[probe]) {
            Ok(()) => self.write(&[gone]).map(|()| true),
            Err(Error::Refused { .. } | Error::Failed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
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
        let desired = Desired {
            settings: Settings::new(table, self.options.tuning),
            ports: table.ports.clone(),
            revision: table.revision,
            changes: table.changes.clone(),
            refused: Vec::new(),
        };
        lock(&self.quarantine).keep_out(desired, Instant::now())
    }

    fn plan(&self, desired: &Desired, observed: &Observed) -> IptablesPlan {
        desired.plan(observed)
    }

    async fn observe(&self) -> Result<Observed, BackendError> {
        self.blocking(|hands| hands.read().map_err(BackendError::Read)).await
    }

    /// All transactions in one run of the tool, where it takes one.
    async fn apply(&self, plan: &IptablesPlan, mut observed: Observed) -> Result<Observed, BackendError> {
        let (plan_too, quarantine) = (plan.clone(), self.quarantine.clone());
        // The rules keep neighbours from the node's localhost (CVE-2020-8558), so they come first.
        let answers = |settings: &Option<Settings>| settings.as_ref().is_some_and(Settings::localhost_answers);
        let localhost = answers(&plan.settings) && !answers(&observed.settings);
        self.blocking(move |hands| {
            let written = hands.write(&plan_too.transactions);
            let refused = match &written {
                Err(Error::Refused { text, .. }) => Some(text.as_str()),
                Err(Error::Failed { .. }) => Some(""),
                _ => None,
            };
            if let Some(text) = refused {
                let missing = hands.missing(Need::of(plan_too.ports.values())).map_err(BackendError::Write)?;
                lock(&quarantine).learn(&plan_too, text, missing, Instant::now());
            }
            written.map_err(BackendError::Write)?;
            if localhost { hands.tool.route_loopback().map_err(BackendError::Localhost) } else { Ok(()) }
        })
        .await?;
        plan.transactions.iter().for_each(|transaction| observed.take(transaction));
        observed.complete(plan);
        Ok(observed)
    }

    async fn is_stale(&self, observed: &Observed) -> Result<bool, BackendError> {
        let look = |hands: &mut Hands<T>| Ok((hands.epoch()?, hands.tool.generation()?.is_some()));
        let (epoch, counted) = self.blocking(move |hands| look(hands).map_err(BackendError::Look)).await?;
        if counted {
            return Ok(epoch != observed.epoch);
        }
        let canaries: Vec<Table> =
            TABLES.into_iter().filter(|table| observed.chains(*table).contains_key(CANARY)).collect();
        let FullLook(every) = self.options.full_look;
        let look = move |hands: &mut Hands<T>| {
            let flushed = hands.flushed(&canaries)?;
            Ok((flushed, if flushed { None } else { hands.read_again(every)? }))
        };
        let (flushed, found) = self.blocking(move |hands| look(hands).map_err(BackendError::Look)).await?;
        Ok(flushed || found.is_some_and(|found| !found.same_rules(observed)))
    }

    fn can_guard_loopback(&self) -> bool {
        true
    }

    fn guards_loopback(&self, observed: &Observed) -> bool {
        observed.filter.contains_key(MARTIANS)
    }

    async fn packets(&self, observed: &Observed) -> Result<Packets, BackendError> {
        let Some(settings) = &observed.settings else { return Ok(Packets::default()) };
        let (invalid, localhost) = (settings.tuning.drop_invalid, settings.localhost_answers());
        self.blocking(move |hands| {
            let mut count = |yes: bool, table, chain, words: &str| {
                if yes { hands.tool.packets(table, chain, words).map_err(BackendError::Look) } else { Ok(0) }
            };
            let invalid_dropped = count(invalid, Table::Filter, FORWARD, "--ctstate INVALID")?;
            let to_localhost = count(localhost, Table::Nat, SERVICES, "-d 127.0.0.")?;
            Ok(Packets { invalid_dropped, to_localhost, ..Packets::default() })
        })
        .await
    }

    fn sizes(&self, observed: &Observed) -> Vec<Size> {
        let of = |table: Table| {
            let (chains, rules) = observed.size(table);
            let size = |kind, number| Size { table: table.name(), kind, number };
            [size("chains", chains), size(RULES, rules)]
        };
        TABLES.into_iter().flat_map(of).collect()
    }

    async fn cleanup(&self) -> Result<(), BackendError> {
        self.blocking(|hands| {
            let transactions = removal(&hands.read().map_err(BackendError::Cleanup)?);
            if transactions.is_empty() {
                return Ok(());
            }
            hands.write(&transactions).map_err(BackendError::Cleanup)
        })
        .await
    }
}
