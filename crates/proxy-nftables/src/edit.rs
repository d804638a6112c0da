//! The smallest changes to our table, and how they become a transaction. Each knows what it replaces, because the kernel
//! wants an element deleted before it is added with other data. Not responsible for which edits are needed, nor their
//! order.

use std::collections::{BTreeMap, BTreeSet};

use nft::{Chain, Data, Element, Key, Rule, Transaction, Value, Verdict};
use service_model::{EndpointSet, IpFamily};

use crate::layout::{Class, DROP, REJECT, SetName, Settings, table};
use crate::mark::{ClassId, ListId, Mark};
use crate::state::{Entry, Single, Target, entry_key, entry_set};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Replaces the table by one without Services, which refuses nothing yet.
    Rebuild,
    ReplaceRules {
        chain: String,
        rules: Vec<Rule>,
    },
    AddClass {
        id: ClassId,
        class: Class,
    },
    /// Puts some endpoints of a list that isn't there yet into the slots of their places.
    Fill {
        list: ListId,
        endpoints: EndpointSet,
        first: u32,
        /// One behind the last.
        end: u32,
    },
    PutSlot {
        list: ListId,
        slot: u32,
        endpoint: Target,
        replaces: Option<Target>,
    },
    DropSlot {
        list: ListId,
        slot: u32,
    },
    PutEntry {
        entry: Entry,
        mark: Mark,
        replaces: Option<Mark>,
    },
    DropEntry {
        entry: Entry,
    },
    Add(Single),
    Remove(Single),
    DropStray {
        set: SetName,
        key: Key,
    },
    /// Deletes what the affinity map holds for these endpoints of a list. Only the kernel knows the clients.
    Forget {
        list: ListId,
        gone: BTreeSet<Target>,
    },
}

impl Edit {
    /// How much of a transaction's room it takes; a plain element is 1.
    pub fn weight(&self) -> usize {
        match self {
            Edit::Rebuild => 200,
            Edit::ReplaceRules { rules, .. } => 10 * rules.len(),
            Edit::AddClass { .. } => 40,
            Edit::Fill { first, end, .. } => (end - first) as usize,
            Edit::PutSlot { replaces: Some(_), .. } | Edit::PutEntry { replaces: Some(_), .. } => 2,
            _ => 1,
        }
    }
}

/// The transaction that does all of the edits; those that first have to look at the kernel are not in it.
pub fn transaction(settings: &Settings, edits: &[Edit]) -> Transaction {
    let family = settings.family;
    let mut transaction = Transaction::new(table(family));
    let mut deleted: BTreeMap<SetName, Vec<Element>> = BTreeMap::new();
    let mut added: BTreeMap<SetName, Vec<Element>> = BTreeMap::new();
    for edit in edits {
        match edit {
            Edit::Rebuild => rebuild(&mut transaction, settings),
            Edit::ReplaceRules { chain, rules } => drop(transaction.replace_rules(chain, rules)),
            Edit::AddClass { id, class } => add_class(&mut transaction, family, *class, *id, &mut added),
            Edit::Fill { list, endpoints, first, end } => {
                let elements = added.entry(SetName::Endpoints).or_default();
                let endpoints = (*first..*end).zip(endpoints.iter().skip(*first as usize));
                elements.extend(endpoints.map(|(slot, endpoint)| to(slot_element(*list, slot), endpoint.into())));
            }
            Edit::PutSlot { list, slot, endpoint, replaces } => {
                let element = slot_element(*list, *slot);
                if let Some(before) = replaces {
                    deleted.entry(SetName::Endpoints).or_default().push(to(element.clone(), *before));
                }
                added.entry(SetName::Endpoints).or_default().push(to(element, *endpoint));
            }
            Edit::DropSlot { list, slot } => {
                deleted.entry(SetName::Endpoints).or_default().push(slot_element(*list, *slot));
            }
            Edit::PutEntry { entry, mark, replaces } => {
                let (set, element) = (entry_set(*entry), Element::new(entry_key(entry.1)));
                if let Some(before) = replaces {
                    deleted.entry(set).or_default().push(element.clone().to(Value::mark(before.number())));
                }
                added.entry(set).or_default().push(element.to(Value::mark(mark.number())));
            }
            Edit::DropEntry { entry } => {
                deleted.entry(entry_set(*entry)).or_default().push(Element::new(entry_key(entry.1)));
            }
            Edit::Add(single) => {
                let (set, key) = single.element();
                added.entry(set).or_default().push(Element::new(key));
            }
            Edit::Remove(single) => {
                let (set, key) = single.element();
                deleted.entry(set).or_default().push(Element::new(key));
            }
            Edit::DropStray { set, key } => deleted.entry(*set).or_default().push(Element::new(key.clone())),
            Edit::Forget { .. } => {}
        }
    }
    for (set, elements) in deleted {
        transaction.delete_elements(&set.set(family), elements);
    }
    for (set, elements) in added {
        transaction.add_elements(&set.set(family), elements);
    }
    transaction
}

fn rebuild(transaction: &mut Transaction, settings: &Settings) {
    transaction.rebuild(SetName::ALL.map(|set| set.set(settings.family)), settings.chains_before_services());
    let constant = |id: ClassId, chain: &str| class_element(id, Verdict::Goto(chain.to_owned()));
    let classes = vec![constant(ClassId::REJECT, REJECT), constant(ClassId::DROP, DROP)];
    transaction.add_elements(&SetName::Classes.set(settings.family), classes);
}

/// The chains may be there already, left by a class that is no more or shared with one that has the same timeout.
fn add_class(
    transaction: &mut Transaction,
    family: IpFamily,
    class: Class,
    id: ClassId,
    added: &mut BTreeMap<SetName, Vec<Element>>,
) {
    let mut chain = |name: &str, rules: &[Rule]| {
        transaction.add_chain(Chain::regular(name)).replace_rules(name, rules);
    };
    chain(&class.chain(), &class.rules(family));
    added.entry(SetName::Classes).or_default().push(class_element(id, Verdict::Goto(class.chain())));
    if let Some(record) = class.record_chain() {
        chain(&record, &class.record_rules(family));
        added.entry(SetName::Sticky).or_default().push(class_element(id, Verdict::Jump(record)));
    }
}

fn class_element(id: ClassId, verdict: Verdict) -> Element {
    Element::new(Value::mark(id.bits())).verdict(verdict)
}

fn slot_element(list: ListId, slot: u32) -> Element {
    Element::new(Value::concat().mark(list.number()).slot(slot))
}

fn to(mut element: Element, endpoint: Target) -> Element {
    element.content.data = Some(Data::Value(Value::concat().addr(endpoint.address).port(endpoint.port).value()));
    element
}
