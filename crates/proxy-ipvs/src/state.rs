//! What is in force, in our terms, piece by piece. Not responsible for what ought to be there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipvs::{Op, ServerKey};
use nft::{Rule, Ruleset, SetState};
use service_model::{IpFamily, Revision, ServicePort, ServicePortName};

use crate::compile::Circumstances;
use crate::layout::{SetName, Settings};
use crate::object::{Content, ListMark, Object};
use crate::plan::IpvsPlan;
use crate::steps::{NftEdit, Step};

/// A Service port as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programmed {
    pub port: Arc<ServicePort>,
    /// Of the list that pods here and the node are given instead, where there is one.
    pub number: Option<u32>,
}

/// A destination of a server.
pub type Place = (ServerKey, SocketAddr);

#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub objects: BTreeMap<Object, Content>,
    /// How many Service ports ask for each; empty right after reading the kernel.
    pub owners: HashMap<Object, u32>,
    pub programmed: BTreeMap<ServicePortName, Programmed>,
    pub rules: BTreeMap<String, Vec<Rule>>,
    /// The table has our sets and chains, and no others.
    pub sound: bool,
    /// On other devices than ours.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Servers in `objects` that are somebody else's as long as no Service port asks for them.
    pub foreign: BTreeSet<ServerKey>,
    /// Destinations that take no more connections and have some left.
    pub busy: BTreeSet<Place>,
    pub circumstances: Option<Circumstances>,
    /// Of the table that was written last; none right after reading the kernel.
    pub revision: Option<Revision>,
    /// Counts the foreign writes seen when this was read.
    pub epoch: nft::Epoch,
}

impl Observed {
    /// Takes in our table.
    pub fn read_table(&mut self, ruleset: Option<&Ruleset>, family: IpFamily) {
        let Some(ruleset) = ruleset else { return };
        self.sound = has_our_shape(ruleset, family);
        if !self.sound {
            // It will be made anew. Whose the servers are it may still say.
            let ledger = ruleset.sets.get(SetName::Servers.name());
            self.read_set(SetName::Servers, ledger.filter(|found| found.set == SetName::Servers.set(family)));
            return;
        }
        self.rules = ruleset.chains.iter().map(|(name, chain)| (name.clone(), chain.rules.clone())).collect();
        for set in SetName::ALL {
            self.read_set(set, ruleset.sets.get(set.name()));
        }
    }

    fn read_set(&mut self, set: SetName, found: Option<&SetState>) {
        for (key, content) in found.into_iter().flat_map(|found| found.elements.iter()) {
            self.objects.insert(Object::Element(set, key.clone()), Content::Element(content.data.clone()));
        }
    }

    /// Whether a server is ours: by our ledger, by its address being on our device, by its mark.
    pub fn owns(&self, server: &ServerKey) -> bool {
        match server {
            ServerKey::Mark { mark, .. } => ListMark::from_number(*mark).is_some(),
            ServerKey::Address { at, .. } => {
                self.objects.contains_key(&Object::Address(at.ip()))
                    || Object::ledger(server).is_some_and(|ledger| self.objects.contains_key(&ledger))
            }
        }
    }

    /// Takes in an executed step.
    pub fn take(&mut self, step: &Step) {
        match step {
            Step::Table(edits) => edits.iter().for_each(|edit| self.take_edit(edit)),
            Step::Servers(ops) => ops.iter().for_each(|op| self.take_op(op)),
            Step::Bind(addresses) => {
                self.objects.extend(addresses.iter().map(|address| (Object::Address(*address), Content::Address)));
            }
            Step::Unbind(addresses) => {
                for address in addresses {
                    self.objects.remove(&Object::Address(*address));
                }
            }
            // What became of them only the kernel can say.
            Step::Retire(_) => {}
        }
    }

    fn take_edit(&mut self, edit: &NftEdit) {
        match edit {
            NftEdit::Rebuild => {
                self.objects.retain(|object, _| !matches!(object, Object::Element(..)));
                self.rules.clear();
                self.sound = true;
            }
            NftEdit::ReplaceRules { chain, rules } => {
                self.rules.insert(chain.clone(), rules.clone());
            }
            NftEdit::Put { set, key, data, .. } => {
                self.objects.insert(Object::Element(*set, key.clone()), Content::Element(data.clone()));
            }
            NftEdit::Drop { set, key } => {
                self.objects.remove(&Object::Element(*set, key.clone()));
            }
        }
    }

    fn take_op(&mut self, op: &Op) {
        match op {
            Op::AddServer(key, server) | Op::SetServer(key, server) => {
                self.foreign.remove(key);
                self.objects.insert(Object::Server(*key), Content::Server(server.clone()));
            }
            Op::DeleteServer(key) => {
                self.objects.remove(&Object::Server(*key));
                self.objects.retain(|object, _| object.server() != Some(key));
                self.busy.retain(|(server, _)| server != key);
            }
            Op::AddDestination(key, at, destination) | Op::SetDestination(key, at, destination) => {
                self.busy.remove(&(*key, *at));
                self.objects.insert(Object::Destination(*key, *at), Content::Destination(*destination));
            }
            Op::DeleteDestination(key, at) => self.gone(&(*key, *at)),
        }
    }

    /// Takes in that a destination was removed.
    pub fn gone(&mut self, (server, at): &Place) {
        self.busy.remove(&(*server, *at));
        self.objects.remove(&Object::Destination(*server, *at));
    }

    /// Takes in that a destination takes no more connections, and has some left.
    pub fn drained(&mut self, (server, at): &Place) {
        self.busy.insert((*server, *at));
        let content = Content::Destination(ipvs::Destination::masqueraded(0));
        self.objects.insert(Object::Destination(*server, *at), content);
    }

    /// Takes in that a whole plan is done.
    pub fn complete(&mut self, plan: &IpvsPlan) {
        if plan.afresh {
            self.owners.clear();
            self.programmed.clear();
        }
        for (object, owners) in &plan.owners {
            match owners {
                0 => self.owners.remove(object),
                owners => self.owners.insert(object.clone(), *owners),
            };
        }
        for (name, programmed) in &plan.programmed {
            match programmed {
                Some(programmed) => self.programmed.insert(name.clone(), programmed.clone()),
                None => self.programmed.remove(name),
            };
        }
        self.foreign.retain(|server| !plan.adopted.contains(server));
        self.circumstances.clone_from(&plan.circumstances);
        self.revision = plan.revision;
    }

    /// Whether the kernel holds the same, whatever was meant by it.
    pub fn same_state(&self, other: &Observed) -> bool {
        let ours = |observed: &Observed| -> BTreeMap<Object, Content> {
            let foreign = |object: &Object| object.server().is_some_and(|server| observed.foreign.contains(server));
            observed
                .objects
                .iter()
                .filter(|(object, _)| !foreign(object))
                .map(|(object, content)| (object.clone(), content.clone()))
                .collect()
        };
        self.sound == other.sound
            && self.rules == other.rules
            && self.busy == other.busy
            && self.node_addresses == other.node_addresses
            && ours(self) == ours(other)
    }
}

/// All sets with our definitions, all chains with our names and hooks, and nothing else.
fn has_our_shape(ruleset: &Ruleset, family: IpFamily) -> bool {
    let chains = Settings::plain(family).chains();
    let sets =
        SetName::ALL.iter().all(|set| ruleset.sets.get(set.name()).is_some_and(|found| found.set == set.set(family)));
    let ours =
        chains.iter().all(|(chain, _)| ruleset.chains.get(&chain.name).is_some_and(|found| found.chain == *chain));
    sets && ours && ruleset.sets.len() == SetName::ALL.len() && ruleset.chains.len() == chains.len()
}
