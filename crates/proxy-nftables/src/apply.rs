//! Executes plans on whatever takes nf_tables transactions, and reads back what is there. Both families share one
//! handle, so that each knows the other's commits from those of strangers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nft::{Data, Element, Generation, Nft, NftError, Transaction, Value};
use proxy::{Backend, Seen, Size};
use service_model::{ForwardingTable, FrontendKey, IpFamily, NodePortAddresses};

use crate::edit::{Edit, transaction};
use crate::layout::{SetName, Settings, table};
use crate::mark::ClassId;
use crate::plan::{Desired, NftPlan};
use crate::slots::Slots;
use crate::state::{Observed, Scope};

/// Elements deleted per transaction where their number is not known beforehand.
const FORGET_CHUNK: usize = 1_000;

/// The backend for one IP family.
pub struct Nftables<N> {
    family: IpFamily,
    shared: Arc<Mutex<Shared<N>>>,
}

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
    #[error("cannot forget the clients of removed endpoints")]
    Forget(#[source] NftError),
    #[error("cannot remove table {TABLE}", TABLE = crate::TABLE_NAME)]
    Cleanup(#[source] NftError),
}

struct Shared<N> {
    nft: N,
    /// After the last commit or dump of ours.
    generation: Option<Generation>,
    /// Counts the times somebody else was seen to have written.
    epoch: u64,
}

impl<N: Nft + Send + 'static> Nftables<N> {
    /// The backends for IPv4 and IPv6.
    pub fn pair(nft: N) -> [Nftables<N>; 2] {
        let shared = Arc::new(Mutex::new(Shared { nft, generation: None, epoch: 0 }));
        IpFamily::BOTH.map(|family| Nftables { family, shared: shared.clone() })
    }

    /// Gives access to the handle, for tests and instruments.
    pub fn with_nft<T>(&self, look: impl FnOnce(&mut N) -> T) -> T {
        look(&mut self.lock().nft)
    }

    fn lock(&self) -> MutexGuard<'_, Shared<N>> {
        // A panic elsewhere leaves nothing half-written here: the kernel's own state is what counts.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N: Nft> Shared<N> {
    /// Whether somebody else has written since we last looked; then everything known is out of date.
    fn notice_strangers(&mut self) -> Result<(), NftError> {
        let now = self.nft.generation()?;
        if self.generation != Some(now) {
            self.epoch += 1;
            self.generation = Some(now);
        }
        Ok(())
    }

    fn commit(&mut self, mut transaction: Transaction) -> Result<(), NftError> {
        if transaction.is_empty() {
            return Ok(());
        }
        transaction.base = self.generation;
        match self.nft.apply(&transaction) {
            Ok(applied) => {
                self.generation = Some(applied.generation);
                Ok(())
            }
            Err(error) => {
                self.epoch += 1;
                self.generation = None;
                Err(error)
            }
        }
    }

    fn forget(&mut self, plan: &NftPlan, edits: &[Edit]) -> Result<(), NftError> {
        let family = plan.settings.family;
        let set = SetName::Affinity.set(family);
        let mut doomed: Vec<Element> = Vec::new();
        for (key, content) in self.nft.elements(&table(family), &set)? {
            let dies = edits.iter().any(|edit| match edit {
                Edit::Forget { list, gone } => {
                    key.start.as_bytes().starts_with(Value::mark(list.number()).as_bytes())
                        && gone.iter().any(|endpoint| {
                            let target = Value::concat().addr(endpoint.address).port(endpoint.port).value();
                            content.data == Some(Data::Value(target))
                        })
                }
                _ => false,
            });
            if dies {
                doomed.push(Element::new(key));
            }
        }
        for chunk in doomed.chunks(FORGET_CHUNK) {
            self.forget_chunk(chunk, family)?;
        }
        Ok(())
    }

    /// An element may time out between the look and the deletion; then they are deleted one by one.
    fn forget_chunk(&mut self, chunk: &[Element], family: IpFamily) -> Result<(), NftError> {
        let set = SetName::Affinity.set(family);
        let mut together = Transaction::new(table(family));
        together.delete_elements(&set, chunk.to_vec());
        let base = self.generation;
        together.base = base;
        match self.nft.apply(&together) {
            Ok(applied) => self.generation = Some(applied.generation),
            Err(NftError::Refused { reason: nft::Reason::Missing, .. }) => {
                for element in chunk {
                    let mut one = Transaction::new(table(family));
                    one.delete_elements(&set, vec![element.clone()]).base = self.generation;
                    match self.nft.apply(&one) {
                        Ok(applied) => self.generation = Some(applied.generation),
                        Err(NftError::Refused { reason: nft::Reason::Missing, .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl<N: Nft + Send + 'static> Backend for Nftables<N> {
    type Desired = Desired;
    type Observed = Observed;
    type Plan = NftPlan;
    type Error = BackendError;

    fn name(&self) -> &'static str {
        "nftables"
    }

    fn family(&self) -> IpFamily {
        self.family
    }

    fn desired(&self, table: &ForwardingTable) -> Desired {
        let (listed_node_ports, node_port_addresses) = match &table.node_ports {
            NodePortAddresses::AllLocal => (false, Default::default()),
            NodePortAddresses::Only(addresses) => (true, addresses.clone()),
        };
        let loopback = |address: &std::net::IpAddr| address.is_ipv4() && address.is_loopback();
        Desired {
            settings: Settings {
                guards_loopback: node_port_addresses.iter().any(loopback),
                family: self.family,
                local_pods: table.local_pods.clone(),
                local_interface: table.local_interface.clone(),
                service_cidrs: table.service_cidrs.clone(),
                listed_node_ports,
            },
            ports: table.ports.clone(),
            node_port_addresses,
            revision: table.revision,
            changes: table.changes.clone(),
        }
    }

    fn plan(&self, desired: &Desired, observed: &Observed) -> NftPlan {
        desired.plan(observed)
    }

    async fn observe(&self) -> Result<Observed, BackendError> {
        let mut shared = self.lock();
        shared.notice_strangers().map_err(BackendError::Generation)?;
        let ruleset = shared.nft.dump(&table(self.family)).map_err(BackendError::Read)?;
        if let Some(ruleset) = &ruleset
            && shared.generation != Some(ruleset.generation)
        {
            shared.epoch += 1;
            shared.generation = Some(ruleset.generation);
        }
        let epoch = shared.epoch;
        Ok(ruleset.map_or(Observed::absent(epoch), |ruleset| Observed::read(&ruleset, self.family, epoch)))
    }

    async fn apply(&self, plan: &NftPlan, mut observed: Observed) -> Result<Observed, BackendError> {
        for (step, edits) in plan.steps.iter().enumerate() {
            {
                let mut shared = self.lock();
                if shared.epoch != observed.epoch {
                    return Err(BackendError::Stale);
                }
                shared
                    .commit(transaction(&plan.settings, edits))
                    .map_err(|source| BackendError::Step { step, source })?;
                if edits.iter().any(|edit| matches!(edit, Edit::Forget { .. })) {
                    shared.forget(plan, edits).map_err(BackendError::Forget)?;
                }
            }
            edits.iter().for_each(|edit| observed.take(edit, &plan.settings));
            tokio::task::yield_now().await;
        }
        observed.complete(plan);
        Ok(observed)
    }

    async fn is_stale(&self, observed: &Observed) -> Result<bool, BackendError> {
        let mut shared = self.lock();
        shared.notice_strangers().map_err(BackendError::Generation)?;
        Ok(shared.epoch != observed.epoch)
    }

    fn can_guard_loopback(&self) -> bool {
        true
    }

    fn guards_loopback(&self, observed: &Observed) -> bool {
        observed.sound && observed.rules.get("prerouting").is_some_and(|rules| Settings::guard_is_among(rules))
    }

    fn sizes(&self, observed: &Observed) -> Vec<Size> {
        let numbers = [
            ("frontends", observed.entries.len()),
            ("endpoint-lists", observed.lists.len()),
            ("classes", observed.classes.len()),
            ("other-elements", observed.singles.len()),
        ];
        numbers.into_iter().map(|(kind, number)| Size { table: crate::TABLE_NAME, kind, number }).collect()
    }

    fn seen(&self, observed: &Observed, frontend: FrontendKey, here: bool) -> Seen {
        let entry = |scope| observed.entries.get(&(scope, frontend));
        let mark = if here { entry(Scope::Here).or_else(|| entry(Scope::Everybody)) } else { entry(Scope::Everybody) };
        match mark {
            None => Seen::Nothing,
            Some(mark) if mark.class() == ClassId::REJECT => Seen::Rejects,
            Some(mark) if mark.class() == ClassId::DROP => Seen::Drops,
            Some(mark) => {
                let slots = observed.lists.get(&mark.list()).into_iter().flat_map(Slots::taken);
                Seen::Forwards(slots.map(|(_, target)| SocketAddr::new(target.address, target.port)).collect())
            }
        }
    }

    async fn cleanup(&self) -> Result<(), BackendError> {
        let mut shared = self.lock();
        let mut transaction = Transaction::new(table(self.family));
        transaction.destroy_table();
        shared.nft.apply(&transaction).map_err(BackendError::Cleanup)?;
        shared.generation = None;
        Ok(())
    }
}
