//! Service ports that are left out, since the kernel refuses their rules: a table is written as a whole or not at all, and
//! one bad port must not keep all others from being served. Not responsible for asking the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iptables::{Recent, Rule, Target};
use proxy::{Refusal, RefusalReason};
use service_model::{Changes, Protocol, ServicePort, ServicePortName};

use crate::compile::Compiler;
use crate::names::PROBE;
use crate::plan::{Desired, IptablesPlan};

/// After this long it is tried again: a module may have been loaded.
const TRIED_AGAIN: Duration = Duration::from_secs(600);

/// Something that only some ports' rules need, and kernels may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// `xt_sctp`
    Sctp,
    /// `xt_recent`
    Affinity,
}

#[derive(Debug, Default)]
pub struct Quarantine {
    missing: BTreeSet<Need>,
    /// As they were when they were refused; whoever changes one has another chance.
    ports: BTreeMap<ServicePortName, Arc<ServicePort>>,
    since: Option<Instant>,
    /// Anybody has ever been in here: what left may be unknown to the table's changes.
    used: bool,
}

impl Need {
    pub fn of<'a>(ports: impl IntoIterator<Item = &'a Arc<ServicePort>>) -> BTreeSet<Need> {
        ports.into_iter().flat_map(|port| Need::of_port(port)).collect()
    }

    fn of_port(port: &ServicePort) -> impl Iterator<Item = Need> + use<> {
        let sctp = (port.protocol == Protocol::Sctp).then_some(Need::Sctp);
        let affinity = port.affinity.is_some().then_some(Need::Affinity);
        sctp.into_iter().chain(affinity)
    }

    /// One that needs it.
    pub fn rule(self) -> Rule {
        match self {
            Need::Sctp => Rule::new().port(Protocol::Sctp.number(), 1),
            Need::Affinity => Rule::new().recent(&Arc::from(PROBE), Recent::Remember),
        }
        .then(Target::Return)
    }

    fn reason(self) -> RefusalReason {
        match self {
            Need::Sctp => RefusalReason::NoSctp,
            Need::Affinity => RefusalReason::NoAffinity,
        }
    }
}

impl Quarantine {
    /// Takes out the ports that are in here.
    pub fn keep_out(&mut self, desired: Desired, now: Instant) -> Desired {
        if self.since.is_some_and(|since| now.duration_since(since) >= TRIED_AGAIN) {
            *self = Quarantine { used: true, ..Quarantine::default() };
        }
        if !self.used {
            return desired;
        }
        self.ports.retain(|name, port| desired.ports.get(name) == Some(port));
        let refused: Vec<Refusal> = desired.ports.iter().filter_map(|(name, port)| self.refusal(name, port)).collect();
        let mut ports = desired.ports.clone();
        if !refused.is_empty() {
            let ports = Arc::make_mut(&mut ports);
            refused.iter().for_each(|refusal| drop(ports.remove(&refusal.port)));
        }
        Desired { ports, refused, changes: Changes { since: None, ..desired.changes }, ..desired }
    }

    fn refusal(&self, name: &ServicePortName, port: &ServicePort) -> Option<Refusal> {
        let missing = Need::of_port(port).find(|need| self.missing.contains(need)).map(Need::reason);
        let alone = self.ports.contains_key(name).then_some(RefusalReason::RulesRefused);
        missing.or(alone).map(|reason| Refusal { port: name.clone(), reason })
    }

    /// Takes in that a line was refused, and what was found to be missing. If nothing is, it is that line's port alone;
    /// a line that is no port's teaches nothing.
    pub fn learn(&mut self, plan: &IptablesPlan, line: &str, missing: BTreeSet<Need>, now: Instant) {
        if missing.is_empty() {
            let Some((name, port)) = plan.port_of(line) else { return };
            self.ports.insert(name.clone(), port.clone());
        }
        self.missing.extend(missing);
        self.since = Some(now);
        self.used = true;
    }
}

impl IptablesPlan {
    /// Whose rule a line is.
    fn port_of(&self, line: &str) -> Option<(&ServicePortName, &Arc<ServicePort>)> {
        let (chain, spec) = line.strip_prefix("-A ")?.split_once(' ')?;
        let (settings, rule) = (self.settings.as_ref()?, Rule::parse(spec));
        self.ports.iter().find(|(name, port)| {
            let compiler = Compiler::new(settings, name, port);
            let shared =
                |rule: &Rule| compiler.entries().iter().any(|(shared, one)| shared.place().1 == chain && one == rule);
            compiler.chains().iter().any(|(_, own, _)| **own == *chain) || rule.as_ref().is_some_and(shared)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, Tuning};
    use service_model::{Change, Event, IpFamily, NodeView, ServiceModel};

    #[test]
    fn whoever_is_left_out_is_tried_again_after_a_while() {
        let mut model = ServiceModel::new();
        for (number, protocol) in ["TCP", "SCTP"].into_iter().enumerate() {
            let service = serde_json::json!({"metadata": {"namespace": "ns", "name": format!("s{number}")},
                "spec": {"clusterIPs": [format!("10.96.0.{}", number + 1)], "ports": [{"port": 80, "protocol": protocol}]}});
            model.apply(Event::Service(Change::Upsert(serde_json::from_value(service).unwrap())));
        }
        let table = model.resolve(&NodeView::named("here"), IpFamily::V4);
        let desired = Desired {
            settings: Settings::new(&table, Tuning::default()),
            ports: table.ports.clone(),
            revision: table.revision,
            changes: Changes { since: Some(table.revision), ..Changes::default() },
            refused: Vec::new(),
        };
        let mut quarantine = Quarantine::default();
        let begin = Instant::now();
        let all = quarantine.keep_out(desired.clone(), begin);
        assert_eq!((all.ports.len(), all.changes.since), (2, Some(table.revision)));
        let plan = all.plan(&crate::Observed::default());
        quarantine.learn(&plan, "COMMIT", BTreeSet::new(), begin);
        assert_eq!(quarantine.keep_out(desired.clone(), begin).ports.len(), 2, "nobody's line is nobody's fault");
        quarantine.learn(&plan, "COMMIT", [Need::Sctp].into(), begin);
        let out = quarantine.keep_out(desired.clone(), begin);
        assert_eq!((out.ports.len(), out.refused.len()), (1, 1));
        let again = quarantine.keep_out(desired, begin + TRIED_AGAIN);
        assert_eq!((again.ports.len(), again.refused.len()), (2, 0));
        assert_eq!(again.changes.since, None, "the table's changes don't say that it is back");
    }
}
