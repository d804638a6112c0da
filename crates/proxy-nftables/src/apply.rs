//! Executes plans on whatever takes nf_tables transactions, and reads back what is there. Both families share one
//! handle, so that each knows the other's commits from those of strangers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nft::{Data, Element, Nft, NftError, Transaction, Value, Watched};
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
    nft: Arc<Mutex<Watched<N>>>,
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

impl<N: Nft + Send + 'static> Nftables<N> {
    /// The backends for IPv4 and IPv6.
    pub fn pair(nft: N) -> [Nftables<N>; 2] {
        let nft = Arc::new(Mutex::new(Watched::new(nft)));
        IpFamily::BOTH.map(|family| Nftables { family, nft: nft.clone() })
    }

    /// Gives access to the handle, for tests and instruments.
    pub fn with_nft<T>(&self, look: impl FnOnce(&mut N) -> T) -> T {
        look(self.lock().handle())
    }

    fn lock(&self) -> MutexGuard<'_, Watched<N>> {
        // A panic elsewhere leaves nothing half-written here: the kernel's own state is what counts.
        self.nft.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut nft = self.lock();
        nft.notice_strangers().map_err(BackendError::Generation)?;
        let ruleset = nft.dump(&table(self.family)).map_err(BackendError::Read)?;
        let epoch = nft.epoch();
        Ok(ruleset.map_or(Observed::absent(epoch), |ruleset| Observed::read(&ruleset, self.family, epoch)))
    }

    async fn apply(&self, plan: &NftPlan, mut observed: Observed) -> Result<Observed, BackendError> {
        for (step, edits) in plan.steps.iter().enumerate() {
            {
                let mut nft = self.lock();
                if nft.epoch() != observed.epoch {
                    return Err(BackendError::Stale);
                }
                nft.commit(transaction(&plan.settings, edits)).map_err(|source| BackendError::Step { step, source })?;
                if edits.iter().any(|edit| matches!(edit, Edit::Forget { .. })) {
                    forget(&mut nft, plan, edits).map_err(BackendError::Forget)?;
                }
            }
            edits.iter().for_each(|edit| observed.take(edit, &plan.settings));
            tokio::task::yield_now().await;
        }
        observed.complete(plan);
        Ok(observed)
    }

    async fn is_stale(&self, observed: &Observed) -> Result<bool, BackendError> {
        let mut nft = self.lock();
        nft.notice_strangers().map_err(BackendError::Generation)?;
        Ok(nft.epoch() != observed.epoch)
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
        self.lock().destroy(table(self.family)).map_err(BackendError::Cleanup)
    }
}

/// Forgets the clients of the endpoints that a step removes.
fn forget<N: Nft>(nft: &mut Watched<N>, plan: &NftPlan, edits: &[Edit]) -> Result<(), NftError> {
    let family = plan.settings.family;
    let set = SetName::Affinity.set(family);
    let mut doomed: Vec<Element> = Vec::new();
    for (key, content) in nft.handle().elements(&table(family), &set)? {
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
        forget_chunk(nft, chunk, family)?;
    }
    Ok(())
}

/// An element may time out between the look and the deletion; then they are deleted one by one.
fn forget_chunk<N: Nft>(nft: &mut Watched<N>, chunk: &[Element], family: IpFamily) -> Result<(), NftError> {
    let set = SetName::Affinity.set(family);
    let mut together = Transaction::new(table(family));
    together.delete_elements(&set, chunk.to_vec());
    match nft.try_commit(together) {
        Err(NftError::Refused { reason: nft::Reason::Missing, .. }) => {
            for element in chunk {
                let mut one = Transaction::new(table(family));
                one.delete_elements(&set, vec![element.clone()]);
                match nft.try_commit(one) {
                    Ok(()) | Err(NftError::Refused { reason: nft::Reason::Missing, .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        }
        done => done,
    }
}
