//! All records of a zone, for those who may have them (RFC 5936). Not responsible for who may, or for cutting them into
//! messages.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::answer::{Found, Zone, names_of, reverse_name};
use crate::config::{Config, is_reverse};
use crate::message::{Query, RrType};
use crate::name::Name;
use crate::records::Record;
use crate::view::{ServiceRecord, View};

/// The records of a zone, the SOA first and last. Made as they're asked for: a Service, or an address, at a time.
///
/// Names of pods aren't among them: they're echoes of the question, or come and go with each pod.
pub struct Transfer {
    view: View,
    config: Config,
    zone: Name,
    left: VecDeque<Part>,
    ready: VecDeque<Record>,
}

enum Part {
    Name(Name, &'static [RrType]),
    Service(Arc<ServiceRecord>),
}

/// What a transfer of a zone consists of.
pub fn transfer(view: &View, config: &Config, zone: &Name) -> Transfer {
    let mut left = VecDeque::from([Part::Name(zone.clone(), &[RrType::SOA, RrType::NS])]);
    let below = |label| Name::parse(label).and_then(|label| label.under(zone));
    left.extend(below("ns.dns").map(|name| Part::Name(name, &[RrType::A, RrType::AAAA])));
    if is_reverse(zone) {
        let names = view.addresses().filter_map(reverse_name).filter(|name| config.zone_of(name) == Some(zone));
        left.extend(names.map(|name| Part::Name(name, &[RrType::PTR])));
    } else {
        left.extend(below("dns-version").map(|name| Part::Name(name, &[RrType::TXT])));
        let realm = view.realm(config.multicluster.contains(zone));
        left.extend(realm.sorted().into_iter().map(Part::Service));
    }
    left.push_back(Part::Name(zone.clone(), &[RrType::SOA]));
    Transfer { view: view.clone(), config: config.clone(), zone: zone.clone(), left, ready: VecDeque::new() }
}

impl Iterator for Transfer {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        while self.ready.is_empty() {
            match self.left.pop_front()? {
                Part::Name(name, types) => self.read(&name, types),
                Part::Service(service) => {
                    let query = Query::new(self.zone.clone(), RrType::SOA, None);
                    for (name, types) in names_of(&self.zone(&query), &service) {
                        self.read(&name, types);
                    }
                }
            }
        }
        self.ready.pop_front()
    }
}

impl Transfer {
    /// One that has ended.
    pub fn nothing() -> Self {
        let (view, config, zone) = (View::default(), Config::default(), Name::root());
        Transfer { view, config, zone, left: VecDeque::new(), ready: VecDeque::new() }
    }

    /// What questions about a name are answered with.
    fn read(&mut self, name: &Name, types: &[RrType]) {
        for rr_type in types {
            let query = Query::new(name.clone(), *rr_type, None);
            let found = match self.zone(&query).find(name) {
                Found::Records(records, _) => records,
                Found::External(target) => self.zone(&query).alias(name, &target),
                Found::Nothing => Vec::new(),
            };
            self.ready.extend(found);
        }
    }

    fn zone<'a>(&'a self, query: &'a Query) -> Zone<'a> {
        Zone { query, view: &self.view, config: &self.config, rotation: 0, name: &self.zone }
    }
}
