//! What has to be known of all of a family's Service ports together: health checks, and who has no endpoint here. Follows a
//! table change by change, since there may be thirty thousand ports. Not responsible for what is done with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use service_model::{ForwardingTable, HealthCheck, Port, Revision, ServiceName, ServicePort, ServicePortName, Verdict};

/// One Service's health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    pub port: Port,
    pub local_ready_endpoints: usize,
}

pub type Checks = Arc<BTreeMap<ServiceName, Check>>;

#[derive(Default)]
pub struct Tally {
    revision: Option<Revision>,
    ports: BTreeMap<ServicePortName, Part>,
    checks: Checks,
}

/// What one Service port adds; most add nothing and are not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    check: Option<HealthCheck>,
    internal: bool,
    external: bool,
}

impl Tally {
    pub fn take(&mut self, table: &ForwardingTable) {
        let known = self.revision.is_some() && self.revision == table.changes.since;
        let before = if known { None } else { Some(std::mem::take(&mut self.ports)) };
        let mut changed = before.is_some_and(|before| before.values().any(|part| part.check.is_some()));
        if known {
            for name in &table.changes.ports {
                changed |= self.put(name, table.ports.get(name));
            }
        } else {
            for (name, port) in table.ports.iter() {
                changed |= self.put(name, Some(port));
            }
        }
        self.revision = Some(table.revision);
        if changed {
            self.checks = Arc::new(self.collect());
        }
    }

    pub fn health_checks(&self) -> &Checks {
        &self.checks
    }

    /// How many ports drop traffic because their policy is Local and no endpoint is here, by policy.
    pub fn without_local_endpoints(&self) -> [(&'static str, usize); 2] {
        let count = |has: fn(&Part) -> bool| self.ports.values().filter(|part| has(part)).count();
        [("internal", count(|part| part.internal)), ("external", count(|part| part.external))]
    }

    /// Says whether a health check is touched.
    fn put(&mut self, name: &ServicePortName, port: Option<&Arc<ServicePort>>) -> bool {
        let part = port.map(|port| Part::of(port)).unwrap_or_default();
        let before =
            if part == Part::default() { self.ports.remove(name) } else { self.ports.insert(name.clone(), part) };
        before.and_then(|before| before.check) != part.check
    }

    /// Of a Service's ports, the one with most endpoints counts.
    fn collect(&self) -> BTreeMap<ServiceName, Check> {
        let mut checks: BTreeMap<ServiceName, Check> = BTreeMap::new();
        for (name, part) in &self.ports {
            let Some(HealthCheck { port, local_ready_endpoints }) = part.check else { continue };
            let check = checks.entry(name.service.clone()).or_insert(Check { port, local_ready_endpoints });
            check.local_ready_endpoints = check.local_ready_endpoints.max(local_ready_endpoints);
        }
        checks
    }
}

impl Part {
    fn of(port: &ServicePort) -> Part {
        let outside = port.frontends.iter().any(|frontend| !frontend.is_internal());
        Part {
            check: port.health_check,
            internal: port.internal == Verdict::Drop,
            external: outside && port.external == Verdict::Drop,
        }
    }
}
