//! From what is in force to what a table asks for, in steps that may end anywhere: listeners are open before rules lead to
//! them, and closed after. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use nft::{Content, Element, Key, Rule, Transaction};
use proxy::{Refusal, RefusalReason};
use service_model::{NodePortAddresses, Protocol, ServicePort, ServicePortName};

use crate::compile::{Homes, Wanted};
use crate::layout::{NOBODY, SetName, Settings, table};
use crate::list::{List, ListId, Place};
use crate::state::{Elements, Observed, Rules};

/// Elements per transaction: one takes at most about 150 bytes in a batch, and the kernel's default send buffer is
/// 212,992.
const STEP_WEIGHT: usize = 1_000;

/// What a table asks for.
#[derive(Clone, Debug)]
pub struct Desired {
    pub settings: Settings,
    pub ports: Arc<BTreeMap<ServicePortName, Arc<ServicePort>>>,
    pub node_ports: NodePortAddresses,
    /// Where the node may be reached, if the kernel agrees; the first one by choice.
    pub node_addresses: Vec<IpAddr>,
    /// Whether packets can be led by rules. If not, only what can be listened on itself is served.
    pub by_rules: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserspacePlan {
    pub settings: Settings,
    pub steps: Vec<Step>,
    /// Where to look for a free port after this.
    pub next_port: u16,
    refused: Vec<Refusal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// One transaction.
    Rules(Vec<Edit>),
    /// Says where lists lead, from now on.
    Lead(Vec<(ListId, List)>),
    Listen(Vec<(Place, ListId)>),
    /// Closes listeners; then nobody needs the lists.
    Close {
        places: Vec<Place>,
        lists: Vec<ListId>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Replaces the table by one without Services, which refuses nothing but direct ways to listeners.
    Rebuild,
    ReplaceRules {
        chain: String,
        rules: Vec<Rule>,
    },
    Put {
        set: SetName,
        key: Key,
        content: Content,
        replaces: Option<Content>,
    },
    Drop {
        set: SetName,
        key: Key,
    },
}

/// Elements to put and to drop, by what they are for.
#[derive(Default)]
struct Difference {
    guards: Vec<Edit>,
    leading: Vec<Edit>,
    no_longer_leading: Vec<Edit>,
    no_longer_guarding: Vec<Edit>,
}

impl Desired {
    pub fn plan(&self, observed: &Observed) -> UserspacePlan {
        let mut wanted = self.wanted(observed);
        self.keep_old_flows(observed, &mut wanted);
        let rebuilt;
        let (mut steps, mut rules) = (Vec::new(), &observed.rules);
        if self.by_rules && !rules.sound {
            steps.push(Step::Rules(vec![Edit::Rebuild]));
            rebuilt = Rules::rebuilt(&self.settings);
            rules = &rebuilt;
        }
        let differing = if self.by_rules { self.rules(rules) } else { Vec::new() };
        let (refusing, structure): (Vec<Edit>, Vec<Edit>) = differing.into_iter().partition(Edit::refuses);
        steps.extend((!structure.is_empty()).then_some(Step::Rules(structure)));
        steps.extend(process_steps(observed, &wanted));
        if self.by_rules {
            let Difference { guards, leading, no_longer_leading, no_longer_guarding } =
                difference(rules, &wanted.elements);
            // What is at no frontend is refused when all of them are there: whoever else still serves them must not be kept
            // from it.
            steps.extend(packed([guards, leading, refusing, no_longer_leading, no_longer_guarding]));
        }
        steps.extend(closing(observed, &wanted));
        let (settings, next_port) = (self.settings.clone(), wanted.next_port);
        UserspacePlan { settings, steps, next_port, refused: wanted.refused }
    }

    fn wanted(&self, observed: &Observed) -> Wanted {
        let mut wanted = Wanted { next_port: observed.ground.next_port, ..Wanted::default() };
        let family = self.settings.family;
        if !self.by_rules {
            for (name, port) in self.ports.iter() {
                wanted.by_itself(name, port, &self.node_ports, family, &observed.ground);
            }
            return wanted;
        }
        let Some(home) = self.home(observed) else {
            let refuse = |name: &ServicePortName| Refusal { port: name.clone(), reason: RefusalReason::NoNodeAddress };
            wanted.refused = self.ports.keys().map(refuse).collect();
            return wanted;
        };
        let (ground, doors) = (&observed.ground, &observed.process.doors);
        let mut homes = Homes::new(family, home, ground, &observed.rules, doors);
        for (name, port) in self.ports.iter() {
            wanted.by_rules(name, port, &mut homes);
        }
        wanted.next_port = homes.next_port();
        if let NodePortAddresses::Only(only) = &self.node_ports {
            let elements = wanted.elements.entry(SetName::NodePortAddresses).or_default();
            elements.extend(only.iter().map(|address| (nft::Value::addr(*address).into(), Content::default())));
        }
        wanted
    }

    /// The address listeners are put at: the Node's own if the kernel has it, or else any that isn't the loopback's.
    fn home(&self, observed: &Observed) -> Option<IpAddr> {
        let here = &observed.ground.addresses;
        self.node_addresses.iter().find(|address| here.contains(address)).or_else(|| here.first()).copied()
    }

    /// A UDP listener stays open for those who came before, while anybody they talk to still serves.
    fn keep_old_flows(&self, observed: &Observed, wanted: &mut Wanted) {
        if !self.by_rules {
            return;
        }
        for (place, id) in &observed.process.doors {
            let Some(port) = self.ports.get(&id.port).filter(|_| place.protocol == Protocol::Udp) else { continue };
            if wanted.lists.contains_key(id) || port.flows_may_stay_with.is_empty() {
                continue;
            }
            wanted.lists.insert(id.clone(), List { port: port.clone(), way: id.way });
            wanted.doors.insert(*place, id.clone());
            wanted.elements.entry(SetName::Listeners).or_default().insert(place.key(), Content::default());
        }
    }

    fn rules(&self, found: &Rules) -> Vec<Edit> {
        let chains = self.settings.chains().into_iter().map(|(chain, rules)| (chain.name, rules));
        let differing = chains.filter(|(name, wanted)| found.chains.get(name) != Some(wanted));
        differing.map(|(chain, rules)| Edit::ReplaceRules { chain, rules }).collect()
    }
}

/// Lists before the listeners that need them.
fn process_steps(observed: &Observed, wanted: &Wanted) -> Vec<Step> {
    let known = &observed.process;
    let lead: Vec<_> = wanted
        .lists
        .iter()
        .filter(|(id, list)| known.lists.get(id) != Some(list))
        .map(|(id, list)| (id.clone(), list.clone()))
        .collect();
    let listen: Vec<_> = wanted
        .doors
        .iter()
        .filter(|(place, id)| known.doors.get(place) != Some(id))
        .map(|(place, id)| (*place, id.clone()))
        .collect();
    let mut steps = Vec::new();
    steps.extend((!lead.is_empty()).then_some(Step::Lead(lead)));
    steps.extend(listen.chunks(STEP_WEIGHT).map(|chunk| Step::Listen(chunk.to_vec())));
    steps
}

fn closing(observed: &Observed, wanted: &Wanted) -> Option<Step> {
    let places: Vec<_> =
        observed.process.doors.keys().filter(|place| !wanted.doors.contains_key(place)).copied().collect();
    let lists: Vec<_> =
        observed.process.lists.keys().filter(|list| !wanted.lists.contains_key(list)).cloned().collect();
    (!places.is_empty() || !lists.is_empty()).then_some(Step::Close { places, lists })
}

fn difference(rules: &Rules, wanted: &BTreeMap<SetName, Elements>) -> Difference {
    let mut difference = Difference::default();
    for set in SetName::ALL {
        let leads = SetName::LEADING.contains(&set);
        let none = Elements::new();
        let elements = wanted.get(&set).unwrap_or(&none);
        let puts = elements.iter().filter(|(key, content)| rules.content(set, key) != Some(content));
        let puts = puts.map(|(key, content)| {
            let replaces = rules.content(set, key).cloned();
            Edit::Put { set, key: key.clone(), content: content.clone(), replaces }
        });
        let (put, dropped) = if leads {
            (&mut difference.leading, &mut difference.no_longer_leading)
        } else {
            (&mut difference.guards, &mut difference.no_longer_guarding)
        };
        put.extend(puts);
        let gone = rules.elements(set).filter(|(key, _)| !elements.contains_key(key));
        let gone = gone.map(|(key, _)| Edit::Drop { set, key: key.clone() });
        // A range can't be put while another one overlaps it.
        if set == SetName::AllowedSources { put.extend(gone) } else { dropped.extend(gone) }
    }
    difference
}

/// Phases one after the other, in few transactions.
fn packed(phases: [Vec<Edit>; 5]) -> Vec<Step> {
    let mut steps = Vec::new();
    let (mut step, mut weight) = (Vec::new(), 0);
    for edit in phases.into_iter().flatten() {
        if weight + edit.weight() > STEP_WEIGHT {
            steps.push(Step::Rules(std::mem::take(&mut step)));
            weight = 0;
        }
        weight += edit.weight();
        step.push(edit);
    }
    steps.extend((!step.is_empty()).then_some(Step::Rules(step)));
    steps
}

impl Edit {
    fn refuses(&self) -> bool {
        matches!(self, Edit::ReplaceRules { chain, .. } if chain == NOBODY)
    }

    fn weight(&self) -> usize {
        match self {
            Edit::Put { replaces: Some(_), .. } => 2,
            _ => 1,
        }
    }
}

/// The transaction that does all of the edits. An element is deleted before it is added with other data.
pub fn transaction(settings: &Settings, edits: &[Edit]) -> Transaction {
    let mut transaction = Transaction::new(table(settings.family));
    let mut deleted: BTreeMap<SetName, Vec<Element>> = BTreeMap::new();
    let mut added: BTreeMap<SetName, Vec<Element>> = BTreeMap::new();
    for edit in edits {
        match edit {
            Edit::Rebuild => {
                let chains = settings.chains_before_services();
                transaction.rebuild(SetName::ALL.map(|set| set.set(settings.family)), chains);
            }
            Edit::ReplaceRules { chain, rules } => drop(transaction.replace_rules(chain, rules)),
            Edit::Put { set, key, content, replaces } => {
                let element = |content: &Content| Element { key: key.clone(), content: content.clone() };
                deleted.entry(*set).or_default().extend(replaces.as_ref().map(element));
                added.entry(*set).or_default().push(element(content));
            }
            Edit::Drop { set, key } => deleted.entry(*set).or_default().push(Element::new(key.clone())),
        }
    }
    for (set, elements) in deleted {
        transaction.delete_elements(&set.set(settings.family), elements);
    }
    for (set, elements) in added {
        transaction.add_elements(&set.set(settings.family), elements);
    }
    transaction
}

impl proxy::Plan for UserspacePlan {
    fn steps(&self) -> usize {
        self.steps.len()
    }

    fn first(&self, steps: usize) -> UserspacePlan {
        UserspacePlan { steps: self.steps.iter().take(steps).cloned().collect(), ..self.clone() }
    }

    fn refused(&self) -> &[Refusal] {
        &self.refused
    }
}

/// As `nft` would be fed it, the process's own part as comments.
impl fmt::Display for UserspacePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match step {
                Step::Rules(edits) => write!(f, "{}", transaction(&self.settings, edits))?,
                Step::Lead(lists) => {
                    for (id, list) in lists {
                        let endpoints: Vec<String> = list.endpoints().iter().map(ToString::to_string).collect();
                        writeln!(f, "# {id} leads to {}", endpoints.join(", "))?;
                    }
                }
                Step::Listen(doors) => {
                    for (place, id) in doors {
                        writeln!(f, "# listen at {place} for {id}")?;
                    }
                }
                Step::Close { places, .. } => {
                    for place in places {
                        writeln!(f, "# close {place}")?;
                    }
                }
            }
        }
        Ok(())
    }
}
